"""Judgements are obeyed: labels replaced, images taken out of training, and a test list made of them.

In: a listing, what its files hold, and what people said (see `corrections`). Out: the listing as they said,
and a table of what became of each judged row. What a person said is the class that they saw: copies of an
image under other labels get that class as well, and so does the same image in a later crawl.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import plain_name
from urnet_tf.crawl.corrections import Judgements
from urnet_tf.crawl.table import Crawl, rejections
from urnet_tf.schema import (
    CONFIRMED,
    JUDGED,
    LEFT,
    NONE_OF_THESE,
    OBEYED_COLUMNS,
    OUTSIDE,
    REPEATED,
    REPLACED,
    RIGHT,
    STATUS,
    TESTED,
    TRAIN,
    UNLABELED,
    UNSURE,
    WRONG_CLASS,
)
from urnet_tf.text_rules import one_line, quote

FEWEST_LEFT = 2  # training images of a class that are not taken for the test list
_TEXT = pa.large_string()
_NOBODY = -1
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Obeyed:
    """What was done.

    crawl: the listing with judged labels and splits; its rows have one more column, `judged`.
    probes: line-aligned with its rows.
    table: of OBEYED_COLUMNS, a row for each judged row of the listing.
    counts: for metadata; numbers of judged images, see `_count`.
    notes: sentences for the log.
    """

    crawl: Crawl
    probes: pa.Table
    table: pa.Table
    counts: dict[str, int]
    notes: tuple[str, ...]


class _Row(NamedTuple):
    """A row of the listing of which somebody is sure."""

    row: int
    judgement: int  # its place in the table of judgements
    content_hash: str
    path: str
    split: str
    given: int  # the listed label
    truth: int  # the judged one
    sampled: bool  # whether it is of the random sample


def obey(crawl: Crawl, probes: pa.Table, judgements: Judgements) -> Obeyed:
    """Puts what was judged in the place of what was listed.

    An image that is right, or of another class of this crawl, gets that label; one of the random sample goes
    to the split JUDGED, unless a validation or test list has it or its class would have too few images left.
    An image of none of the classes leaves for the split JUDGED, without a label; its copies of equal bytes
    are rejected rows. Unlabeled images, and files that cannot be used, stay as they are.

    Args:
      probes: of PROBE_COLUMNS, line-aligned with the rows.
    """
    said, names = judgements.table.to_pylist(), _Names(crawl.classes)
    of_row = _match(crawl.rows, probes, judgements.table)
    usable = probes["status"].to_numpy(zero_copy_only=False) == ""
    touched = list(_touched_rows(crawl, probes, of_row, usable, said, names))
    held_out = _choose_held_out(crawl, usable, touched)
    repeated = _find_repeated(touched, held_out)
    fates = [_fate(found, held_out, repeated) for found in touched]
    leaving = {found.row for found, fate in zip(touched, fates, strict=True) if fate in (LEFT, REPEATED)}
    kept = np.ones(len(probes), bool)
    kept[list(leaving)] = False
    counts = _count(said, of_row, usable, touched, fates)
    counts |= {
        "people": len({row["who"] for row in said}), "conflicts": len(judgements.conflicts),
        "unknown_classes": len(names.unknown),
    }  # fmt: skip
    return Obeyed(
        _corrected(crawl, said, touched, fates, kept),
        probes.filter(pa.array(kept)),
        _describe(crawl.classes, said, touched, fates),
        counts,
        tuple(_notes(counts, judgements, names.unknown)),
    )


class _Names:
    """The classes of a crawl by their names."""

    NOT_HERE = -3  # right, of a class that this crawl does not have

    def __init__(self, classes: Sequence[Mapping[str, Any]]):
        self._labels = {plain_name(str(entry["id"])): int(entry["label"]) for entry in classes}
        self._labels |= {plain_name(entry["name"]): int(entry["label"]) for entry in classes}
        self.unknown: collections.Counter[str] = collections.Counter()

    def truth_of(self, row: Mapping[str, str], given: int) -> int:
        """The label that a person says an image has, of which the listing says `given`."""
        if row["verdict"] == NONE_OF_THESE:
            return UNLABELED
        name = row["old_label"] if row["verdict"] == RIGHT else row["new_label"]
        if not name:
            return given  # right, without saying what
        label = self._labels.get(plain_name(name))
        if label is None:
            self.unknown[name] += 1
            return self.NOT_HERE if row["verdict"] == RIGHT else UNLABELED
        return label


def _match(rows: pa.Table, probes: pa.Table, said: pa.Table) -> np.ndarray:
    """The judgement of each row, int64 [N], -1 = none: by the bytes; by the path where it has no hash."""
    hashed = pc.not_equal(said["content_hash"], "").to_numpy(zero_copy_only=False).astype(bool)
    found = np.full(len(rows), _NOBODY, np.int64)
    for chosen, column, name in (
        (~hashed, rows["path"], "path"), (hashed, probes["content_hash"], "content_hash"),
    ):  # fmt: skip
        numbers = np.flatnonzero(chosen)
        known = said[name].take(pa.array(numbers)).combine_chunks().cast(column.type)
        place = pc.fill_null(pc.index_in(column, value_set=known), _NOBODY).to_numpy(zero_copy_only=False)
        found = np.where(place >= 0, np.append(numbers, _NOBODY)[place], found)
    return found


def _touched_rows(
    crawl: Crawl,
    probes: pa.Table,
    of_row: np.ndarray,
    usable: np.ndarray,
    said: Sequence[Mapping[str, Any]],
    names: _Names,
) -> Iterator[_Row]:
    chosen = np.flatnonzero((of_row != _NOBODY) & usable)
    rows = crawl.rows.select(["path", "split", "label"]).take(pa.array(chosen)).to_pylist()
    hashes = probes["content_hash"].take(pa.array(chosen)).to_pylist()
    for place, row, content_hash in zip(chosen.tolist(), rows, hashes, strict=True):
        judgement = said[of_row[place]]
        if judgement["verdict"] == UNSURE or row["label"] == UNLABELED:
            continue
        truth = names.truth_of(judgement, row["label"])
        if truth != _Names.NOT_HERE:
            yield _Row(
                place, int(of_row[place]), content_hash, row["path"], row["split"], row["label"], truth,
                judgement["in_random_sample"],
            )  # fmt: skip


def _choose_held_out(crawl: Crawl, usable: np.ndarray, touched: Sequence[_Row]) -> set[int]:
    """The rows that go to the split JUDGED; of equal files one."""
    training = (crawl.rows["split"].to_numpy(zero_copy_only=False) == TRAIN) & usable
    labels = crawl.rows["label"].to_numpy(zero_copy_only=False).astype(np.int64)
    for found in touched:
        labels[found.row] = found.truth
    left = collections.Counter(labels[training].tolist())
    copies = collections.Counter(found.content_hash for found in touched if found.split == TRAIN)
    held = {found.content_hash for found in touched if found.split != TRAIN and found.truth != UNLABELED}
    chosen = set()
    for found in touched:
        if found.content_hash in held:
            continue
        enough = left[found.truth] - copies[found.content_hash] >= FEWEST_LEFT
        if found.truth == UNLABELED or (found.sampled and enough):
            chosen.add(found.row)
            held.add(found.content_hash)
            left[found.truth] -= copies[found.content_hash]
    return chosen


def _find_repeated(touched: Sequence[_Row], held_out: Collection[int]) -> set[int]:
    """Rows that list one file twice under one label, now that it is judged."""
    seen: set[tuple[str, str, int]] = set()
    repeated = set()
    for found in touched:
        key = found.path, JUDGED if found.row in held_out else found.split, found.truth
        if found.truth != UNLABELED and key in seen:
            repeated.add(found.row)
        seen.add(key)
    return repeated


def _fate(found: _Row, held_out: Collection[int], repeated: Collection[int]) -> str:
    """What becomes of a judged row, one of OBEYED_FATES."""
    if found.row in repeated:
        return REPEATED
    if found.truth == UNLABELED:
        return OUTSIDE if found.row in held_out else LEFT
    if found.row in held_out:
        return TESTED
    return CONFIRMED if found.truth == found.given else REPLACED


def _corrected(
    crawl: Crawl,
    said: Sequence[Mapping[str, Any]],
    touched: Sequence[_Row],
    fates: Sequence[str],
    kept: np.ndarray,
) -> Crawl:
    """The listing without the rows that leave, and with those that are out of training as rejected rows."""
    labels = crawl.rows["label"].to_numpy(zero_copy_only=False).copy()
    ranks = crawl.rows["rank"].to_numpy(zero_copy_only=False).copy()
    splits = crawl.rows["split"].to_numpy(zero_copy_only=False).copy()
    judged = np.full(len(labels), "", object)
    out, statuses, reasons = [], [], []
    for found, fate in zip(touched, fates, strict=True):
        judgement = said[found.judgement]
        labels[found.row] = found.truth
        judged[found.row] = RIGHT if found.truth == found.given else WRONG_CLASS
        if fate in (OUTSIDE, LEFT):
            judged[found.row] = NONE_OF_THESE
        if fate in (OUTSIDE, TESTED):
            splits[found.row] = JUDGED
        if found.truth != found.given and found.split == TRAIN:
            ranks[found.row] = 0  # of another class's query: it tells nothing of this label
        if fate in (OUTSIDE, LEFT, REPEATED):
            out.append(found.row)
            statuses.append("repeated_row" if fate == REPEATED else "judged_none_of_these")
            reasons.append(_reason(statuses[-1], judgement))
    rows, mask = crawl.rows, pa.array(kept)
    rejected = rejections(rows.take(pa.array(out, pa.int64())), statuses, reasons)
    for name, values in (("split", splits), ("label", labels), ("rank", ranks)):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    rows = rows.append_column(JUDGED, pa.array(judged, _TEXT))
    rejected = pa.concat_tables([crawl.rejected, rejected])
    return dataclasses.replace(crawl, rows=rows.filter(mask), rejected=rejected)


def _reason(status: str, judgement: Mapping[str, Any]) -> str:
    who = f", by {one_line(judgement['who'])}" if judgement["who"] else ""
    seen = f": {quote(judgement['new_label'])}, which is no class here" if judgement["new_label"] else ""
    return f"{STATUS[status]}{seen if status != 'repeated_row' else ''}{who}"


def _describe(
    classes: Sequence[Mapping[str, Any]],
    said: Sequence[Mapping[str, Any]],
    touched: Sequence[_Row],
    fates: Sequence[str],
) -> pa.Table:
    """The table of OBEYED_COLUMNS."""
    columns: dict[str, list] = {name: [] for name in OBEYED_COLUMNS}
    for found, fate in zip(touched, fates, strict=True):
        judgement = said[found.judgement]
        row = {
            "content_hash": found.content_hash, "path": found.path, "split": found.split,
            "given_label": classes[found.given]["name"],
            "label": classes[found.truth]["name"] if found.truth != UNLABELED else "",
            "fate": fate, "in_random_sample": found.sampled,
            **{name: judgement[name] for name in ("verdict", "queue", "who", "when")},
        }  # fmt: skip
        for name, values in columns.items():
            values.append(row[name])
    return pa.table({name: pa.array(values, pa.type_for_alias(OBEYED_COLUMNS[name]))
                     for name, values in columns.items()})  # fmt: skip


def _count(
    said: Sequence[Mapping[str, Any]],
    of_row: np.ndarray,
    usable: np.ndarray,
    touched: Sequence[_Row],
    fates: Sequence[str],
) -> dict[str, int]:
    """Judged images, each counted once, by what became of them: an image with copies by its gravest fate.

    replaced, removed, confirmed and unsure add up to `judgements` with those not_in_crawl, unusable and
    without_effect. test_images: of the random sample, kept out of training. random, random_wrong: images of
    the random sample that are in this crawl, and those of them whose given label is wrong.
    """
    of_judgement: dict[int, set[str]] = {}
    for found, fate in zip(touched, fates, strict=True):
        wrong = found.truth != found.given
        kind = "removed" if found.truth == UNLABELED else "replaced" if wrong else "confirmed"
        of_judgement.setdefault(found.judgement, set()).add(kind)
        if fate == TESTED:
            of_judgement[found.judgement].add("test_images")
    found_any, found_usable = set(of_row.tolist()), set(of_row[usable].tolist())
    counts = collections.Counter({"judgements": len(said)})
    for number, row in enumerate(said):
        kinds = of_judgement.get(number, set())
        if row["verdict"] == UNSURE:
            kind = "unsure"
        elif number not in found_any:
            kind = "not_in_crawl"
        elif number not in found_usable:
            kind = "unusable"
        else:
            kind = next((k for k in ("removed", "replaced", "confirmed") if k in kinds), "without_effect")
        counts[kind] += 1
        counts["test_images"] += "test_images" in kinds
        counts["by_path"] += not row["content_hash"] and number in found_any
        if row["in_random_sample"] and kind in ("removed", "replaced", "confirmed"):
            counts["random"] += 1
            counts["random_wrong"] += kind != "confirmed"
    return {name: counts[name] for name in _COUNTED}


_COUNTED = (
    "judgements", "replaced", "removed", "confirmed", "unsure", "not_in_crawl", "unusable", "without_effect",
    "by_path", "test_images", "random", "random_wrong",
)  # fmt: skip


def tell_counts(counts: Mapping[str, int]) -> str:
    """Like "41 judgements: 12 labels replaced, 9 removed, 20 confirmed"."""
    words = {
        "replaced": "labels replaced", "removed": "removed as none of the classes", "confirmed": "confirmed",
        "unsure": "unsure", "not_in_crawl": "of files that are not in this crawl",
        "unusable": "of files that cannot be used", "without_effect": "without effect here",
    }  # fmt: skip
    told = ", ".join(f"{counts[name]:,} {text}" for name, text in words.items() if counts[name])
    by = f" by {counts['people']} people" if counts.get("people", 1) > 1 else ""
    return f"{counts['judgements']:,} judgements{by}: {told}"


def _notes(counts: Mapping[str, int], judgements: Judgements, unknown: Mapping[str, int]) -> Iterator[str]:
    yield tell_counts(counts)
    if counts["test_images"]:
        yield (
            f"{counts['test_images']:,} judged images of the random sample are a test list of their own, out "
            "of training"
        )
    if counts["by_path"]:
        yield (
            f"{counts['by_path']:,} judgements hold no content hash and were matched by path: if files were "
            "renamed since, they are of other images"
        )
    if judgements.conflicts:
        yield f"people disagree about {len(judgements.conflicts):,} judged images; the latest judgement holds"
    if unknown:
        shown = ", ".join(f"{quote(name)} ({count})" for name, count in list(unknown.items())[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield (
            f"judgements name classes that are not of this crawl: {shown}{more}; images corrected to such a "
            "class count as none of these, images confirmed in one stay as they are"
        )
