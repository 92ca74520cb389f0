"""Which image of a crawl came from an address: lists, search results and shards may tell."""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from urnet_tf.crawl import list_tables, readers, shards
from urnet_tf.crawl.list_columns import find_columns
from urnet_tf.crawl.list_paths import URL as ADDRESS
from urnet_tf.crawl.list_text import open_list
from urnet_tf.crawl.search_metadata import metadata_places
from urnet_tf.crawl.webvision_info import list_parts, read_lines
from urnet_tf.errors import RunError, UsageError

__all__ = ["ADDRESS", "find_address"]


def find_address(path: str, kind: str, address: str, options: list_tables.ListOptions) -> list[str]:
    """Paths of the images whose row or record holds an address, as the crawl lists them.

    Args:
      path: of the crawl.
      kind: of `crawl.readers`; a folder knows no addresses.
      options: as the crawl was read with.

    Returns:
      Paths in order; [] where nothing tells, or the crawl cannot be read any more.
    """
    found: Iterator[str] = iter(())
    if kind == readers.LIST:
        found = _in_list(path, address, options)
    elif kind == readers.WEBVISION:
        found = _in_search_results(path, address)
    elif kind == readers.DATASET and shards.looks_like(path):
        found = shards.find_address(path, address)
    try:
        return list(dict.fromkeys(found))
    except (OSError, ValueError, UsageError, RunError, pa.ArrowException):
        return []


def _in_list(path: str, address: str, options: list_tables.ListOptions) -> Iterator[str]:
    if list_tables.is_parquet(path):
        schema = pyarrow.parquet.read_schema(path)
        names = [field.name for field in schema if _is_text(field.type)]
        table = pyarrow.parquet.read_table(path, columns=names)
        holds = functools.reduce(pc.or_kleene, (pc.equal(table[name], address) for name in names))
        for row in table.filter(holds).to_pylist():
            yield from _path_of(path, row, options)
    elif path.lower().endswith(".jsonl"):
        with open(path, encoding=options.encoding or "utf-8-sig", errors="replace") as file:
            for line in file:
                if address in line.replace("\\/", "/"):
                    row = json.loads(line)
                    if isinstance(row, dict) and address in row.values():
                        yield from _path_of(path, row, options)
    else:
        for opened in open_list(path, options.encoding):
            for record in opened.records:
                if address in record.fields:
                    row = dict(zip(opened.header, record.fields, strict=False))
                    yield from _path_of(path, row, options)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _path_of(path: str, row: Mapping[str, Any], options: list_tables.ListOptions) -> Iterator[str]:
    header = list(row)
    places, _ = find_columns(path, header, options.columns, required=("path",))
    value = row[header[places["path"]]]
    if isinstance(value, str):
        yield value


def _in_search_results(path: str, address: str) -> Iterator[str]:
    """Metadata of search results names an image by its id, which is the stem of its file."""
    parts = list_parts(path, None)
    metas = {
        line.rpartition(" ")[0].strip(): None
        for part in parts
        for line in read_lines(path, f"train_meta_list_{part}.txt")
    }
    stems = {stem for listed in metas for stem in _ids_in(path, listed, address)}
    for part in parts if stems else ():
        for line in read_lines(path, f"train_filelist_{part}.txt"):
            listed = line.rpartition(" ")[0].rstrip()
            if os.path.splitext(listed.rpartition("/")[2])[0] in stems:
                yield listed


def _ids_in(root: str, listed: str, address: str) -> Iterator[str]:
    for place in metadata_places(listed):
        try:
            with open(os.path.join(root, place), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if address in text.replace("\\/", "/"):
            for record in json.loads(text):
                if isinstance(record, dict) and address in (record.get("url"), record.get("page_url")):
                    yield str(record.get("id"))
        return
