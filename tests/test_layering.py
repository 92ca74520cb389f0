"""The dependency rules of the package, read from its imports.

Lower layers never import higher ones, stages never import each other, heavy libraries enter
through one module each, and modules that need only numpy do not import TensorFlow.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "urnet_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The rooms, floor by floor: a module may import rooms of its own floor and of those below it.
LAYERS = [
    ("errors", "onednn"),
    ("text_rules",),
    ("schema", "reweighting"),
    ("config", "store"),
    ("images", "checkpoints", "drawn"),
    ("crawl", "text", "models"),
    ("costs", "feed"),
    ("evaluation",),
    ("training",),
    ("export",),
    ("serving", "explain"),
    ("stages",),
    ("flow",),
    ("api",),
    ("__main__", "console"),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

SINGLE_ENTRY = {
    "keras_cv": "images/augment.py",
    "official": "images/augment.py",
    "tensorflow_text": "text/word_vectors.py",
    "sklearn": "reweighting/cluster_weight.py",
    "array_record": "images/image_store.py",
    "safetensors": "checkpoints/tensor_files.py",
    "tensorflow_serving": "export/tf_serving.py",
}
NUMPY_ONLY = """
    api/door.py api/flow.py api/weights.py
    checkpoints/pretrained.py checkpoints/reader.py checkpoints/tensor_files.py
    checkpoints/weight_matching.py config/checks.py config/fields.py config/file.py config/presets.py
    config/tree.py console.py costs/network.py costs/step.py costs/units.py crawl/instance_table.py
    crawl/list_reader.py crawl/readers.py crawl/search_metadata.py crawl/submission.py crawl/table.py
    crawl/webvision.py crawl/webvision_info.py drawn/crawl.py drawn/hostile_files.py drawn/scenes.py
    errors.py evaluation/ensemble.py evaluation/metrics.py evaluation/predictions.py explain/formats.py
    explain/why.py export/flatbuffer_model.py export/model_card.py export/parity.py export/preparation.py
    export/tflite_metadata.py feed/sampling.py flow/plan.py flow/plan_text.py flow/runner.py
    images/crops.py images/headers.py images/image_store.py images/probe.py models/variants.py onednn.py
    reweighting/bag_saliency.py reweighting/class_moments.py reweighting/class_weight.py
    reweighting/cluster_weight.py reweighting/combine.py reweighting/discriminant.py
    reweighting/factors.py reweighting/instance_weight.py reweighting/judge.py reweighting/linear_head.py
    reweighting/logistic.py reweighting/page_text.py reweighting/rank_prior.py reweighting/recipe.py
    reweighting/self_confidence.py reweighting/soft_label.py reweighting/units.py schema.py
    serving/answer_formats.py serving/model_files.py serving/server.py stages/effects.py store/files.py
    store/hashing.py store/workdir.py text/pages.py text/sentences.py text_rules.py
""".split()
_SHARED = ("urnet_tf.stages.stage", "urnet_tf.stages.settings", "urnet_tf.stages.effects")
JUNK_DRAWERS = {"utils", "helpers", "common", "misc", "manager", "util"}


def imports_of(path, top_level_only=False):
    """Full names of the modules that a file imports (`from a import b` gives a and a.b)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_parts(names):
    """First part below urnet_tf of each own import."""
    return {n.split(".")[1] for n in names if n.startswith("urnet_tf.")} & set(RANK)


def layer_of(path):
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return first


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_a_higher_layer(path):
    layer = layer_of(path)
    if layer == "__init__":
        return
    assert layer in RANK, f"{path.name} belongs to no layer: add it to LAYERS"
    higher = {name for name in own_parts(imports_of(path)) if RANK[name] > RANK[layer]}
    assert not higher


def test_stages_never_import_each_other():
    for path in (PACKAGE / "stages").glob("*.py"):
        if path.stem in ("__init__", "stage", "settings", "effects"):
            continue
        inside = {n for n in imports_of(path) if n.startswith("urnet_tf.stages.")}
        assert all(n.startswith(_SHARED) for n in inside), path


def test_only_the_command_line_reads_flags():
    for path in MODULES:
        if path.name != "__main__.py":
            assert not {"absl.flags", "argparse"} & imports_of(path), path


def test_only_stages_and_the_shell_read_the_configuration():
    for path in MODULES:
        if layer_of(path) not in ("__init__", "stages", "flow", "api", "__main__", "config"):
            assert "urnet_tf.config" not in {n for n in imports_of(path) if n.count(".") == 1}, path


@pytest.mark.parametrize(("library", "entry"), SINGLE_ENTRY.items())
def test_a_library_enters_through_one_module(library, entry):
    users = {
        str(path.relative_to(PACKAGE)) for path in MODULES
        if any(n.split(".")[0] == library for n in imports_of(path))
    }  # fmt: skip
    assert users == {entry}


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_numpy_modules_do_not_import_tensorflow(name):
    assert not {n.split(".")[0] for n in imports_of(PACKAGE / name)} & {"tensorflow", "keras"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("*.py")), ids=lambda p: p.name)
def test_stages_import_heavy_libraries_late(path):
    heavy = {"tensorflow", "keras", "sklearn", "pyarrow", "matplotlib"}
    assert not {n.split(".")[0] for n in imports_of(path, top_level_only=True)} & heavy


def test_model_code_imports_keras_and_no_tensorflow():
    late = {"grouped_convolution.py", "batch_normalization.py"}  # for operations that Keras lacks
    for path in (PACKAGE / "models").glob("*.py"):
        imported = imports_of(path, top_level_only=path.name in late)
        assert "tensorflow" not in {n.split(".")[0] for n in imported}, path


def test_no_junk_drawers():
    assert not {p.stem for p in MODULES} & JUNK_DRAWERS
