"""Each loss by hand numbers, by finite differences and at the ends of float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.errors import UsageError
from urnet_tf.feed.targets import pack_targets
from urnet_tf.training.losses import SparseSoftCrossEntropy
from urnet_tf.training.robust_losses import EarlyLearningLoss, build_loss

KINDS = ("cross_entropy", "gce", "sce", "focal", "elr")
COUNTS = np.array([60, 30, 10])
# softmax(LOGITS) = [1/4, 1/2, 1/4]
LOGITS = np.log(np.array([[1, 2, 1]], "float32"))


def build(kind, **settings):
    return build_loss(kind, class_counts=COUNTS, num_instances=8, **settings)


def with_ids(kind, targets, ids=None):
    """Targets as the loss takes them: the early-learning one wants instance ids."""
    if kind != "elr":
        return targets
    ids = np.arange(np.prod(targets.shape[:-2])) if ids is None else ids
    return pack_targets(targets[..., 0, :], targets[..., 1, :], np.reshape(ids, targets.shape[:-2]))


def one_hot(label):
    return np.array([[[label], [1.0]]], "float32")


@pytest.mark.parametrize(
    ("kind", "settings", "cost"),
    [
        ("gce", {"gce_q": 0.5}, lambda p: (1 - np.sqrt(p)) / 0.5),
        ("gce", {"gce_q": 1.0}, lambda p: 1 - p),
        ("sce", {"sce_reverse": 0.25}, lambda p: -np.log(p) + (1 - p)),
        ("focal", {"focal_gamma": 2.0}, lambda p: -((1 - p) ** 2) * np.log(p)),
        ("focal", {"focal_gamma": 0.0}, lambda p: -np.log(p)),
        ("cross_entropy", {"label_smoothing": 0.0}, lambda p: -np.log(p)),
    ],
)
def test_hand_numbers(kind, settings, cost):
    loss = build(kind, **settings)
    assert float(loss(one_hot(1), LOGITS)) == pytest.approx(cost(0.5), rel=1e-5)
    soft = pack_targets([[1, 2]], [[0.75, 0.25]])
    expected = 0.75 * cost(0.5) + 0.25 * cost(0.25)
    assert float(loss(soft, LOGITS)) == pytest.approx(expected, rel=1e-5)
    smooth = build(kind, **(settings | {"label_smoothing": 0.3}))
    expected = 0.7 * expected + 0.3 * np.mean([cost(0.25), cost(0.5), cost(0.25)])
    assert float(smooth(soft, LOGITS)) == pytest.approx(expected, rel=1e-5)


def test_early_learning_by_hand():
    loss = build("elr", elr_weight=2.0, elr_momentum=0.75)
    p = np.array([0.25, 0.5, 0.25])
    for step in range(3):
        memory = (1 - 0.75 ** (step + 1)) * p  # the average of what was said alike each time, from 0
        expected = -np.log(0.5) + 2.0 * np.log(1 - memory @ p)
        found = float(loss(with_ids("elr", one_hot(1), [5]), LOGITS))
        assert found == pytest.approx(expected, rel=1e-3)
        np.testing.assert_allclose(loss.memory.numpy()[5], memory, atol=1e-3)
    assert not loss.memory.numpy()[[0, 1, 2, 3, 4, 6, 7]].any()


def test_an_instance_that_is_twice_in_a_step_is_remembered_once():
    loss = build("elr", elr_momentum=0.5)
    logits = np.log(np.array([[[1, 2, 1], [2, 1, 1]], [[1, 1, 2], [6, 1, 1]]], "float32"))
    targets = np.tile(one_hot(0), (2, 2, 1, 1))
    loss(with_ids("elr", targets, [3, 4, 3, 3]), logits)
    np.testing.assert_allclose(loss.memory.numpy()[3], [0.125, 0.25, 0.125])
    np.testing.assert_allclose(loss.memory.numpy()[4], [0.25, 0.125, 0.125])


def test_the_early_learning_term_pulls_toward_what_was_said_early():
    """The gradient of a wrong label is weaker where the memory holds another class."""
    loss = build("elr", elr_weight=3.0, elr_momentum=0.9)
    loss.memory[2].assign(tf.constant([0.0, 0.9, 0.1], tf.float16))
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = loss(with_ids("elr", one_hot(0), [2]), tf.identity(logits))
    with tf.GradientTape() as plain_tape:
        plain = loss.for_bags()(one_hot(0), tf.identity(logits))
    toward = -tape.gradient(value, logits).numpy()[0]
    assert toward[1] > -plain_tape.gradient(plain, logits).numpy()[0][1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "logit_adjustment": 0.7}])
def test_gradients_are_those_of_finite_differences(kind, settings):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3)).astype("float32")
    ids, probs = rng.integers(0, 3, (4, 2)), rng.dirichlet([1, 1], 4)
    targets = with_ids(kind, pack_targets(ids, probs))
    weights = rng.uniform(0.2, 2, 4).astype("float32")
    loss = build(kind, **settings)

    def value(z):
        if kind == "elr":  # the average is a constant of the step
            said = tf.nn.softmax(loss.adjust(logits)).numpy()
            memory = np.where(np.arange(8)[:, None] < 4, np.pad(said, ((0, 4), (0, 0))), 0)
            loss.memory.assign(memory.astype("float16"))
        return loss(targets, z, sample_weight=weights)

    if kind == "elr":
        loss.momentum = 1.0
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        total = value(tf.identity(variable))
    gradient = tape.gradient(total, variable).numpy()
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 2e-2
        difference = (float(value(logits + step)) - float(value(logits - step))) / 4e-2
        assert gradient[index] == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_extreme_logits_give_finite_losses_and_gradients(kind, gamma):
    if gamma != 2.0 and kind != "focal":
        return
    loss = build(kind, focal_gamma=gamma, logit_adjustment=1.0)
    for size in (1e2, 1e4, 1e30):
        logits = tf.Variable(np.array([[size, -size, 0], [-size, size, 0]], "float32"))
        targets = with_ids(kind, np.tile(one_hot(0), (2, 1, 1)))
        with tf.GradientTape() as tape:
            value = loss(targets, tf.identity(logits))
        assert np.isfinite(value.numpy())
        assert np.isfinite(tape.gradient(value, logits).numpy()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_divide_by_the_batch_and_mix_linearly(kind):
    targets = pack_targets([[0, 2], [1, 0]], [[0.4, 0.6], [1.0, 0.0]])
    logits = np.array([[0.3, -1, 0.5], [2, 0, 1]], "float32")
    weights = np.array([3.0, 0.5], "float32")
    rows = [float(build(kind)(with_ids(kind, targets[i : i + 1]), logits[i : i + 1])) for i in (0, 1)]
    total = float(build(kind)(with_ids(kind, targets), logits, sample_weight=weights))
    assert total == pytest.approx((3.0 * rows[0] + 0.5 * rows[1]) / 2, rel=1e-5)
    if kind == "elr":
        return  # a mixed row has no memory of its own
    sure = [float(build(kind)(one_hot(label), logits[:1])) for label in (0, 2)]
    assert rows[0] == pytest.approx(0.4 * sure[0] + 0.6 * sure[1], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logit_adjustment_is_a_shift_of_the_logits(kind):
    shifted = LOGITS + 0.5 * np.log([[0.6, 0.3, 0.1]]).astype("float32")
    target = with_ids(kind, one_hot(2))
    adjusted = float(build(kind, logit_adjustment=0.5)(target, LOGITS))
    assert adjusted == pytest.approx(float(build(kind)(target, shifted)), rel=1e-5)
    assert adjusted != pytest.approx(float(build(kind)(target, LOGITS)), rel=1e-2)


def test_logit_adjustment_of_probabilities_and_of_empty_classes():
    loss = build_loss(logit_adjustment=1.0, class_counts=np.array([2, 1, 0]))  # shares 1/2, 1/4, 1/4
    assert float(loss(one_hot(2), LOGITS)) == pytest.approx(-np.log(0.25 / 1.25), rel=1e-5)
    probs = SparseSoftCrossEntropy(from_logits=False, logit_offsets=loss.logit_offsets)
    assert float(probs(one_hot(2), np.exp(LOGITS) / 4)) == pytest.approx(-np.log(0.25 / 1.25), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_survive_serialization(kind):
    loss = build(
        kind, gce_q=0.3, sce_reverse=0.4, focal_gamma=1.5, elr_weight=2.0, elr_momentum=0.8,
        logit_adjustment=0.5, label_smoothing=0.1,
    )  # fmt: skip
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    target = with_ids(kind, pack_targets([[1, 2]], [[0.75, 0.25]]))
    assert float(again(target, LOGITS)) == float(loss(target, LOGITS))


def test_default_is_the_plain_cross_entropy():
    loss = build_loss()
    assert type(loss) is SparseSoftCrossEntropy
    assert loss.get_config() == SparseSoftCrossEntropy().get_config()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("mae", {}, "cross_entropy, gce, sce, focal or elr; received 'mae'"),
        ("elr", {"class_counts": COUNTS}, "Expected num_instances"),
        ("elr", {"num_instances": 3}, "Expected class_counts"),
        ("gce", {"logit_adjustment": 1.0}, "Expected class_counts"),
        ("elr", {"class_counts": np.ones(5000), "num_instances": 200_001}, "take 2.0 GB"),
    ],
)
def test_mistakes(kind, settings, message):
    with pytest.raises(UsageError, match=message):
        build_loss(kind, **settings)


def test_early_learning_wants_instance_ids():
    with pytest.raises(ValueError, match="instance id at the end"):
        EarlyLearningLoss(4, 3)(one_hot(1), LOGITS)
