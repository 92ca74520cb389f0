import keras
import numpy as np
import pytest

from urnet_tf.losses import SparseSoftAccuracy, SparseSoftCrossEntropy


def dense(targets, num_classes):
    ids, probs = np.split(targets, 2, axis=-1)
    result = np.zeros((*targets.shape[:-1], num_classes), "float32")
    for index in np.ndindex(*ids.shape):
        result[(*index[:-1], int(ids[index]))] += probs[index]
    return result


def random_targets(rng, shape, k, num_classes):
    ids = rng.integers(0, num_classes, (*shape, k))
    probs = rng.dirichlet(np.ones(k), shape)
    return np.concatenate([ids, probs], -1).astype("float32")


def test_hand_number():
    # softmax([ln 1, ln 2, ln 1]) = [1/4, 1/2, 1/4]; target .75 on class 1, .25 on class 2
    target = np.array([[1, 2, 0.75, 0.25]], "float32")
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
    target = np.array([[0, 1], [0, 1]], "float32")
    logits = np.zeros((2, 4), "float32")
    loss = SparseSoftCrossEntropy()(target, logits, sample_weight=np.array([3.0, 0.0], "float32"))
    assert float(loss) == pytest.approx(1.5 * np.log(4), rel=1e-6)


def test_large_class_ids_and_logits_are_exact():
    logits = np.zeros((1, 100_003), "float32")
    logits[0, 100_002] = 1e4
    assert float(SparseSoftCrossEntropy()(np.array([[100_002, 1]], "float32"), logits)) == 0.0


def test_accuracy_takes_the_most_probable_class():
    metric = SparseSoftAccuracy()
    targets = np.array([[1, 2, 0.4, 0.6], [0, 1, 0.9, 0.1], [2, 0, 0.5, 0.5]], "float32")
    logits = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1]], "float32")
    metric.update_state(targets, logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_loss_survives_serialisation():
    loss = keras.losses.deserialize(keras.losses.serialize(SparseSoftCrossEntropy(label_smoothing=0.3)))
    assert loss.label_smoothing == 0.3
