"""The dependency rules of the package, read from its imports.

Lower layers never import higher ones, stages never import each other, heavy libraries enter
through one module each, and modules that need only numpy do not import TensorFlow.
"""

import ast
import functools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "urnet_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The rooms, floor by floor: a module may import rooms of its own floor and of those below it.
LAYERS = [
    ("errors", "onednn"),
    ("text_rules", "extras", "backbone_names"),
    ("executors",),
    ("schema", "reweighting"),
    ("config", "store"),
    ("images", "checkpoints", "drawn"),
    ("crawl", "text", "models"),
    ("costs", "feed"),
    ("evaluation",),
    ("training",),
    ("export",),
    ("serving", "explain", "cleaning"),
    ("review",),
    ("stages",),
    ("flow",),
    ("api",),
    ("commands",),
    ("__main__", "console"),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

SINGLE_ENTRY = {
    "keras_cv": "images/augment.py",
    "official": "images/augment.py",
    "tensorflow_text": "text/word_vectors.py",
    "sklearn": "reweighting/cluster_weight.py",
    "array_record": "images/image_store.py",
    "cv2": "images/picture.py",
    "pillow_heif": "images/headers.py",
    "safetensors": "checkpoints/tensor_files.py",
    "tensorflow_serving": "export/tf_serving.py",
    "prometheus_client": "serving/server_metrics.py",
}
# All others can be used, and tested, without TensorFlow.
WITH_TENSORFLOW = """
    evaluation/inference.py evaluation/multi_view.py export/check.py export/classifier.py
    export/none_of_these.py export/onnx_file.py export/rewriting.py export/saved_model.py
    export/tf_serving.py export/tflite.py
    feed/batches.py feed/mixup.py feed/targets.py images/augment.py images/decode.py
    images/image_formats.py images/orientation_graph.py models/backbone.py
    models/applications.py models/batch_normalization.py models/classifier.py
    models/depthwise_convolution.py
    models/efficientnet_lite.py models/ensemble.py models/grouped_convolution.py
    models/image_preparation.py models/own_backbone.py models/resnext.py models/seeding.py
    models/text_tower.py models/unfreezing.py models/urnet.py serving/opened_version.py
    serving/predictor.py stages/network_size.py
    text/sentence_encoder.py text/word_vectors.py training/fit.py training/losses.py training/machines.py
    training/optimization.py training/passes.py training/robust_losses.py training/saving.py
""".split()
_SHARED = ("urnet_tf.stages.stage", "urnet_tf.stages.settings", "urnet_tf.stages.effects",
           "urnet_tf.stages.fitted_heads", "urnet_tf.stages.literal_weights", "urnet_tf.stages.members",
           "urnet_tf.stages.urnet_fit", "urnet_tf.stages.distillation",
           "urnet_tf.stages.presence", "urnet_tf.stages.copies", "urnet_tf.stages.own_features",
           "urnet_tf.stages.judgements", "urnet_tf.stages.image_evidence",
           "urnet_tf.stages.held_images", "urnet_tf.stages.other_scores",
           "urnet_tf.stages.crawl_files", "urnet_tf.stages.known_files",
           "urnet_tf.stages.image_text", "urnet_tf.stages.network_size",
           "urnet_tf.stages.shard_maker")  # fmt: skip
JUNK_DRAWERS = {"utils", "helpers", "common", "misc", "manager", "util"}


@functools.cache
def imports_of(path, top_level_only=False, at_run_time=False):
    """Full names of the modules that a file imports (`from a import b` gives a and a.b).

    Args:
      at_run_time: leaves out what only the type checker reads.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_run_time:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and is_for_types(node))]
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


def is_for_types(node):
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


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
        if path.stem == "__init__" or f"urnet_tf.stages.{path.stem}" in _SHARED:
            continue
        inside = {n for n in imports_of(path) if n.startswith("urnet_tf.stages.")}
        assert all(n.startswith(_SHARED) for n in inside), path


def test_only_the_command_line_reads_flags():
    for path in MODULES:
        if path.name != "__main__.py":
            assert not {"absl.flags", "argparse"} & imports_of(path), path


def test_only_stages_and_the_shell_read_the_configuration():
    for path in MODULES:
        if layer_of(path) not in ("__init__", "stages", "flow", "api", "commands", "__main__", "config"):
            assert "urnet_tf.config" not in {n for n in imports_of(path) if n.count(".") == 1}, path


@pytest.mark.parametrize(("library", "entry"), SINGLE_ENTRY.items())
def test_a_library_enters_through_one_module(library, entry):
    users = {
        str(path.relative_to(PACKAGE)) for path in MODULES
        if any(n.split(".")[0] == library for n in imports_of(path, at_run_time=True))
    }  # fmt: skip
    assert users == {entry}


def test_only_the_listed_modules_import_tensorflow():
    found = {
        str(path.relative_to(PACKAGE)) for path in MODULES
        if {n.split(".")[0] for n in imports_of(path, at_run_time=True)} & {"tensorflow", "keras"}
    }  # fmt: skip
    assert found == set(WITH_TENSORFLOW)


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("*.py")), ids=lambda p: p.name)
def test_stages_import_heavy_libraries_late(path):
    heavy = {"tensorflow", "keras", "sklearn", "pyarrow", "matplotlib"}
    assert not {n.split(".")[0] for n in imports_of(path, top_level_only=True)} & heavy


def test_model_code_imports_keras_and_no_tensorflow():
    late = {"grouped_convolution.py", "batch_normalization.py"}  # for operations that Keras lacks
    for path in (PACKAGE / "models").glob("*.py"):
        imported = imports_of(path, top_level_only=path.name in late, at_run_time=True)
        assert "tensorflow" not in {n.split(".")[0] for n in imported}, path


def test_no_junk_drawers():
    assert not {p.stem for p in MODULES} & JUNK_DRAWERS
