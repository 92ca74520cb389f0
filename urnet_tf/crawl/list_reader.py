"""Reads lists: CSV, TSV, JSON lines or Parquet with the columns path, label and optional others.

Input: `path,label[,source,rank,query,title,description,tags,split]`, or other usual names of these columns,
and maybe a `classes.txt` beside the list with one class name a line. Output: a `Crawl`. Each listed row is
a row that was read or a rejected row that tells its line; what was guessed is a note.
"""

import os
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.file_ranks import GIVEN, NONE, rank_by_name
from urnet_tf.crawl.list_labels import (
    CLASSES_FILE as CLASSES_FILE,
    Labels,
    read_class_names,
    read_labels,
    resolve_labels,
)
from urnet_tf.crawl.list_paths import URL, mend_paths
from urnet_tf.crawl.list_tables import (
    LIST_SCHEMA,
    ListOptions as ListOptions,
    ListTable,
    read_table,
)
from urnet_tf.crawl.split_words import split_of
from urnet_tf.crawl.table import ROW_SCHEMA, Crawl, cut_texts, rejected_row
from urnet_tf.errors import UsageError
from urnet_tf.schema import SPLITS, STATUS, TEST, TRAIN
from urnet_tf.store import codes_of
from urnet_tf.text_rules import quote

_TEXT = pa.large_string()
_NO_RANK = np.iinfo(np.int32).max


def listed_files(path: str, options: ListOptions | None = None) -> tuple[str, list[str]]:
    """Where the relative paths of a list start, and all its paths, as `read_list` gives them.

    Raises:
      UsageError: the list cannot be read, or lacks a column.
    """
    options = options or ListOptions()
    found, root = read_table(path, options), _image_root(path, options)
    return root, mend_paths(root, _trimmed(found.table["path"]))[0].to_pylist()


def read_list(
    path: str,
    *,
    options: ListOptions | None = None,
    classes: Sequence[dict] | None = None,
    split: str | None = None,
    names: ClassNames | None = None,
) -> Crawl:
    """Lists the rows of a CSV, TSV, JSON-lines or Parquet file.

    Args:
      path: the list.
      options: how it is written, and where relative paths start; None = beside the list.
      classes: entries of classes.json that the labels refer to; None = `classes.txt` beside the
        list, or the labels themselves.
      split: puts all rows into this split; None = the column `split`, which is "train" by default.
      names: which names of classes are one.

    Raises:
      UsageError: the list cannot be read, lacks a column, or a label lies outside of the classes.
    """
    options = options or ListOptions()
    listed = read_class_names(path) if classes is None else None
    return crawl_of_table(
        read_table(path, options), _image_root(path, options), os.path.basename(path), classes=classes,
        listed=listed, split=split, names=names, rank=options.rank,
    )  # fmt: skip


def crawl_of_table(
    found: ListTable, root: str, name: str, *, classes: Sequence[dict] | None = None,
    listed: Sequence[str] | None = None, split: str | None = None, names: ClassNames | None = None,
    rank: str = "auto",
) -> Crawl:  # fmt: skip
    """A list of any format as a crawl.

    Args:
      found: its rows as they are.
      root: where relative paths start.
      name: of the list, for messages.
      classes, split, names: see `read_list`.
      listed: names of classes in the order of their numbers, or None.
      rank: where no training row has one, as in `folders.read_folder`; "none" also ignores those given, and
        "given" takes none from names.

    Raises:
      UsageError: a label lies outside of the classes, or all paths are addresses.
    """
    names, table = names or ClassNames(), found.table
    table = _with_column(table, "path", _trimmed(table["path"]))
    splits, ranks = _splits(table, split), _ranks(table["rank"])
    known = listed or [entry["name"] for entry in classes or ()]
    labels = read_labels(table["label"], splits, known, name)
    found.notes += labels.notes
    faults = _faults(table, splits, ranks, labels)
    _check_urls(name, table["path"], faults)
    good = _set_aside(found, table, splits, faults)
    table, splits, ranks = table.filter(pa.array(good)), splits[good], ranks[good]
    labels = labels._replace(codes=labels.codes[good], faults=labels.faults[good])

    lines = found.row_name, table["line"]
    entries, ids, notes = resolve_labels(lines, labels, splits, classes=classes, listed=listed, names=names)
    found.notes += notes + (names.check() if classes is None else [])
    paths, notes = mend_paths(root, table["path"])
    table, found.notes = _with_column(table, "path", paths), found.notes + notes
    once = _set_repeated_aside(found, table, splits, ids)
    table, splits, ids, ranks = table.filter(pa.array(once)), splits[once], ids[once], ranks[once]
    rows, notes = cut_texts(_rows(table, splits, ids, ranks, entries))
    found.notes += notes
    if rank == NONE or rank != GIVEN and not (ranks[splits == TRAIN] != _NO_RANK).any():
        rows, notes = rank_by_name(rows, rank)
        found.notes += notes
    return Crawl(root, entries, rows, found.bad.table(), tuple(found.notes))


def _rows(
    table: pa.Table, splits: np.ndarray, ids: np.ndarray, ranks: np.ndarray, entries: list[dict]
) -> pa.Table:
    table = _with_queries(table, ids, splits, entries)
    columns = {name: table[name] for name in ("source", "query", "title", "description", "tags", "path")}
    columns |= {
        "split": pa.array(splits, _TEXT),
        "label": pa.array(ids, pa.int32()),
        "rank": pa.array(np.where(ranks == _NO_RANK, 0, ranks), pa.int32()),
    }
    return pa.table(columns, schema=ROW_SCHEMA)


def _image_root(path: str, options: ListOptions) -> str:
    return os.path.abspath(
        options.image_root if options.image_root is not None else os.path.dirname(path) or "."
    )


def _trimmed(column: Any) -> Any:
    return pc.utf8_trim_whitespace(column)


def _with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), LIST_SCHEMA.field(name), column)


def _faults(table: pa.Table, splits: np.ndarray, ranks: np.ndarray, labels: Labels) -> np.ndarray:
    """Why a row cannot be used, object [N]; None where it can."""
    faults = np.full(len(table), None, object)
    faults[splits == None] = "the split is none of train, val, test"  # noqa: E711 (elementwise)
    faults[ranks < 0] = "the rank is not a whole number from 0"
    unlabeled = labels.faults != None  # noqa: E711 (elementwise)
    wrong = unlabeled & (splits != TEST)
    faults[wrong] = labels.faults[wrong]
    faults[pc.equal(table["path"], "").to_numpy()] = "the path is missing"
    return faults


def _check_urls(name: str, paths: Any, faults: np.ndarray) -> None:
    """Sets rows aside whose path is an address; refuses a list of nothing else."""
    urls = pc.match_substring_regex(paths, URL, ignore_case=True).to_numpy()
    if len(urls) and urls.all():
        raise UsageError(
            f"Expected files in the column 'path' of {name}; received addresses like "
            f"{quote(paths[0].as_py())}; download them first, with img2dataset for one."
        )
    faults[urls] = "the path is an address, not a file"


def _set_aside(found: ListTable, table: pa.Table, splits: np.ndarray, faults: np.ndarray) -> np.ndarray:
    """Rejects the rows with faults: bool [N], the others."""
    good = faults == None  # noqa: E711 (elementwise)
    for row in np.flatnonzero(~good).tolist():
        reason = f"{found.row_name(table['line'][row].as_py())}: {faults[row]}"
        split = splits[row] or TRAIN
        found.bad.append(rejected_row(table["path"][row].as_py(), "bad_row", split=split, reason=reason))
    return np.array(good, bool)


def _set_repeated_aside(found: ListTable, table: pa.Table, splits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rejects rows that list a file again, with the same label and split: bool [N], the others."""
    if not len(splits):
        return np.ones(0, bool)
    codes, values = codes_of(table["path"])
    plain: dict[str, int] = {}
    same = np.array(
        [plain.setdefault(_plain_path(value), code) for code, value in enumerate(values)], np.int64
    )
    keys = (same[codes] * len(SPLITS) + [SPLITS.index(split) for split in splits]) * (ids.max() + 2) + ids + 1
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    once = first[group] == np.arange(len(splits))
    for row in np.flatnonzero(~once).tolist():
        lines = [found.row_name(table["line"][number].as_py()) for number in (row, int(first[group[row]]))]
        reason = f"{lines[0]}: {STATUS['repeated_row']} ({lines[1]})"
        path, label = table["path"][row].as_py(), int(ids[row])
        rejected = rejected_row(path, "repeated_row", split=splits[row], label=label, reason=reason)
        found.bad.append(rejected)
    return np.array(once, bool)


def _plain_path(path: str) -> str:
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def _splits(table: pa.Table, split: str | None) -> np.ndarray:
    """Split names, object [N]; None where the text is not a split."""
    if split is not None:
        return np.full(len(table), split, object)
    codes, values = codes_of(table["split"])
    names = [split_of(value) if value.strip() else TRAIN for value in values]
    return np.array([*names, None], object)[codes]


def _ranks(column: Any) -> np.ndarray:
    """Ranks, int64 [N]; _NO_RANK where none is given, -1 where the text is not a rank."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    is_number = pc.match_substring_regex(text, r"^[0-9]{1,9}(\.0*)?$")
    digits = pc.if_else(is_number, pc.replace_substring_regex(text, r"\..*$", ""), "-1")
    ranks = digits.cast(pa.int64()).to_numpy().copy()
    ranks[pc.is_in(text, value_set=pa.array(["", "nan", "none"], _TEXT)).to_numpy()] = _NO_RANK
    return ranks


def _with_queries(table: pa.Table, ids: np.ndarray, splits: np.ndarray, classes: Sequence[dict]) -> pa.Table:
    """Fills queries that are not given with the class's, and tells the classes their queries."""
    training = splits == TRAIN
    blank = pc.equal(pc.utf8_trim_whitespace(table["query"]), "").to_numpy() & training
    default = pa.array([entry["queries"][0] if entry["queries"] else "" for entry in classes] + [""], _TEXT)
    queries = pc.if_else(pa.array(blank), default.take(pa.array(ids % (len(classes) + 1))), table["query"])
    place = table.schema.get_field_index("query")
    table = table.set_column(place, LIST_SCHEMA.field("query"), queries)
    given = training & ~blank
    pairs = pa.table({"label": ids[given], "query": table["query"].filter(pa.array(given))})
    found: dict[int, list[str]] = {}
    for pair in pairs.group_by(["label", "query"], use_threads=False).aggregate([]).to_pylist():
        found.setdefault(pair["label"], []).append(pair["query"])
    for label, texts in found.items():
        classes[label]["queries"] = texts
    return table
