import io

import numpy as np
import pytest
from PIL import Image

from urnet_tf.errors import UsageError
from urnet_tf.feed.batches import FeatureBatches, ImageBatches, image_seeds, stream_images
from urnet_tf.feed.sampling import BagSampler, InstanceSampler, SequentialSampler

N, D, K = 23, 5, 2
LABELS = np.sort(np.arange(N) % 6)


class Store:
    """Flat gray JPEGs whose brightness is 10 * id."""

    def read(self, ids):
        return [jpeg(10 * int(i)) for i in ids]


def jpeg(brightness, width=24, height=16):
    file = io.BytesIO()
    Image.new("L", (width, height), brightness).save(file, "JPEG", quality=100)
    return file.getvalue()


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    features = np.repeat(np.arange(N)[:, None], D, 1).astype(np.float16)
    target_ids = np.stack([LABELS, rng.integers(0, 6, N)], 1).astype(np.int32)
    target_probs = np.tile(np.float32([0.75, 0.25]), (N, 1))
    return features, target_ids, target_probs, rng.random(N).astype(np.float32)


def elements(dataset):
    import tensorflow as tf

    return [tf.nest.flatten(element) for element in dataset.as_numpy_iterator()]


def assert_bitwise_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def test_instances_of_features(columns):
    features, target_ids, target_probs, weights = columns
    sampler = InstanceSampler(np.arange(N), 4, 0)
    batches = FeatureBatches(features, sampler, target_ids, target_probs, weights)
    dataset = batches.dataset(0, 12)
    assert [spec.shape.as_list() for spec in dataset.element_spec] == [[4, D], [4, 2, K], [4]]
    for step, (x, y, w) in enumerate(elements(dataset)):
        ids, _ = sampler.batch(step)
        np.testing.assert_array_equal(x, np.repeat(ids[:, None], D, 1).astype(np.float32))
        np.testing.assert_array_equal(y, np.stack([target_ids[ids], target_probs[ids]], 1).astype(np.float32))
        np.testing.assert_array_equal(w, weights[ids])
    assert step == 11 and batches.steps_per_epoch == 6


def test_instance_ids_are_a_third_row(columns):
    features, *targets = columns
    batches = FeatureBatches(features, InstanceSampler(np.arange(N), 4, 0), *targets)
    plain, with_ids = batches.dataset(0, 3), batches.dataset(0, 3, instance_ids=True)
    assert with_ids.element_spec[1].shape == (4, 3, K)
    for (_, y, _), (x, y_ids, _) in zip(elements(plain), elements(with_ids), strict=True):
        np.testing.assert_array_equal(y_ids[:, :2], y)
        np.testing.assert_array_equal(y_ids[:, 2], np.repeat(x[:, :1], K, 1))


def test_bags_of_features(columns):
    features, target_ids, target_probs, weights = columns
    sampler = BagSampler(np.arange(N), LABELS, 3, 2, 0)
    dataset = FeatureBatches(features, sampler, target_ids, target_probs, weights, bag=True).dataset(0, 3)
    x_spec, y_spec, w_spec = dataset.element_spec
    assert x_spec.shape == (2, 3, D)
    assert y_spec["instance"].shape == (2, 3, 2, K) and y_spec["bag"].shape == (2, 2, 3 * K)
    assert w_spec["instance"].shape == (2, 3) and w_spec["bag"].shape == (2,)
    for x, y, w in dataset.as_numpy_iterator():
        ids = x[..., 0].astype(int)
        np.testing.assert_array_equal(y["bag"][:, 0], target_ids[ids].reshape(2, -1))
        np.testing.assert_allclose(y["bag"][:, 1], target_probs[ids].reshape(2, -1) / 3, rtol=1e-6)
        np.testing.assert_allclose(y["bag"][:, 1].sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(w["bag"], weights[ids].mean(1), rtol=1e-6)


def test_bags_may_have_their_label_and_no_weight(columns):
    features, target_ids, target_probs, weights = columns
    sampler = BagSampler(np.arange(N), LABELS, 3, 2, 0)
    own = {"bag": True, "bag_labels": LABELS, "weigh_bags": False}
    dataset = FeatureBatches(features, sampler, target_ids, target_probs, weights, **own).dataset(0, 3)
    assert dataset.element_spec[1]["bag"].shape == (2, 2, 1)
    for x, y, w in dataset.as_numpy_iterator():
        ids = x[..., 0].astype(int)
        np.testing.assert_array_equal(y["bag"], np.stack([LABELS[ids[:, :1]], np.ones((2, 1))], axis=1))
        np.testing.assert_array_equal(w["bag"], [1, 1])
        np.testing.assert_array_equal(w["instance"], weights[ids])  # instances keep what is theirs
        np.testing.assert_array_equal(y["instance"][..., 1, :], target_probs[ids])


@pytest.mark.parametrize("bag", [False, True])
def test_resuming_in_the_middle_of_an_epoch_gives_bitwise_the_same_batches(columns, bag):
    from urnet_tf.images.augment import build_augmenter

    features, *targets = columns

    def batches(kind):
        sampler = BagSampler(np.arange(N), LABELS, 3, 2, 7) if bag else InstanceSampler(np.arange(N), 5, 7)
        if kind == "features":
            return FeatureBatches(features, sampler, *targets, bag=bag)
        augment = build_augmenter("crop_flip", 12, min_area=0.25, flip=True, num_ops=2, magnitude=9.0)
        return ImageBatches(Store(), sampler, *targets, 12, augment=augment, bag=bag)

    for kind in ("features", "images"):
        whole = elements(batches(kind).dataset(0, 11))
        assert_bitwise_equal(whole[3:], elements(batches(kind).dataset(3, 11)))
        assert_bitwise_equal(whole, elements(batches(kind).dataset(0, 11)))


@pytest.mark.parametrize("bag", [False, True])
def test_images_meet_their_own_targets(columns, bag):
    features, *targets = columns
    sampler = BagSampler(np.arange(N), LABELS, 3, 2, 7) if bag else InstanceSampler(np.arange(N), 5, 7)
    images = ImageBatches(Store(), sampler, *targets, 12, bag=bag).dataset(1, 9)
    rows = FeatureBatches(features, sampler, *targets, bag=bag).dataset(1, 9)
    assert images.element_spec[0].shape == (*sampler.shape, 12, 12, 3)
    for (x, *rest), (ids, *wanted) in zip(elements(images), elements(rows), strict=True):
        np.testing.assert_allclose(x.mean(axis=(-3, -2, -1)), 10 * ids[..., 0], atol=1.5)
        assert_bitwise_equal([rest], [wanted])


def test_evaluation_loses_no_image_and_repeats_none(columns):
    import tensorflow as tf

    features, *targets = columns
    ids = np.array([3, 1, 2, 9, 20, 21, 5])
    found = list(stream_images(Store(), ids, 12, 0.875, 3).as_numpy_iterator())
    assert [len(batch) for batch in found] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate(found).mean(axis=(1, 2, 3)), 10 * ids, atol=1.5)
    for batches in (
        FeatureBatches(features, SequentialSampler(ids, 3), *targets),
        ImageBatches(Store(), SequentialSampler(ids, 3), *targets, 12),
    ):
        dataset = batches.dataset(0, batches.steps_per_epoch)
        assert not any(spec.dtype == tf.string for spec in tf.nest.flatten(dataset.element_spec))
        assert [len(w) for _, _, w in dataset.as_numpy_iterator()] == [3, 3, 1]


def test_seeds_differ_by_id_epoch_place_and_seed():
    ids, epochs = np.array([[4, 4, 5], [5, 4, 4]]), np.array([[0, 0, 0], [1, 1, 1]])
    seeds = image_seeds(ids, epochs, 0)
    assert seeds.dtype == np.int32 and seeds.shape == (2, 3, 2)
    assert len({tuple(s) for s in seeds.reshape(-1, 2).tolist()}) == 6
    np.testing.assert_array_equal(image_seeds(ids[1:], epochs[1:], 0), seeds[1:])
    assert not (image_seeds(ids, epochs, 1) == seeds).any()


def test_impossible_columns(columns):
    features, target_ids, target_probs, weights = columns
    sampler = InstanceSampler(np.arange(N), 4, 0)
    with pytest.raises(UsageError, match="BagSampler"):
        FeatureBatches(features, sampler, target_ids, target_probs, weights, bag=True)
    with pytest.raises(UsageError, match="one shape"):
        FeatureBatches(features, sampler, target_ids, target_probs[:, :1], weights)
    with pytest.raises(UsageError, match="weights"):
        FeatureBatches(features, sampler, target_ids, target_probs, weights[1:])
