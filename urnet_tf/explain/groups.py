"""The groups of look-alikes of a class, its most confused classes among them: numbers and pictures of Fig. 6.

In: who is in the groups of a class (`cluster_weight.find_members`) and what the groups weigh. Out: a few
classes, each with its groups, the heaviest first, and of each group the pictures nearest to its center.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.explain.inputs import ReportInputs, Share
from urnet_tf.reweighting.label_posterior import estimate_wrong_share

if TYPE_CHECKING:
    from urnet_tf.explain.pictures import Thumbnails
    from urnet_tf.reweighting.cluster_weight import Members

_RULES = {  # kind of cluster weight → in words
    "purity": "The more of a group belongs to the class, the more its images count",
    "size": "The larger a group, the more its images count",
    "quality": "The more probable the models find the label in a group, the more its images count",
    "density": "The larger and the closer together a group, the more its images count",
}
_PICTURES = 8  # of a group
_OWN_PICTURES = 5  # of them at least, where there are as many
_SMALLEST = 12  # images of a class that is worth showing


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of look-alikes."""

    number: int  # in the column `cluster`
    weight: float | None  # of an own image, in average images of the class; None = there is none
    size: int
    own: int
    others: list[tuple[int, int]]  # (class, images), most images first
    ids: np.ndarray  # int64, the pictures to show: own ones first, each nearest to the center first


def have_counted(inputs: ReportInputs) -> bool:
    """Whether the groups changed what images count."""
    return bool(np.ptp(inputs.weights["cluster_weight"]) > 1e-6)


def describe_rule(inputs: ReportInputs) -> str:
    """What the number of a group says, and which classes are shown: sentences."""
    return (
        f"{_RULES.get(inputs.cluster_kind, _RULES['purity'])}: 1× is the average of the class. Shown are "
        "the classes whose groups count most differently."
    )


def choose_classes(inputs: ReportInputs, limit: int) -> list[int]:
    """The classes whose groups weigh most differently; those with few images come last."""
    weights, size = relative_weights(inputs), inputs.size
    square = np.bincount(inputs.label, weights=np.square(weights), minlength=inputs.num_classes)
    spread = np.sqrt(np.maximum(square / np.maximum(size, 1) - 1.0, 0.0))
    few = size < min(_SMALLEST, size.max())
    order = np.lexsort((np.arange(len(size)), -spread, few))
    return [int(label) for label in order if spread[label] > 1e-6][:limit]


def relative_weights(inputs: ReportInputs) -> np.ndarray:
    """The cluster weight of each image over the mean of its class: float64 [N]."""
    weights = np.asarray(inputs.weights["cluster_weight"], np.float64)
    means = np.bincount(inputs.label, weights=weights, minlength=inputs.num_classes)
    means = means / np.maximum(inputs.size, 1)
    return weights / np.where(means == 0, 1.0, means)[inputs.label]


def describe_groups(members: "Members", labels: np.ndarray, weights: np.ndarray) -> list[Group]:
    """The groups of a class, the heaviest first, and those without an image of its own last.

    Args:
      labels: int [N], the given ones.
      weights: float [n], what the group of each of the class's own images weighs.
    """
    own = np.arange(len(members.ids)) < members.num_own
    groups = []
    for number in range(int(members.group.max()) + 1):
        here = members.group == number
        classes, counts = np.unique(labels[members.ids[here & ~own]], return_counts=True)
        order = np.lexsort((classes, -counts))
        mine = weights[here[: members.num_own]]
        groups.append(
            Group(
                number=number,
                weight=float(mine[0]) if len(mine) else None,
                size=int(here.sum()),
                own=len(mine),
                others=[(int(classes[i]), int(counts[i])) for i in order],
                ids=_choose_pictures(members, here & own, here & ~own),
            )
        )
    return sorted(groups, key=lambda group: (group.weight is None, -(group.weight or 0.0), -group.size))


def _choose_pictures(members: "Members", own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The nearest to the center: some of both kinds, more of one where the other has too few."""
    nearest = [
        rows[np.argsort(members.distance[rows], kind="stable")] for rows in map(np.flatnonzero, (own, others))
    ]
    of_others = min(len(nearest[1]), max(_PICTURES - _OWN_PICTURES, _PICTURES - len(nearest[0])))
    chosen = [nearest[0][: _PICTURES - of_others], nearest[1][:of_others]]
    return members.ids[np.concatenate(chosen)]


def build_section(inputs: ReportInputs, thumbnails: "Thumbnails", limit: int) -> dict[str, Any] | None:
    """The rule and the classes of the section; None where no groups counted."""
    classes = build_groups(inputs, thumbnails, limit)
    return {"rule": describe_rule(inputs), "classes": classes} if classes else None


def build_groups(inputs: ReportInputs, thumbnails: "Thumbnails", limit: int) -> list[dict[str, Any]]:
    """What the section shows, a class each; [] where no groups counted."""
    if inputs.read_members is None or not limit or not have_counted(inputs):
        return []
    entries = []
    relative = relative_weights(inputs)
    for label in choose_classes(inputs, limit):
        members = inputs.read_members(label)
        rows, own_groups = members.ids[: members.num_own], members.group[: members.num_own]
        same = np.array_equal(own_groups, inputs.weights["cluster"][rows])
        groups = describe_groups(members, inputs.label, relative[rows]) if same else []
        joined = dict.fromkeys(inputs.label[members.ids[members.num_own :]].tolist())  # most confused first
        entries.append(
            {
                "label": label,
                "name": inputs.name(label),
                "size": members.num_own,
                "found_again": same,
                "joined": [inputs.name(other) for other in joined],
                "groups": [
                    _show(
                        inputs,
                        thumbnails,
                        group,
                        label,
                        _share_wrong(inputs, rows[own_groups == group.number]),
                    )
                    for group in groups
                ],
            }
        )
    return entries


def _share_wrong(inputs: ReportInputs, ids: np.ndarray) -> Share | None:
    return estimate_wrong_share(np.asarray(inputs.right_prob)[ids]) if len(ids) else None


def _show(
    inputs: ReportInputs, thumbnails: "Thumbnails", group: Group, label: int, wrong: Share | None
) -> dict[str, Any]:
    others = [(inputs.classes[other]["name"], count) for other, count in group.others]
    shown = [int(i) for i in group.ids]
    rows = inputs.read_rows(shown)
    pictures = [
        {
            "uri": uri,
            "text": f"{inputs.classes[inputs.label[i]]['name']}: {row['title'] or row['path']}",
            "other": "" if inputs.label[i] == label else inputs.classes[inputs.label[i]]["name"],
        }
        for i, row, uri in zip(shown, rows, thumbnails.encode(shown), strict=True)
    ]
    return {
        "weight": group.weight, "size": group.size, "own": group.own, "others": others, "pictures": pictures,
        "own_share": group.own / max(group.size, 1), "wrong": wrong,
    }  # fmt: skip
