"""Reads what Hugging Face's `datasets` and its Hub hold.

Input: image folders with `metadata.csv`, `.jsonl` or `.parquet`; Parquet files with a column of images;
folders of `save_to_disk`. Output: a list's rows. Names of classes come from the schemas.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from urnet_tf.crawl.list_columns import find_columns
from urnet_tf.crawl.list_tables import (
    UNREADABLE,
    ListOptions,
    ListTable,
    holds_images,
    image_paths,
    is_parquet,
    of_arrow,
    read_table,
    unreadable,
)
from urnet_tf.crawl.list_union import joined
from urnet_tf.crawl.split_words import split_of, splits_of
from urnet_tf.crawl.table import open_bytes
from urnet_tf.crawl.trees import list_folders, names_image, walk
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import read_arrow
from urnet_tf.schema import TRAIN
from urnet_tf.text_rules import show_path

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MOST_FOLDERS = 20  # that are looked into for tables
_NUMBER = re.compile(r"-\d{4,6}(-of-\d{4,6})?.*$")  # train-00000-of-00002-a1b2c3


def looks_like(path: str) -> bool:
    """Whether a folder or file is one of these."""
    if os.path.isfile(path):
        return is_parquet(path) and _image_column(path) is not None
    if not os.path.isdir(path):
        return False
    return _is_saved(path) or bool(_metadata_files(path)) or bool(_tables(path))


def _is_saved(path: str) -> bool:
    names = [{_DICT}, {_STATE, _INFO}]
    return any(all(os.path.isfile(os.path.join(path, name)) for name in group) for group in names)


def read(path: str, options: ListOptions) -> ListTable:
    """The rows of the dataset, as a list's.

    Raises:
      UsageError: a file cannot be read, or a column is missing.
      RunError: the disk or network fails.
    """
    if os.path.isfile(path):
        return read_table(path, options)
    if _is_saved(path):
        files = _saved_files(path)
        tables = [_read_arrow_file(path, file, split_of(name) or TRAIN, options) for file, name in files]
        return joined(tables, path)
    metadata = _metadata_files(path)
    if metadata:
        tables = [_read_metadata(path, name, split, options) for name, split in metadata.items()]
        return _with_unlisted(joined(tables, path), path)
    parts = (
        (name, split, read_table(os.path.join(path, name), options)) for name, split in _tables(path).items()
    )
    return joined([_placed(found, name, split) for name, split, found in parts], path)


def _image_column(path: str) -> str | None:
    """The column of a Parquet file that holds images, or None."""
    try:
        schema = pa.parquet.read_schema(path)
    except UNREADABLE:
        return None
    structs = [field.name for field in schema if pa.types.is_struct(field.type) and holds_images(field.type)]
    named = ("image", "img", "jpg", "png", "webp", "picture", "photo", "bytes", "image_bytes")
    plain = [name for name in schema.names if name in named and holds_images(schema.field(name).type)]
    return next(iter([*structs, *plain]), None)


def _tables(path: str) -> dict[str, str]:
    """{Parquet file with images, relative: split} in a folder, in `data`, and in folders of splits."""
    places = ["", *list_folders(path)[:_MOST_FOLDERS]]
    if "data" in places:
        places += [
            os.path.join("data", name) for name in list_folders(os.path.join(path, "data"))[:_MOST_FOLDERS]
        ]
    found: dict[str, str] = {}
    for place in places:
        names = sorted(filter(is_parquet, os.listdir(os.path.join(path, place))))
        found |= {name: _split_of_file(name) for name in (os.path.join(place, name) for name in names)}
    first = next(iter(found), None)
    if first is None or re.fullmatch(r"\d{5,}\.\w+", os.path.basename(first)):  # img2dataset's shards
        return {}
    return found if _image_column(os.path.join(path, first)) is not None else {}


def _split_of_file(relative: str) -> str:
    """train-00000-of-00002.parquet, train/0000.parquet, data/train.parquet."""
    parts = [_NUMBER.sub("", os.path.splitext(part)[0]) for part in relative.split(os.sep)]
    return next((split for part in reversed(parts) if (split := split_of(part))), TRAIN)


def _metadata_files(path: str) -> dict[str, str]:
    """{metadata file, relative: split or ""} of an image folder."""
    places = {"": ""} | splits_of(list_folders(path))
    if os.path.isdir(os.path.join(path, "data")):
        inner = {".": ""} | splits_of(list_folders(os.path.join(path, "data")))
        places |= {os.path.join("data", name): split for name, split in inner.items()}
    names = ((os.path.normpath(os.path.join(p, n)), split) for p, split in places.items() for n in _METADATA)
    return {name: split for name, split in names if _names_files(os.path.join(path, name))}


def _names_files(path: str) -> bool:
    """Whether a metadata file has the column that leads to images."""
    try:
        if is_parquet(path):
            return "file_name" in pa.parquet.read_schema(path).names
        with open_bytes(path) as file:
            return b"file_name" in file.readline(1 << 16)
    except UNREADABLE:
        return False


def _read_metadata(path: str, name: str, split: str, options: ListOptions) -> ListTable:
    """The rows of a metadata file; the class is a column of it, or the folder of an image."""
    file = os.path.join(path, name)
    found = read_table(file, options, required=("path",))
    table = found.table
    labels = table["label"].to_pylist()
    if not any(labels):
        paths = table["path"].to_pylist()
        folders = [picture.replace("\\", "/").strip("/").split("/") for picture in paths]
        if not any(len(parts) > 1 for parts in folders):
            raise UsageError(
                f"Expected a column of labels in {show_path(file)}, or images in class folders; received "
                "neither; name the column with `columns={label: ...}`."
            )
        labels = [parts[-2] if len(parts) > 1 else "" for parts in folders]
        place = table.schema.get_field_index("label")
        column = pa.chunked_array([pa.array(labels, pa.large_string())])
        found.table = table.set_column(place, table.schema.field("label"), column)
        found.notes.append(f"{name} has no column of labels: the folder of an image is its class")
    return _placed(found, name, split)


def _with_unlisted(found: ListTable, path: str) -> ListTable:
    """Notes how many images of the folder the metadata does not name."""
    listed = {os.path.normpath(name) for name in found.table["path"].to_pylist()}
    count = sum(names_image(name) and os.path.normpath(name) not in listed for name, _ in walk(path))
    if count:
        found.notes.append(f"{count} images in the folder are not in its metadata and are left out")
    return found


def _placed(found: ListTable, name: str, split: str) -> ListTable:
    """A table with the paths as seen from above the folder in which the file `name` lies, and its split."""
    folder = os.path.normpath(os.path.dirname(name))
    table = found.table
    if folder != ".":
        paths = [f"{folder}/{path}" if path else "" for path in table["path"].to_pylist()]
        place = table.schema.get_field_index("path")
        table = table.set_column(place, table.schema.field("path"), pa.array(paths, pa.large_string()))
    if split and not any(table["split"].to_pylist()):
        place = table.schema.get_field_index("split")
        column = pa.array([split] * len(table), pa.large_string())
        table = table.set_column(place, table.schema.field("split"), column)
    found.table = table
    return found


def _saved_files(path: str) -> Iterator[tuple[str, str]]:
    """Each Arrow file of `save_to_disk`, and the name of its split."""
    names: Sequence[str] = [""]
    if os.path.isfile(os.path.join(path, _DICT)):
        names = _json(os.path.join(path, _DICT)).get("splits") or list_folders(path)
    for name in names:
        folder = os.path.join(path, name)
        state = _json(os.path.join(folder, _STATE))
        if state.get("_indices_data_files"):
            raise UsageError(
                f"Expected a dataset without a selection of rows in {show_path(folder)}; received one with "
                "indices; call flatten_indices() before save_to_disk()."
            )
        for entry in state.get("_data_files") or ():
            yield os.path.join(folder, str(entry.get("filename", ""))), name


def _read_arrow_file(path: str, file: str, split: str, options: ListOptions) -> ListTable:
    try:
        table = read_arrow(file)
    except UNREADABLE as error:
        raise unreadable(file, error) from None
    places, notes = find_columns(file, table.column_names, options.columns)
    known = {name: table.column_names[place] for name, place in places.items()}
    relative, images = os.path.relpath(file, path).replace(os.sep, "/"), known["path"]
    if holds_images(table.schema.field(images).type):
        cells = image_paths(relative, images, len(table))
        if pa.types.is_struct(table.schema.field(images).type):
            cells = _outside_paths(table[images], cells)
        place = table.schema.get_field_index(images)
        table = table.set_column(place, images, cells)
    return _placed(of_arrow(file, table, known, notes), "", split)


def _outside_paths(column: pa.ChunkedArray, cells: pa.Array) -> pa.Array:
    """The paths of images, which are those of files where a cell holds no bytes but a path."""
    if column.type.get_field_index("path") < 0:
        return cells
    empty = pc.is_null(pc.struct_field(column, "bytes"))
    return pc.if_else(empty, pc.fill_null(pc.struct_field(column, "path").cast(cells.type), ""), cells)


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"Expected JSON in {show_path(path)}; it cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"Expected a JSON object in {show_path(path)}; received something else.")
    return found
