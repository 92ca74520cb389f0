"""Which classes of a listing count: chosen ones, all but some, merged ones, and those with enough images.

Input: a `Crawl`. Output: a `Crawl` of the other classes, numbered anew; the rows of classes that are left out
are rejected rows, so that none is lost without a word.
"""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import plain_name
from urnet_tf.crawl.instance_table import InstanceTable
from urnet_tf.crawl.table import Crawl, rejections
from urnet_tf.errors import UsageError
from urnet_tf.schema import STATUS, TEST, TRAIN, VAL
from urnet_tf.text_rules import quote

_SHOWN = 5


def choose_classes(crawl: Crawl, classes: Sequence[str] | None, exclude: Sequence[str]) -> Crawl:
    """Only the classes that the user wants.

    Args:
      classes: names or ids of these; None = all.
      exclude: names or ids of classes that are left out.

    Raises:
      UsageError: there is no such class.
    """
    chosen = set(range(len(crawl.classes)))
    if classes is not None:
        chosen = {_find(crawl.classes, name, "classes") for name in classes}
    chosen -= {_find(crawl.classes, name, "exclude") for name in exclude}
    gone = sorted(set(range(len(crawl.classes))) - chosen)
    return drop_classes(crawl, gone, "excluded_class") if gone else crawl


def merge_classes(crawl: Crawl, merge: Mapping[str, str]) -> Crawl:
    """Classes counted to others, for a listing whose classes have ids; names of lists and folders are settled
    where these are read.

    Raises:
      UsageError: there is no such class.
    """
    into = list(range(len(crawl.classes)))
    for name, other in merge.items():
        into[_find(crawl.classes, name, "merge")] = _find(crawl.classes, other, "merge")
    kept = sorted({label for label, other in enumerate(into) if label == other})
    final = np.array([kept.index(_end_of(into, label)) for label in range(len(into))] + [-1], np.int32)
    return _numbered(crawl, [crawl.classes[label] for label in kept], final)


def _end_of(into: Sequence[int], label: int) -> int:
    seen = {label}
    while into[label] != label:
        label = into[label]
        if label in seen:
            raise UsageError("Expected `merge` to end in classes that stay; received a circle of classes.")
        seen.add(label)
    return label


def drop_classes(
    crawl: Crawl, labels: Collection[int], status: str, details: Mapping[int, str] | None = None
) -> Crawl:
    """Without some classes; their rows are rejected.

    Args:
      labels: of these classes.
      status: of `schema.STATUS`.
      details: label → what the reason says besides.
    """
    labels, gone = sorted(labels), np.zeros(len(crawl.classes) + 1, bool)
    gone[labels] = True
    kept = [entry for entry in crawl.classes if not gone[entry["label"]]]
    numbers = np.full(len(crawl.classes) + 1, -1, np.int32)
    numbers[[entry["label"] for entry in kept]] = np.arange(len(kept))
    of_row = crawl.rows["label"].to_numpy()
    lost = crawl.rows.filter(pa.array(gone[of_row]))
    reasons = []
    for label in lost["label"].to_pylist():
        detail = (details or {}).get(label, "")
        reasons.append(f"{STATUS[status]} ({quote(crawl.classes[label]['name'])}{detail})")
    rejected = pa.concat_tables([crawl.rejected, rejections(lost, [status] * len(reasons), reasons)])
    rest = dataclasses.replace(crawl, rows=crawl.rows.filter(pa.array(~gone[of_row])), rejected=rejected)
    return _numbered(rest, kept, numbers)


def keep_large_classes(
    crawl: Crawl, probes: pa.Table, build: Callable[[pa.Table, pa.Table], InstanceTable], minimum: int
) -> tuple[Crawl, pa.Table, InstanceTable, dict[str, int] | None]:
    """Without the classes of too few usable training images.

    Those that are drawn for validation or test count as well. A class gains images where another one goes
    that had copies of them in an evaluation set, so it is asked again until none goes.

    Args:
      probes: line-aligned with the rows.
      build: (rows, probes) → their instance table.
      minimum: training images that a class has to have.

    Returns:
      The listing, its probes, its instance table, and {name of a class that went: its images}; all as they
      were, and None, with fewer than two classes left.
    """
    drawn = [split for split in (VAL, TEST) if not pc.any(pc.equal(crawl.rows["split"], split)).as_py()]
    dropped: dict[str, int] = {}
    whole: tuple[Crawl, pa.Table, InstanceTable] | None = None
    while True:
        tables = build(crawl.rows, probes)
        whole = whole or (crawl, probes, tables)
        trained = np.isin(tables.candidates["split"].to_numpy().astype(str), [TRAIN, *drawn])
        labels = tables.candidates["label"].to_numpy()[trained]
        counts = np.bincount(labels, minlength=len(crawl.classes))
        small = np.flatnonzero(counts < minimum).tolist()
        if not small:
            return crawl, probes, tables, dropped
        if len(crawl.classes) - len(small) < 2:
            return *whole, None
        dropped |= {crawl.classes[label]["name"]: int(counts[label]) for label in small}
        gone = np.isin(crawl.rows["label"].to_numpy(), small)
        crawl = _reject_failed(crawl, probes, gone & (probes["status"].to_numpy() != ""))
        probes = probes.filter(pa.array(~gone))
        crawl = drop_classes(crawl, small, "small_class", {label: f": {counts[label]}" for label in small})


def _reject_failed(crawl: Crawl, probes: pa.Table, failed: np.ndarray) -> Crawl:
    """The listing with rows whose files cannot be used among the rejected ones, for that reason."""
    mask = pa.array(failed)
    statuses, reasons = (probes[name].filter(mask).to_pylist() for name in ("status", "reason"))
    rejected = pa.concat_tables([crawl.rejected, rejections(crawl.rows.filter(mask), statuses, reasons)])
    return dataclasses.replace(crawl, rows=crawl.rows.filter(pa.array(~failed)), rejected=rejected)


def named_counts(counts: Mapping[str, int]) -> str:
    """Names with their counts, as messages show them; the first ones."""
    shown = [f"{quote(name)} ({count})" for name, count in list(counts.items())[:_SHOWN]]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return ", ".join(shown) + more


def _numbered(crawl: Crawl, classes: Sequence[dict], numbers: np.ndarray) -> Crawl:
    """The same rows under other labels; `numbers` has the new label of each old one, and at its end -1."""

    def renamed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("label")
        labels = pa.array(numbers[table["label"].to_numpy()], pa.int32())
        return table.set_column(place, table.schema.field("label"), labels)

    entries = [entry | {"label": label} for label, entry in enumerate(classes)]
    return dataclasses.replace(
        crawl, classes=entries, rows=renamed(crawl.rows), rejected=renamed(crawl.rejected)
    )


def _find(classes: Sequence[dict], name: str, argument: str) -> int:
    plain = plain_name(name)
    for entry in classes:
        if plain in (plain_name(entry["name"]), entry["id"]):
            return int(entry["label"])
    near = difflib.get_close_matches(plain, [entry["name"] for entry in classes], 1)
    hint = f"did you mean {quote(near[0])}?" if near else f"there are {_named_some(classes)}."
    raise UsageError(f"Expected names of classes in `{argument}`; received {quote(name)}; {hint}")


def _named_some(classes: Sequence[dict]) -> str:
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return ", ".join(quote(entry["name"]) for entry in classes[:_SHOWN]) + more
