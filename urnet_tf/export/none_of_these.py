"""A score for pictures that show none of the classes: how little a picture looks like any of them.

In: logits of held images. Out: a number from 0 to 1 beside the probabilities.

  e(x)    = log sum over c of exp(logit_c(x))            small where no class fits
  none(x) = sigmoid((a - e(x)) / b)

a is the e below which the `refused` share of the held images lies, so that it has none = 1/2; b makes it .05
at their median. The held images need no labels; if some show none of the classes, a is a little low. Pictures
that people judged to show none of the classes say how many of such the score finds.

Source: not in the paper. Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020. On a simulated
crawl of 59 classes it told 1,410 pictures of other classes from 6,490 test images with an AUROC of .847 (most
probable class .799, entropy .833, nearest neighbors .791, Mahalanobis distance .649, relative .814) with
features of 128 px, and of .901 (most probable class .856) with those of 224 px.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.export.rewriting import LOGITS, NONE_OF_THESE

if TYPE_CHECKING:
    import keras

KEPT = (0.99, 0.95, 0.9)  # shares of the held images that the table of the model card keeps
_USUAL = 0.05  # the score of the median held image
_FEWEST = 20  # held images


@dataclasses.dataclass(frozen=True)
class Outside:
    """How the score does on pictures that people judged to show none of the classes.

    images: how many there are, and auroc: the chance that one has a higher score than a held image, with its
      95 % `interval`.
    refused: share of the held images that is kept → share of these pictures that is refused.
    """

    images: int
    auroc: float
    interval: tuple[float, float]
    refused: dict[float, float]

    def sentence(self) -> str:
        """For a person."""
        kept, share = next(iter(sorted(self.refused.items())))
        return (
            f"{self.images:,} pictures that people judged to show none of the classes are told from held "
            f"images with an AUROC of {self.auroc:.2f} (95 % interval: {self.interval[0]:.2f} to "
            f"{self.interval[1]:.2f}); the threshold that keeps {kept:.0%} of the held images refuses "
            f"{share:.0%} of them."
        )


@dataclasses.dataclass(frozen=True)
class NoneOfThese:
    """The score of a model.

    energy: a, in nats. scale: b, in nats, above 0.
    images: how many held images it rests on.
    thresholds: share of the held images that is kept → the score above which an image is refused.
    outside: how it does on judged pictures; None with fewer than 20 of them.
    """

    energy: float
    scale: float
    images: int
    thresholds: dict[float, float]
    outside: Outside | None = None

    def score(self, logits: np.ndarray) -> np.ndarray:
        """none(x), float64 [n], of logits float [n, C]."""
        return 1.0 / (1.0 + np.exp((compute_energy(logits) - self.energy) / self.scale))

    def describe(self) -> dict[str, Any]:
        """Plain JSON for export.json."""
        thresholds = [{"kept": kept, "threshold": value} for kept, value in self.thresholds.items()]
        told: dict[str, Any] = {"energy": self.energy, "scale": self.scale, "images": self.images}
        told["thresholds"] = thresholds
        if self.outside is not None:
            for entry in thresholds:
                entry["refused_outside"] = self.outside.refused[entry["kept"]]
            told |= {
                "outside_images": self.outside.images,
                "auroc": self.outside.auroc,
                "auroc_interval": list(self.outside.interval),
            }
        return told

    def attach(self, model: "keras.Model") -> "keras.Model":
        """The model with one more named output, `none_of_these` float32 [B]; weights are shared."""
        import keras
        from keras import ops

        outputs = dict(model.output)
        energy = ops.logsumexp(ops.cast(outputs[LOGITS], "float32"), axis=-1)
        outputs[NONE_OF_THESE] = ops.sigmoid((self.energy - energy) / self.scale)
        return keras.Model(model.input, outputs, name=model.name)


def tabulate_thresholds(described: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table for a person; `described` is what `describe` gave."""
    header = ["of the known kept", "refuse where `none_of_these` is above"]
    if judged := described.get("outside_images"):
        header.append(f"refused of {judged:,} judged to be other things")
    rows = [
        [f"{row['kept']:.0%}", f"{row['threshold']:.2f}", f"{row.get('refused_outside', 0):.0%}"]
        for row in described["thresholds"]
    ]
    return header, [row[: len(header)] for row in rows]


def compute_energy(logits: np.ndarray) -> np.ndarray:
    """e(x), float64 [n], of logits float [n, C]."""
    from scipy.special import logsumexp

    return logsumexp(np.asarray(logits, np.float64), axis=-1)


def fit_none_of_these(
    blocks: Iterable[np.ndarray], refused: float, outside: Iterable[np.ndarray] = ()
) -> NoneOfThese | None:
    """The score of a model whose logits of held images are float [n, C] blocks.

    Args:
      refused: the share of held images that get a score above 1/2, from 0 to below 1/2.
      outside: blocks of logits of pictures that people judged to show none of the classes.

    Returns:
      None where fewer than 20 images are held, or their logits tell nothing.
    """
    energies, strange = _energies(blocks), _energies(outside)
    if len(energies) < _FEWEST:
        return None
    edge, usual = np.quantile(energies, [refused, 0.5])
    scale = float(usual - edge) / float(np.log((1 - _USUAL) / _USUAL))
    if not scale > 1e-6:
        return None
    found = NoneOfThese(float(edge), scale, len(energies), {})
    limits = {kept: float(np.quantile(energies, 1 - kept)) for kept in KEPT}
    thresholds = {kept: float(1 / (1 + np.exp((limit - edge) / scale))) for kept, limit in limits.items()}
    measured = None
    if len(strange) >= _FEWEST:
        caught = {kept: float(np.mean(strange < limit)) for kept, limit in limits.items()}
        measured = Outside(len(strange), *_measure(-strange, -energies), caught)
    return dataclasses.replace(found, thresholds=thresholds, outside=measured)


def _energies(blocks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *(compute_energy(block) for block in blocks if len(block))])


def _measure(positive: np.ndarray, negative: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The AUROC of scores, and its 95 % interval (Hanley and McNeil, 1982)."""
    from urnet_tf.evaluation.metrics import auroc

    chance = auroc(
        np.concatenate([positive, negative]), np.arange(len(positive) + len(negative)) < len(positive)
    )
    first, second = chance / (2 - chance), 2 * chance**2 / (1 + chance)
    variance = (
        chance * (1 - chance)
        + (len(positive) - 1) * (first - chance**2)
        + (len(negative) - 1) * (second - chance**2)
    ) / (len(positive) * len(negative))
    error = 1.96 * float(np.sqrt(variance))
    return chance, (max(chance - error, 0.0), min(chance + error, 1.0))
