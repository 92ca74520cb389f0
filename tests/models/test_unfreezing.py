"""Which part of a network learns: blocks by hand, rates, and that what is frozen stays bitwise."""

import keras
import numpy as np
import pytest
from keras import layers

from urnet_tf.errors import UsageError
from urnet_tf.models.unfreezing import list_blocks, rates_by_variable, unfreeze
from urnet_tf.training.optimization import OptimizerOptions, build_optimizer


def build(residual=True):
    """Two residual blocks of 8 px and one of 4 px, or plain layers."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    for name, strides in (("a", 1), ("b", 1), ("c", 2)):
        y = layers.BatchNormalization(name=f"{name}-bn")(x)
        y = layers.Conv2D(4, 3, strides, padding="same", name=f"{name}-conv")(y)
        shortcut = layers.MaxPooling2D(strides)(x) if strides > 1 else x
        x = layers.Add(name=f"{name}-add")([shortcut, y]) if residual else y
    return keras.Model(image, layers.GlobalAveragePooling2D(name="features")(x), name="tiny")


def learning(model):
    return {layer.name for layer in model.layers if layer.trainable_variables}


def test_blocks_end_at_additions_or_are_layers():
    names = [[layer.name for layer in block] for block in list_blocks(build())]
    assert names == [["stem", "a-bn", "a-conv"], ["b-bn", "b-conv"], ["c-bn", "c-conv"]]
    plain = [[layer.name for layer in block] for block in list_blocks(build(residual=False))]
    assert plain == [[name] for name in ("stem", "a-bn", "a-conv", "b-bn", "b-conv", "c-bn", "c-conv")]
    nested = keras.Sequential([keras.Input((8, 8, 3)), build()])
    assert [[layer.name for layer in block] for block in list_blocks(nested)] == names


def test_the_part_that_learns():
    model = build()
    assert unfreeze(model, "last_stage") == 1 and learning(model) == {"c-bn", "c-conv"}
    assert unfreeze(model, "blocks:2", freeze_batch_norm=True) == 2 and learning(model) == {
        "b-conv",
        "c-conv",
    }
    assert unfreeze(model, "blocks:0") == 0 and not learning(model)
    assert unfreeze(model, "all") == 3 and len(learning(model)) == 7, "what was frozen can learn again"
    for part, message in (
        ("blocks:4", "at most 3 blocks"),
        ("half", "Expected all"),
        ("blocks:-1", "Expected all"),
    ):
        with pytest.raises(UsageError, match=message):
            unfreeze(model, part)


def test_blocks_do_not_depend_on_what_learns():
    model = build(residual=False)
    before = [[layer.name for layer in block] for block in list_blocks(model)]
    unfreeze(model, "blocks:1")
    assert [[layer.name for layer in block] for block in list_blocks(model)] == before


def test_rates_fall_from_the_features_to_the_images():
    model = build()
    unfreeze(model, "blocks:2")
    rates = {path.split("/")[0]: rate for path, rate in rates_by_variable(model, 0.5, 0.2).items()}
    assert rates == pytest.approx({"c-bn": 0.5, "c-conv": 0.5, "b-bn": 0.1, "b-conv": 0.1})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_variable_moves_at_its_own_rate(optimizer):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, name="slow"), layers.Dense(1, name="fast")])
    options = OptimizerOptions(
        optimizer=optimizer, learning_rate=0.1, warmup_fraction=0.0, weight_decay=0.5, momentum=0.0
    )
    slow, fast = model.get_layer("slow").kernel, model.get_layer("fast").kernel
    slow.assign([[1.0]]), fast.assign([[1.0]])
    rule, _ = build_optimizer(model, 100, options, {slow.path: 0.1})
    rule.apply_gradients([(np.full((1, 1), 2.0, np.float32), slow), (np.full((1, 1), 2.0, np.float32), fast)])
    step = 0.1 * (1.0 if optimizer == "adamw" else 2.0)  # Adam's first step is the sign of the gradient
    assert fast.numpy() == pytest.approx(1 - 0.1 * 0.5 - step, abs=1e-5)
    assert slow.numpy() == pytest.approx(1 - 0.01 * 0.5 - 0.1 * step, abs=1e-5)
