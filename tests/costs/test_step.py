"""Memory and time of steps from counts, by hand."""

import dataclasses

import pytest

from urnet_tf.costs import step as step_cost
from urnet_tf.costs.network import HeadCost, count_network, count_urnet
from urnet_tf.costs.step import inference_bytes, training_cost
from urnet_tf.models.variants import Variant

NETWORK = dataclasses.replace(
    count_network("resnext", 32, Variant(depth=26)),
    trainable=900,
    parameters=1000,
    layers=0,
    kept_elements=50_000,
    normalized_elements=20_000,
)
HEADS = HeadCost(parameters=100, multiply_adds=90)


def cost(network=NETWORK, batch_images=12, **options):
    return training_cost(network, HEADS, 10, batch_images, feature_dim=40, image_size_px=32, **options)


def test_weights_gradients_and_optimizer():
    plain = cost()
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * 1100, 4 * 1000, 4 * 1000)
    assert cost(optimizer="adamw").optimizer == 2 * 4 * 1000
    assert cost(optimizer="adamw", ema=True).optimizer == 3 * 4 * 1000
    assert cost(precision="mixed_float16").weights == 6 * 1100
    assert cost(parts=3).gradients == 2 * 4 * 1000
    heads_only = cost(network=None)
    assert (heads_only.weights, heads_only.gradients) == (4 * 100, 4 * 100)


def test_activations():
    head = 4 * (40 + 6 * 10)
    assert cost().activations() == 12 * (head + 4 * 60_000)
    assert cost(precision="mixed_bfloat16").activations() == 12 * (head + 2 * 60_000)
    assert cost(parts=4).activations() == 3 * (head + 4 * 60_000)
    assert cost().activations(devices=5) == 3 * (head + 4 * 60_000)
    # Statistics over several devices are float32: their inputs take 2 bytes more, with their gradients.
    mixed = cost(precision="mixed_bfloat16").activations(devices=4)
    assert mixed == 3 * (head + 2 * 60_000 + 2 * 24_000)
    assert cost(network=None).activations() == 12 * head


def test_the_whole_is_more_than_its_parts():
    plain = cost()
    held = plain.weights + plain.gradients + plain.optimizer + plain.activations()
    assert plain.host_bytes() > held + plain.weights + plain.optimizer
    assert plain.device_bytes() > held
    # With GPUs, the machine holds the batches and copies of the weights, whatever the activations take.
    assert plain.host_bytes(gpus=2) == cost(dataclasses.replace(NETWORK, kept_elements=0)).host_bytes(gpus=2)
    assert cost(batch_images=24).host_bytes(gpus=1) > plain.host_bytes(gpus=1)


@pytest.mark.parametrize(
    ("options", "size", "images", "parts", "optimizer", "measured"),
    [
        ({"depth": 26, "cardinality": 8, "small_stem": True}, 64, 12, 1, "sgd", 2500),
        ({"depth": 26, "cardinality": 8, "small_stem": True}, 64, 96, 1, "sgd", 7484),
        ({"depth": 50}, 128, 48, 1, "sgd", 4498),
        ({"depth": 50}, 224, 3, 1, "sgd", 2843),
        ({"depth": 50}, 224, 24, 1, "sgd", 5500),
        ({"depth": 50}, 224, 24, 4, "sgd", 3503),
        ({"width_per_group": 8}, 224, 3, 1, "sgd", 5278),
        ({"width_per_group": 8}, 224, 12, 1, "sgd", 7857),
        ({}, 224, 12, 1, "adamw", 2560),
        ({}, 224, 48, 1, "adamw", 4635),
    ],
)
def test_the_plan_is_a_little_above_what_was_measured(options, size, images, parts, optimizer, measured):
    """Megabytes by experiments/benchmarks/bench_memory.py, 5,000 classes, bags of 3, 2 cores."""
    network = count_network("resnext" if options else "efficientnet_lite0", size, Variant(**options))
    heads = count_urnet(network.feature_dim, 5000, bag_size=3)
    planned = training_cost(
        network, heads, 5000, images, feature_dim=network.feature_dim, image_size_px=size,
        optimizer=optimizer, parts=parts,
    ).host_bytes()  # fmt: skip
    assert 0.75 < measured * 1e6 / planned < 0.95


@pytest.mark.parametrize(("models", "measured"), [(1, 1923), (3, 2916)])
def test_inference_is_planned_above_what_was_measured(models, measured):
    """ResNeXt-50 at 224 px, 64 images, 1,000 classes, models in one graph."""
    heads = HeadCost(parameters=2049 * 1000, multiply_adds=2048 * 1000)
    planned = inference_bytes(count_network("resnext", 224, Variant(depth=50)), heads, models, 64, 224)
    assert 0.6 < measured * 1e6 / planned < 0.95


def test_time_follows_the_work():
    small, large = (count_network("resnext", size, Variant(depth=50)) for size in (128, 256))
    fixed = step_cost.forward_seconds(dataclasses.replace(small, multiply_adds=0, kept_elements=0), 1, 1)
    per_image = [step_cost.forward_seconds(network, 1, 1) - fixed for network in (small, large)]
    assert per_image[1] / per_image[0] == pytest.approx(4.0, rel=0.02)
    assert step_cost.forward_seconds(large, 10, 2) == pytest.approx(
        5 * step_cost.forward_seconds(large, 1, 1)
    )
    assert step_cost.training_seconds(large, 10, 2) > 2 * step_cost.forward_seconds(large, 10, 2)
    gpu = step_cost.forward_seconds(large, 10, 2, gpus=1)
    assert gpu < step_cost.forward_seconds(large, 10, 2)
    assert step_cost.forward_seconds(large, 10, 2, gpus=1000) == 5 * fixed  # the cores still read the images
    stem = count_network("resnext", 64, Variant(depth=50, small_stem=True))
    plain = count_network("resnext", 64, Variant(depth=50))
    assert step_cost.forward_seconds(stem, 1, 1) > 5 * step_cost.forward_seconds(plain, 1, 1)


@pytest.mark.parametrize(
    ("memory_gb", "gpus", "gpu_gb", "parts"),
    [
        (100, 0, None, 1),
        (10, 0, None, 2),  # 0.7 of 10 GB hold 2 + 10 / 2 GB, and not 2 + 10
        (1, 0, None, 12),  # nothing is small enough: an image at a time
        (100, 1, None, 1),  # of a GPU that tells nothing, nothing is asked
        (100, 1, 6, 3),
        (4, 1, 100, 1),
    ],
)
def test_as_few_parts_as_memory_holds(memory_gb, gpus, gpu_gb, parts):
    asked = []

    class Cost:
        def __init__(self, count):
            asked.append(count)
            self.count = count

        def host_bytes(self, gpus):
            return (2 + (0 if gpus else 10 / self.count)) * 1e9

        def device_bytes(self, devices):
            return (1 + 9 / self.count) * 1e9

    found = step_cost.fewest_parts(
        Cost, 12, gpus=gpus, memory_bytes=memory_gb * 1e9, gpu_bytes=gpu_gb and gpu_gb * 1e9
    )
    assert found == parts
    assert asked == [count for count in (1, 2, 3, 4, 6, 12) if count <= parts]
