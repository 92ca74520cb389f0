"""Opens lists of all formats as one table of text columns.

Input: a CSV, TSV, JSON-lines or Parquet file. Output: a table with a row a listed image and the number of
its line, rows that cannot be read, and notes. What the columns mean is decided in `list_columns`.
"""

import csv
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from urnet_tf.crawl.list_columns import REQUIRED, find_columns
from urnet_tf.crawl.list_text import Record, open_list
from urnet_tf.crawl.table import (
    READ_LIMIT,
    REJECTED_SCHEMA,
    RowBuilder,
    clean_text,
    is_utf8,
    open_bytes,
    rejected_row,
)
from urnet_tf.errors import RunError, UsageError
from urnet_tf.images.probe import environment_failure, is_environment_fault
from urnet_tf.schema import LIST_COLUMNS
from urnet_tf.text_rules import show_path

_TEXT = pa.large_string()
UNREADABLE = (OSError, pa.ArrowException, UnicodeError, KeyError)  # what damaged Parquet files raise
LIST_SCHEMA = pa.schema([("line", pa.int64())] + [(name, _TEXT) for name in LIST_COLUMNS])
_LONG_TEXTS = ("title", "description", "tags", "query")
_LONG_PLACES = tuple(map(LIST_COLUMNS.index, _LONG_TEXTS))
A_LIST = "\0list"  # marks a label that is a list; no text of a list can hold it


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """How a list is to be read; see the settings of the same names in `config.IngestConfig`."""

    image_root: str | None = None
    encoding: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rank: str = "auto"


@dataclasses.dataclass
class ListTable:
    """Rows of LIST_SCHEMA as the list has them, rows of REJECTED_SCHEMA, and sentences for the log."""

    table: pa.Table
    bad: RowBuilder
    notes: list[str]
    row_name: Callable[[int], str]  # what messages call the row of a line


def empty_table(path: str) -> ListTable:
    """A list without rows yet; its lines are called by the name of the file."""
    return ListTable(
        LIST_SCHEMA.empty_table(), RowBuilder(REJECTED_SCHEMA), [], functools.partial(row_name, path)
    )


def is_parquet(path: str) -> bool:
    ends = path.lower().endswith((".parquet", ".pq"))  # first, since most names of a crawl do not
    return ends and os.path.splitext(path)[1] != ""


def row_name(path: str, line: int) -> str:
    """How messages call a row."""
    return f"{'row' if is_parquet(path) else 'line'} {line} of {os.path.basename(path)}"


def read_table(path: str, options: ListOptions, required: Sequence[str] = REQUIRED) -> ListTable:
    """Opens a list.

    Raises:
      UsageError: the list cannot be read, or lacks a column of `required`.
      RunError: the disk or network fails.
    """
    try:
        if is_parquet(path):
            return _read_parquet(path, options, required)
        if path.lower().endswith(".jsonl"):
            return _read_json_lines(path, options, required)
        return _read_text(path, options, required)
    except (*UNREADABLE, csv.Error) as error:
        raise unreadable(path, error) from None


def unreadable(path: str, error: Exception) -> UsageError | RunError:
    """The end of reading a list that fails."""
    if isinstance(error, OSError) and is_environment_fault(error):
        error.filename = path
        return environment_failure(error)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return UsageError(f"Cannot read the list {show_path(path)}: {reason[:300].rstrip('.')}.")


def _read_text(path: str, options: ListOptions, required: Sequence[str]) -> ListTable:
    """CSV or TSV."""
    found = empty_table(path)
    rows, stray, damaged = RowBuilder(LIST_SCHEMA), list[int](), 0
    for opened in open_list(path, options.encoding):
        places, notes = find_columns(path, opened.header, options.columns, required=required)
        found.notes += opened.notes + notes
        width, order = len(opened.header), [places.get(name) for name in LIST_COLUMNS]
        for record in opened.records:
            text = "".join(record.fields)
            if not text or text.isspace():
                continue
            sound = is_utf8(text)
            fault = _fault_of(record, places, width, sound)
            if fault is None:
                stray += [record.line] if record.stray else []
                values = _values(record.fields, order)
                if not sound:
                    damaged += sum(not is_utf8(value) for value in values)
                    values = [value if is_utf8(value) else "" for value in values]
                rows.append((record.line, *values))
                continue
            status, reason = fault
            picture = record.fields[places["path"]] if places["path"] < len(record.fields) else ""
            reason = f"{row_name(path, record.line)}: {reason}"
            found.bad.append(rejected_row(picture, status, reason=reason))
    if stray:
        lines = ", ".join(map(str, stray[:3])) + (", …" if len(stray) > 3 else "")
        found.notes.append(
            f"{len(stray)} rows of {os.path.basename(path)} hold quotes that quote no whole field (lines "
            f"{lines}); these are read as a part of the text"
        )
    found.notes += _damage_note(path, damaged)
    found.table = rows.table()
    return found


def _damage_note(path: str, damaged: int) -> list[str]:
    if not damaged:
        return []
    return [f"{damaged} texts of {os.path.basename(path)} are not valid UTF-8 and are left out"]


def _fault_of(record: Record, places: Mapping[str, int], width: int, sound: bool) -> tuple[str, str] | None:
    """Status and reason of a row that cannot be used, or None; `sound`: all of it is valid text."""
    fields = record.fields
    if len(fields) > width and any(field.strip() for field in fields[width:]):
        kind = "; a quote in it is not closed" if record.stray else ""
        return "bad_row", f"{len(fields)} fields where the header has {width}{kind}"
    if sound:
        return None
    for name, place in places.items():
        if name not in _LONG_TEXTS and place < len(fields) and not is_utf8(fields[place]):
            return ("bad_name" if name == "path" else "bad_row"), f"the {name} is not valid UTF-8"
    return None


def _values(fields: Sequence[str], order: Sequence[int | None]) -> list[str]:
    """The fields of LIST_COLUMNS, whose places are in `order`; "" for those that the row or list lacks."""
    count = len(fields)
    values = [fields[place] if place is not None and place < count else "" for place in order]
    for place in _LONG_PLACES:
        if len(values[place]) > READ_LIMIT:
            values[place] = values[place][:READ_LIMIT]
    return values


def _read_json_lines(path: str, options: ListOptions, required: Sequence[str]) -> ListTable:
    """One JSON object a line, like the metadata.jsonl of image folders."""
    found, rows = empty_table(path), RowBuilder(LIST_SCHEMA)
    objects, header = [], dict[str, None]()
    for line, value in _json_lines(path):
        if isinstance(value, dict):
            objects.append((line, value))
            header |= dict.fromkeys(map(str, value))
        else:
            reason = f"{row_name(path, line)}: expected a JSON object"
            found.bad.append(rejected_row("", "bad_row", reason=reason))
    names = list(header)
    places, found.notes = find_columns(path, names, options.columns, required=required)
    keys = {column: names[place] for column, place in places.items()}
    for line, value in objects:
        texts = [_json_text(name, value.get(keys[name])) if name in keys else "" for name in LIST_COLUMNS]
        rows.append((line, *texts))
    found.table = rows.table()
    return found


def _json_lines(path: str) -> Iterator[tuple[int, Any]]:
    with open_bytes(path) as file:
        for line, data in enumerate(file, 1):
            if data.strip():
                try:
                    yield line, json.loads(data.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    yield line, None


def _json_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, dict)) and name in ("label", "path"):
        return A_LIST
    text = clean_text(value) if name in _LONG_TEXTS else str(value)
    return text if is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()


def _read_parquet(path: str, options: ListOptions, required: Sequence[str]) -> ListTable:
    schema = pa.parquet.read_schema(path)
    places, notes = find_columns(path, schema.names, options.columns, required=required)
    known = {name: schema.names[place] for name, place in places.items()}
    images = known.get("path")
    embedded = images is not None and holds_images(schema.field(images).type)
    wanted = [column for column in known.values() if not (embedded and column == images)]
    table = pa.parquet.read_table(path, columns=wanted)
    if embedded:
        count = pa.parquet.read_metadata(path).num_rows
        cells = image_paths(table_place(path, options), str(images), count)
        table = table.append_column(str(images), cells) if wanted else pa.table({images: cells})
    return of_arrow(path, table, known, notes)


def table_place(path: str, options: ListOptions) -> str:
    """How paths into a table begin, seen from the root of its list."""
    return os.path.basename(path) if options.image_root is None else os.path.abspath(path)


def holds_images(kind: pa.DataType) -> bool:
    """Whether cells of a column are encoded images: bytes, or structures with the field `bytes`."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def image_paths(place: str, column: str, count: int) -> pa.Array:
    """Paths of the images of a table's column, see `images.containers`."""
    return pa.array([f"{place}/{column}/{row}" for row in range(count)], _TEXT)


def of_arrow(path: str, table: pa.Table, known: Mapping[str, str], notes: list[str]) -> ListTable:
    """An Arrow table as a list.

    Args:
      path: names the list in messages.
      known: column of the list → of the table. Numbers of classes become names where the schema has them.
      notes: so far.
    """
    found, notes = empty_table(path), list(notes)
    columns: dict[str, Any] = {"line": pa.array(np.arange(1, len(table) + 1))}
    good = np.ones(len(table), bool)
    for name in LIST_COLUMNS:
        text, damaged = pa.array([""] * len(table), _TEXT), list[int]()
        if name in known:
            column = table[known[name]]
            names = class_labels(table.schema).get(known[name]) if name == "label" else None
            text, damaged = (_named(column, names), []) if names else _as_text(path, column, name)
        columns[name] = pc.utf8_slice_codeunits(text, 0, READ_LIMIT) if name in _LONG_TEXTS else text
        if name in _LONG_TEXTS:
            columns[name] = _blanked(columns[name], damaged)
            notes += _damage_note(path, len(damaged))
            continue
        damaged = [row for row in damaged if good[row]]
        good[damaged] = False
        for row in damaged:
            status = "bad_name" if name == "path" else "bad_row"
            picture = columns["path"][row].as_py()
            reason = f"{found.row_name(row + 1)}: the {name} is not valid UTF-8"
            found.bad.append(rejected_row(picture, status, reason=reason))
    found.table, found.notes = pa.table(columns, schema=LIST_SCHEMA).filter(pa.array(good)), notes
    return found


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Column → names of its classes, as Hugging Face's `datasets` writes them into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _named(column: Any, names: Sequence[str]) -> Any:
    """Names for the numbers of classes; "" for -1 and other numbers of none."""
    labels = column.to_pylist()
    texts = [names[k] if isinstance(k, int) and 0 <= k < len(names) else "" for k in labels]
    return pa.chunked_array([pa.array(texts, _TEXT)], _TEXT)


def _blanked(column: Any, rows: Sequence[int]) -> Any:
    if not len(rows):
        return column
    bad = np.zeros(len(column), bool)
    bad[rows] = True
    return pc.if_else(pa.array(bad), "", column)


def _as_text(path: str, column: Any, name: str) -> tuple[Any, list[int]]:
    """A column as valid text without nulls, and the numbers of the rows that were not valid UTF-8."""
    kind = column.type
    try:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            if name == "label":
                return pa.chunked_array([pa.array([A_LIST] * len(column), _TEXT)], _TEXT), []
            column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
        column = pc.fill_null(column.cast(_TEXT), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise UsageError(
                f"Expected text in the column of the {name} in {show_path(path)}; received a column of "
                f"{kind}."
            ) from error
        column = pc.fill_null(column.cast(pa.large_binary()), b"")
    encoded = column.cast(pa.large_binary())
    try:
        return encoded.cast(_TEXT), []  # this looks at the bytes
    except pa.ArrowInvalid:
        pass
    chunks, damaged, row = [], [], 0
    for chunk in encoded.chunks:
        texts = []
        for data in chunk.to_pylist():
            try:
                texts.append(data.decode("utf-8"))
            except UnicodeDecodeError:
                texts.append(data.decode("utf-8", "backslashreplace"))
                damaged.append(row)
            row += 1
        chunks.append(pa.array(texts, _TEXT))
    return pa.chunked_array(chunks, _TEXT), damaged
