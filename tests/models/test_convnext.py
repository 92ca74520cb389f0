"""ConvNeXt with checkpoints of PyTorch's libraries, against numpy and, where it is installed, PyTorch."""

import importlib
import pathlib

import keras
import numpy as np
import pytest
import safetensors.numpy
from urnet_fixtures.checkpoints import interpreter
from urnet_fixtures.modules import load_module

from urnet_tf.checkpoints.convnext_names import SIZES, layout_of, plain_names, recognize_size
from urnet_tf.errors import UsageError
from urnet_tf.models.applications import convnext_slots, open_application, with_convnext_weights
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.classifier import build_image_classifier
from urnet_tf.models.depthwise_convolution import with_depthwise_convolutions
from urnet_tf.models.unfreezing import list_blocks, unfreeze
from urnet_tf.stages.network_size import count_keras_network
from urnet_tf.training.saving import load_model, save_model

KERAS = importlib.import_module(keras.applications.ConvNeXtTiny.__module__)  # of any size
TINY = "keras_applications:ConvNeXtTiny"
DEPTHS, WIDTHS = (1, 2, 1, 1), (8, 16, 24, 32)
SIDE = 75  # odd at every stage: 18, 9, 4, 2 places a side


@pytest.fixture(scope="session")
def reference():
    """The module convnext_reference.py."""
    return load_module(pathlib.Path(__file__).with_name("convnext_reference.py"))


@pytest.fixture(scope="module")
def tiny():
    """The real ConvNeXt-Tiny with random weights, its last layer normalizing at each place."""
    return open_application(TINY, 45, None, 0)


def of_keras():
    return KERAS.ConvNeXt(
        DEPTHS, WIDTHS, include_top=False, input_shape=(SIDE, SIDE, 3), name="convnext_of_the_test"
    )


def small():
    return with_depthwise_convolutions(of_keras())


def written(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("library", ["timm", "torchvision", "huggingface", "authors"])
def test_features_are_those_of_numpy(library, reference, tmp_path, caplog):
    # Rounding differs by 2e-6; a pixel mean that is wrong by 0.1 % makes 1e-3.
    caplog.set_level("INFO", logger="absl")
    tensors = reference.drawn_checkpoint(library, DEPTHS, WIDTHS)
    model = with_convnext_weights(small(), written(tmp_path, tensors), "ours")
    images = reference.drawn_images(SIDE)
    expected = reference.features_of(images, tensors, library, DEPTHS)
    assert expected.std() > 0.3 and np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-4)
    assert f"{len(tensors) - 2} tensors match, 2 are not used (" in caplog.text
    if library == "huggingface":
        assert model.get_layer("head_norm").epsilon == 1e-12
        bare = {name.removeprefix("convnext."): tensor for name, tensor in tensors.items()}
        again = with_convnext_weights(
            small(), written(tmp_path, bare), "ours"
        )  # of a model without a classifier
        np.testing.assert_array_equal(again(images), model(images))


def test_every_tensor_counts(reference):
    """The reference would not notice a tensor that it does not use, so that each is changed once."""
    tensors = reference.drawn_checkpoint("timm", DEPTHS, WIDTHS)
    images = reference.drawn_images(SIDE)[:1]
    before = reference.features_of(images, tensors, "timm", DEPTHS)
    for name in tensors:
        after = reference.features_of(images, tensors | {name: tensors[name] * 1.5}, "timm", DEPTHS)
        assert (np.abs(after - before).max() > 1e-4) == (not name.startswith("head.fc.")), name


@pytest.mark.onednn
def test_the_real_network_has_the_real_names(tiny, reference, tmp_path):
    tensors = reference.drawn_checkpoint("timm", *reference.TINY)
    model = with_convnext_weights(tiny, written(tmp_path, tensors), TINY)
    images = reference.drawn_images(45)
    expected = reference.features_of(images, tensors, "timm", reference.TINY[0])
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-4)
    for library in reference.LIBRARIES:
        shapes = reference.shapes(library, *reference.TINY)
        named = plain_names({name: np.zeros(shape, "int8") for name, shape in shapes.items()})
        layout = layout_of(named)
        slots = convnext_slots(model, layout)
        assert set(slots) == {name for name in named if not name.startswith(layout.classifier)}, library
        assert recognize_size(named, layout) == "ConvNeXtTiny"


@pytest.mark.torch
@pytest.mark.parametrize("library", ["timm", "torchvision", "huggingface"])
def test_features_are_those_of_pytorch(library, reference, tiny, tmp_path):
    module = {"huggingface": "transformers"}.get(library, library)
    run = interpreter("URNET_TORCH_PYTHON", "torch", "safetensors", module)
    run(reference.__file__, library, 45, tmp_path)
    model = with_convnext_weights(tiny, tmp_path / "x.safetensors", TINY)
    expected = np.load(tmp_path / "features.npy")
    assert expected.std() > 0.3
    np.testing.assert_allclose(model(reference.drawn_images(45)), expected, rtol=0, atol=1e-4)


def test_a_file_of_pytorch_itself(reference, tmp_path, torch_writer):
    tensors = reference.drawn_checkpoint("authors", DEPTHS, WIDTHS)
    state, storages = {}, {}
    for number, (name, value) in enumerate(tensors.items()):
        strides = tuple(stride // 4 for stride in value.strides)
        state[name] = torch_writer.tensor(str(number), 0, value.shape, strides, value.size)
        storages[str(number)] = value
    path = torch_writer.write_zip(tmp_path / "x.pth", {"model": state}, storages)
    images = reference.drawn_images(SIDE)
    expected = reference.features_of(images, tensors, "authors", DEPTHS)
    np.testing.assert_allclose(
        with_convnext_weights(small(), path, "ours")(images), expected, rtol=0, atol=1e-4
    )


def test_files_that_do_not_fit(reference, tmp_path):
    tensors, network = reference.drawn_checkpoint("timm", DEPTHS, WIDTHS), small()
    before = network.get_weights()

    def refused(changed, message):
        with pytest.raises(UsageError, match=message):
            with_convnext_weights(network, written(tmp_path, changed), TINY)

    other = {"conv1.weight": tensors["stem.0.bias"]}
    refused(other, r"Expected a checkpoint of .*ConvNeXtTiny as `weights`, with the names of timm, .*"
            r"x\.safetensors has none of ConvNeXt's, but 'conv1\.weight' and so on\.")  # fmt: skip
    lacking = {name: tensor for name, tensor in tensors.items() if name != "stages.1.blocks.1.gamma"}
    refused(lacking, r"does not fit .*by the names of timm: 62 tensors match, 1 are missing, 0 are left over"
            r"[\s\S]*missing: stages\.1\.blocks\.1\.gamma\n[\s\S]*a ConvNeXt of another size")  # fmt: skip
    v2 = tensors | {"stages.0.blocks.0.mlp.grn.weight": tensors["stages.0.blocks.0.gamma"]}
    refused(v2, r"1 are left over[\s\S]*left over: stages\.0\.blocks\.0\.mlp\.grn\.weight")
    wide = reference.drawn_checkpoint("timm", (1, 1, 27, 1), (128, 8, 8, 8))
    refused(wide, "looks like ConvNeXtBase; to use it: `name=keras_applications:ConvNeXtBase`")
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


def test_networks_that_read_no_such_file(reference, tmp_path):
    path = written(tmp_path, reference.drawn_checkpoint("timm", DEPTHS, WIDTHS))
    with pytest.raises(
        UsageError,
        match=r"\(\.h5\) of .*VGG16.* which only ConvNeXtTiny, .*EfficientNetV2L can take",
    ):
        build_backbone("keras_applications:VGG16", 32, path)
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"or a checkpoint of timm.*\(\.safetensors, \.pth\).*another file"):
        build_backbone(TINY, 32, tmp_path / "x.pth")


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_keras(name):
    known = KERAS.MODEL_CONFIGS[name.removeprefix("ConvNeXt").lower()]
    assert SIZES[name] == (known["projection_dims"][0], known["depths"][2])


def test_a_plan_counts_the_same():
    given, made = (count_keras_network(network, "ours") for network in (of_keras(), small()))
    assert given.multiply_adds > 0 and given == made


@pytest.mark.slow
def test_a_name_and_a_file_in_the_settings(reference, tmp_path):
    tensors = reference.drawn_checkpoint("torchvision", *reference.TINY)
    model = build_backbone(TINY, 45, written(tmp_path, tensors))
    images = reference.drawn_images(45)
    expected = reference.features_of(images, tensors, "torchvision", reference.TINY[0])
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-4)


def test_it_is_saved_and_its_last_stage_learns(reference, tmp_path):
    path = written(tmp_path, reference.drawn_checkpoint("timm", DEPTHS, WIDTHS))
    backbone = with_convnext_weights(small(), path, "ours")
    images = reference.drawn_images(SIDE)
    model = build_image_classifier(backbone, 3)
    save_model(model, tmp_path / "whole.keras")
    np.testing.assert_allclose(load_model(tmp_path / "whole.keras")(images), model(images), atol=1e-5)
    learning = unfreeze(backbone, "last_stage")
    names = [layer.name for block in list_blocks(backbone)[-learning:] for layer in block]
    assert names[0].endswith("downsampling_conv_2") and names[-1] == "head_norm"
    assert len(names) == 1 + 5 + 1  # a convolution, a block, and the head
