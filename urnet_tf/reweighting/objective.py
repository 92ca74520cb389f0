"""The trade between large and small classes, as a bias of the last layer.

In: heads whose logits count classes alike, and images that they did not see. Out: how often they are right
with each strength, by image and by class, and which strength to take.

  logit_c + strength * log(share of class c)      0: classes count alike, 1: images count alike

Labels of the crawl are partly wrong, so each image counts as much as its label is trusted.

Source: not in the paper. Logit adjustment after training: Menon et al., ICLR 2021, Sec. 4.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from urnet_tf.reweighting.linear_head import LinearHead, read_blocks

BALANCED, PLAIN, AUTO = "balanced", "plain", "auto"
STRENGTHS = (0.0, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a strength does to images that the heads did not see.

    plain, balanced: shares that are right, each image or each class alike, weighted by trust.
    lost: by how much `plain` is below that of the strength for which it is best; error: half of the 95 %
      interval of that difference.
    """

    strength: float
    plain: float
    balanced: float
    lost: float
    error: float


def try_strengths(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    heads: Sequence[LinearHead],
    trust: np.ndarray,
    *,
    num_classes: int,
) -> list[Tried]:
    """Tries each of STRENGTHS.

    Args:
      features: float [N, D]; a memory map is read block by block.
      labels: int [N].
      folds: int [N], which head did not see the image.
      heads: one a fold, class-balanced.
      trust: float [N], 0 or more, not all 0.
      num_classes: C.
    """
    prior = log_share(labels, num_classes)
    right = np.zeros((len(STRENGTHS), len(labels)), bool)
    for rows, block in read_blocks(features):
        for fold in np.unique(folds[rows]):
            here = folds[rows] == fold
            logits = heads[fold].logits(block[here])
            for place, strength in enumerate(STRENGTHS):
                right[place, rows[here]] = (logits + strength * prior).argmax(axis=1) == labels[rows[here]]
    by_image = right @ trust / trust.sum()
    mass = np.bincount(labels, trust, minlength=num_classes)
    known = mass > 0
    by_class = [
        np.bincount(labels, trust * hits, minlength=num_classes)[known] / mass[known] for hits in right
    ]
    most = int(by_image.argmax())
    found = []
    for place, strength in enumerate(STRENGTHS):
        difference = right[most].astype(float) - right[place]
        lost = float(by_image[most] - by_image[place])
        error = 1.96 * float(np.sqrt(np.square(trust * (difference - lost)).sum()) / trust.sum())
        found.append(Tried(strength, float(by_image[place]), float(by_class[place].mean()), lost, error))
    return found


def choose_strength(tried: Sequence[Tried], objective: str) -> float:
    """The strength of an objective; AUTO balances as far as plain accuracy does not drop beyond chance."""
    if objective == AUTO:
        return min(one.strength for one in tried if one.lost <= one.error)
    return 1.0 if objective == PLAIN else 0.0


def log_share(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """log of each class's share of the images, float64 [C]; a class without images counts as half of one."""
    count = np.maximum(np.bincount(labels, minlength=num_classes), 0.5)
    return np.log(count / count.sum())


def format_trade(tried: Sequence[Tried], chosen: float) -> str:
    """The table for a person."""
    names = {0.0: "classes alike", 0.5: "between", 1.0: "images alike"}
    lines = ["Out of fold, right at the first guess, by trusted labels, if the classifier counts"]
    for one in tried:
        mark = "  <- taken" if one.strength == chosen else ""
        lines.append(
            f"  {names[one.strength]:<14} each class {100 * one.balanced:5.1f} %   each image "
            f"{100 * one.plain:5.1f} %{mark}"
        )
    return "\n".join(lines)
