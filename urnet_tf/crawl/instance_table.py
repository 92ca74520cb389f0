"""Turns listed and probed rows into the final instance table, quarantine and list of duplicates.

Input: rows of a `Crawl` and one probe result a row. Output: candidates in the order that instance
ids will have (split; then label, source, rank, path), the rows left out with reasons, and files
whose bytes occur more than once. Everything is vectorized; 16 M rows fit.

The order of decisions: training images equal to a given validation or test image leave; then
missing evaluation sets are drawn from the training images whose bytes occur once, so no drawn
image has a copy in training.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.table import rejections
from urnet_tf.errors import UsageError
from urnet_tf.schema import DUPLICATE_KINDS, INSTANCE_COLUMNS, SPLITS, STATUS, TRAIN
from urnet_tf.store import codes_of
from urnet_tf.store.hashing import splitmix64

CANDIDATE_COLUMNS = {name: dtype for name, dtype in INSTANCE_COLUMNS.items() if name != "instance_id"}
MIN_TRAIN_IMAGES = 2
_GOLDEN = 0.5 * (5**0.5 - 1)  # its multiples are spread more evenly than any other number's
_TAKE_ROWS = 1_000_000
_TRAIN, _VAL, _TEST = range(len(SPLITS))


@dataclasses.dataclass(frozen=True)
class InstanceTable:
    """Tables of CANDIDATE_COLUMNS, QUARANTINE_COLUMNS and DUPLICATE_COLUMNS."""

    candidates: pa.Table
    quarantine: pa.Table
    duplicates: pa.Table


def build_instance_table(
    rows: pa.Table, probes: pa.Table, *, seed: int, val_fraction: float = 0.0, test_fraction: float = 0.0
) -> InstanceTable:
    """Sorts usable images into their final order and the others into the quarantine.

    Args:
      rows: table of `crawl.ROW_SCHEMA`, N rows.
      probes: table of `probe.PROBE_COLUMNS`, line-aligned with `rows`.
      seed: decides, with the bytes of an image, whether it is drawn.
      val_fraction: share of each class drawn for validation if no row is a validation row.
      test_fraction: the same for test images.

    Raises:
      UsageError: the fractions leave nothing to train on.
    """
    if val_fraction + test_fraction >= 1:
        raise UsageError(
            f"Expected val_fraction + test_fraction below 1; received {val_fraction} + {test_fraction}."
        )
    split_codes, split_names = codes_of(rows["split"])
    splits = np.array([SPLITS.index(name) for name in split_names] + [0], np.int8)[split_codes]
    labels = rows["label"].to_numpy()
    usable = probes["status"].to_numpy() == ""
    contents, _ = codes_of(probes["content_hash"])

    given = np.zeros(contents.max(initial=-1) + 1, bool)
    given[contents[usable & (splits != _TRAIN)]] = True
    repeated = usable & (splits == _TRAIN) & given[contents]
    kept = usable & ~repeated
    drawable = (
        kept & (splits == _TRAIN) & (np.bincount(contents[usable], minlength=len(given))[contents] == 1)
    )
    have = np.bincount(splits, minlength=len(SPLITS)) > 0
    drawn_splits = draw_splits(
        labels, kept & (splits == _TRAIN), drawable, draw_keys(probes["content_hash"], drawable, seed),
        val_fraction=0.0 if have[_VAL] else val_fraction, test_fraction=0.0 if have[_TEST] else test_fraction,
    )  # fmt: skip
    splits = np.where(drawn_splits > 0, drawn_splits, splits)

    place = rows.schema.get_field_index("split")
    split_column = pa.array(SPLITS, pa.large_string()).take(pa.array(splits))
    rows = rows.set_column(place, rows.schema.field("split"), split_column)
    failed = np.flatnonzero(~usable)
    quarantine = [
        rejections(
            rows.take(failed),
            probes["status"].take(failed).to_pylist(),
            probes["reason"].take(failed).to_pylist(),
        ),
        _repeated_rows(rows, contents, np.flatnonzero(repeated), usable & (splits != _TRAIN)),
    ]
    return InstanceTable(
        candidates=_candidates(rows, probes, kept, splits),
        quarantine=pa.concat_tables(quarantine),
        duplicates=_duplicates(rows, probes["content_hash"], contents, usable, splits, labels),
    )


def draw_keys(hashes: pa.ChunkedArray, drawable: np.ndarray, seed: int) -> np.ndarray:
    """Random keys uint64 [N] that depend on the seed and on the bytes of an image only.

    So the same image is drawn wherever it lies, and new images move few of the old ones.
    """
    keys = np.zeros(len(drawable), np.uint64)
    chosen = np.flatnonzero(drawable)
    for start in range(0, len(chosen), _TAKE_ROWS):
        part = chosen[start : start + _TAKE_ROWS]
        digits = b"".join(text[:16].encode() for text in hashes.take(pa.array(part)).to_pylist())
        keys[part] = np.frombuffer(bytes.fromhex(digits.decode()), ">u8")
    return splitmix64(keys, seed % 2**32 + 1)


def draw_splits(
    labels: np.ndarray, trainable: np.ndarray, drawable: np.ndarray, keys: np.ndarray, *,
    val_fraction: float, test_fraction: float,
) -> np.ndarray:  # fmt: skip
    """Draws validation and test images, stratified by class.

    A class of n training images gives n * fraction of them to each set, rounded down or up so that what
    is left of many small classes is spread over them (of 3,000 classes of 4, a tenth is an image of every
    third class or so), but never its last MIN_TRAIN_IMAGES.

    Args:
      labels: int [N].
      trainable: bool [N], the images that are shared out.
      drawable: bool [N], those among them that may leave training.
      keys: uint64 [N]; the drawable images of a class with the smallest keys are drawn.

    Returns:
      int8 [N]: index into `schema.SPLITS` of a drawn image, 0 for all others.
    """
    drawn = np.zeros(len(labels), np.int8)
    if not trainable.any():
        return drawn
    sizes = np.bincount(labels[trainable])
    room = np.maximum(sizes - MIN_TRAIN_IMAGES, 0)
    num_test = np.minimum(_share_out(sizes, test_fraction), room)
    num_val = np.minimum(_share_out(sizes, val_fraction), room - num_test)
    chosen = np.flatnonzero(drawable)
    chosen = chosen[np.lexsort((keys[chosen], labels[chosen]))]
    counts = np.bincount(labels[chosen], minlength=len(sizes))
    place = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
    val, test = num_val[labels[chosen]], num_test[labels[chosen]]
    drawn[chosen[place < val]] = _VAL
    drawn[chosen[(place >= val) & (place < val + test)]] = _TEST
    return drawn


def _share_out(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """sizes * fraction in whole images, int64 [C], in total as much as without rounding, to about one image.

    Each class rounds up from a limit of its own, and the limits lie evenly in [0, 1); so a class is not
    moved by what another one gains or loses.
    """
    limits = (np.arange(len(sizes)) * _GOLDEN + 0.5) % 1.0
    return np.floor(sizes * fraction + limits).astype(np.int64)


def check_classes(
    candidates: pa.Table, quarantine: pa.Table, classes: Sequence[dict], minimum: int = MIN_TRAIN_IMAGES
) -> None:
    """Makes sure that there is something to learn.

    Args:
      minimum: training images that each class has to have.

    Raises:
      UsageError: there are fewer than two classes, or a class has too few training images.
    """
    if len(classes) < 2:
        raise UsageError(f"Expected at least 2 classes; received {len(classes)}.")
    training = np.array(candidates["split"].to_numpy() == TRAIN, bool)
    counts = np.bincount(candidates["label"].to_numpy()[training], minlength=len(classes))
    poor = np.flatnonzero(counts < minimum)
    if not len(poor):
        return
    words = {0: "no images", 1: "one image"}
    named = [
        f"{classes[label]['name']!r} ({words.get(int(counts[label]), f'{counts[label]} images')})"
        for label in poor[:5]
    ]
    more = f" and {len(poor) - 5} more" if len(poor) > 5 else ""
    lost = np.isin(quarantine["label"].to_numpy(), poor)
    statuses, numbers = np.unique(quarantine["status"].to_numpy()[lost].astype(str), return_counts=True)
    causes = ", ".join(
        f"{n} {s}" for s, n in sorted(zip(statuses, numbers, strict=True), key=lambda x: -x[1])[:4]
    )
    cause = f"; their files were rejected as: {causes}" if causes else ""
    raise UsageError(
        f"Expected at least {minimum} usable training images in each of two classes or more; "
        f"received {', '.join(named)}{more}{cause}."
    )


def _candidates(rows: pa.Table, probes: pa.Table, kept: np.ndarray, splits: np.ndarray) -> pa.Table:
    """The usable rows in final order, in chunks that a Parquet string column can hold."""
    metadata = probes.select(["content_hash", "width_px", "height_px"])
    table = pa.Table.from_arrays(
        [*rows.columns, *metadata.columns, pa.chunked_array([splits])],
        [*rows.column_names, *metadata.column_names, "place"],
    )
    table = table.combine_chunks()
    keys = [(name, "ascending") for name in ("place", "label", "source", "rank", "path")]
    order = pc.sort_indices(table, sort_keys=keys)
    order = order.filter(pa.array(kept[order.to_numpy()]))
    table = table.select(list(CANDIDATE_COLUMNS))
    parts = [table.take(order[start : start + _TAKE_ROWS]) for start in range(0, len(order), _TAKE_ROWS)]
    return pa.concat_tables(parts) if parts else table.slice(0, 0)


def _repeated_rows(
    rows: pa.Table, contents: np.ndarray, repeated: np.ndarray, evaluation: np.ndarray
) -> pa.Table:
    """Training rows whose bytes an evaluation image has, as quarantine rows that name it."""
    first: dict[int, int] = {}
    wanted = np.isin(contents, contents[repeated]) & evaluation
    for row in np.flatnonzero(wanted).tolist():
        first.setdefault(int(contents[row]), row)
    reasons = []
    for row in repeated.tolist():
        other = first[int(contents[row])]
        reasons.append(f"{STATUS['duplicate_of_evaluation']}: {rows['path'][other].as_py()}")
    return rejections(rows.take(repeated), ["duplicate_of_evaluation"] * len(repeated), reasons)


def _duplicates(
    rows: pa.Table,
    hashes: Any,
    contents: np.ndarray,
    usable: np.ndarray,
    splits: np.ndarray,
    labels: np.ndarray,
) -> pa.Table:
    """Files whose bytes occur more than once, equal files together, gravest kind first."""
    groups = int(contents.max(initial=-1)) + 1
    several = np.bincount(contents[usable], minlength=groups) > 1
    chosen = np.flatnonzero(usable & several[contents])
    group = contents[chosen]
    in_train, in_evaluation = np.zeros(groups, bool), np.zeros(groups, bool)
    in_train[group[splits[chosen] == _TRAIN]] = True
    in_evaluation[group[splits[chosen] != _TRAIN]] = True
    low, high = np.full(groups, np.iinfo(np.int32).max), np.full(groups, -1)
    known = labels[chosen] >= 0
    np.minimum.at(low, group[known], labels[chosen][known])
    np.maximum.at(high, group[known], labels[chosen][known])
    kind = np.where(in_train & in_evaluation, 0, np.where(high > low, 1, 2)).astype(np.int8)[group]
    table = pa.table(
        {
            "content_hash": hashes.take(pa.array(chosen)),
            "kind": pa.array(DUPLICATE_KINDS).take(pa.array(kind)),
            "split": rows["split"].take(pa.array(chosen)),
            "label": pa.array(labels[chosen]),
            "path": rows["path"].take(pa.array(chosen)),
            "gravity": pa.array(kind),
            "place": pa.array(splits[chosen]),
        }
    )
    keys = [(name, "ascending") for name in ("gravity", "content_hash", "place", "label", "path")]
    return table.sort_by(keys).drop_columns(["gravity", "place"])
