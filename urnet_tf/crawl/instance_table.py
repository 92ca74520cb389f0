"""Turns listed and probed rows into the final instance table, quarantine and list of duplicates.

Input: rows of a `Crawl` and one probe result a row. Output: candidates in the order that instance
ids will have (split; then label, source, rank, path), the rows left out with reasons, and files
whose bytes occur more than once. Everything is vectorized; 16 M rows fit.

The order of decisions: training images that show the picture of a given validation or test image leave;
then missing evaluation sets are drawn from the training images whose bytes occur once, all near copies of
a picture or none, so no drawn image has a copy in training.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.table import rejections
from urnet_tf.errors import UsageError
from urnet_tf.schema import ALL_SPLITS, EQUAL_KINDS, INSTANCE_COLUMNS, JUDGED, NEAR_KINDS, STATUS, TRAIN
from urnet_tf.store import codes_of, encode_texts, is_equal
from urnet_tf.store.hashing import splitmix64

CANDIDATE_COLUMNS = {name: dtype for name, dtype in INSTANCE_COLUMNS.items() if name != "instance_id"}
MIN_TRAIN_IMAGES = 2
_GOLDEN = 0.5 * (5**0.5 - 1)  # its multiples are spread more evenly than any other number's
_TAKE_ROWS = 1_000_000
_TRAIN, _VAL, _TEST, _ = range(len(ALL_SPLITS))


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
      rows: table of `crawl.ROW_SCHEMA`, N rows; and of "judged", see `correcting`, where somebody judged.
      probes: table of `probe.PROBE_COLUMNS`, line-aligned with `rows`; and of "picture", see
        `near_copies.name_pictures`, without which each content is a picture of its own.
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
    splits = np.array([ALL_SPLITS.index(name) for name in split_names] + [0], np.int8)[split_codes]
    labels = rows["label"].to_numpy()
    usable = is_equal(probes, "status", "")
    contents, _ = encode_texts(probes["content_hash"])

    if JUDGED not in rows.column_names:
        rows = rows.append_column(JUDGED, pa.repeat(pa.scalar("", pa.large_string()), len(rows)))
    if "picture" not in probes.column_names:
        probes = probes.append_column("picture", probes["content_hash"])
    pictures, _ = encode_texts(probes["picture"])

    held = usable & (splits != _TRAIN)
    given, shown = (np.isin(codes, codes[held]) for codes in (contents, pictures))
    trainable = usable & (splits == _TRAIN)
    repeated, near = trainable & given, trainable & shown & ~given
    trainable &= ~shown
    have = np.bincount(splits, minlength=len(ALL_SPLITS)) > 0
    drawable = trainable & _drawable_pictures(pictures, contents, labels, trainable)[pictures]
    drawn_splits = draw_splits(
        labels, trainable, drawable, draw_keys(probes["picture"], drawable, seed), pictures,
        val_fraction=0.0 if have[_VAL] else val_fraction, test_fraction=0.0 if have[_TEST] else test_fraction,
    )  # fmt: skip
    splits = np.where(drawn_splits > 0, drawn_splits, splits)

    place = rows.schema.get_field_index("split")
    split_column = pa.array(ALL_SPLITS, pa.large_string()).take(pa.array(splits))
    rows = rows.set_column(place, rows.schema.field("split"), split_column)
    failed = np.flatnonzero(~usable)
    quarantine = [
        rejections(
            rows.take(failed),
            probes["status"].take(failed),
            probes["reason"].take(failed),
        ),
        _copies_of_held(rows, contents, repeated, held, "duplicate_of_evaluation"),
        _copies_of_held(rows, pictures, near, held, "near_copy_of_evaluation"),
    ]
    return InstanceTable(
        candidates=_candidates(rows, probes, usable & ~repeated & ~near, splits),
        quarantine=pa.concat_tables(quarantine),
        duplicates=_duplicates(rows, probes, (contents, pictures), usable, splits, labels),
    )


def _drawable_pictures(
    pictures: np.ndarray, contents: np.ndarray, labels: np.ndarray, trainable: np.ndarray
) -> np.ndarray:
    """Which pictures may leave training: bool [P]; those of one label, none of whose files is there twice."""
    count = int(pictures.max(initial=-1)) + 1
    twice = trainable & (np.bincount(contents[trainable], minlength=len(contents))[contents] > 1)
    low, high = _label_range(pictures, labels, trainable, count)
    drawable = low == high
    drawable[pictures[twice]] = False
    return drawable


def _label_range(
    groups: np.ndarray, labels: np.ndarray, chosen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest known label of chosen rows by group: int64 [count]; none: high < low."""
    low, high = np.full(count, np.iinfo(np.int32).max), np.full(count, -1)
    known = chosen & (labels >= 0)
    np.minimum.at(low, groups[known], labels[known])
    np.maximum.at(high, groups[known], labels[known])
    return low, high


def draw_keys(hashes: pa.ChunkedArray, drawable: np.ndarray, seed: int) -> np.ndarray:
    """Random keys uint64 [N] that depend on the seed and on the bytes of an image only.

    So the same image is drawn wherever it lies, and new images move few of the old ones. Near copies, which
    have the hash of their picture, have the same key.
    """
    keys = np.zeros(len(drawable), np.uint64)
    chosen = np.flatnonzero(drawable)
    for start in range(0, len(chosen), _TAKE_ROWS):
        part = chosen[start : start + _TAKE_ROWS]
        digits = b"".join(text[:16].encode() for text in hashes.take(pa.array(part)).to_pylist())
        keys[part] = np.frombuffer(bytes.fromhex(digits.decode()), ">u8")
    return splitmix64(keys, seed % 2**32 + 1)


def draw_splits(
    labels: np.ndarray, trainable: np.ndarray, drawable: np.ndarray, keys: np.ndarray,
    pictures: np.ndarray | None = None, *, val_fraction: float, test_fraction: float,
) -> np.ndarray:  # fmt: skip
    """Draws validation and test images, stratified by class.

    A class of n training images gives n * fraction of them to each set, rounded down or up so that what
    is left of many small classes is spread over them (of 3,000 classes of 4, a tenth is an image of every
    third class or so), but never its last MIN_TRAIN_IMAGES. Near copies go together; a picture of more of
    them than there is room for is passed over.

    Args:
      labels: int [N].
      trainable: bool [N], the images that are shared out.
      drawable: bool [N], those among them that may leave training; all of a picture, in one class, or none.
      keys: uint64 [N]; the drawable pictures of a class with the smallest keys are drawn.
      pictures: int [N], equal for near copies, which have the same key; None = there are none.

    Returns:
      int8 [N]: index into `schema.ALL_SPLITS` of a drawn image, 0 for all others.
    """
    drawn = np.zeros(len(labels), np.int8)
    if not trainable.any():
        return drawn
    sizes = np.bincount(labels[trainable])
    room = np.maximum(sizes - MIN_TRAIN_IMAGES, 0)
    num_test = np.minimum(_share_out(sizes, test_fraction), room)
    num_val = np.minimum(_share_out(sizes, val_fraction), room - num_test)
    chosen = np.flatnonzero(drawable)
    if pictures is None:
        pictures = np.arange(len(labels))
    chosen = chosen[np.lexsort((pictures[chosen], keys[chosen], labels[chosen]))]
    first = np.diff(pictures[chosen], prepend=-1) != 0
    unit, classes = np.cumsum(first) - 1, labels[chosen[first]]
    copies = np.bincount(unit)
    val = _fill(classes, copies, num_val)
    rest = np.flatnonzero(~val)
    test = rest[_fill(classes[rest], copies[rest], num_test)]
    split = np.zeros(len(copies), np.int8)
    split[val], split[test] = _VAL, _TEST
    drawn[chosen] = split[unit]
    return drawn


def _fill(classes: np.ndarray, sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The first pictures of each class, of so many images, that fit into its room: bool [P].

    Args:
      classes: int [P], sorted.
      sizes: int [P], images of each picture.
      room: int [C], images.
    """
    taken = np.zeros(len(classes), bool)
    tried = np.arange(len(classes))
    while len(tried):
        before = np.cumsum(sizes[tried]) - sizes[tried]
        start = before - before[np.searchsorted(classes[tried], classes[tried])]
        end, limit = start + sizes[tried], room[classes[tried]]
        across = (start < limit) & (end > limit)
        if not across.any():
            taken[tried[end <= limit]] = True
            break
        tried = tried[~across]
    return taken


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
    training = is_equal(candidates, "split", TRAIN)
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
    metadata = probes.select(["content_hash", "picture", "width_px", "height_px"])
    table = pa.Table.from_arrays(
        [*rows.columns, *metadata.columns, pa.chunked_array([splits])],
        [*rows.column_names, *metadata.column_names, "place"],
    )
    table = table.combine_chunks()  # or each `take` would join the chunks again
    keys = [(name, "ascending") for name in ("place", "label", "source", "rank", "path")]
    order = pc.sort_indices(table, sort_keys=keys)
    order = order.filter(pa.array(kept[order.to_numpy()]))
    table = table.select(list(CANDIDATE_COLUMNS))
    parts = [table.take(order[start : start + _TAKE_ROWS]) for start in range(0, len(order), _TAKE_ROWS)]
    return pa.concat_tables(parts) if parts else table.slice(0, 0)


def _copies_of_held(
    rows: pa.Table, groups: np.ndarray, copies: np.ndarray, held: np.ndarray, status: str
) -> pa.Table:
    """Training rows in whose group an evaluation image is, as quarantine rows that name it."""
    first: dict[int, int] = {}
    for row in np.flatnonzero(np.isin(groups, groups[copies]) & held).tolist():
        first.setdefault(int(groups[row]), row)
    chosen = np.flatnonzero(copies)
    paths = [rows["path"][first[int(groups[row])]].as_py() for row in chosen]
    return rejections(rows.take(chosen), [status] * len(paths), [f"{STATUS[status]}: {p}" for p in paths])


def _duplicates(
    rows: pa.Table,
    probes: pa.Table,
    groupings: tuple[np.ndarray, np.ndarray],
    usable: np.ndarray,
    splits: np.ndarray,
    labels: np.ndarray,
) -> pa.Table:
    """Files of equal bytes together, then files of one picture together; each of them gravest kind first.

    Args:
      groupings: contents int [N] and pictures int [N].
    """
    contents, pictures = groupings
    equal = usable & (np.bincount(contents[usable], minlength=len(contents))[contents] > 1)
    distinct = np.unique(np.stack([pictures[usable], contents[usable]]), axis=1)[0]
    near = usable & (np.bincount(distinct, minlength=len(pictures))[pictures] > 1)
    tables = []
    for kinds, chosen, groups, name in (
        (EQUAL_KINDS, equal, contents, "content_hash"), (NEAR_KINDS, near, pictures, "picture"),
    ):  # fmt: skip
        gravity = _gravity(groups, chosen, splits, labels)[groups[chosen]]
        taken = pa.array(np.flatnonzero(chosen))
        table = pa.table(
            {
                "content_hash": probes["content_hash"].take(taken),
                "picture": probes["picture"].take(taken),
                "kind": pa.array(kinds, pa.large_string()).take(pa.array(gravity)),
                "split": rows["split"].take(taken),
                "label": pa.array(labels[chosen]),
                "path": rows["path"].take(taken),
                "gravity": pa.array(gravity),
                "place": pa.array(splits[chosen]),
            }
        )
        keys = [(key, "ascending") for key in ("gravity", name, "place", "label", "path")]
        tables.append(table.sort_by(keys).drop_columns(["gravity", "place"]))
    return pa.concat_tables(tables)


def _gravity(groups: np.ndarray, chosen: np.ndarray, splits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What is found of the chosen rows of each group, as the place in a tuple of kinds: int8 [groups]."""
    count = int(groups.max(initial=-1)) + 1
    in_train, in_evaluation = np.zeros(count, bool), np.zeros(count, bool)
    in_train[groups[chosen & (splits == _TRAIN)]] = True
    in_evaluation[groups[chosen & (splits != _TRAIN)]] = True
    low, high = _label_range(groups, labels, chosen, count)
    return np.where(in_train & in_evaluation, 0, np.where(high > low, 1, 2)).astype(np.int8)
