"""Counts of networks without TensorFlow: equal to the Keras models', to hand counts, to published ones."""

import math

import keras
import pytest

from urnet_tf.backbone_names import BACKBONES
from urnet_tf.costs.network import count_classifier, count_network, count_urnet
from urnet_tf.errors import UsageError
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.classifier import build_classifier
from urnet_tf.models.urnet import build_urnet
from urnet_tf.models.variants import LITES, Variant

RESNEXTS = [
    {"depth": 26, "cardinality": 8},
    {"depth": 26, "cardinality": 1, "width_per_group": 64},
    {"depth": 26, "cardinality": 4, "width_per_group": 3},
    {"depth": 26, "cardinality": 8, "small_stem": True},
    {"depth": 26, "cardinality": 8, "deep_stem": True},
    {"depth": 26, "cardinality": 8, "deep_stem": True, "small_stem": True},
    {"depth": 26, "cardinality": 8, "squeeze_excitation": True},
    {"depth": 26, "cardinality": 8, "squeeze_excitation": True, "deep_stem": True, "small_stem": True},
    {"depth": 50},
]


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def multiply_adds(model):
    """Counts from the layers of a Keras model: kernel elements times the places they are applied at."""
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            _, height, width, _ = layer.output.shape
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            assert depthwise or kernel.shape[-1] == layer.output.shape[-1]
            total += height * width * math.prod(kernel.shape)
    return total


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [("efficientnet_lite0", 64, {}), ("efficientnet_lite0", 75, {}), ("efficientnet_lite2", 64, {})]
    + [("resnext", 64 if options["depth"] < 50 else 32, options) for options in RESNEXTS]
    + [("resnext", 75, options) for options in (RESNEXTS[2], *RESNEXTS[4:7])],  # odd at every stage
)
def test_counts_are_those_of_the_keras_model(name, size, options):
    model, cost = build_backbone(name, size, None, **options), count_network(name, size, Variant(**options))
    assert cost.parameters == model.count_params()
    assert cost.trainable == trainable(model)
    assert cost.feature_dim == model.output_shape[-1]
    assert cost.multiply_adds == multiply_adds(model)
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert cost.layers == len(convolutions)


@pytest.mark.parametrize(("number", "millions"), [(0, 4.652), (1, 5.417), (2, 6.092)])
def test_published_sizes_of_the_lites(number, millions):
    """With the classifier of 1,000 classes; published as 4.7, 5.4 and 6.1 M parameters."""
    cost = count_network(f"efficientnet_lite{number}", 224)
    assert BACKBONES == (*LITES, "resnext")
    assert cost.trainable + 1281 * 1000 == pytest.approx(millions * 1e6, abs=500)


@pytest.mark.parametrize(("bag_size", "attention_dim"), [(1, None), (3, None), (3, 7)])
def test_heads_are_those_of_the_keras_models(bag_size, attention_dim):
    assert count_classifier(12, 5).parameters == build_classifier(12, 5).count_params()
    model = build_urnet(12, 5, bag_size, attention_dim=attention_dim)
    assert count_urnet(12, 5, bag_size, attention_dim).parameters == trainable(model)


def test_heads_by_hand():
    # FC1 and FC4: (4 + 1) x 6; FC2: (4 + 1) x 2; FC3: 2 without bias.
    cost = count_urnet(4, 6, bag_size=3, attention_dim=2)
    assert cost.parameters == 30 + 10 + 2 + 30
    assert cost.multiply_adds == 24 + 8 + 2 + 24 // 3


def test_a_stem_by_hand():
    # A 7x7 convolution from 3 to 64 channels gives 16 x 16 places at 32 px, a 3x3 one 32 x 32.
    large, small = (
        count_network("resnext", 32, Variant(depth=26, cardinality=8, small_stem=s)) for s in (False, True)
    )
    stem, small_stem = 16 * 16 * 7 * 7 * 3 * 64, 32 * 32 * 3 * 3 * 3 * 64
    # Behind the stem, the maps of the small stem are four times as wide and high.
    assert small.multiply_adds - small_stem == 16 * (large.multiply_adds - stem)
    assert large.trainable - small.trainable == (49 - 9) * 3 * 64


@pytest.mark.parametrize(
    ("options", "giga", "parameters"),
    [
        ({"depth": 50}, 4.23, 25_028_904),
        ({"depth": 101, "width_per_group": 8}, 16.41, 88_791_336),
        ({"depth": 101, "cardinality": 64}, 15.46, 83_455_272),
        ({"depth": 50, "cardinality": 1, "width_per_group": 64}, 4.09, 25_557_032),
    ],
)
def test_published_figures(options, giga, parameters):
    """Those of torchvision at 224 px with 1,000 classes.

    Its "GFLOPS" are multiply-adds of convolutions and the classifier.
    """
    cost, head = count_network("resnext", 224, Variant(**options)), count_classifier(2048, 1000)
    assert round((cost.multiply_adds + head.multiply_adds) / 1e9, 2) == giga
    assert cost.trainable + head.parameters == parameters
    assert cost.flops == 2 * cost.multiply_adds


@pytest.mark.parametrize(("depth", "width_per_group", "giga"), [(50, 4, 4.26), (101, 8, 16.48)])
def test_figures_that_count_normalization(depth, width_per_group, giga):
    """The other figures in use add two operations for each normalized element."""
    cost = count_network("resnext", 224, Variant(depth=depth, width_per_group=width_per_group))
    total = cost.multiply_adds + count_classifier(2048, 1000).multiply_adds + 2 * cost.normalized_elements
    assert round(total / 1e9, 2) == giga


def test_names_are_those_of_torchvision_and_timm():
    assert count_network("resnext", 32, Variant(width_per_group=8)).name == "resnext101_32x8d"
    assert count_network("resnext", 32, Variant(squeeze_excitation=True)).name == "seresnext101_32x4d"
    assert count_network("resnext", 32, Variant(depth=50, deep_stem=True)).name == "resnext50d_32x4d"


def test_activations_by_hand():
    # A block keeps what its three convolutions give, and its three ReLUs.
    deep = count_network("resnext", 32, Variant(depth=50, cardinality=8, small_stem=True)).kept_elements
    shallow = count_network("resnext", 32, Variant(depth=26, cardinality=8, small_stem=True)).kept_elements
    added = 0
    for stage, blocks in enumerate((1, 2, 4, 1)):  # that depth 50 has more, none with a shortcut convolution
        channels = 4 * 32 * 2**stage + 2 * 256 * 2**stage
        added += blocks * channels * (32 // 2**stage) ** 2
    assert deep - shallow == added


def test_unknown_networks_are_refused():
    with pytest.raises(UsageError, match="Expected a backbone of"):
        count_network("vgg", 224)
    with pytest.raises(UsageError, match="Expected a ResNeXt depth of 26, 50, 101, 152"):
        count_network("resnext", 224, Variant(depth=34))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "resnext"])
@pytest.mark.parametrize("part", ["all", "last_stage", "blocks:2"])
def test_the_part_that_learns_is_counted_as_it_is_built(name, part):
    from urnet_tf.models.unfreezing import list_blocks, unfreeze

    options = {"depth": 26} if name == "resnext" else {}
    model, cost = build_backbone(name, 64, None, **options), count_network(name, 64, Variant(**options))
    assert len(cost.blocks) == len(list_blocks(model))
    unfreeze(model, part)
    assert cost.learning(part).trainable == sum(math.prod(v.shape) for v in model.trainable_variables)
    whole = cost.learning("all")
    for count in ("trainable", "multiply_adds", "kept_elements"):
        assert sum(getattr(block, count) for block in cost.blocks) == getattr(whole, count)
    assert (cost.learning(part).multiply_adds < whole.multiply_adds) == (part != "all")
