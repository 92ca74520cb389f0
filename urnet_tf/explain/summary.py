"""Numbers of the report: arrays of N rows in, small tables out. Nothing of size N x C, no drawing.

An image *looks doubtful* when its label is more probably wrong than right:

    doubtful_i = [ P(label of i is right) < 1/2 ]

P is the column `right_prob` of weights.parquet, calibrated on labels that were planted (see
`reweighting.label_posterior`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf import schema
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.combine import average_amount
from urnet_tf.reweighting.label_posterior import estimate_wrong_share

if TYPE_CHECKING:
    from urnet_tf.reweighting.cluster_weight import Members

BASELINE, URNET = "baseline", "urnet"  # the two models that are compared
_RANK_BINS = 16
_MIN_IN_BIN = 30
_COLUMNS_IN_PROFILE = 120


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """What the page is made of. N training images in id order, C classes, K kept predictions."""

    classes: Sequence[Mapping]  # classes.json: {"label", "id", "name", ...}
    label: np.ndarray  # int [N]
    source: np.ndarray  # int [N], index into source_names
    source_names: Sequence[str]
    rank: np.ndarray  # int [N], 0 or less = not known
    given_prob: np.ndarray  # float [N], of the given label, by models that did not see the image
    top_ids: np.ndarray  # int [N, K], best first
    top_probs: np.ndarray  # float [N, K]
    weights: Mapping[str, np.ndarray]  # columns of weights.parquet but path: [N]
    quarantine: Mapping[str, np.ndarray]  # columns path, status, reason
    duplicates: Mapping[str, np.ndarray]  # columns content_hash, picture, kind, path
    read_rows: Callable[[Sequence[int]], Sequence[Mapping]]  # ids → {"title", "path", "query"}
    read_images: Callable[[Sequence[int]], list[bytes]]  # ids → encoded images
    read_members: "Callable[[int], Members] | None" = None  # class → its groups; None = no groups
    cluster_kind: str = "purity"  # what a group weighs by, see `cluster_weight`
    folds: int = 1  # models per prediction set; 1 = the model has seen the image
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # val_images, test_images, bytes
    metrics: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)  # model → metrics.summarize
    per_class: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # model → top-1 [C]
    reliability: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)  # model → bins
    evaluated_on: str = ""  # the split
    evaluation: Mapping = dataclasses.field(default_factory=dict)  # metrics.json without the models
    held: np.ndarray | None = None  # int [C], labeled images that were measured
    reweighting: Mapping = dataclasses.field(default_factory=dict)  # metadata of the stage
    export: Mapping = dataclasses.field(default_factory=dict)  # metadata of the stage
    settings: str = ""  # YAML
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    places: Sequence[tuple[str, str]] = ()  # (path, what it is)

    def __post_init__(self) -> None:
        names = ("label", "source", "rank", "given_prob", "top_ids", "top_probs")
        lengths = {name: len(getattr(self, name)) for name in names}
        lengths |= {name: len(values) for name, values in self.weights.items()}
        if len(set(lengths.values())) != 1 or not len(self.label):
            raise UsageError(f"Expected columns of one length N >= 1 for the report; received {lengths}.")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @functools.cached_property
    def average_weight(self) -> float:
        """What an average image counts; see `combine.average_amount`."""
        return average_amount(self.weights["sample_weight"])

    @functools.cached_property
    def relative_weight(self) -> np.ndarray:
        """How many average images an image counts for: float64 [N], below 0 against its label."""
        return np.asarray(self.weights["sample_weight"], np.float64) / self.average_weight

    @property
    def right_prob(self) -> np.ndarray:
        """P(the label is right): float32 [N]."""
        return self.weights["right_prob"]

    @functools.cached_property
    def doubtful(self) -> np.ndarray:
        """Which images look doubtful: bool [N]; see the top of this file."""
        return np.asarray(self.right_prob) < 0.5

    @property
    def is_literal(self) -> bool:
        """Whether the weights are the paper's literal ones."""
        return self.reweighting.get("formulas") == "literal"


def class_means(values: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean of `values` [N] in each class: float64 [C], 0 where a class has no images."""
    count = np.bincount(label, minlength=num_classes)
    return np.bincount(label, weights=values, minlength=num_classes) / np.maximum(count, 1)


def shares_wrong(
    inputs: ReportInputs, group: np.ndarray, num_groups: int
) -> list[tuple[float, float, float] | None]:
    """The share of wrong labels in each group [N] and its 95 % interval; None where it has no images."""
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group, minlength=num_groups))[:-1])
    return [estimate_wrong_share(inputs.right_prob[rows]) if len(rows) else None for rows in parts]


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
    wrong = shares_wrong(inputs, inputs.source, len(count))
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


def confused_pairs(inputs: ReportInputs, limit: int) -> list[dict]:
    """The most frequent (given, predicted) pairs that differ, with ids of clear examples."""
    predicted = np.asarray(inputs.top_ids[:, 0])
    wrong = np.flatnonzero(predicted != inputs.label)
    cell = inputs.label[wrong].astype(np.int64) * inputs.num_classes + predicted[wrong]
    cells, counts = np.unique(cell, return_counts=True)
    sizes = np.bincount(inputs.label, minlength=inputs.num_classes)
    order = np.lexsort((cells, -counts))[:limit]
    pairs = []
    for i in order:
        given, other = divmod(int(cells[i]), inputs.num_classes)
        ids = wrong[cell == cells[i]]
        clear = ids[np.lexsort((ids, -np.asarray(inputs.top_probs[ids, 0])))]
        pairs.append(
            {
                "given": given,
                "predicted": other,
                "count": int(counts[i]),
                "share": float(counts[i] / sizes[given]),
                "ids": clear[:4],
            }
        )
    return pairs


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
