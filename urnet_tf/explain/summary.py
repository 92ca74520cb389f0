"""Numbers of the report: arrays of N rows in, small tables out. Nothing of size N x C, no drawing."""

from collections.abc import Sequence

import numpy as np

from urnet_tf import schema
from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.matrix import Matrix

_RANK_BINS = 16
_MIN_IN_BIN = 30
_COLUMNS_IN_PROFILE = 120


def class_means(values: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean of `values` [N] in each class: float64 [C], 0 where a class has no images."""
    count = np.bincount(label, minlength=num_classes)
    return np.bincount(label, weights=values, minlength=num_classes) / np.maximum(count, 1)


def class_sizes(inputs: ReportInputs) -> np.ndarray:
    """Training images of each class and source: int64 [C, S]."""
    sources = max(len(inputs.source_names), 1)
    cell = inputs.label.astype(np.int64) * sources + inputs.source
    return np.bincount(cell, minlength=inputs.num_classes * sources).reshape(-1, sources)


def size_profile(sizes: np.ndarray) -> np.ndarray:
    """Class sizes, largest first, neighbors averaged until there are few columns: float [M, S]."""
    ordered = sizes[np.argsort(-sizes.sum(1), kind="stable")]
    parts = np.array_split(ordered, min(len(ordered), _COLUMNS_IN_PROFILE))
    return np.array([part.mean(0) for part in parts])


def by_source(inputs: ReportInputs) -> list[dict]:
    """Images, share of wrong labels and mean weight, in average images, of each source."""
    count = np.bincount(inputs.source, minlength=len(inputs.source_names))
    wrong = inputs.shares_wrong(inputs.source, len(count))
    weight = np.bincount(inputs.source, weights=inputs.relative_weight, minlength=len(count))
    return [
        {
            "name": name or "source not given",
            "images": int(count[i]),
            "wrong": wrong[i],
            "weight": float(weight[i] / count[i]),
        }
        for i, name in enumerate(inputs.source_names)
        if count[i]
    ]


def by_rank(inputs: ReportInputs, values: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Mean of `values` [N] against rank: (source name, middle ranks, means) for each source.

    The last 2 % of the ranks, where few queries reach, and bins with fewer than 30 images are left out.
    """
    known = inputs.rank > 0
    if not known.any():
        return []
    last = max(int(np.quantile(inputs.rank[known], 0.98)), 2)
    width = max(int(np.ceil(last / _RANK_BINS)), 1)
    index = np.minimum((inputs.rank - 1) // width, _RANK_BINS)
    curves = []
    for s, name in enumerate(inputs.source_names):
        mine = known & (inputs.source == s) & (inputs.rank <= last)
        count = np.bincount(index[mine], minlength=_RANK_BINS + 1)[:_RANK_BINS]
        total = np.bincount(index[mine], weights=values[mine], minlength=_RANK_BINS + 1)[:_RANK_BINS]
        kept = np.flatnonzero(count >= _MIN_IN_BIN)
        if len(kept) >= 2:
            middle = kept * width + (width + 1) / 2
            curves.append((name or "all", middle, total[kept] / count[kept]))
    return curves


def confused_pairs(inputs: ReportInputs, matrix: Matrix, limit: int) -> list[dict]:
    """The (given, predicted) pairs that differ and have most wrong labels, with ids of clear examples."""
    pairs = []
    for cell in matrix.by_wrong(limit):
        given, other = int(matrix.given[cell]), int(matrix.predicted[cell])
        pairs.append(
            {
                "given": given,
                "predicted": other,
                "count": int(matrix.count[cell]),
                "wrong": float(matrix.wrong[cell]),
                "share": float(matrix.count[cell] / inputs.size[given]),
                "ids": clear_examples(inputs, given, other)[:4],
            }
        )
    return pairs


def clear_examples(inputs: ReportInputs, given: int, predicted: int) -> np.ndarray:
    """Images of a class that the models call another one, the most doubtful first: int64."""
    start, stop = inputs.bounds[given : given + 2]
    ids = start + np.flatnonzero(inputs.predicted[start:stop] == predicted)
    return ids[np.lexsort((ids, -inputs.wrong_prob[ids]))]


def histogram_of(values: np.ndarray, bins: int = 36) -> dict | None:
    """Counts, edges, whether these are spaced by ratio, and the deciles 1, 5, 9; None where all are equal.

    The outermost bins also hold the values beyond the 0.1 % and 99.9 % quantiles.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) < 1e-6:
        return None
    low, high = (float(q) for q in np.quantile(values, (0.001, 0.999)))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    ratio = low > 0 and high / low > 6
    edges = np.geomspace(low, high, bins + 1) if ratio else np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    deciles = np.quantile(values, (0.1, 0.5, 0.9))
    return {"counts": counts, "edges": edges, "ratio": ratio, "deciles": deciles}


def group_rows(values: np.ndarray, order: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Row numbers of each distinct value, in `order` first, then by name."""
    names, inverse = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
    groups = {str(name): np.flatnonzero(inverse == i) for i, name in enumerate(names)}
    known = [name for name in order if name in groups]
    return [(name, groups[name]) for name in (*known, *sorted(set(groups) - set(known)))]


def quarantined(inputs: ReportInputs, examples: int = 3) -> list[dict]:
    """One entry a status, most frequent first: count, meaning and a few rows."""
    columns = inputs.quarantine
    groups = [
        {
            "status": status,
            "meaning": schema.STATUS.get(status, ""),
            "count": len(rows),
            "rows": [{"path": columns["path"][r], "reason": columns["reason"][r]} for r in rows[:examples]],
        }
        for status, rows in group_rows(columns["status"], ())
    ]
    return sorted(groups, key=lambda g: (-g["count"], g["status"]))


def duplicate_groups(inputs: ReportInputs, examples: int = 2) -> list[dict]:
    """One entry a kind of duplicates: files, distinct pictures and example groups of paths."""
    columns, found = inputs.duplicates, []
    for kind, rows in group_rows(columns["kind"], schema.DUPLICATE_KINDS):
        hashes = columns["picture" if kind in schema.NEAR_KINDS else "content_hash"][rows]
        distinct, first = np.unique(hashes.astype(str), return_index=True)
        shown = [str(hashes[i]) for i in np.sort(first)[:examples]]
        groups = [[str(p) for p in columns["path"][rows[hashes == value]][:4]] for value in shown]
        found.append({"kind": kind, "files": len(rows), "pictures": len(distinct), "groups": groups})
    return found
