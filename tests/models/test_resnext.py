import dataclasses
import inspect
import json
import pathlib

import keras
import numpy as np
import pytest

from urnet_tf import config
from urnet_tf.checkpoints.reader import read_checkpoint
from urnet_tf.checkpoints.weight_matching import copy_into, pytorch_slots
from urnet_tf.errors import UsageError
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.resnext import build_resnext, checkpoint_name, with_intermediates
from urnet_tf.models.variants import VARIANTS, Variant, recognize_variant

GOLDEN = json.loads(pathlib.Path(__file__).with_name("golden_resnext.json").read_text())["logits"]
TINY = {"depth": 26, "cardinality": 4, "width_per_group": 4}
EVERYTHING = TINY | {"squeeze_excitation": True, "deep_stem": True}


def pytorch_shapes(model):
    """The tensors that a checkpoint of a Keras ResNeXt has: name → shape."""
    shapes = {}
    for layer in model.layers:
        name = checkpoint_name(layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"{name}.{part}": tuple(layer.gamma.shape) for part in parts}
        elif layer.weights:
            height, width, inputs, filters = layer.kernel.shape
            shapes[f"{name}.weight"] = (filters, inputs, height, width)
            if layer.bias is not None:
                shapes[f"{name}.bias"] = (filters,)
    return shapes


@pytest.mark.onednn
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logits(name, torch_reference):
    # PyTorch's logits of networks with drawn weights, see torch_reference.py. Rounding differs by 6e-6.
    # A pixel mean that is wrong by 0.02 % makes 2e-4 at least, a wrong padding or gate 0.2.
    side, keywords = torch_reference.GOLDEN[name]
    model = build_resnext(side, Variant(**keywords))
    draw = torch_reference.drawn_tensor
    tensors = {name: draw(name, shape) for name, shape in pytorch_shapes(model).items()}
    copy_into(pytorch_slots(model, checkpoint_name), tensors)
    features = model(torch_reference.drawn_images(side)).numpy()[0]
    logits = draw("fc.weight", (10, 2048)) @ features + draw("fc.bias", (10,))
    np.testing.assert_allclose(logits, GOLDEN[name], rtol=0, atol=1e-4)


def test_every_option_has_golden_logits(torch_reference):
    assert set(GOLDEN) == set(torch_reference.GOLDEN)


LARGE = (
    "resnext101_32x8d",
    "resnext101_64x4d",
    "seresnext101_32x4d",
    "resnext152_32x4d",
    "resnet152",
    "resnet101d",
)


@pytest.mark.onednn
@pytest.mark.torch
@pytest.mark.parametrize(
    "name, form",
    [
        ("resnext26_32x4d", "legacy"),
        ("resnext50_32x4d", "zip"),
        ("resnext50d_32x4d", "safetensors"),
        ("seresnext50_32x4d", "zip"),
        ("resnet50", "safetensors"),
        *[pytest.param(name, "zip", marks=pytest.mark.slow) for name in LARGE],
    ],
)
def test_logits_are_those_of_pytorch(name, form, torch_python, torch_reference, tmp_path):
    # Random weights and statistics, in a checkpoint that PyTorch wrote; 71 px is odd at every stage.
    side = 71
    script = torch_reference.__file__
    torch_python(script, "checkpoint", tmp_path, form, side, json.dumps(dataclasses.asdict(VARIANTS[name])))
    path, expected = tmp_path / "weights", np.load(tmp_path / "logits.npy")
    model = build_backbone("resnext", side, path, **dataclasses.asdict(VARIANTS[name]))
    tensors = read_checkpoint(path)
    path.unlink()  # up to 350 MB
    features = model(torch_reference.drawn_images(side)).numpy()
    logits = features @ tensors["fc.weight"].T + tensors["fc.bias"]
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    expected = dataclasses.asdict(VARIANTS[name])
    if expected["deep_stem"]:
        del expected["small_stem"]  # not to be seen
    assert recognize_variant(tensors) == expected


@pytest.mark.parametrize("small_stem", [False, True])
def test_intermediates_are_named_and_share_the_weights(small_stem):
    model = build_resnext(64, Variant(small_stem=small_stem, **EVERYTHING))
    outputs = with_intermediates(model)(np.full((1, 64, 64, 3), 9.0, "float32"))
    assert list(outputs) == ["stem", "stage1", "stage2", "stage3", "stage4", "features"]
    sides = [64, 64, 32, 16, 8] if small_stem else [32, 16, 8, 4, 2]
    channels = [64, 256, 512, 1024, 2048]
    found = [tuple(outputs[name].shape) for name in ("stem", "stage1", "stage2", "stage3", "stage4")]
    assert found == [(1, side, side, c) for side, c in zip(sides, channels, strict=True)]
    np.testing.assert_allclose(outputs["features"], np.mean(outputs["stage4"], (1, 2)), rtol=1e-5)
    assert with_intermediates(model).get_layer("conv1-0") is model.get_layer("conv1-0")


def test_layer_names_are_those_of_the_checkpoint():
    names = set(pytorch_shapes(build_resnext(32, Variant(**EVERYTHING))))
    assert {"conv1.0.weight", "conv1.1.running_var", "conv1.6.weight", "bn1.bias"} <= names
    assert {"layer2.0.se.fc1.bias", "layer2.0.downsample.1.weight", "layer2.0.downsample.2.weight"} <= names
    assert "layer2.0.downsample.0.weight" not in names  # the pooling


def test_variants_by_name():
    assert VARIANTS["resnext101_32x8d"] == Variant(101, 32, 8)
    assert VARIANTS["seresnext50d_32x4d"] == Variant(50, 32, 4, squeeze_excitation=True, deep_stem=True)
    assert VARIANTS["resnet50"] == Variant(50, 1, 64)
    assert Variant(26, 4, 8, True).name == "seresnext26_4x8d"
    assert str(Variant(26, 4, 8, small_stem=True)) == "resnext26_4x8d, small stem"


def test_the_usual_variant_is_the_same_everywhere():
    usual = dataclasses.asdict(Variant())
    signature = inspect.signature(build_backbone).parameters
    assert {name: signature[name].default for name in usual} == usual
    assert {name: getattr(config.ModelConfig(), f"resnext_{name}") for name in usual} == usual


def test_wrong_sizes_are_refused():
    with pytest.raises(UsageError, match="depth of 26, 50, 101, 152; received 34"):
        Variant(depth=34)
    with pytest.raises(UsageError, match="at least 1"):
        Variant(depth=26, cardinality=0)


JAX = """
import sys, numpy as np, keras
from urnet_tf.models.resnext import build_resnext, with_intermediates
from urnet_tf.models.variants import Variant
assert keras.backend.backend() == "jax" and "tensorflow" not in sys.modules
folder, side, keywords = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
model = build_resnext(side, Variant(**keywords))
model.load_weights(folder + "/x.weights.h5")
images = np.load(folder + "/images.npy")
np.savez(folder + "/jax.npz", **with_intermediates(model).predict(images, verbose=0))
"""


@pytest.mark.parametrize(
    "keywords", [TINY | {"small_stem": True}, TINY, EVERYTHING], ids=["small", "plain", "all"]
)
def test_jax_computes_the_same(keywords, jax_python, torch_reference, tmp_path):
    side = 47
    model = build_resnext(side, Variant(**keywords))
    rng = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    model.save_weights(tmp_path / "x.weights.h5")
    images = torch_reference.drawn_images(side)
    np.save(tmp_path / "images.npy", images)
    jax_python("-c", JAX, tmp_path, side, repr(keywords))
    computed = np.load(tmp_path / "jax.npz")
    for name, expected in with_intermediates(model)(images, training=False).items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name)
