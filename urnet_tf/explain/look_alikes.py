"""Groups of images that look alike and whose label looks wrong, like all the maps among the globes.

The images of the classes with most labels that look wrong are grouped by k-means on their features. Of the
groups that lie closer together than is usual in their class, those are shown whose labels are mostly wrong,
most wrong labels first: each can be judged as a whole.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from urnet_tf.explain.inputs import ReportInputs, Share
from urnet_tf.explain.pictures import Thumbnails
from urnet_tf.reweighting.label_posterior import estimate_wrong_share

_CLASSES = 40  # that are grouped
_GROUP_IMAGES = 15  # of a group, on average
_GROUPS = (2, 12)  # of a class
_FEWEST = 6  # images of a group
_WRONG = 0.6  # share of the labels of a group
_PICTURES = 8  # of a group
_OF_A_CLASS = 2  # groups of one class that are shown


@dataclasses.dataclass(frozen=True)
class LookAlikes:
    """One group."""

    label: int
    ids: np.ndarray  # int64, the nearest to the center first
    wrong: Share
    called: list[tuple[int, int]]  # what the models call them: (class, images), most first

    @property
    def wrong_images(self) -> float:
        """How many labels are expected to be wrong."""
        return self.wrong[0] * len(self.ids)


def find_groups(inputs: ReportInputs, limit: int) -> list[LookAlikes]:
    """Groups that look wrong, those with most wrong labels first; [] where there are no features."""
    if inputs.group_class is None or not limit:
        return []
    order = np.lexsort((np.arange(inputs.num_classes), -inputs.wrong_images))[:_CLASSES]
    found: list[LookAlikes] = []
    for label in order:
        groups = _groups_of(inputs, int(label))
        found += sorted(groups, key=lambda group: -group.wrong_images)[:_OF_A_CLASS]
    return sorted(found, key=lambda group: (-group.wrong_images, group.label))[:limit]


def _groups_of(inputs: ReportInputs, label: int) -> list[LookAlikes]:
    size = int(inputs.size[label])
    if inputs.group_class is None or size < 2 * _FEWEST:
        return []
    members = inputs.group_class(label, int(np.clip(size // _GROUP_IMAGES, *_GROUPS)))
    numbers, found = np.unique(members.group), []
    # Of few images even unlike ones lie near their middle: spreads are divided by the degrees of freedom.
    usual = members.distance.sum() / max(len(members.group) - len(numbers), 1)
    for number in numbers:
        rows = np.flatnonzero(members.group == number)
        if members.distance[rows].sum() / max(len(rows) - 1, 1) > usual:
            continue  # what is left over: no look-alikes
        ids = members.ids[rows[np.argsort(members.distance[rows], kind="stable")]]
        wrong = estimate_wrong_share(np.asarray(inputs.right_prob)[ids])
        if len(ids) >= _FEWEST and wrong[0] >= _WRONG:
            classes, counts = np.unique(inputs.predicted[ids], return_counts=True)
            called = [(int(classes[i]), int(counts[i])) for i in np.lexsort((classes, -counts))]
            found.append(LookAlikes(label, ids, wrong, called))
    return found


def show_groups(
    inputs: ReportInputs, thumbnails: Thumbnails, groups: Sequence[LookAlikes]
) -> list[dict[str, Any]]:
    """What the page shows of each group."""
    shown = []
    for group in groups:
        ids = [int(i) for i in group.ids[:_PICTURES]]
        rows = inputs.read_rows(ids)
        shown.append(
            {
                "label": group.label,
                "name": inputs.name(group.label),
                "images": len(group.ids),
                "wrong": group.wrong,
                "called": [(inputs.name(label), count) for label, count in group.called[:3]],
                "pictures": [
                    {"uri": uri, "text": row["title"] or row["path"]}
                    for uri, row in zip(thumbnails.encode(ids), rows, strict=True)
                ],
            }
        )
    return shown
