"""Reads lists: CSV, TSV or Parquet with the columns path, label and optional others.

Input: `path,label[,source,rank,query,title,description,tags,split]` (UTF-8; semicolons separate where
the header has them instead of commas), and maybe a `classes.txt` beside the list with one class name
a line. Labels are class names, or ids from 0. Output: a
`Crawl`. A row that cannot be read is a rejected row that tells its line.
"""

import csv
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from urnet_tf.crawl.table import (
    REJECTED_SCHEMA,
    ROW_SCHEMA,
    TEXT_LIMIT,
    Crawl,
    RowBuilder,
    class_entry,
    clean_text,
    is_utf8,
    open_text,
    rejected_row,
    running_number,
)  # fmt: skip
from urnet_tf.errors import RunError, UsageError
from urnet_tf.images.probe import environment_failure, is_environment_fault
from urnet_tf.schema import TEST, TRAIN, UNLABELED, VAL
from urnet_tf.store import codes_of
from urnet_tf.text_rules import bare, quote

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
CLASSES_FILE = "classes.txt"
_REQUIRED = ("path", "label")
_COLUMNS = ("path", "label", "source", "rank", "query", "title", "description", "tags", "split")
_UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")  # as surrogate escapes
_TEXT = pa.large_string()
_UNREADABLE = (OSError, pa.ArrowException, UnicodeError, KeyError)  # what damaged Parquet files raise
_SCHEMA = pa.schema([("line", pa.int64())] + [(name, _TEXT) for name in _COLUMNS])
_SPLIT_NAMES = {"": TRAIN, "train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


def count_rows(path: str) -> int:
    """Counts the rows of a list: exact for Parquet, the lines below the header for text."""
    try:
        if _is_parquet(path):
            return pa.parquet.read_metadata(path).num_rows
        with open(path, "rb") as file:
            blocks = iter(lambda: file.read(1 << 20), b"")
            lines, last = 0, b"\n"
            for block in blocks:
                lines, last = lines + block.count(b"\n"), block[-1:]
        return max(0, lines + (last != b"\n") - 1)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def listed_files(path: str, image_root: str | None = None) -> tuple[str, list[str]]:
    """Where the relative paths of a list start, and all its paths.

    Raises:
      UsageError: the list cannot be read, or lacks a column.
    """
    table, _ = _read_parquet(path) if _is_parquet(path) else _read_text(path)
    return _image_root(path, image_root), table["path"].to_pylist()


def read_list(
    path: str,
    *,
    image_root: str | None = None,
    classes: Sequence[dict] | None = None,
    split: str | None = None,
) -> Crawl:
    """Lists the rows of a CSV, TSV or Parquet file.

    Args:
      path: the list.
      image_root: where relative paths start; None = the folder of the list.
      classes: entries of classes.json that the labels refer to; None = `classes.txt` beside the
        list, or the labels themselves.
      split: puts all rows into this split; None = the column `split`, which is "train" by default.

    Raises:
      UsageError: the list cannot be read, lacks a column, or a label lies outside of the classes.
    """
    table, bad = _read_parquet(path) if _is_parquet(path) else _read_text(path)
    splits = _splits(table, split)
    ranks = _ranks(table["rank"])
    labels = pc.utf8_trim_whitespace(table["label"])
    unlabeled = pc.equal(labels, "").to_numpy()
    if split == TEST or split is None:  # -1 says "not known" where that is allowed
        unlabeled |= pc.equal(labels, str(UNLABELED)).to_numpy() & (splits == TEST)
    faults = np.full(len(table), None, object)
    faults[splits == None] = "the split is none of train, val, test"  # noqa: E711 (elementwise)
    faults[ranks < 0] = "the rank is not a whole number from 0"
    faults[unlabeled & (splits != TEST)] = "the label is missing"
    faults[pc.equal(pc.utf8_trim_whitespace(table["path"]), "").to_numpy()] = "the path is missing"
    good = faults == None  # noqa: E711 (elementwise)
    for row in np.flatnonzero(~good):
        line = table["line"][row].as_py()
        reason = f"{_row_name(path, line)}: {faults[row]}"
        bad.append(
            rejected_row(table["path"][row].as_py(), "bad_row", split=splits[row] or TRAIN, reason=reason)
        )
    table, labels = table.filter(good), labels.filter(pa.array(good))
    splits, ranks, unlabeled = splits[good], ranks[good], unlabeled[good]

    entries, ids = _resolve_labels(path, table, labels, unlabeled, splits, classes)
    table = _with_queries(table, ids, splits, entries)
    source_codes, _ = codes_of(table["source"])
    query_codes, _ = codes_of(table["query"])
    numbers = running_number(ids, source_codes, query_codes)
    columns = {name: table[name] for name in ("source", "query", "title", "description", "tags", "path")}
    columns |= {
        "split": pa.array(splits, _TEXT),
        "label": pa.array(ids, pa.int32()),
        "rank": pa.array(np.where(ranks == _NO_RANK, numbers, ranks), pa.int32()),
    }
    return Crawl(_image_root(path, image_root), entries, pa.table(columns, schema=ROW_SCHEMA), bad.table())


def _image_root(path: str, image_root: str | None) -> str:
    return os.path.abspath(image_root if image_root is not None else os.path.dirname(path) or ".")


_NO_RANK = np.iinfo(np.int32).max


def _is_parquet(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in (".parquet", ".pq")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _row_name(path: str, line: int) -> str:
    return f"{'row' if _is_parquet(path) else 'line'} {line} of {os.path.basename(path)}"


def _unreadable(path: str, error: Exception) -> UsageError | RunError:
    if isinstance(error, OSError) and is_environment_fault(error):
        error.filename = path
        return environment_failure(error)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return UsageError(f"Cannot read the list {path}: {reason[:300].rstrip('.')}.")


def _check_columns(path: str, names: list[str]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        found = ", ".join(names) or "none"
        raise UsageError(
            f"Expected the column {missing[0]!r} in {path} (UTF-8); received the columns {bare(found, 200)}."
        )


def _read_text(path: str) -> tuple[pa.Table, RowBuilder]:
    """CSV or TSV as a table of _SCHEMA, and a builder with the rows that cannot be read."""
    rows, bad = RowBuilder(_SCHEMA), RowBuilder(REJECTED_SCHEMA)
    try:
        with open_text(path, errors="surrogateescape", newline="") as file:
            header = file.readline()
            file.seek(0)
            if header.startswith(_UTF16_MARKS):
                raise UsageError(f"Expected UTF-8 in {path}; received UTF-16; save the list as CSV UTF-8.")
            _read_text_rows(path, csv.reader(file, delimiter=_delimiter(path, header)), rows, bad)
    except (OSError, csv.Error) as error:
        raise _unreadable(path, error) from None
    return rows.table(), bad


def _delimiter(path: str, header: str) -> str:
    if path.lower().endswith(".tsv"):
        return "\t"
    return ";" if ";" in header and "," not in header else ","  # spreadsheets of many countries


def _read_text_rows(path: str, reader: Any, rows: RowBuilder, bad: RowBuilder) -> None:
    header = [name.strip().casefold() for name in next(reader, [])]
    _check_columns(path, header)
    places = [header.index(name) if name in header else None for name in _COLUMNS]
    path_place = header.index(_COLUMNS[0])
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a quote that is never closed, say; reading goes on behind it
            bad.append(
                rejected_row("", "bad_row", reason=f"{_row_name(path, line)} to {reader.line_num}: {error}")
            )
            continue
        if not any(fields):
            continue
        picture = fields[path_place] if path_place < len(fields) else ""
        if len(fields) > len(header):
            reason = f"{_row_name(path, line)}: {len(fields)} fields where the header has {len(header)}"
            bad.append(rejected_row(picture, "bad_row", reason=reason))
        elif not is_utf8(picture):
            bad.append(
                rejected_row(
                    picture, "bad_name", reason=f"{_row_name(path, line)}: the path is not valid UTF-8"
                )
            )
        else:
            values = [fields[p] if p is not None and p < len(fields) else "" for p in places]
            rows.append((line, picture, *(v and clean_text(v) for v in values[1:])))


def _read_parquet(path: str) -> tuple[pa.Table, RowBuilder]:
    """A Parquet file as a table of _SCHEMA, and a builder with the rows that cannot be read."""
    try:
        names = pa.parquet.read_schema(path).names
        known = {name.strip().casefold(): name for name in names}
        _check_columns(path, list(known))
        known = {name: known[name] for name in _COLUMNS if name in known}
        table = pa.parquet.read_table(path, columns=list(known.values()))
        found = {name: _as_text(path, table[column]) for name, column in known.items()}
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    columns, bad = {"line": pa.array(np.arange(1, len(table) + 1))}, RowBuilder(REJECTED_SCHEMA)
    for name in _COLUMNS:
        text = found[name][0] if name in found else pa.array([""] * len(table), _TEXT)
        limited = name in ("title", "description", "tags", "query")
        columns[name] = pc.utf8_slice_codeunits(text, 0, TEXT_LIMIT) if limited else text
    damaged = found["path"][1]
    for row in damaged:
        reason = f"{_row_name(path, row + 1)}: the path is not valid UTF-8"
        bad.append(rejected_row(columns["path"][row].as_py(), "bad_name", reason=reason))
    good = np.ones(len(table), bool)
    good[damaged] = False
    return pa.table(columns, schema=_SCHEMA).filter(pa.array(good)), bad


def _as_text(path: str, column: Any) -> tuple[Any, list[int]]:
    """A column as valid text without nulls, and the numbers of the rows that were not valid UTF-8."""
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
        column = pc.fill_null(column.cast(_TEXT), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if not _is_binary(column.type):
            raise UsageError(
                f"Expected text in the columns of {path}; received a column of {column.type}."
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


def _splits(table: pa.Table, split: str | None) -> np.ndarray:
    """Split names, object [N]; None where the text is not a split."""
    if split is not None:
        return np.full(len(table), split, object)
    codes, values = codes_of(table["split"])
    names = [_SPLIT_NAMES.get(value.strip().casefold()) for value in values]
    return np.array([*names, None], object)[codes]


def _ranks(column: Any) -> np.ndarray:
    """Ranks, int64 [N]; _NO_RANK where none is given, -1 where the text is not a rank."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    is_number = pc.match_substring_regex(text, r"^[0-9]{1,9}(\.0*)?$")
    digits = pc.if_else(is_number, pc.replace_substring_regex(text, r"\..*$", ""), "-1")
    ranks = digits.cast(pa.int64()).to_numpy().copy()
    ranks[pc.is_in(text, value_set=pa.array(["", "nan", "none"], _TEXT)).to_numpy()] = _NO_RANK
    return ranks


def _read_class_names(path: str) -> list[str] | None:
    """The names in classes.txt beside the list, or None."""
    names = os.path.join(os.path.dirname(path), CLASSES_FILE)
    try:
        with open_text(names, errors="replace") as file:
            return [name for line in file if (name := line.strip())]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"Expected one class name a line in {names}; it cannot be read: {error.strerror}. Mend it, or "
            "remove it: then the labels name the classes."
        ) from None


def _resolve_labels(
    path: str,
    table: pa.Table,
    labels: Any,
    unlabeled: np.ndarray,
    splits: np.ndarray,
    classes: Sequence[dict] | None,
) -> tuple[list[dict], np.ndarray]:
    """The classes and the id of every row, int32 [N]."""
    codes, values = codes_of(labels)
    used = np.unique(codes[~unlabeled])
    trained = np.unique(codes[~unlabeled & (splits == TRAIN)])
    numbers = {code: _whole_number(values[code]) for code in used}
    are_ids = bool(numbers) and None not in numbers.values()
    given = "the trained ones" if classes is not None else CLASSES_FILE
    if classes is None:
        names = _read_class_names(path)
        if names is not None:
            classes = [class_entry(label, name) for label, name in enumerate(names)]
        elif are_ids:
            seen = (numbers[code] for code in trained)
            classes = _numbered_classes(path, [number for number in seen if number is not None])
            given = "those with training rows"
        else:
            names = sorted(values[code] for code in trained)
            classes = [class_entry(label, name) for label, name in enumerate(names)]
            given = "those with training rows"
    by_name = {entry["name"]: entry["label"] for entry in classes}
    by_name |= {entry["id"]: entry["label"] for entry in classes}
    by_name_only = not are_ids or all(values[code] in by_name for code in used)
    ids = np.full(len(values) + 1, UNLABELED, np.int32)
    for code in sorted(used, key=lambda code: numbers[code] is not None):  # a word among ids is the odd one
        label = by_name.get(values[code]) if by_name_only else numbers[code]
        if label is None or not 0 <= label < len(classes):
            row = int(np.flatnonzero((codes == code) & ~unlabeled)[0])
            place = _row_name(path, table["line"][row].as_py())
            raise UsageError(
                f"The label {quote(values[code])} in {place} is outside of the {len(classes)} classes "
                f"({given})."
            )
        ids[code] = label
    return list(classes), np.where(unlabeled, UNLABELED, ids[codes]).astype(np.int32)


def _whole_number(text: str) -> int | None:
    try:
        return int(text) if len(text) < 10 else None
    except ValueError:
        return None


def _numbered_classes(path: str, labels: list[int]) -> list[dict[str, Any]]:
    """Classes 0 … n-1 when only ids are known: they must be without gaps."""
    found = sorted(set(labels))
    if found != list(range(len(found))):
        gap = next((k for k, label in enumerate(found) if k != label), 0)
        odd = f"the label {found[0]}" if found[0] < 0 else f"no training row of the label {gap}"
        raise UsageError(
            f"Expected labels 0, 1, 2, … without gaps in {path}; received {odd}; name the classes in a "
            f"{CLASSES_FILE} beside the list."
        )
    return [class_entry(label, str(label), words=[], queries=[]) for label in found]


def _with_queries(table: pa.Table, ids: np.ndarray, splits: np.ndarray, classes: Sequence[dict]) -> pa.Table:
    """Fills queries that are not given with the class's, and tells the classes their queries."""
    training = splits == TRAIN
    blank = pc.equal(pc.utf8_trim_whitespace(table["query"]), "").to_numpy() & training
    default = pa.array([entry["queries"][0] if entry["queries"] else "" for entry in classes] + [""], _TEXT)
    queries = pc.if_else(pa.array(blank), default.take(pa.array(ids % (len(classes) + 1))), table["query"])
    place = table.schema.get_field_index("query")
    table = table.set_column(place, _SCHEMA.field("query"), queries)
    given = training & ~blank
    pairs = pa.table({"label": ids[given], "query": table["query"].filter(pa.array(given))})
    found: dict[int, list[str]] = {}
    for pair in pairs.group_by(["label", "query"], use_threads=False).aggregate([]).to_pylist():
        found.setdefault(pair["label"], []).append(pair["query"])
    for label, texts in found.items():
        classes[label]["queries"] = texts
    return table
