"""What each of several machines reads: together they read what one would."""

import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.errors import UsageError
from urnet_tf.feed.batches import FeatureBatches, ImageBatches
from urnet_tf.feed.mixup import MixedBatches
from urnet_tf.feed.sampling import BagSampler, InstanceSampler, PartSampler, part_rows

COUNT, CLASSES = 40, 4
LABELS = np.arange(COUNT) % CLASSES
TARGETS = LABELS[:, None], np.ones((COUNT, 1), np.float32), np.linspace(0.5, 1.5, COUNT, dtype=np.float32)


class Images:
    """Encoded images that tell their id, and which ids were read."""

    def __init__(self):
        self.read_ids = set()

    def read(self, ids):
        self.read_ids |= set(map(int, ids))
        return [tf.io.encode_png(np.full((4, 4, 3), i, np.uint8)).numpy() for i in ids]


def samplers():
    return {
        False: InstanceSampler(np.arange(COUNT), 12, seed=1),
        True: BagSampler(np.arange(COUNT), LABELS, 3, 12, seed=1),
    }


def features(bag):
    x = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)
    return FeatureBatches(x, samplers()[bag], *TARGETS, bag=bag)


def images(bag, store=None):
    def shade(encoded, seed):
        picture = tf.cast(tf.io.decode_png(encoded), tf.float32)
        return tf.ensure_shape(picture + tf.cast(seed[0] % 7, tf.float32), (4, 4, 3))

    store = store or Images()
    return ImageBatches(store, samplers()[bag], *TARGETS, image_size_px=4, augment=shade, bag=bag)


def elements(batches, start=2, stop=6):
    return [tf.nest.flatten(element) for element in batches.dataset(start, stop).as_numpy_iterator()]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("build", [features, images])
def test_the_parts_of_a_step_are_its_rows(build, bag, mixed):
    batches = MixedBatches(build(bag), 0.4) if mixed else build(bag)
    parts = [batches.part(part, 3) for part in range(3)]
    assert {part.steps_per_epoch for part in parts} == {batches.steps_per_epoch}
    assert {part.sampler.shape[0] for part in parts} == {4}
    whole = elements(batches)
    for step, rows in enumerate(zip(*map(elements, parts), strict=True)):
        for values in zip(whole[step], *rows, strict=True):
            np.testing.assert_allclose(values[0], np.concatenate(values[1:]), rtol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_machine_reads_no_other_images(mixed):
    store = Images()
    batches = images(False, store)
    rows = part_rows(12, 1, 3)
    wanted = set()
    for step in (2, 3):
        ids = batches.sampler.batch(step)[0]
        partner = MixedBatches(batches, 0.4).draw(step)[0] if mixed else np.arange(12)
        wanted |= {*ids[rows].tolist(), *ids[partner[rows]].tolist()}
    part = (MixedBatches(batches, 0.4) if mixed else batches).part(1, 3)
    elements(part, 2, 4)
    assert store.read_ids == wanted


def test_a_part_has_its_rows_of_ids_and_epochs():
    sampler = BagSampler(np.arange(COUNT), LABELS, 3, 6, seed=4)
    part = PartSampler(sampler, lambda step: np.array([step % 6, 0]), 2)
    for step in range(9):
        for mine, all_of in zip(part.batch(step), sampler.batch(step), strict=True):
            np.testing.assert_array_equal(mine, all_of[[step % 6, 0]])
    assert part.shape == (2, 3) and part.seed == 4 and part.total == sampler.total


def test_unequal_parts_are_refused():
    with pytest.raises(UsageError, match="Expected a batch that 5 machines divide equally; received 12 rows"):
        features(False).part(0, 5)
