"""What is kept of N x C probabilities: the k best classes of each instance, and its given label's."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Self

import numpy as np

from urnet_tf.evaluation.metrics import top_k


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model predicts for n instances; every field has a row an instance."""

    topk_ids: np.ndarray  # int32 [n, k], best first
    topk_probs: np.ndarray  # float32 [n, k]
    given_prob: np.ndarray  # float32 [n], of the given label; NaN where that is unknown

    @classmethod
    def from_probs(cls, probs: np.ndarray, labels: np.ndarray, k: int) -> Self:
        """Reduces one block: probs float32 [B, C], labels int [B] (-1 = unknown), the k best."""
        ids, best = top_k(probs, k)
        labels = np.asarray(labels)
        given = np.take_along_axis(probs, np.maximum(labels, 0)[:, None].astype(np.int64), axis=1)[:, 0]
        return cls(ids, best, np.where(labels >= 0, given, np.nan).astype(np.float32))

    @classmethod
    def allocate(
        cls, rows: int, k: int, allocate: Callable = lambda name, shape, dtype: np.empty(shape, dtype)
    ) -> Self:
        """Room for `rows` instances; `allocate(name, shape, dtype)` makes each array."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            **{
                name: allocate(
                    name,
                    (rows, k) if "topk" in name else (rows,),
                    np.int32 if name.endswith("ids") else np.float32,
                )
                for name in names
            }
        )

    @classmethod
    def concatenate(cls, blocks: Iterable[Self]) -> Self:
        """Blocks in order; at least one."""
        columns = zip(*(_fields(block) for block in blocks), strict=True)
        return cls(*map(np.concatenate, columns))

    def write(self, rows: np.ndarray | slice, values: Self) -> None:
        """Copies `values` into these rows."""
        for column, new in zip(_fields(self), _fields(values), strict=True):
            column[rows] = new


@dataclasses.dataclass(frozen=True)
class BalancedPredictions(Predictions):
    """Predictions, and what they would be if all classes were equally frequent.

    Those have the probabilities p_c N / (C N_c), normalized. A model trained on unequal classes prefers
    the large ones, and whatever is learned from its raw prediction repeats that. Their k classes are
    chosen after balancing, so that a small class outside of the raw k is among them.

    Source: post-hoc logit adjustment, Menon et al., 2021.
    """

    balanced_topk_ids: np.ndarray  # int32 [n, k], best first
    balanced_topk_probs: np.ndarray  # float32 [n, k]
    balanced_given_prob: np.ndarray  # float32 [n]


def _fields(predictions: BalancedPredictions | Predictions) -> list[np.ndarray]:
    return [getattr(predictions, field.name) for field in dataclasses.fields(predictions)]
