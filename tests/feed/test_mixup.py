"""Mixed rows cost exactly the mixture of what their parts cost, and depend on seed and step alone."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.feed.batches import FeatureBatches, ImageBatches
from urnet_tf.feed.mixup import MixedBatches
from urnet_tf.feed.sampling import BagSampler, InstanceSampler, SequentialSampler

N, D, CLASSES = 23, 5, 6
LABELS = np.sort(np.arange(N) % CLASSES)


def columns():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype("float32")
    target_ids = np.stack([LABELS, rng.integers(0, CLASSES, N)], 1).astype(np.int32)
    target_probs = np.tile(np.float32([0.75, 0.25]), (N, 1))
    return features, target_ids, target_probs, rng.uniform(0, 3, N).astype(np.float32)


def plain_batches(bag, weights=None):
    features, *targets, own = columns()
    sampler = BagSampler(np.arange(N), LABELS, 3, 4, 7) if bag else InstanceSampler(np.arange(N), 5, 7)
    return FeatureBatches(features, sampler, *targets, own if weights is None else weights, bag=bag)


def elements(dataset):
    import tensorflow as tf

    return [tf.nest.flatten(element) for element in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("kind", ["cross_entropy", "gce", "sce", "focal"])
def test_a_mixed_row_costs_the_mixture(bag, kind):
    from urnet_tf.training.robust_losses import build_loss

    loss = build_loss(kind, label_smoothing=0.1)
    loss.reduction = "none"
    plain = plain_batches(bag)
    mixed = MixedBatches(plain, 0.8)
    logits = np.random.default_rng(1).normal(size=(4 if bag else 5, 3, CLASSES)).astype("float32")
    for step in range(4):
        partner, share = mixed.draw(step)
        (x, y, w), (mixed_x, mixed_y, mixed_w) = (
            next(iter(batches.dataset(step, step + 1).as_numpy_iterator())) for batches in (plain, mixed)
        )
        column = share.reshape(-1, *[1] * (x.ndim - 1))
        np.testing.assert_allclose(mixed_x, column * x + (1 - column) * x[partner], rtol=1e-5, atol=1e-6)
        outputs = [(y[n], w[n], mixed_y[n], mixed_w[n]) for n in y] if bag else [(y, w, mixed_y, mixed_w)]
        for y, w, mixed_y, mixed_w in outputs:
            z = logits if y.ndim == 4 else logits[:, 0]  # of the mixed rows
            column = share[:, None] if y.ndim == 4 else share
            expected = column * w * np.asarray(loss(y, z))
            expected = expected + (1 - column) * w[partner] * np.asarray(loss(y[partner], z))
            found = np.asarray(loss(mixed_y, z, sample_weight=mixed_w))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            assert mixed_y.shape[-1] == 2 * y.shape[-1]


@pytest.mark.parametrize("bag", [False, True])
def test_resuming_gives_bitwise_the_same_rows(bag):
    whole = elements(MixedBatches(plain_batches(bag), 0.4).dataset(0, 9))
    again = elements(MixedBatches(plain_batches(bag), 0.4).dataset(4, 9))
    for one, other in zip(whole[4:], again, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
    other = elements(MixedBatches(plain_batches(bag), 0.4, seed=8).dataset(0, 1))
    assert not np.array_equal(whole[0][0], other[0][0])


def test_shares_follow_alpha():
    shares = {
        alpha: np.concatenate([MixedBatches(plain_batches(False), alpha).draw(s)[1] for s in range(400)])
        for alpha in (0.2, 1.0)
    }
    for alpha, share in shares.items():
        assert share.mean() == pytest.approx(0.5, abs=0.03)
        assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)


def test_rows_without_weight_stay_finite():
    mixed = MixedBatches(plain_batches(False, np.zeros(N, np.float32)), 0.4)
    for _, y, w in mixed.dataset(0, 3).as_numpy_iterator():
        assert np.isfinite(y).all() and not w.any()


def test_images_are_mixed_too():
    class Store:
        def read(self, ids):
            import tensorflow as tf

            return [tf.io.encode_jpeg(np.full((16, 16, 3), 10 * int(i), np.uint8)).numpy() for i in ids]

    _, *targets = columns()
    for bag in (False, True):
        sampler = BagSampler(np.arange(N), LABELS, 3, 4, 7) if bag else InstanceSampler(np.arange(N), 5, 7)
        mixed = MixedBatches(ImageBatches(Store(), sampler, *targets, 12, bag=bag), 1.0)
        dataset = mixed.dataset(2, 4)
        assert dataset.element_spec[0].shape == (*sampler.shape, 12, 12, 3)
        for step, (x, _, _) in enumerate(dataset.as_numpy_iterator(), 2):
            (partner, share), ids = mixed.draw(step), sampler.batch(step)[0]
            share = share[:, None] if bag else share
            expected = 10 * (share * ids + (1 - share) * ids[partner])
            np.testing.assert_allclose(x.mean(axis=(-3, -2, -1)), expected, atol=1.5)


def test_impossible_mixtures_are_refused():
    features, *targets = columns()
    with pytest.raises(UsageError, match="above 0; received 0"):
        MixedBatches(plain_batches(False), 0.0)
    with pytest.raises(UsageError, match="fixed size"):
        MixedBatches(FeatureBatches(features, SequentialSampler(np.arange(N), 4), *targets), 0.4)
