"""Reads what a search engine reported about the results of one query: a JSON array of records.

Input: metadata files of a WebVision tree. Output: the record of an image, or None. Every field of
a record may be missing.
"""

import functools
import json
import os
from typing import Any

import numpy as np

from urnet_tf.crawl.table import open_text
from urnet_tf.images.probe import retried_or_stop

_LARGEST_RANK = np.iinfo(np.int32).max


class Records:
    """The metadata records of one query: by row, or by id where the row names another image."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self._by_id = {str(r["id"]): r for r in reversed(records) if isinstance(r, dict) and "id" in r}

    def __len__(self) -> int:
        return len(self._records)

    def find(self, row: int, path: str) -> dict | None:
        """The record of an image; `row` counts from 1."""
        record = self._records[row - 1] if 1 <= row <= len(self._records) else None
        record = record if isinstance(record, dict) else None
        stem = os.path.splitext(path.rpartition("/")[2])[0]
        if record is not None and str(record.get("id")) == stem:
            return record
        return self._by_id.get(stem, record)


def metadata_places(listed: str) -> list[str]:
    """Where a listed metadata file may lie, relative to the tree; the first one found counts."""
    return [os.path.join(folder, listed) for folder in ("meta", "", "info")]


def read_records(root: str, listed: str) -> Records | None:
    """The records of a metadata file, or None where it is missing or broken.

    Raises:
      RunError: the disk or network fails.
    """
    for place in metadata_places(listed):
        path = os.path.join(root, place)
        try:
            records = retried_or_stop(path, functools.partial(_read_json, path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, RecursionError):
            return None
        return Records(records) if isinstance(records, list) else None
    return None


def _read_json(path: str) -> list[dict[str, Any]]:
    with open_text(path, errors="replace") as file:
        return json.load(file)


def read_rank(value: int | str | None, fallback: int) -> int:
    """A rank as a whole number; the place in the list where it is missing or no number."""
    try:
        rank = int(str(value)[:12])
    except ValueError:
        return fallback
    return rank if 0 <= rank <= _LARGEST_RANK else fallback
