"""mixup: every row of a batch becomes a mixture of itself and another row of the batch.

  x = l x_a + (1 - l) x_b,  l ~ Beta(alpha, alpha)
  w = l w_a + (1 - l) w_b,  target = (l w_a / w) target_a + ((1 - l) w_b / w) target_b

With a loss that is linear in the target, as those of `losses` are, a mixed row then costs exactly
l w_a loss_a + (1 - l) w_b loss_b. Sparse targets of K entries become ones of 2K. A bag is mixed with
another bag, image by image, with one l.

Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
Differs: sample weights; l is drawn for each row, not once a batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.feed.sampling import PartSampler, part_rows
from urnet_tf.feed.targets import join_targets

if TYPE_CHECKING:
    import tensorflow as tf

    from urnet_tf.feed.batches import FeatureBatches, ImageBatches


class MixedBatches:
    """Mixes what other batches give; the element of a step depends on step and seed alone.

    Args:
      batches: `FeatureBatches` or `ImageBatches`, plain or of bags, of a fixed size.
      alpha: of Beta(alpha, alpha); small: rows hardly change; 1: every share is as likely.
      seed: of partners and shares; None = the sampler's.

    Raises:
      UsageError: alpha is not above 0, or the last batch may be short.
    """

    def __init__(
        self, batches: "FeatureBatches | ImageBatches", alpha: float, seed: int | None = None
    ) -> None:
        if not alpha > 0:
            raise UsageError(f"Expected an alpha of mixup above 0; received {alpha}.")
        rows = batches.sampler.shape[0]
        if rows is None:
            raise UsageError("Expected batches of a fixed size for mixup; received ones in sequence.")
        self.sampler, self._batches, self._alpha = batches.sampler, batches, alpha
        self._rows = rows
        self._seed = batches.sampler.seed if seed is None else seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every instance was seen once, rounded up."""
        return self._batches.steps_per_epoch

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(partner int32 [B], share of the row itself float32 [B]) of a step."""
        # The samplers count from 0 under the same kind of key.
        generator = np.random.Generator(np.random.Philox(key=[self._seed, int(step)], counter=[0, 0, 0, 1]))
        partner = generator.permutation(self._rows).astype(np.int32)
        return partner, generator.beta(self._alpha, self._alpha, self._rows).astype(np.float32)

    def dataset(self, start_step: int, stop_step: int) -> "tf.data.Dataset":
        """Streams the mixed batches of steps `start_step` to `stop_step - 1`.

        Returns:
          `tf.data.Dataset` of (x, y, w) as the mixed batches give them, but for y, which holds 2K entries.
        """
        return self._stream(self._batches, self.draw, start_step, stop_step)

    def part(self, part: int, parts: int) -> "_PartOfMixed":
        """What one of several machines trains on: its rows of each step, mixed with rows of all."""
        return _PartOfMixed(self, part_rows(self._rows, part, parts))

    def _stream(
        self, batches: "FeatureBatches | ImageBatches", draw: Callable, start_step: int, stop_step: int
    ) -> "tf.data.Dataset":
        """Mixes the first rows of each batch, as many as `draw` gives shares, with the partners it names."""
        import tensorflow as tf

        rows = draw(start_step)[1].shape

        def mixed(step: "tf.Tensor", element: tuple) -> tuple:
            partner, share = tf.numpy_function(draw, [step], [tf.int32, tf.float32], stateful=False)
            partner.set_shape(rows)
            share.set_shape(rows)
            x, y, w = element
            x = _mix(x, partner, share)
            if not isinstance(y, dict):
                return x, *_mix_targets(y, w, partner, share)
            both = {name: _mix_targets(y[name], w[name], partner, share) for name in y}
            return x, {name: y for name, (y, _) in both.items()}, {name: w for name, (_, w) in both.items()}

        steps = tf.data.Dataset.range(start_step, stop_step)
        both = tf.data.Dataset.zip((steps, batches.dataset(start_step, stop_step)))
        return both.map(mixed, num_parallel_calls=2, deterministic=True).prefetch(2)


class _PartOfMixed:
    """Some rows of each step of `MixedBatches`; only these and their partners are read."""

    def __init__(self, whole: MixedBatches, rows: np.ndarray) -> None:
        self._whole, self._own = whole, rows
        self.sampler = PartSampler(whole.sampler, lambda _: rows, len(rows))
        self.steps_per_epoch = whole.steps_per_epoch

    def dataset(self, start_step: int, stop_step: int) -> "tf.data.Dataset":
        """Streams these rows of the mixed batches of steps `start_step` to `stop_step - 1`."""
        own, size = self._own, len(self._own)

        def both(step: int) -> np.ndarray:
            return np.concatenate([own, self._whole.draw(step)[0][own]])

        def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(size, 2 * size, dtype=np.int32), self._whole.draw(step)[1][own]

        batches = self._whole._batches.some_rows(both, 2 * size)
        return self._whole._stream(batches, draw, start_step, stop_step)


def _mix(x: "tf.Tensor", partner: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    share = _as_column(share, x)
    return share * x[: share.shape[0]] + (1.0 - share) * tf.gather(x, partner)


def _mix_targets(
    y: "tf.Tensor", w: "tf.Tensor", partner: "tf.Tensor", share: "tf.Tensor"
) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Targets [B, ..., 2, 2K] and weights [B, ...] of targets [B, ..., 2, K] and weights [B, ...]."""
    import tensorflow as tf

    size, share = share.shape[0], _as_column(share, w)
    own, other = share * w[:size], (1.0 - share) * tf.gather(w, partner)
    weight = own + other
    own, other = (tf.math.divide_no_nan(part, weight) for part in (own, other))
    return join_targets(y[:size], tf.gather(y, partner), own, other), weight


def _as_column(share: "tf.Tensor", x: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.reshape(share, (-1, *[1] * (len(x.shape) - 1)))
