"""What callers of `compute_weights` know of their images, checked."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from urnet_tf.api import door
from urnet_tf.errors import UsageError

_T = TypeVar("_T")

# What a factor needs beside labels and predictions, by the names of arguments.
_NEEDS = {
    "cluster_weight": ("features",),
    "confidence": ("features", "class_names"),
    "page_text": ("texts", "class_names"),
    "rank_prior": ("ranks",),
}


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of the images, checked."""

    labels: np.ndarray
    num_classes: int
    features: np.ndarray | None
    texts: list[list[str]] | None  # columns
    classes: list[dict] | None  # see `door.check_names`
    sources: np.ndarray | None
    queries: np.ndarray | None
    ranks: np.ndarray | None

    def take(self, order: np.ndarray) -> "Known":
        """In another order."""
        columns: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[order]
            for name in ("labels", "features", "sources", "queries", "ranks")
        }
        texts = None if self.texts is None else [[column[i] for i in order] for column in self.texts]
        return dataclasses.replace(self, texts=texts, **columns)

    def lacks(self, factor: str) -> list[str]:
        """The arguments that a factor needs and that were not given."""
        given = {
            "features": self.features, "texts": self.texts, "class_names": self.classes, "ranks": self.ranks
        }  # fmt: skip
        return [name for name in _NEEDS.get(factor, ()) if given[name] is None]


def given(value: _T | None) -> _T:
    """What a factor needs, once `recipes.leave_out` has left out those whose needs are not known."""
    if value is None:
        raise ValueError("Expected what the factor needs; received None.")
    return value


def check_known(
    labels: Sequence[int] | np.ndarray,
    width: int | None,
    num_classes: int | None,
    *,
    features: np.ndarray | None,
    texts: Sequence[str] | Sequence[Sequence[str]] | None,
    class_names: Sequence[str] | Sequence[Sequence[str]] | None,
    sources: Sequence | np.ndarray | None,
    queries: Sequence | np.ndarray | None,
    ranks: Sequence[int] | np.ndarray | None,
) -> Known:
    """Checks what is given; see `weights.compute_weights`.

    Args:
      width: classes that `pred_probs` has.

    Raises:
      UsageError: something does not fit together, or is not what its name says.
    """
    names = None if class_names is None else list(class_names)
    found = [count for count in (num_classes, width, names and len(names)) if count]
    labels, num_classes = door.check_labels(labels, found[0] if found else None)
    if len(set(found)) > 1:
        raise UsageError(
            f"Expected one number of classes in `num_classes`, `pred_probs` and `class_names`; received "
            f"{' and '.join(map(str, found))}. Give all classes, in the order of the labels."
        )
    rows = len(labels)

    def unless_none(value: Any, check: Callable[..., _T], *arguments: Any) -> _T | None:
        return None if value is None else check(*arguments)

    return Known(
        labels,
        num_classes,
        features=unless_none(features, door.check_features, features, rows),
        texts=unless_none(texts, door.check_texts, texts, rows),
        classes=unless_none(names, door.check_names, names, num_classes),
        sources=unless_none(sources, door.check_column, "sources", sources, rows),
        queries=unless_none(queries, door.check_column, "queries", queries, rows),
        ranks=unless_none(ranks, door.check_ranks, ranks, rows),
    )
