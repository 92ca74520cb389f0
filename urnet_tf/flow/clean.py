"""The crawl of a run without what is wrong in it, in another format: what `urnet clean` does."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from urnet_tf import schema, store
from urnet_tf.cleaning.decisions import (
    COPY,
    DOUBTFUL,
    NO_LABEL,
    NO_TRAINING,
    NONE,
    RELABELED,
    STAYS,
    WORDS,
    Decisions,
    Images,
    decide,
)
from urnet_tf.cleaning.formats import FORMATS, Cleaned
from urnet_tf.config import Config, load_config
from urnet_tf.errors import UsageError
from urnet_tf.stages.judgements import read_judgements
from urnet_tf.store import Workdir
from urnet_tf.store.bucket_trees import fetch_tree, place_of
from urnet_tf.store.progress import progress
from urnet_tf.text_rules import show_path, spreadsheet_cell

THRESHOLD = 0.5
_LAYOUTS = {
    "folder": "class folders", "list": "a list of the images where they lie", "webdataset": "tar shards",
    "imagefolder": "an image folder", "cleanlab": "a table of label issues", "fiftyone": "a FiftyOne dataset",
}  # fmt: skip
SUMMARY, CHANGES = "cleaning.txt", "cleaning.csv"
_COLUMNS = (
    "path", "content_hash", "picture", "split", "source", "rank", "query", "title", "description", "tags",
    "width_px", "height_px", "label", "judged",
)  # fmt: skip


def clean(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    layout: str = "folder",
    threshold: float = THRESHOLD,
    deduplicate: bool = False,
    copy: bool = False,
) -> list[str]:
    """Writes the crawl of a run without what is wrong in it into a new directory, whole or not at all.

    Args:
      root: the work directory; `ingest` and `pack` have to be complete, and for a threshold `reweight`.
      out: does not exist yet, or is empty.
      layout: of FORMATS.
      threshold: training images whose label is right with a smaller probability go; 0 = only what people
        judged does.
      deduplicate: one image of each picture stays.
      copy: copies of the images, not links to them.

    Returns:
      Sentences on what was done, which are in SUMMARY as well; CHANGES lists what was changed and why.

    Raises:
      UsageError: `out` is not empty or lies in the crawl, something is not there, or nothing would be left.
    """
    workdir, target = Workdir(root), pathlib.Path(out)
    config = _read_config(workdir)
    _check_places(workdir, target, fetch_tree(config.ingest.path or ""))
    crawl_root = place_of(str(workdir.completed("ingest")["metadata"]["root"]))
    judgements = read_judgements(config, workdir.root)
    images = _read_images(workdir, needs_weights=threshold > 0)
    table = None if judgements is None else judgements.table
    decisions = decide(images, table, threshold=threshold or None, deduplicate=deduplicate)
    _check_left(images, decisions)
    sentences = _summarize(workdir, images, decisions, layout, threshold)
    cleaned = Cleaned(images, decisions, crawl_root, copy, _progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(target)
    with store.atomic_path(target) as temporary:
        temporary.mkdir()
        file = FORMATS[layout](cleaned, temporary)
        _write_changes(workdir, images, decisions, temporary / CHANGES)
        store.write_text(temporary / SUMMARY, "".join(f"{sentence}\n" for sentence in sentences))
    return [*sentences, f"Cleaned: {target / file if file else target}"]


def _progress(rows: Sequence[int]) -> Any:
    return progress(rows, "clean", total=len(rows), unit="images")


def _read_config(workdir: Workdir) -> Config:
    path = workdir.root / "config.yaml"
    if not path.is_file():
        raise UsageError(f"Expected the work directory of a run; {show_path(workdir.root)} is none.")
    return load_config(os.fspath(path))


def _check_places(workdir: Workdir, target: pathlib.Path, crawl: str) -> None:
    """Refuses to overwrite anything, or to write where the next run would find it."""
    for stage in ("ingest", "pack"):
        if workdir.marker(stage) is None:
            raise UsageError(
                f"Expected a run with a complete stage {stage} in {show_path(workdir.root)}; there is none. "
                "Run `urnet run` first."
            )
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"Expected a directory that does not exist or is empty; {show_path(target)} is not.")
    for what, place in (("crawl", crawl), ("work directory", os.fspath(workdir.root))):
        if os.path.isdir(place) and _lies_in(target, place):
            raise UsageError(f"Expected --out outside of the {what} {show_path(place)}; received {target}.")


def _lies_in(path: pathlib.Path, folder: str) -> bool:
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return inside == "." or not inside.startswith("..")


def _remove_litter(target: pathlib.Path) -> None:
    """What a killed call left beside the target."""
    for litter in target.parent.glob(f".{target.name}.*.tmp"):
        number = litter.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            store.remove(litter, target.parent)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _read_images(workdir: Workdir, *, needs_weights: bool) -> Images:
    table = store.read_table(workdir.checked("pack", "instances.parquet"), list(_COLUMNS))
    classes = [entry["name"] for entry in store.read_json(workdir.checked("pack", "classes.json"))]
    count = len(table)
    labels = store.column(table, "label").astype(np.int64)
    right, predicted = np.full(count, np.nan), np.full(count, -1, np.int64)
    stage = next((name for name in ("train", "reweight") if workdir.marker(name) is not None), None)
    if stage is not None:
        names = ["right_prob", "predicted_label"]
        weights = store.read_table(workdir.checked(stage, "weights.parquet"), names)
        rows = len(weights)  # training images come first
        right[:rows] = store.column(weights, "right_prob")
        predicted[:rows] = store.column(weights, "predicted_label")
    elif needs_weights:
        raise UsageError(
            f"Expected probabilities of right labels in {show_path(workdir.root)}; there are none yet. Run "
            "`urnet run` first, or drop only what people judged with --threshold 0."
        )
    judged = store.column(table, "judged") != ""
    return Images(
        table, labels, _given_labels(workdir, table, labels, classes), right, predicted, judged, classes
    )


def _given_labels(workdir: Workdir, table: Any, labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """The labels that the crawl gave, int [N]."""
    given = labels.copy()
    if not (store.column(table, "judged") != "").any():
        return given
    columns = ["path", "content_hash", "given_label"]
    obeyed = store.read_table(workdir.checked("ingest", "judged.parquet"), columns).to_pylist()
    numbers = {name: label for label, name in enumerate(classes)}
    known = {(row["path"], row["content_hash"]): numbers.get(row["given_label"], -1) for row in obeyed}
    rows = np.flatnonzero(store.column(table, "judged") != "")
    for row, entry in zip(rows, table.select(["path", "content_hash"]).take(rows).to_pylist(), strict=True):
        given[row] = known.get((entry["path"], entry["content_hash"]), given[row])
    return given


def _check_left(images: Images, decisions: Decisions) -> None:
    left = np.bincount(decisions.labels[decisions.stays], minlength=len(images.classes))
    if np.count_nonzero(left) < 2:
        raise UsageError(
            f"Expected images of two classes or more to be left; {int(left.sum()):,} of "
            f"{len(images.labels):,} images of {np.count_nonzero(left)} would be. Lower --threshold."
        )


def _summarize(
    workdir: Workdir, images: Images, decisions: Decisions, layout: str, threshold: float
) -> list[str]:
    counts, stays = decisions.count(), decisions.stays
    splits = [f"{int((decisions.split[stays] == split).sum()):,} {split}" for split in schema.SPLITS]
    left = np.bincount(decisions.labels[stays], minlength=len(images.classes))
    lines = [
        f"{int(stays.sum()):,} of {len(images.labels):,} images of {len(images.classes):,} classes are kept "
        f"({', '.join(splits)}); written as {_LAYOUTS[layout]}."
    ]
    words: dict[str, Callable[[str], str]] = {
        RELABELED: "{} of them under the label that people gave them.".format,
        DOUBTFUL: f"{{}} dropped, whose label is right with a probability below {threshold}.".format,
        NONE: "{} dropped, which people judged to show none of the classes.".format,
        COPY: "{} dropped, which are copies of kept ones.".format,
        NO_LABEL: "{} left out, which have no label.".format,
        NO_TRAINING: "{} left out, of whose class no training image is left.".format,
    }
    lines += [tell(f"{counts[fate]:,}") for fate, tell in words.items() if fate in counts]
    if aside := len(_set_aside(workdir, images)):
        lines.append(f"{aside:,} files were set aside before, as the run could not use them.")
    known = ~np.isnan(images.right_prob)
    if known.any():
        before = float(np.mean(1 - images.right_prob[known]))
        after = float(np.mean(1 - images.right_prob[known & stays])) if (known & stays).any() else 0.0
        lines.append(
            f"Of the labels of training images about {before:.0%} looked wrong, of those that are kept about "
            f"{after:.0%} do."
        )
    if empty := [name for name, count in zip(images.classes, left, strict=True) if not count]:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        lines.append(f"No image is left of: {', '.join(map(repr, empty[:3]))}{more}.")
    return lines


def _set_aside(workdir: Workdir, images: Images) -> list[dict[str, Any]]:
    """Rows of the quarantine but those of images that are held as examples of none of the classes."""
    rows = store.read_table(workdir.checked("pack", "quarantine.parquet")).to_pylist()
    held = set(images.table["path"].filter(pc.equal(images.table["split"], schema.JUDGED)).to_pylist())
    return [row for row in rows if row["status"] != "judged_none_of_these" or row["path"] not in held]


def _write_changes(workdir: Workdir, images: Images, decisions: Decisions, path: pathlib.Path) -> None:
    """A row for each image that was dropped or relabeled, and for each file that was set aside before."""
    import csv
    import io

    def name(label: int | np.integer) -> str:
        return images.classes[int(label)] if label >= 0 else ""

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "split", "given_label", "label", "right_prob", "what", "reason"])
    rows = np.flatnonzero(decisions.reason != "")
    listed = images.table.select(["path", "split"]).take(rows).to_pylist()
    for row, entry in zip(rows.tolist(), listed, strict=True):
        fate, probability = decisions.fate[row], images.right_prob[row]
        cells = [
            entry["path"], entry["split"], name(images.given[row]),
            name(decisions.labels[row]) if fate in STAYS else "",
            "" if np.isnan(probability) else f"{probability:.4f}", WORDS[fate], decisions.reason[row],
        ]  # fmt: skip
        writer.writerow([spreadsheet_cell(cell) for cell in cells])
    for entry in _set_aside(workdir, images):
        cells = [entry["path"], entry["split"], name(entry["label"]), "", "", "set aside before",
                 f"{entry['status']}: {entry['reason']}"]  # fmt: skip
        writer.writerow([spreadsheet_cell(cell) for cell in cells])
    store.write_text(path, text.getvalue())
