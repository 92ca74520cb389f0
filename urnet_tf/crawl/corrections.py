"""Judgements of people about labels: an append-only log in a Parquet file, merged, taken to CSV and back.

A row is what one person said of one image at one time. Nothing is ever changed in it: who thinks again adds a
row, and who takes something back adds a row `undone`. Images are known by the hash of their bytes, so that
judgements hold in another folder, and in a later crawl with the same pictures.
"""

import contextlib
import csv
import dataclasses
import datetime
import fcntl
import functools
import io
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.errors import UsageError
from urnet_tf.schema import (
    CORRECTION_COLUMNS,
    CORRECTIONS_FORMAT,
    NONE_OF_THESE,
    RANDOM_QUEUE,
    RIGHT,
    UNDONE,
    UNSURE,
    VERDICTS,
    WRONG_CLASS,
)
from urnet_tf.store import read_table, write_table
from urnet_tf.text_rules import plain_cell, quote, show_path, spreadsheet_cell

FILE_NAME = "corrections.parquet"  # in the root of a work directory
SCHEMA = pa.schema([(name, pa.type_for_alias(dtype)) for name, dtype in CORRECTION_COLUMNS.items()])

_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_CSV_ENDINGS = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True)
class Judgements:
    """What holds now.

    Attributes:
      table: of CORRECTION_COLUMNS and `in_random_sample` (bool): a row an image, in the order of their times.
      undone: images whose judgements were all taken back.
      conflicts: content hashes (paths where there is none) of which people say different things; the latest
        judgement holds. One who is unsure contradicts nobody.
    """

    table: pa.Table
    undone: int
    conflicts: tuple[str, ...]


def append(
    path: str | os.PathLike, rows: Iterable[Mapping[str, str]], classes: Collection[str] | None = None
) -> int:
    """Adds judgements to a log, which is made if it is not there; returns how many were added.

    They are on the disk when this returns, all or none of them, whatever happens to this process. Processes
    and threads that add to one log wait for each other.

    Args:
      path: the log, a Parquet file.
      rows: each with the keys of CORRECTION_COLUMNS. What is missing is ""; a missing `when` is now, or
        the millisecond behind the last row of the log, should the clock have been set back. An image of the
        honest random sample gets a row of the queue `random`, even if it was judged in another one before.
      classes: the names that `new_label` may be; None: any.

    Raises:
      UsageError: a row is not as it should be, or the file cannot be read or written.
    """
    path = pathlib.Path(path)
    added = [_plain_row(row, classes, f"judgement {number}") for number, row in enumerate(rows, 1)]
    if not added:
        return 0
    try:
        with _locked(path):
            log = _read_one(path) if path.exists() else SCHEMA.empty_table()
            now = _later_than(pc.max(log["when"]).as_py() or "")
            table = pa.Table.from_pylist([{**row, "when": row["when"] or now} for row in added], SCHEMA)
            _write(path, pa.concat_tables([log, table]))
    except OSError as error:
        raise UsageError(
            f"Cannot write judgements to {show_path(path)}: {error.strerror or error}; nothing was lost of "
            "those before."
        ) from None
    return len(added)


def read(paths: Sequence[str | os.PathLike]) -> pa.Table:
    """All judgements of several files, `.parquet` or `.csv`, in the order of their times; equal rows once.

    Raises:
      UsageError: a file is missing, damaged, or holds something else.
    """
    table = pa.concat_tables([SCHEMA.empty_table(), *(_read_one(pathlib.Path(path)) for path in paths)])
    distinct = table.group_by(SCHEMA.names, use_threads=False).aggregate([])  # in the order of first rows
    return distinct.select(SCHEMA.names).cast(SCHEMA).sort_by("when")


def current(table: pa.Table) -> Judgements:
    """What holds of each image: of each person the last word, of these the latest that is sure.

    Args:
      table: of CORRECTION_COLUMNS, in the order of times, as `read` returns it.
    """
    said: dict[str, dict[str, dict]] = {}  # image → person → their last word
    sampled = set()
    for row in table.to_pylist():
        image = key_of(row)
        words = said.setdefault(image, {})
        words.pop(row["who"], None)  # so that the latest stands last
        words[row["who"]] = row
        if row["queue"] == RANDOM_QUEUE:
            sampled.add(image)
    held, conflicts, undone = [], [], 0
    for image, words in said.items():
        standing = [row for row in words.values() if row["verdict"] != UNDONE]
        if not standing:
            undone += 1
            continue
        sure = [row for row in standing if row["verdict"] != UNSURE]
        if len({(row["verdict"], row["new_label"]) for row in sure}) > 1:
            conflicts.append(image)
        held.append({**(sure or standing)[-1], "in_random_sample": image in sampled})
    held.sort(key=lambda row: row["when"])
    schema = SCHEMA.append(pa.field("in_random_sample", pa.bool_()))
    return Judgements(pa.Table.from_pylist(held, schema), undone, tuple(conflicts))


def key_of(row: Mapping[str, str]) -> str:
    """What an image is known by: its content hash; its path where a judgement has none."""
    return row["content_hash"] or f"path:{row['path']}"


def write_csv(path: str | os.PathLike, table: pa.Table) -> None:
    """Writes judgements as UTF-8 with a header, atomically; `read_csv` gives back the same.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
      UsageError: the file cannot be written.
    """
    from urnet_tf.store import write_text

    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its line ends have both signs, so that a cell with either is quoted
    writer.writerow(SCHEMA.names)
    writer.writerows(
        [spreadsheet_cell(row[name]) for name in SCHEMA.names]
        for row in table.select(SCHEMA.names).to_pylist()
    )
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"Cannot write {show_path(path)}: {error.strerror}.") from None


def read_csv(path: str | os.PathLike) -> pa.Table:
    """Judgements of a CSV file with a header, as this program or a spreadsheet writes it, in its order.

    Columns may come in any order, separated by commas, semicolons or tabs; `verdict` and `content_hash` or
    `path` have to be there. Missing times are those of the file. Rows without a verdict are left out.

    Raises:
      UsageError: the file cannot be read, or a row is not as it should be.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    except OSError as error:
        raise UsageError(f"Cannot read judgements from {show_path(path)}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"Expected judgements in UTF-8; {show_path(path)} is not.") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise UsageError(f"Cannot read judgements from {show_path(path)}: {error}.") from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    if "verdict" not in names or not {"content_hash", "path"} & set(names):
        raise UsageError(
            f"Expected the columns verdict and content_hash or path in the first line of {show_path(path)}; "
            f"received {quote(names)}."
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = {name: plain_cell(cell) for name, cell in zip(names, line, strict=False)}
        if not cells.get("verdict"):
            continue  # not filled in
        row = _plain_row(cells, None, f"line {number} of {show_path(path)}")
        rows.append({**row, "when": row["when"] or _stamp(written)})
    return pa.Table.from_pylist(rows, SCHEMA)


def _read_one(path: pathlib.Path) -> pa.Table:
    if path.suffix.lower() in _CSV_ENDINGS:
        return read_csv(path)
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise UsageError(f"Expected a file of judgements at {show_path(path)}; there is none.") from None
    except OSError as error:
        reason = error.strerror or f"it is damaged or no Parquet file ({_first_line(error)})"
        raise UsageError(f"Cannot read judgements from {show_path(path)}: {reason}.") from None
    except pa.ArrowException as error:
        raise UsageError(
            f"Expected judgements in {show_path(path)}; it is damaged or no Parquet file "
            f"({_first_line(error)})."
        ) from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UsageError(
            f"Expected the columns {', '.join(SCHEMA.names)} in {show_path(path)}; "
            f"{', '.join(missing)} is missing. Is it a file of judgements?"
        )
    version = (table.schema.metadata or {}).get(b"format", CORRECTIONS_FORMAT.encode())
    if version != CORRECTIONS_FORMAT.encode():
        raise UsageError(
            f"Expected judgements in the format {CORRECTIONS_FORMAT!r}; {show_path(path)} is "
            f"{quote(version.decode(errors='replace'))}, of another version of this program."
        )
    try:
        columns = [pc.fill_null(table[name].cast(pa.string()), "") for name in SCHEMA.names]
    except pa.ArrowException as error:
        raise UsageError(f"Expected texts in {show_path(path)}: {_first_line(error)}.") from None
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    for number in _suspects(table):
        _plain_row(table.slice(number, 1).to_pylist()[0], None, f"row {number + 1} of {show_path(path)}")
    return table


def _suspects(table: pa.Table) -> list[int]:
    """Rows that `_plain_row` would refuse."""
    relabeled = pc.equal(table["verdict"], WRONG_CLASS)
    fine = [
        pc.is_in(table["verdict"], pa.array(VERDICTS)),
        pc.equal(relabeled, pc.not_equal(table["new_label"], "")),
        pc.match_substring_regex(table["when"], f"^({_WHEN.pattern})$"),
        pc.or_(pc.not_equal(table["content_hash"], ""), pc.not_equal(table["path"], "")),
    ]
    return pc.indices_nonzero(pc.invert(functools.reduce(pc.and_, fine))).to_pylist()


def _plain_row(row: Mapping[str, str | None], classes: Collection[str] | None, place: str) -> dict[str, str]:
    """A row with all columns as texts.

    Raises:
      UsageError: it says nothing that is understood, or nothing of any image.
    """
    plain = {}
    for name in SCHEMA.names:
        value = row.get(name)
        plain[name] = "" if value is None else value
        if not isinstance(plain[name], str):
            raise UsageError(f"Expected a text as {name} in {place}; received {quote(value)}.")
        with contextlib.suppress(UnicodeEncodeError):
            plain[name].encode()
            continue
        raise UsageError(f"Expected {name} in {place} as valid text; received {quote(value)}.")
    if plain["verdict"] not in VERDICTS:
        raise UsageError(
            f"Expected a verdict ({', '.join(VERDICTS)}) in {place}; received {quote(plain['verdict'])}."
        )
    if not plain["content_hash"] and not plain["path"]:
        raise UsageError(f"Expected a content_hash or a path in {place}; both are empty.")
    if (plain["verdict"] == WRONG_CLASS) != bool(plain["new_label"]):
        raise UsageError(
            f"Expected a new_label where the verdict is {WRONG_CLASS}, and only there; {place} says "
            f"{plain['verdict']} with {quote(plain['new_label'])}."
        )
    if plain["new_label"] and classes is not None and plain["new_label"] not in classes:
        raise UsageError(
            f"Expected a class of this crawl as new_label in {place}; received {quote(plain['new_label'])}. "
            f"An image of another class is judged {NONE_OF_THESE}."
        )
    if plain["when"] and not _WHEN.fullmatch(plain["when"]):
        raise UsageError(
            f"Expected a time in UTC such as 2024-05-31T16:20:00.000Z in {place}; "
            f"received {quote(plain['when'])}."
        )
    return plain


def _write(path: pathlib.Path, table: pa.Table) -> None:
    columns = {name: table[name] for name in SCHEMA.names}
    write_table(path, columns, CORRECTION_COLUMNS, {"format": CORRECTIONS_FORMAT})


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Waits for others who write to the file, which is replaced each time, so that it cannot be the lock."""
    with open(path.with_name(f".{path.name}.lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _later_than(last: str) -> str:
    """Now, but behind the last row."""
    now = _stamp(datetime.datetime.now(datetime.UTC))
    if now > last:
        return now
    return _stamp(datetime.datetime.fromisoformat(last) + datetime.timedelta(milliseconds=1))


def _stamp(time: datetime.datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


__all__ = [
    "FILE_NAME",
    "NONE_OF_THESE",
    "RANDOM_QUEUE",
    "RIGHT",
    "SCHEMA",
    "UNDONE",
    "UNSURE",
    "VERDICTS",
    "WRONG_CLASS",
    "Judgements",
    "append",
    "current",
    "key_of",
    "read",
    "read_csv",
    "write_csv",
]
