"""Groups of look-alikes inside of a class: what can be judged with one key.

A class is divided by k-means over its features when it is first looked at. Classes with the most labels that
look wrong come first, and in each the group with the largest share of such labels.
"""

import dataclasses
import threading

import numpy as np

from urnet_tf.review.reviewed_run import ReviewedRun
from urnet_tf.reweighting.cluster_weight import compute_groups

_IMAGES_A_GROUP = 30
_MOST_GROUPS = 48
_PCA_DIM = 32
_KEPT = 64  # classes
_MOST_ROWS = 20_000  # of one class that are divided; the rest joins no group


@dataclasses.dataclass(frozen=True)
class Group:
    """Some images of one class that look alike.

    ids: int64 [n], the least probable labels first.
    wrong: the share of labels that look wrong.
    predicted: the class that the models name most often.
    agreeing: how many of them it is named for.
    """

    ids: np.ndarray
    wrong: float
    predicted: int
    agreeing: int


class Groups:
    """The groups of all classes of a run, made as they are asked for.

    Attributes:
      classes: int64 [C'], those with images, in the order in which they are worth a look.
    """

    def __init__(self, run: ReviewedRun):
        self._run = run
        wrong = np.bincount(run.label, weights=1.0 - run.right_prob, minlength=run.num_classes)
        order = np.argsort(-wrong, kind="stable")
        self.classes = order[run.class_sizes[order] > 0]
        self._kept: dict[int, list[Group]] = {}
        self._lock = threading.Lock()

    def of_class(self, label: int) -> list[Group]:
        """The groups of a class; takes a second where it is large and new."""
        with self._lock:
            if label not in self._kept:
                while len(self._kept) >= _KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[label] = self._make(label)
            return self._kept[label]

    def _make(self, label: int) -> list[Group]:
        run = self._run
        start, stop = int(run.bounds[label]), int(run.bounds[label + 1])
        stop = min(stop, start + _MOST_ROWS)
        count = stop - start
        if not count:
            return []
        clusters = min(max(round(count / _IMAGES_A_GROUP), 1), _MOST_GROUPS)
        found = compute_groups(
            run.features[start:stop], count, clusters=clusters, pca_dim=_PCA_DIM, n_init=2, seed=label
        )
        groups = [self._describe(start + np.flatnonzero(found.group == g)) for g in range(len(found.size))]
        return sorted((g for g in groups if len(g.ids)), key=lambda g: (-g.wrong, int(g.ids[0])))

    def _describe(self, ids: np.ndarray) -> Group:
        run = self._run
        if not len(ids):
            return Group(ids, 0.0, -1, 0)
        named, counts = np.unique(run.predicted[ids], return_counts=True)
        best = int(counts.argmax())
        order = ids[np.argsort(run.right_prob[ids], kind="stable")]
        wrong = float(1.0 - run.right_prob[ids].mean(dtype=float))
        return Group(order, wrong, int(named[best]), int(counts[best]))
