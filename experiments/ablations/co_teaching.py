"""Co-teaching: two networks that choose for each other the images whose labels they believe.

In every step each network ranks the rows of the batch by its cross entropy; the other one learns from
the (1 - forget(t)) B rows with the smallest. forget(t) rises linearly over the first passes to the
given rate. The two share no weights, so that one optimizer step on the sum of both losses is one step
of each.

Source: Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels,
2018, Algorithm 1. Differs: rows are chosen by their loss without, and learned with, sample weights.

It is here for comparison: it costs two networks, and needs the share of wrong labels.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from urnet_tf.training import fit as training
from urnet_tf.training.losses import SparseSoftCrossEntropy
from urnet_tf.training.optimization import Trainee

FIRST, SECOND = "first", "second"


def fit_co_teaching(
    build_model: Callable[[int], keras.Model],
    batches,
    forget_rate: float,
    options: training.FitOptions = training.FitOptions(),  # noqa: B008  it is frozen
    *,
    total_steps: int,
    rising_passes: float = 10.0,
    label_smoothing: float = 0.0,
    **settings,
) -> keras.Model:
    """Trains two networks on each other's choice and returns the first one.

    Args:
      build_model: (seed) -> a model of logits, like `build_classifier`. The two must differ, or
        they choose alike: heads that start at zero differ by their dropout.
      batches: single images, as for `fit_model`.
      forget_rate: share of the rows left out in the end; about the share of wrong labels.
      rising_passes: passes over the data until then; at most a half of the run.
      options, total_steps, settings: as for `fit_model`, on one device; not `loss` and `loss_weights`.

    Returns:
      The first network, which can be saved and exported like any other.
    """
    networks = {name: build_model(seed) for seed, name in enumerate((FIRST, SECOND))}
    inputs = keras.Input(networks[FIRST].input_shape[1:])
    both = keras.Model(
        inputs,
        {name: keras.Model(m.input, m.output, name=name)(inputs) for name, m in networks.items()},
        name="co_teaching",
    )
    rising_steps = max(1, round(min(rising_passes * batches.steps_per_epoch, total_steps / 2)))

    def build_trainee(model, micro_batches):
        return _CoTeaching(model, micro_batches, forget_rate, rising_steps)

    training.fit_model(
        both,
        _Twice(batches),
        options,
        total_steps=total_steps,
        loss=SparseSoftCrossEntropy(label_smoothing=label_smoothing),
        build_trainee=build_trainee,
        **{"description": "co-teaching", **settings},
    )
    return networks[FIRST]


class _Twice:
    """Batches whose targets and weights go to both networks."""

    def __init__(self, batches):
        self._batches, self.sampler = batches, batches.sampler
        self.steps_per_epoch = batches.steps_per_epoch

    def dataset(self, start_step, stop_step):
        def twice(x, y, w):
            return x, {FIRST: y, SECOND: y}, {FIRST: w, SECOND: w}

        return self._batches.dataset(start_step, stop_step).map(twice)


class _CoTeaching(Trainee):
    """Each output's loss over the rows for which the other output's is smallest."""

    def __init__(self, model, micro_batches, forget_rate, rising_steps):
        super().__init__(model, micro_batches)
        self._forget_rate, self._rising_steps = forget_rate, rising_steps
        self._cross_entropy = SparseSoftCrossEntropy(reduction="none")

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        passed = tf.cast(self.optimizer.iterations, "float32") / self._rising_steps
        kept = 1.0 - self._forget_rate * tf.minimum(1.0, passed)
        chosen = {
            name: _smallest(self._cross_entropy(y[name], y_pred[name]), kept) for name in (FIRST, SECOND)
        }
        weights = {
            FIRST: sample_weight[FIRST] * chosen[SECOND],
            SECOND: sample_weight[SECOND] * chosen[FIRST],
        }
        return super().compute_loss(x, y, y_pred, weights, training=training)


def _smallest(losses, share):
    """B / n for the n = share * B rows with the smallest losses, else 0: the mean over B is that over n."""
    rows = tf.cast(tf.shape(losses)[0], "float32")
    count = tf.maximum(1.0, tf.round(share * rows))
    rank = tf.argsort(tf.argsort(losses, stable=True), stable=True)
    return tf.where(tf.cast(rank, "float32") < count, rows / count, 0.0)
