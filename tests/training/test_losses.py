import keras
import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.feed.targets import pack_targets
from urnet_tf.training.losses import SparseSoftAccuracy, SparseSoftCrossEntropy
from urnet_tf.training.robust_losses import build_loss


def dense(targets, num_classes):
    ids, probs = targets[..., 0, :], targets[..., 1, :]
    result = np.zeros((*ids.shape[:-1], num_classes), "float32")
    for index in np.ndindex(*ids.shape):
        result[(*index[:-1], int(ids[index]))] += probs[index]
    return result


def random_targets(rng, shape, k, num_classes):
    ids = rng.integers(0, num_classes, (*shape, k))
    probs = rng.dirichlet(np.ones(k), shape)
    return pack_targets(ids, probs)


def test_hand_number():
    # softmax([ln 1, ln 2, ln 1]) = [1/4, 1/2, 1/4]; target .75 on class 1, .25 on class 2
    target = np.array([[[1, 2], [0.75, 0.25]]], "float32")
    logits = np.log(np.array([[1, 2, 1]], "float32"))
    expected = -0.75 * np.log(0.5) - 0.25 * np.log(0.25)
    assert float(SparseSoftCrossEntropy()(target, logits)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape, smoothing", [((5,), 0.0), ((5,), 0.1), ((4, 3), 0.0), ((4, 3), 0.2)])
def test_equals_dense_cross_entropy_with_weights(shape, smoothing):
    rng = np.random.default_rng(0)
    targets = random_targets(rng, shape, 4, 6)  # ids repeat: their probabilities must add
    logits = rng.normal(size=(*shape, 6)).astype("float32")
    weights = rng.uniform(0.1, 3, shape).astype("float32")
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    expected = float(reference(dense(targets, 6), logits, sample_weight=weights))
    loss = SparseSoftCrossEntropy(label_smoothing=smoothing)
    assert float(loss(targets, logits, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)
    probabilities = SparseSoftCrossEntropy(from_logits=False, label_smoothing=smoothing)
    probs = keras.ops.softmax(logits)
    assert float(probabilities(targets, probs, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


def test_the_divisor_is_the_batch_size_not_the_weight_sum():
    target = np.array([[[0], [1]], [[0], [1]]], "float32")
    logits = np.zeros((2, 4), "float32")
    loss = SparseSoftCrossEntropy()(target, logits, sample_weight=np.array([3.0, 0.0], "float32"))
    assert float(loss) == pytest.approx(1.5 * np.log(4), rel=1e-6)


def test_large_class_ids_and_logits_are_exact():
    logits = np.zeros((1, 100_003), "float32")
    logits[0, 100_002] = 1e4
    assert float(SparseSoftCrossEntropy()(np.array([[[100_002], [1]]], "float32"), logits)) == 0.0


def test_accuracy_takes_the_most_probable_class():
    metric = SparseSoftAccuracy()
    targets = pack_targets([[1, 2], [0, 1], [2, 0]], [[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    logits = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1]], "float32")
    metric.update_state(targets, logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_loss_survives_serialization():
    loss = keras.losses.deserialize(keras.losses.serialize(SparseSoftCrossEntropy(label_smoothing=0.3)))
    assert loss.label_smoothing == 0.3


OTHER_TARGETS = {
    "labels": np.array([1, 0, 3, 2, 1, 0]),
    "a column of labels": np.array([[1], [0], [3], [2], [1], [0]]),
    "one-hot rows": np.eye(4, dtype="float32")[[1, 0, 3, 2, 1, 0]],
    "smooth one-hot rows": 0.9 * np.eye(4, dtype="float32")[[1, 0, 3, 2, 1, 0]] + 0.025,
    "ids and probabilities in one row": np.array([[1, 2, 0.75, 0.25]] * 6, "float32"),
    "one-hot rows of bags": np.eye(4, dtype="float32")[[[1, 1], [3, 3], [0, 0]]],
    "probabilities over ids, transposed": np.zeros((6, 4, 2), "float32"),
}


@pytest.mark.parametrize("name", OTHER_TARGETS)
@pytest.mark.parametrize("kind", ["cross_entropy", "gce", "sce", "focal", "elr"])
def test_other_targets_are_refused(kind, name):
    targets = OTHER_TARGETS[name]
    logits = np.zeros((6, 4), "float32") if "bags" not in name else np.zeros((3, 2, 4), "float32")
    loss = build_loss(kind, class_counts=np.ones(4), num_instances=6)
    sentence = r"Expected targets \[..., 2, K\] .*pack_targets makes them; received \[[\d, ]+\], which looks"
    with pytest.raises(UsageError, match=sentence) as refused:
        loss(targets, logits)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match=sentence):
        SparseSoftAccuracy().update_state(targets, logits)


@pytest.mark.parametrize("targets", [np.eye(4, dtype="float32"), np.arange(4)])
def test_other_targets_are_refused_before_the_first_step(targets):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    model.compile("sgd", SparseSoftCrossEntropy())
    before = [v.numpy() for v in model.variables]
    with pytest.raises(UsageError, match="received .*which looks like labels or one-hot rows"):
        model.fit(np.ones((4, 2), "float32"), targets, verbose=0)
    for value, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, now.numpy())


def test_packed_targets_by_hand():
    packed = pack_targets(np.array([[3, 1]]), np.array([[0.75, 0.25]]), np.array([7]))
    np.testing.assert_array_equal(packed, np.float32([[[3, 1], [0.75, 0.25], [7, 7]]]))
    assert packed.dtype == np.float32
    logits = np.log(np.float32([[1, 2, 1, 4]]))
    without = SparseSoftCrossEntropy()(packed[:, :2], logits)
    assert float(SparseSoftCrossEntropy()(packed, logits)) == float(without)
