"""The dependency rules of the package, read from its imports.

Lower layers never import higher ones, stages never import each other, heavy libraries enter
through one module each, and modules that need only numpy do not import TensorFlow.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "urnet_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import modules of its own layer and of those before it.
LAYERS = [
    ("errors", "onednn"),
    ("text_rules",),
    ("config", "config_checks", "config_file", "config_tree", "schema"),
    ("store", "progress"),
    ("data", "reweighting", "metrics", "losses", "robust_losses"),
    ("models",),
    (
        "optimization",
        "refit",
        "training",
        "inference",
        "serving",
        "multi_view",
        "ensemble",
        "submission",
        "report",
        "why",
    ),
    ("config_effects",),
    ("stages",),
    ("runner",),
    ("__main__", "console"),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

SINGLE_ENTRY = {
    "keras_cv": "data/augment.py",
    "official": "data/augment.py",
    "tensorflow_text": "data/text.py",
    "sklearn": "reweighting/cluster_weight.py",
    "array_record": "data/image_store.py",
    "safetensors": "models/tensor_files.py",
    "tensorflow_serving": "serving/tf_serving.py",
}
NUMPY_ONLY = """
    config.py config_checks.py config_effects.py config_file.py config_tree.py console.py text_rules.py
    schema.py errors.py store/files.py store/workdir.py metrics.py ensemble.py submission.py why.py
    onednn.py runner.py serving/model_files.py serving/preparation.py serving/parity.py serving/model_card.py
    serving/answer_formats.py serving/server.py serving/flatbuffer_model.py serving/tflite_metadata.py
    data/crawl.py data/readers.py data/list_reader.py data/webvision.py data/search_metadata.py
    data/probe.py data/crops.py data/instance_table.py data/image_store.py data/sampling.py
    data/drawn_scenes.py data/drawn_crawl.py data/hostile_files.py
    reweighting/class_weight.py reweighting/cluster_weight.py reweighting/instance_weight.py
    reweighting/self_confidence.py reweighting/soft_label.py reweighting/bag_saliency.py
    reweighting/combine.py reweighting/page_text.py reweighting/rank_prior.py data/sentences.py
    models/checkpoint_reader.py models/tensor_files.py models/pretrained.py
    models/resnext_variants.py models/weight_matching.py models/network_cost.py models/step_cost.py
""".split()
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
        if path.stem in ("__init__", "stage"):
            continue
        inside = {n for n in imports_of(path) if n.startswith("urnet_tf.stages.")}
        assert all(n.startswith("urnet_tf.stages.stage") for n in inside), path


def test_only_the_command_line_reads_flags():
    for path in MODULES:
        if path.name != "__main__.py":
            assert not {"absl.flags", "argparse"} & imports_of(path), path


def test_only_stages_and_the_shell_read_the_configuration():
    for path in MODULES:
        if layer_of(path) not in ("stages", "runner", "__main__", "config", "config_effects"):
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
