"""Pictures that stand under several labels: equal files, and near copies of other bytes."""

from typing import Any

import numpy as np

from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.pictures import Thumbnails
from urnet_tf.schema import NEAR, NEAR_KINDS

_CONTRADICTING = ("several_labels", NEAR + "several_labels")
_FILES = 6  # of a group


def count_contradictions(inputs: ReportInputs) -> dict[str, tuple[int, int]]:
    """Kind → (pictures, files) under several labels: equal files, and near copies."""
    return {
        kind: (len(groups), sum(map(len, groups)))
        for kind in _CONTRADICTING
        for groups in [_groups_of(inputs, kind)]
    }


def show_contradictions(inputs: ReportInputs, thumbnails: Thumbnails, limit: int) -> list[dict[str, Any]]:
    """Groups under several labels, equal files first: of each its files, their labels, and a picture."""
    shown: list[dict[str, Any]] = []
    for kind in _CONTRADICTING:
        for rows in _groups_of(inputs, kind)[: limit - len(shown)]:
            shown.append(_show_group(inputs, thumbnails, rows[:_FILES], kind, len(rows)))
    return shown


def _show_group(
    inputs: ReportInputs, thumbnails: Thumbnails, rows: np.ndarray, kind: str, files: int
) -> dict[str, Any]:
    columns = inputs.duplicates
    paths = [str(path) for path in columns["path"][rows]]
    ids = inputs.find_ids(paths)
    is_near = kind in NEAR_KINDS
    packed = [i for i in ids if i >= 0]
    uris = dict(zip(packed, thumbnails.encode(packed if is_near else packed[:1]), strict=False))
    entries: list[dict[str, Any]] = []
    for row, path, i in zip(rows, paths, ids, strict=True):
        label = int(columns["label"][row])
        trained = 0 <= i < len(inputs.label)
        entries.append(
            {
                "path": path,
                "name": inputs.name(label) if 0 <= label < inputs.num_classes else "",
                "split": str(columns["split"][row]),
                "right": float(inputs.right_prob[i]) if trained and inputs.is_weighed else None,
                "uri": uris.get(i, "") if is_near else "",
            }
        )
    return {"near": is_near, "uri": "" if is_near else next(iter(uris.values()), ""), "files": entries,
            "more": files - len(rows)}  # fmt: skip


def _groups_of(inputs: ReportInputs, kind: str) -> list[np.ndarray]:
    """Rows of each group of a kind, in the order of the table."""
    columns = inputs.duplicates
    rows = np.flatnonzero(np.asarray(columns["kind"], dtype=object) == kind)
    if not len(rows):
        return []
    keys = np.asarray(columns["picture" if kind in NEAR_KINDS else "content_hash"][rows], dtype=str)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    groups = np.split(rows[np.argsort(inverse, kind="stable")], np.cumsum(np.bincount(inverse))[:-1])
    return [groups[i] for i in np.argsort(first, kind="stable")]
