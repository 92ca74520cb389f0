"""An ensemble of networks that differ in their seeds: which seeds, and one prediction made of several.

Of each network the five best classes are kept; the others count as 0, so the mean is near that of the full
probabilities, not equal.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from urnet_tf.evaluation import metrics

_APART = 1000  # between the seeds of members, so that ensembles of other seeds have others
_KEPT = 5


def seeds_of(seed: int, members: int) -> list[int]:
    """The seeds of the members of the ensemble that a seed stands for; the first is that seed."""
    return [seed + _APART * number for number in range(members)]


def fuse(files: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean probability of members, as predictions like theirs.

    Args:
      files: `top_ids` int [n, k] and `top_probs` float [n, k] of each member, with what all have alike:
        `labels`, `splits`, `num_classes`.
    """
    first, rows = files[0], np.arange(len(files[0]["labels"]))[:, None]
    scores = np.zeros((len(rows), int(first["num_classes"])), np.float32)
    for file in files:
        scores[rows, file["top_ids"]] += file["top_probs"] / len(files)
    top_ids, top_probs = metrics.top_k(scores, min(_KEPT, scores.shape[1]))
    return {**first, "top_ids": top_ids, "top_probs": top_probs}
