"""What every reader returns: the listed rows of a crawl as Arrow columns, its classes, bad rows.

Input: rows that a reader appends. Output: a `Crawl`, ready for 16 M rows: strings live in Arrow
buffers (64-bit offsets), never as one Python object a row.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from io import BufferedReader, TextIOWrapper
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.errors import UsageError
from urnet_tf.schema import QUARANTINE_COLUMNS, STATUS, TRAIN
from urnet_tf.store import codes_of

TEXT_LIMIT = 4000  # characters kept of a title, description, tag list or query
READ_LIMIT = TEXT_LIMIT + 1  # characters that readers keep, so that `cut_texts` sees which texts are longer
_LONG_TEXTS = ("title", "description", "tags", "query")
_CHUNK_ROWS = 100_000
_TEXT = pa.large_string()

ROW_SCHEMA = pa.schema(
    [
        ("split", _TEXT), ("label", pa.int32()), ("source", _TEXT), ("rank", pa.int32()), ("query", _TEXT),
        ("title", _TEXT), ("description", _TEXT), ("tags", _TEXT), ("path", _TEXT),
    ]
)  # fmt: skip
REJECTED_SCHEMA = pa.schema(
    [(name, _TEXT if dtype == "string" else pa.int32()) for name, dtype in QUARANTINE_COLUMNS.items()]
)


@dataclasses.dataclass(frozen=True)
class Crawl:
    """The listing of a crawl; no file of it was opened yet.

    Attributes:
      root: the directory that relative paths start from.
      classes: dictionaries with label, id, name, words, queries; position = label.
      rows: table of ROW_SCHEMA, in listing order.
      rejected: table of REJECTED_SCHEMA: rows that cannot be used, and why.
      notes: sentences for the log: what was odd, what was assumed.
    """

    root: str
    classes: list[dict]
    rows: pa.Table
    rejected: pa.Table
    notes: tuple[str, ...] = ()


class RowBuilder:
    """Collects tuples into Arrow chunks, so that few Python objects live at a time."""

    def __init__(self, schema: pa.Schema):
        self._schema = schema
        self._rows: list[tuple] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, row: tuple) -> None:
        """Adds a row, its values in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) >= _CHUNK_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        """All rows appended so far."""
        self._flush()
        return pa.Table.from_batches(self._batches, self._schema)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows = []


def rejected_row(
    path: str,
    status: str,
    *,
    split: str = TRAIN,
    label: int = -1,
    source: str = "",
    rank: int = 0,
    reason: str | None = None,
) -> tuple:
    """A row of REJECTED_SCHEMA; without `reason` it takes the sentence of the status."""
    return (printable(path), split, label, printable(source), rank, status, reason or STATUS[status])


def open_text(path: str, errors: str, newline: str | None = None, encoding: str = "utf-8") -> TextIOWrapper:
    """Opens a text file, with or without a mark at its start; never waits for a pipe or a device.

    Args:
      errors, newline, encoding: as for `open`.

    Raises:
      OSError: there is none, or it is no regular file.
    """
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    return open(path, encoding=encoding, errors=errors, newline=newline, opener=_open_regular)


def open_bytes(path: str) -> BufferedReader:
    """Opens a regular file for its bytes, as `open_text` does for its text."""
    return open(path, "rb", opener=_open_regular)


def _open_regular(name: str, flags: int) -> int:
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, "a directory, not a file", name)
        raise OSError(errno.ENXIO, "a pipe, socket or device, not a file", name)
    return descriptor


def is_utf8(text: str) -> bool:
    """Whether a file name, read with surrogate escapes, is valid UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str) -> str:
    """A path with bytes that are not UTF-8 shown as backslash escapes."""
    if is_utf8(path):
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def clean_text(value: object) -> str:
    """Text as valid UTF-8 of at most READ_LIMIT characters: "" for None, lists joined by ", "."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(v) for v in value if v is not None)
    text = str(value)[:READ_LIMIT]
    return text if is_utf8(text) else text.encode("utf-8", "replace").decode("utf-8")


def cut_texts(rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows of ROW_SCHEMA with texts of at most TEXT_LIMIT characters, and a note of how many were longer."""
    counts = {}
    for name in _LONG_TEXTS:
        long = pc.greater(pc.utf8_length(rows[name]), TEXT_LIMIT)
        counts[name] = int(pc.sum(long).as_py() or 0)
        if counts[name]:
            cut = pc.utf8_slice_codeunits(rows[name], 0, TEXT_LIMIT)
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), cut)
    found = ", ".join(f"{count:,} of the column {name}" for name, count in counts.items() if count)
    return rows, [f"texts longer than {TEXT_LIMIT:,} characters are cut there: {found}"] if found else []


def running_number(*keys: np.ndarray) -> np.ndarray:
    """Numbers the rows of each group 1, 2, … in the order given.

    Args:
      keys: int [N] each; rows with equal values in all of them form a group.

    Returns:
      int32 [N].
    """
    group = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        _, codes = np.unique(key, return_inverse=True)
        _, group = np.unique(group * (codes.max(initial=0) + 1) + codes, return_inverse=True)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    numbers = np.empty(len(group), np.int32)
    numbers[order] = np.arange(len(group)) - np.repeat(starts, sizes) + 1
    return numbers


def keep_sources(crawl: Crawl, sources: Sequence[str]) -> Crawl:
    """Only the training rows of these sources; evaluation rows stay.

    Raises:
      UsageError: no training row has one of the sources.
    """
    is_train = pc.equal(crawl.rows["split"], TRAIN)
    found = sorted(pc.unique(crawl.rows["source"].filter(is_train)).to_pylist())
    unknown = sorted(set(sources) - set(found))
    if unknown:
        raise UsageError(f"Expected `sources` among {found}; received {unknown[0]!r}.")
    wanted = pc.is_in(crawl.rows["source"], value_set=pa.array(sources, _TEXT))
    return dataclasses.replace(crawl, rows=crawl.rows.filter(pc.or_(pc.invert(is_train), wanted)))


def keep_first_classes(crawl: Crawl, count: int) -> Crawl:
    """Only the first classes; rows of others disappear, rows without a label stay."""
    return dataclasses.replace(
        crawl,
        classes=crawl.classes[:count],
        rows=crawl.rows.filter(pc.less(crawl.rows["label"], count)),
        rejected=crawl.rejected.filter(pc.less(crawl.rejected["label"], count)),
    )


def cut_ranks(crawl: Crawl, max_rank: Mapping[str, int], per: str = "query") -> Crawl:
    """Rejects training rows ranked below the limit of their source.

    Args:
      max_rank: source → limit.
      per: "query": a row's rank is the one that is listed; "class": its place among the rows of its class
        from this source, which are taken in turn from their queries by rank.

    Source: Table 1, the top 15 instances of Flickr of each class: "class".
    Reading: the paper does not say how several queries of a class share the 15 places.

    Raises:
      UsageError: no training row has such a source.
    """
    codes, sources = codes_of(crawl.rows["source"])
    unknown = sorted(set(max_rank) - set(sources))
    if unknown:
        raise UsageError(f"Expected sources among {sorted(sources)} in `max_rank`; received {unknown[0]!r}.")
    limits = np.array([max_rank.get(s, np.iinfo(np.int32).max) for s in sources], np.int64)
    is_train = pc.equal(crawl.rows["split"], TRAIN).to_numpy()
    ranks = crawl.rows["rank"].to_numpy()
    if per == "class":
        rows = np.flatnonzero(is_train)
        queries, _ = codes_of(crawl.rows["query"])
        ranks = np.zeros(len(ranks), np.int64)
        labels, listed = crawl.rows["label"].to_numpy(), crawl.rows["rank"].to_numpy()
        ranks[rows] = _places_in_class(labels[rows], codes[rows], queries[rows], listed[rows])
    for place, source in enumerate(sources):
        mine = is_train & (codes == place)
        if source in max_rank and mine.any() and not crawl.rows["rank"].to_numpy()[mine].any():
            raise UsageError(
                f"Expected search ranks of the source {source!r} for `max_rank`; received none, as the names "
                "of its files do not look numbered like results; `rank=name` takes their order."
            )
    cut = is_train & (ranks > limits[codes])
    gone = crawl.rows.filter(pa.array(cut))
    said = [f"{STATUS['rank_cut']} ({s}: {max_rank.get(s)} a {per})" for s in sources]
    reasons = pa.array(said, _TEXT).take(pa.array(codes[cut]))
    rejected = rejections(gone, pa.repeat(pa.scalar("rank_cut", _TEXT), len(gone)), reasons)
    return dataclasses.replace(
        crawl,
        rows=crawl.rows.filter(pa.array(~cut)),
        rejected=pa.concat_tables([crawl.rejected, rejected]),
    )


def _places_in_class(
    labels: np.ndarray, sources: np.ndarray, queries: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """Places 1, 2, … of rows in their class and source: the first of each query, the second of each, ..."""
    order = np.lexsort((ranks, queries))
    in_query = np.empty(len(labels), np.int32)
    in_query[order] = running_number(labels[order], sources[order], queries[order])
    order = np.lexsort((queries, in_query))
    places = np.empty(len(labels), np.int32)
    places[order] = running_number(labels[order], sources[order])
    return places


def rejections(rows: pa.Table, statuses: Any, reasons: Any) -> pa.Table:
    """Listed rows as rows of REJECTED_SCHEMA with a status and a reason each: lists, or Arrow's."""
    columns = {name: rows[name] for name in ("path", "split", "label", "source", "rank")}
    for name, texts in (("status", statuses), ("reason", reasons)):
        is_arrow = isinstance(texts, (pa.Array, pa.ChunkedArray))
        columns[name] = texts.cast(_TEXT) if is_arrow else pa.array(texts, _TEXT)
    return pa.table(columns, schema=REJECTED_SCHEMA)


def replace_split(crawl: Crawl, split: str, other: Crawl) -> Crawl:
    """Puts the rows of another listing in the place of a whole split."""
    kept = crawl.rows.filter(pc.not_equal(crawl.rows["split"], split))
    kept_rejected = crawl.rejected.filter(pc.not_equal(crawl.rejected["split"], split))
    return dataclasses.replace(
        crawl,
        rows=pa.concat_tables([kept, other.rows]),
        rejected=pa.concat_tables([kept_rejected, other.rejected]),
        notes=(*crawl.notes, *other.notes),
    )


def class_entry(
    label: int,
    name: str,
    identity: str | None = None,
    words: list[str] | None = None,
    queries: list | None = None,
) -> dict:
    """One entry of classes.json."""
    spoken = name.replace("_", " ").replace("-", " ").strip()
    return {
        "label": label,
        "id": identity or name,
        "name": name,
        "words": list(words) if words is not None else [spoken],
        "queries": list(queries) if queries is not None else [spoken],
    }
