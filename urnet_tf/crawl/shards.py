"""Reads what img2dataset writes, and tar shards of webdataset.

Input: numbered folders (`00000/000000000.jpg` with .json and .txt beside), tar shards of the same names, or
Parquet shards with the images inside; maybe `00000.parquet` beside with what is known of each image; all of
this maybe in one folder a class or split, or with the split in names of shards. Output: a list's rows, one
for each image that was asked for.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from urnet_tf.crawl.list_columns import find_columns
from urnet_tf.crawl.list_tables import (
    A_LIST,
    LIST_SCHEMA,
    UNREADABLE,
    ListOptions,
    ListTable,
    empty_table,
    holds_images,
    unreadable,
)
from urnet_tf.crawl.split_words import splits_of
from urnet_tf.crawl.table import RowBuilder, clean_text, is_utf8, rejected_row
from urnet_tf.crawl.trees import list_folders, names_image, natural
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import DAMAGED, open_container
from urnet_tf.schema import LIST_COLUMNS, TRAIN
from urnet_tf.text_rules import show_path

_NUMBERED = re.compile(r"\d{5,}")
_SIDECARS = {".json", ".txt", ".cls"}
_MOST_TEXT = 1 << 20  # of a sidecar
# What img2dataset tells of each download, beside the columns of the user.
_OWN_COLUMNS = frozenset(
    """key status error_message url width height original_width original_height exif sha256 md5
    license""".split()
)
_TAKEN_CLASSES = 50  # folders that are looked into, to see whether they hold shards


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One shard: `folder/name`, where name is that of a numbered folder, a tar or a Parquet file."""

    folder: str  # relative to the root
    name: str
    label: str  # of the class whose folder holds it, or ""
    split: str = ""  # as its name or folder says, or ""

    @property
    def place(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


def looks_like(path: str) -> bool:
    """Whether a folder holds such shards, itself or in one folder a class, or a file is one."""
    return bool(_find(path))


def _find(path: str) -> list[_Shard]:
    if os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        return [_Shard("", name, "")] if _is_shard(folder, name) else []
    if not os.path.isdir(path):
        return []
    names = _names(path)
    if names:
        splits = _splits_of_shards(names)
        return [_Shard("", name, "", splits.get(name, "")) for name in names]
    splits = splits_of(list_folders(path))
    if TRAIN in splits.values():
        held = {folder: _names(os.path.join(path, folder)) for folder in splits}
        if any(held.values()):
            return [_Shard(folder, name, "", splits[folder]) for folder in held for name in held[folder]]
    classes = [name for name in list_folders(path) if not _NUMBERED.fullmatch(name)]
    if len(classes) > 1 and any(_names(os.path.join(path, name)) for name in classes[:_TAKEN_CLASSES]):
        return [_Shard(name, shard, name) for name in classes for shard in _names(os.path.join(path, name))]
    return []


def _splits_of_shards(names: Sequence[str]) -> dict[str, str]:
    """{shard: split} of train-000000.tar, val-000000.tar; {} where none is called a training one."""
    words = {name: re.sub(r"[\d{}.]+", " ", os.path.splitext(name)[0]) for name in names}
    splits = splits_of(set(words.values()))
    return {n: splits.get(word, TRAIN) for n, word in words.items()} if TRAIN in splits.values() else {}


def _names(folder: str) -> list[str]:
    """Names of the shards in a folder; a tar or folder counts before the Parquet file of its number."""
    # Folders of files are large, and shards few.
    names = [n for n in os.listdir(folder) if n.endswith((".tar", ".parquet")) or "." not in n]
    names.sort(key=natural)
    found = [name for name in names if not name.endswith(".parquet") and _is_shard(folder, name)]
    stems = {os.path.splitext(name)[0] for name in found}
    tables = [n for n in names if n.endswith(".parquet") and os.path.splitext(n)[0] not in stems]
    return found + [name for name in tables if _is_shard(folder, name)]


def _is_shard(folder: str, name: str) -> bool:
    path, stem = os.path.join(folder, name), os.path.splitext(name)[0]
    if name.endswith(".tar"):
        return os.path.isfile(os.path.join(folder, f"{stem}.parquet")) or _has_sidecars(_tar_members(path))
    if not _NUMBERED.fullmatch(stem):
        return False
    if name.endswith(".parquet"):
        try:
            schema = pa.parquet.read_schema(path)
        except UNREADABLE:
            return False
        return _image_column(schema) is not None and "key" in schema.names
    return "." not in name and os.path.isdir(path) and _has_sidecars(os.listdir(path))


def _has_sidecars(names: list[str]) -> bool:
    """Whether files of one name are an image and what is known of it."""
    images = {_key(name) for name in names if names_image(name) and "." in os.path.basename(name)}
    return any(_key(name) in images for name in names if os.path.splitext(name)[1] in _SIDECARS)


def _tar_members(path: str) -> list[str]:
    try:
        return list(open_container(path).members())
    except (*DAMAGED, OSError):
        return []


def _key(name: str) -> str:
    """What the files of one sample share: the name up to the first dot behind the last slash."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]


def _image_column(schema: pa.Schema) -> str | None:
    return next(
        (
            n
            for n in ("jpg", "png", "webp", "image")
            if n in schema.names and holds_images(schema.field(n).type)
        ),
        None,
    )


def read(path: str, options: ListOptions) -> ListTable:
    """The rows of all shards, as a list's.

    Raises:
      UsageError: nothing says which class an image has, or a shard cannot be read.
    """
    root = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    found, rows, listed = empty_table(path), RowBuilder(LIST_SCHEMA), list[str]()
    shards = _find(path)
    counts = collections.Counter(shard.split for shard in shards if shard.split)
    if len(counts) > 1:
        read = ", ".join(f"{count} as {split}" for split, count in counts.items())
        found.notes.append(f"shards are read as splits by their names: {read}")
    for shard in shards:
        samples = _Samples(root, shard)
        columns = sorted({name for sample in samples.known.values() for name in sample} - _OWN_COLUMNS)
        required = () if shard.label else ("label",)
        try:
            places, notes = find_columns(os.path.basename(path), columns, options.columns, required=required)
        except UsageError as error:
            raise _no_label(path, columns, error) from None
        found.notes += [note for note in notes if note not in found.notes]
        names = {column: columns[place] for column, place in places.items() if column != "path"}
        for key, picture in samples.pictures():
            listed.append(f"{key} of {shard.place}")
            known = samples.known.get(key, {})
            if picture is None:
                reason = f"{listed[-1]}: not downloaded ({known.get('error_message') or known.get('status')})"
                found.bad.append(rejected_row(f"{shard.place}/{key}", "missing", reason=reason))
                continue
            texts = {column: _text(column, known.get(name)) for column, name in names.items()}
            texts |= {"path": picture} | ({"label": shard.label} if shard.label else {})
            texts |= {"split": shard.split} if shard.split and not texts.get("split") else {}
            rows.append((len(listed), *(texts.get(column, "") for column in LIST_COLUMNS)))
    found.table, found.row_name = rows.table(), lambda line: listed[line - 1]
    return found


def find_address(path: str, address: str) -> Iterator[str]:
    """Paths of the images that were downloaded from an address."""
    root = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    for shard in _find(path):
        samples = _Samples(root, shard)
        for key, picture in samples.pictures():
            if picture is not None and samples.known.get(key, {}).get("url") == address:
                yield picture


def _no_label(path: str, columns: list[str], error: UsageError) -> UsageError:
    if "label" not in str(error):
        return error
    return UsageError(
        f"Expected a column of labels in the shards of {show_path(path)}; received the columns "
        f"{', '.join(columns)[:200] or 'none'}; name it with `columns={{label: ...}}` (img2dataset keeps "
        "those of save_additional_columns), or make one output folder a class."
    )


def _text(column: str, value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, (list, dict)) and column == "label":
        return A_LIST
    text = clean_text(value)
    return text if is_utf8(text) else ""


class _Samples:
    """The images of a shard and what is known of them.

    Attributes:
      known: key → what its row of the table, or its sidecars, say.
    """

    def __init__(self, root: str, shard: _Shard) -> None:
        self._place, self._path = shard.place, os.path.join(root, shard.place)
        self._is_table = shard.name.endswith(".parquet")
        try:
            self._names = self._list()
            table = os.path.join(root, shard.folder, os.path.splitext(shard.name)[0] + ".parquet")
            self.known = self._from_table(table) if os.path.isfile(table) else dict(self._from_sidecars())
        except (*DAMAGED, OSError) as error:
            raise unreadable(self._path, error) from None

    def _list(self) -> list[str]:
        if self._is_table:
            return []
        if os.path.isdir(self._path):
            return sorted(os.listdir(self._path), key=natural)
        return list(open_container(self._path).members())

    def _from_table(self, table: str) -> dict[str, Mapping[str, Any]]:
        schema = pa.parquet.read_schema(table)
        self._image = _image_column(schema)
        names = [name for name in schema.names if name != self._image]
        rows = pa.parquet.read_table(table, columns=names).to_pylist()
        return {str(row.get("key", number)): row for number, row in enumerate(rows)}

    def _from_sidecars(self) -> Iterator[tuple[str, dict[str, Any]]]:
        known: dict[str, dict[str, Any]] = {}
        for name in self._names:
            suffix = os.path.splitext(name)[1]
            if suffix in _SIDECARS and is_utf8(name):
                known.setdefault(_key(name), {}).update(_sidecar(suffix, self._read(name)))
        return iter(known.items())

    def _read(self, name: str) -> bytes:
        if not os.path.isdir(self._path):
            return open_container(self._path).read(name, _MOST_TEXT)
        with open(os.path.join(self._path, name), "rb") as file:
            return file.read(_MOST_TEXT)

    def pictures(self) -> Iterator[tuple[str, str | None]]:
        """Key and path of each image; None where it was not downloaded."""
        if self._is_table:
            for number, (key, row) in enumerate(self.known.items()):
                yield (
                    key,
                    f"{self._place}/{self._image}/{number}"
                    if row.get("status", "success") == "success"
                    else None,
                )
            return
        images = {
            _key(n): n for n in self._names if names_image(n) and "." in os.path.basename(n) and is_utf8(n)
        }
        for key in dict.fromkeys([*self.known, *images]):
            yield key, f"{self._place}/{images[key]}" if key in images else None


def _sidecar(suffix: str, data: bytes) -> dict[str, Any]:
    if suffix == ".json":
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return {}
        return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}
    text = data.decode("utf-8", "replace").strip()
    return {"label" if suffix == ".cls" else "caption": text}
