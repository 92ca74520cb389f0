"""What the report is made of: arrays of N rows and functions that read a few images or texts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.combine import average_amount
from urnet_tf.reweighting.factors import FACTORS, OBSERVED
from urnet_tf.reweighting.label_posterior import estimate_wrong_share

if TYPE_CHECKING:
    from urnet_tf.reweighting.cluster_weight import Members

BASELINE, URNET = "baseline", "urnet"  # the two models that are compared

Share = tuple[float, float, float]  # of wrong labels, and its 95 % interval


def _none() -> np.ndarray:
    return np.empty(0)


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """What the page is made of. N training images in id order, C classes.

    An image *looks doubtful* when its label is more probably wrong than right:

        doubtful_i = [ P(label of i is right) < 1/2 ]

    P is the column `right_prob` of weights.parquet, calibrated on labels that were planted (see
    `reweighting.label_posterior`). Without `weights`, nothing is known of the labels yet.
    """

    classes: Sequence[Mapping]  # classes.json: {"label", "id", "name", ...}
    label: np.ndarray  # int [N], rising
    source: np.ndarray  # int [N], index into source_names
    source_names: Sequence[str]
    rank: np.ndarray  # int [N], 0 or less = not known
    quarantine: Mapping[str, np.ndarray]  # columns path, status, reason
    duplicates: Mapping[str, np.ndarray]  # columns content_hash, picture, kind, split, label, path
    read_rows: Callable[[Sequence[int]], Sequence[Mapping]]  # ids → {"title", "path", "query"}
    read_images: Callable[[Sequence[int]], list[bytes]]  # ids → encoded images; several threads may read
    find_ids: Callable[[Sequence[str]], list[int]] = lambda paths: [-1] * len(paths)  # -1 = not packed
    query: np.ndarray = dataclasses.field(
        default_factory=_none
    )  # int [N], index into query_names; empty = not known
    query_names: Sequence[str] = ()
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # of weights.parquet: [N]
    read_members: "Callable[[int], Members] | None" = None  # class → the groups it was weighed by
    # class, how many groups → the groups of look-alikes among its own images
    group_class: "Callable[[int, int], Members] | None" = None
    cluster_kind: str = "purity"  # what a group weighs by, see `cluster_weight`
    folds: int = 1  # models per prediction set; 1 = the model has seen the image
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # val_images, test_images, bytes
    held_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)  # split → GIVEN or DRAWN
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
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # stage → why it is not complete
    left_out: Mapping = dataclasses.field(default_factory=dict)  # exclude, merge and max_rank of the ingest

    def __post_init__(self) -> None:
        names = ["label", "source", "rank"]
        names += ["query"] if len(self.query_names) else []
        lengths = {name: len(getattr(self, name)) for name in names}
        lengths |= {name: len(values) for name, values in self.weights.items()}
        if len(set(lengths.values())) != 1 or not len(self.label):
            raise UsageError(f"Expected columns of one length N >= 1 for the report; received {lengths}.")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def name(self, label: int) -> str:
        """The name of a class."""
        return str(self.classes[label]["name"])

    @property
    def is_weighed(self) -> bool:
        """Whether anything is known of the labels: what models think of the images, and the weights."""
        return bool(self.weights)

    @functools.cached_property
    def size(self) -> np.ndarray:
        """Training images of each class: int64 [C]."""
        return np.bincount(self.label, minlength=self.num_classes)

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """Class j has the ids from bounds[j] to bounds[j + 1]: int64 [C + 1]."""
        return np.concatenate([[0], np.cumsum(self.size)])

    def ids_of(self, label: int) -> np.ndarray:
        """The training images of a class: int64 [n]."""
        return np.arange(self.bounds[label], self.bounds[label + 1])

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
    def wrong_prob(self) -> np.ndarray:
        """P(the label is wrong): float64 [N]."""
        return 1.0 - np.asarray(self.right_prob, np.float64)

    @functools.cached_property
    def doubtful(self) -> np.ndarray:
        """Which images look doubtful: bool [N]; see the top of this class."""
        return np.asarray(self.right_prob) < 0.5

    @property
    def predicted(self) -> np.ndarray:
        """What the models that did not see the image would call it: int32 [N]."""
        return self.weights["predicted_label"]

    @functools.cached_property
    def wrong_by_class(self) -> list[Share | None]:
        """The share of wrong labels in each class; None where it has no images."""
        return self.shares_wrong(self.label, self.num_classes)

    @functools.cached_property
    def wrong_share(self) -> np.ndarray:
        """The same without the intervals: float64 [C], 0 where a class has no images."""
        return np.array([0.0 if found is None else found[0] for found in self.wrong_by_class])

    @property
    def wrong_images(self) -> np.ndarray:
        """How many labels of each class are expected to be wrong: float64 [C]."""
        return self.wrong_share * self.size

    def shares_wrong(self, group: np.ndarray, num_groups: int) -> list[Share | None]:
        """The share of wrong labels in each group [N] and its interval; None where it has no images."""
        order = np.argsort(group, kind="stable")
        prob = np.asarray(self.right_prob)[order]
        stops = np.cumsum(np.bincount(group, minlength=num_groups))
        starts = np.concatenate([[0], stops[:-1]])
        return [
            estimate_wrong_share(prob[start:stop]) if stop > start else None
            for start, stop in zip(starts, stops, strict=True)
        ]

    @functools.cached_property
    def used_factors(self) -> list[str]:
        """The factors that enter the weight and differ between images."""
        entering = [factor.name for factor in FACTORS if factor.role != OBSERVED]
        return [name for name in entering if name in self.weights and np.ptp(self.weights[name]) > 1e-6]

    @functools.cached_property
    def mean_class_weight(self) -> float:
        """Over all images."""
        return float(np.mean(self.weights["class_weight"], dtype=float))

    @property
    def is_literal(self) -> bool:
        """Whether the weights are the paper's literal ones."""
        return self.reweighting.get("formulas") == "literal"
