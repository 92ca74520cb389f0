"""What people judged, as far as a run obeys it: a part of the stage ingest.

`ingest.corrections` names the files; the work directory's own log is taken where it says so. What is judged
decides results, not where it lies or who changed their mind in between: the fingerprint is of what holds.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.config import Config
from urnet_tf.errors import UsageError
from urnet_tf.evaluation.metrics import share_interval
from urnet_tf.reweighting.factors import Prediction
from urnet_tf.reweighting.judged_labels import describe_anchors
from urnet_tf.reweighting.label_posterior import LabelPosterior
from urnet_tf.schema import (
    CHANCE_QUEUE,
    JUDGED,
    NONE_OF_THESE,
    OBEYED_COLUMNS,
    RIGHT,
    UNLABELED,
    UNSURE,
    WRONG_CLASS,
)
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import (
    Workdir,
    column,
    fingerprint,
    is_equal,
    read_array,
    read_json,
    read_table,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.crawl.corrections import Judgements
    from urnet_tf.crawl.table import Crawl

AUTO, NONE = "auto", "none"


def corrections_files(config: Config, root: pathlib.Path) -> list[pathlib.Path]:
    """The files of judgements that a run in this work directory obeys.

    Raises:
      UsageError: `none` beside other files.
    """
    from urnet_tf.crawl.corrections import FILE_NAME

    wanted = config.ingest.corrections
    if NONE in wanted and len(wanted) > 1:
        raise UsageError(f"Expected ingest.corrections={NONE} alone, or files; received {', '.join(wanted)}.")
    own = root / FILE_NAME
    files = [own if name == AUTO else pathlib.Path(name) for name in wanted if name != NONE]
    return [file for file in files if file is not own or own.exists()]


def read_judgements(config: Config, root: pathlib.Path) -> "Judgements | None":
    """What holds by these files; None where nobody has judged anything.

    Raises:
      UsageError: a file is missing or damaged.
    """
    files = corrections_files(config, root)
    if not files:
        return None
    from urnet_tf.crawl import corrections

    judgements = corrections.current(corrections.read(files))
    return judgements if len(judgements.table) else None


def fingerprint_judgements(config: Config, root: pathlib.Path) -> dict[str, str]:
    """`Stage.inputs_of_workdir` of ingest."""
    judgements = read_judgements(config, root)
    if judgements is None:
        return {}
    names = ("content_hash", "path", "old_label", "verdict", "new_label", "who", "in_random_sample")
    rows = judgements.table.to_pylist()
    sure = sorted(
        (*(row[name] for name in names), row["queue"] == CHANCE_QUEUE)
        for row in rows
        if row["verdict"] != UNSURE
    )
    return {"the judgements": fingerprint(sure)} if sure else {}


def format_judgements(config: Config, workdir: Workdir, *, obeyed: bool) -> list[str]:
    """What a plan says of judgements: what was done, or what will be.

    Args:
      obeyed: whether the results of `ingest` stay as they are.
    """
    from urnet_tf.crawl.correcting import tell_counts

    if obeyed:
        counts = workdir.completed("ingest")["metadata"].get("judgements")
        return [f"Judgements: {tell_counts(counts)}."] if counts else []
    judgements = read_judgements(config, workdir.root)
    if judgements is None:
        return []
    verdicts = judgements.table["verdict"].to_pylist()
    words = {WRONG_CLASS: "of another class", NONE_OF_THESE: "of none", RIGHT: "right", UNSURE: "unsure"}
    told = ", ".join(f"{count:,} {text}" for name, text in words.items() if (count := verdicts.count(name)))
    return [f"Judgements: {len(verdicts):,} images will be what people saw: {told}."]


def obey_judgements(
    context: StageContext, crawl: "Crawl", probes: "pa.Table"
) -> tuple["Crawl", "pa.Table", dict[str, Any]]:
    """The listing and its probes as people judged them, and metadata; writes judged.parquet."""
    from absl import logging

    from urnet_tf.crawl.correcting import obey

    judgements = read_judgements(context.config, context.workdir.root)
    if judgements is None:
        return crawl, probes, {}
    obeyed = obey(crawl, probes, judgements)
    for place, note in enumerate(obeyed.notes):
        (logging.warning if place else logging.info)("ingest: %s.", note)
    columns = {name: obeyed.table[name] for name in OBEYED_COLUMNS}
    write_table(context.out / "judged.parquet", columns, OBEYED_COLUMNS)
    return obeyed.crawl, obeyed.probes, {"judgements": obeyed.counts}


@dataclasses.dataclass(frozen=True)
class JudgedImages:
    """What the stages know of judged images.

    trusted: bool [N], training images whose label people found right or put right; None = there are none.
    given: int [n], the labels that the crawl gave the trusted ones, in order; -1 = a class that is gone.
    labels: int [n], their labels now.
    by_chance: bool [n], whether they were judged whatever the models say of them.
    held_ids: int [m], the instances of the split JUDGED.
    held_given: int [m], the labels that the crawl gave them; -1 = a class that is gone.
    held_labels: int [m], the judged ones, -1 = none of the classes.
    held_by_chance: bool [m].
    counts: of the metadata of ingest.
    """

    trusted: np.ndarray | None
    given: np.ndarray
    labels: np.ndarray
    by_chance: np.ndarray
    held_ids: np.ndarray
    held_given: np.ndarray
    held_labels: np.ndarray
    held_by_chance: np.ndarray
    counts: Mapping[str, int]

    def first_predictions(self, context: StageContext) -> tuple[np.ndarray, np.ndarray] | None:
        """What `extract` says of the split JUDGED: ids and probabilities [m, K]."""
        if not len(self.held_ids):
            return None
        ids, probs = (context.path("extract", f"judged_topk_{name}.npy") for name in ("ids", "probs"))
        return np.asarray(read_array(ids)), np.asarray(read_array(probs))

    def with_anchors(
        self, prediction: Prediction, held: tuple[np.ndarray, np.ndarray] | None, num_classes: int
    ) -> Prediction:
        """A prediction of training images that holds as well what the same models say of judged ones.

        Args:
          held: likeliest classes and probabilities of the split JUDGED, [m, K].
        """
        if self.trusted is None and not len(self.held_ids):
            return prediction
        rows = np.flatnonzero(self.trusted) if self.trusted is not None else np.empty(0, np.int64)
        ids, probs = prediction.topk_ids[rows], prediction.topk_probs[rows]
        if held is not None and len(self.held_ids):
            ids, probs = np.concatenate([ids, held[0]]), np.concatenate([probs, held[1]])
        given = np.concatenate([self.given, self.held_given])
        right = given == np.concatenate([self.labels, self.held_labels])
        by_chance = np.concatenate([self.by_chance, self.held_by_chance])
        known = given != UNLABELED
        anchors = describe_anchors(
            *(column[known] for column in (given, ids, probs, right, by_chance)), num_classes=num_classes
        )
        return dataclasses.replace(prediction, anchors=anchors)

    def describe(self, posterior: LabelPosterior) -> dict[str, Any]:
        """For the metadata of `reweight`: what people judged, and how it moved P(right)."""
        if not self.counts:
            return {}
        told: dict[str, Any] = {
            "counts": dict(self.counts),
            "trusted": 0 if self.trusted is None else int(self.trusted.sum()),
        }
        if self.counts["random"]:
            share, low, high = share_interval(self.counts["random_wrong"], self.counts["random"])
            told["random_sample"] = {"images": self.counts["random"], "wrong_share": share,
                                     "interval": [low, high]}  # fmt: skip
        if posterior.calibration is not None and posterior.calibration.judged:
            calibration = posterior.calibration
            told["calibration"] = {"offset": calibration.offset, "slope": calibration.slope,
                                   "images": calibration.judged}  # fmt: skip
        return {"judged": told}


def read_judged_images(context: StageContext, labels: np.ndarray) -> JudgedImages:
    """What is known of judged images in later stages.

    Args:
      labels: int [N], of the training images, which come first.
    """
    instances = context.path("pack", "instances.parquet")
    if is_equal(read_table(instances, ["judged"]), "judged", "").all():
        nobody = np.empty(0, np.int64)
        nothing = np.empty(0, bool)
        return JudgedImages(None, nobody, nobody, nothing, nobody, nobody, nobody, nothing, {})
    names = {entry["name"]: int(entry["label"]) for entry in read_json(context.path("pack", "classes.json"))}
    columns = ["path", "content_hash", "given_label", "queue", "in_random_sample"]
    said_of = {
        (row["path"], row["content_hash"]): (
            names.get(row["given_label"], UNLABELED), row["in_random_sample"] or row["queue"] == CHANCE_QUEUE
        )
        for row in read_table(context.path("ingest", "judged.parquet"), columns).to_pylist()
    }  # fmt: skip

    def said(rows: "pa.Table") -> tuple[np.ndarray, np.ndarray]:
        """The labels that the crawl gave them, and whether they were judged by chance."""
        pairs = zip(rows["path"].to_pylist(), rows["content_hash"].to_pylist(), strict=True)
        found = [said_of.get(pair, (UNLABELED, False)) for pair in pairs]
        return np.array([given for given, _ in found], np.int64), np.array([by for _, by in found], bool)

    everything = read_table(instances, ["split", "label", "path", "content_hash", "judged"])
    table = everything.slice(0, len(labels))
    trusted = ~is_equal(table, "judged", "")
    held = np.flatnonzero(is_equal(everything, "split", JUDGED))
    given, by_chance = said(table.filter(trusted))
    held_given, held_by_chance = said(everything.take(held))
    return JudgedImages(
        trusted if trusted.any() else None, given, labels[trusted], by_chance,
        held, held_given, column(everything, "label")[held], held_by_chance,
        context.marker("ingest")["metadata"]["judgements"],
    )  # fmt: skip


def describe_judged(metadata: Mapping[str, Any]) -> list[str]:
    """Sentences on what people judged, of the metadata of `reweight`."""
    sample = metadata.get("judged", {}).get("random_sample")
    if not sample:
        return []
    low, high = (100 * value for value in sample["interval"])
    return [
        f"Of {sample['images']:,} judged images of the random sample {100 * sample['wrong_share']:.0f} % "
        f"had a wrong label (95 % interval: {low:.0f} to {high:.0f} %)."
    ]
