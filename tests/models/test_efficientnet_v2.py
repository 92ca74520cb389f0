"""EfficientNetV2 with timm's checkpoints, against plain operations and, where it is installed, timm."""

import importlib
import pathlib

import keras
import numpy as np
import pytest
import safetensors.numpy
from urnet_fixtures.checkpoints import interpreter
from urnet_fixtures.modules import load_module

from urnet_tf.checkpoints.efficientnet_v2_names import NETWORKS
from urnet_tf.errors import UsageError
from urnet_tf.models.applications import load_efficientnet_v2_weights
from urnet_tf.models.backbone import build_backbone

KERAS = importlib.import_module(keras.applications.EfficientNetV2S.__module__)  # of any shape
STRIDES = (1, 2, 2, 2, 1)


@pytest.fixture(scope="session")
def reference():
    """The module efficientnet_v2_reference.py."""
    return load_module(pathlib.Path(__file__).with_name("efficientnet_v2_reference.py"))


def small(name, side):
    """Two stages without depthwise convolutions, and three with them, as all sizes have them."""
    stages = zip((8, 8, 16, 16, 24), (8, 16, 16, 24, 24), STRIDES, (2, 2, 1, 2, 1), strict=True)
    arguments = [
        {
            "kernel_size": 3, "num_repeat": repeats, "input_filters": before,
            "output_filters": after, "expand_ratio": 1 if place == 0 else 4, "strides": stride,
            "se_ratio": 0.0 if place < 2 else 0.25, "conv_type": 1 if place < 2 else 0,
        }
        for place, (before, after, stride, repeats) in enumerate(stages)
    ]  # fmt: skip
    return KERAS.EfficientNetV2(
        1.0, 1.0, side, blocks_args=arguments, name=name, include_top=False, weights=None,
        input_shape=(side, side, 3), pooling="avg",
    )  # fmt: skip


def tensors_of(network, reference):
    """Drawn tensors by timm's names; the kinds of blocks are those of `small`."""
    found = {}
    for layer in network.layers:
        if not layer.weights:
            continue
        name = timm_name(layer.name)
        if hasattr(layer, "moving_variance"):
            parts = ("weight", "bias", "running_mean", "running_var")
            shapes = {f"{name}.{part}": tuple(layer.gamma.shape) for part in parts}
        else:
            height, width, inputs, filters = layer.kernel.shape
            kernel = (filters, inputs, height, width)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                kernel = (inputs, filters, height, width)
            shapes = {f"{name}.weight": kernel}
            if layer.use_bias:
                shapes[f"{name}.bias"] = (layer.bias.shape[0],)
        found |= {key: reference.drawn(key, shape) for key, shape in shapes.items()}
    return found | {"classifier.weight": reference.drawn("classifier.weight", (10, 1280))}


def timm_name(name):
    ends = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
    if name in ends:
        return ends[name]
    stage, block, piece = int(name[5]) - 1, "abc".index(name[6]), name[8:]
    order = ["conv bn1", "conv_exp bn1 conv_pwl bn2"][stage] if stage < 2 else (
        "conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3"
    )  # fmt: skip
    pieces = "expand_conv expand_bn dwconv2 bn se_reduce se_expand project_conv project_bn".split()
    if stage < 2:
        pieces = pieces[:2] * stage + pieces[-2:]
    return f"blocks.{stage}.{block}.{order.split()[pieces.index(piece)]}"


def written(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.onednn
@pytest.mark.parametrize(("name", "side"), [("efficientnetv2-s", 64), ("efficientnetv2-b0", 45)])
def test_features_are_those_of_plain_operations(name, side, reference, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    network = small(name, side)
    tensors = tensors_of(network, reference)
    load_efficientnet_v2_weights(network, written(tmp_path, tensors), "ours")
    images = reference.drawn_images(side)
    expected = reference.features_of(images, tensors, name.replace("-", "_"), STRIDES)
    assert expected.std() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(network(images), expected, rtol=0, atol=1e-4)
    assert (
        f"ours: {len(tensors) - 1} tensors match, 1 are not used (classifier.weight), from x.s" in caplog.text
    )


def test_files_that_do_not_fit(reference, tmp_path):
    network = small("efficientnetv2-s", 32)
    tensors = tensors_of(network, reference)
    before = network.get_weights()
    del tensors["blocks.2.0.se.conv_expand.bias"]
    path = written(tmp_path, tensors | {"blocks.9.0.conv.weight": tensors["bn1.bias"]})
    with pytest.raises(UsageError) as refused:
        load_efficientnet_v2_weights(network, path, "keras_applications:EfficientNetV2S")
    message = str(refused.value)
    assert (
        "1 are missing, 1 are left over" in message and "missing: blocks.2.0.se.conv_expand.bias" in message
    )
    assert "Expected a checkpoint of timm's tf_efficientnetv2_s; those of torchvision pad" in message
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "EfficientNetV2B0"]


@pytest.mark.onednn
@pytest.mark.torch
@pytest.mark.parametrize("name", ["EfficientNetV2B0", *LARGE])
def test_features_are_those_of_timm(name, reference, tmp_path):
    run = interpreter("URNET_TORCH_PYTHON", "torch", "safetensors", "timm")
    run(reference.__file__, NETWORKS[name], 65, tmp_path)
    expected = np.load(tmp_path / "features.npy")
    model = build_backbone(f"keras_applications:{name}", 65, tmp_path / "x.safetensors")
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        model(reference.drawn_images(65)), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )
