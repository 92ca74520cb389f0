"""Packed images of earlier work, found by the bytes of the files that they were made of.

Two directories hold such records: an image store, whose table tells the content of each file, and what the
stage ingest packs ahead while it looks at files, in the order in which it meets them:

    made_with.json                  how the records were made
    images-00000.arrayrecord ...    records, a shard a unit of files; not there where it would be empty
    keys-00000.npy ...              uint64 [n, 4]: the key of each file's content, and of its record

A record counts only if it has the key that was noted when it was written, so what is damaged is made again.
"""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf import store
from urnet_tf.images.image_store import ImageStore, write_shard
from urnet_tf.store.lookup import RowsByKey, keys_of

RECORD_KEYS_FILE = "record_keys.npy"  # beside an image store: uint64 [images, 2], by id
_SETTINGS_FILE = "made_with.json"
_KEYS_FILE = re.compile(r"keys-(\d+)\.npy")
_DECODERS = ("opencv-python-headless", "pillow", "pillow-heif")


class KnownRecords:
    """Records that need not be made again.

    Args:
      images: the records.
      contents: uint64 [N, 2], keys of the files, record by record.
      keys: uint64 [N, 2], keys of the records, see `store.lookup.keys_of`.
    """

    def __init__(self, images: ImageStore, contents: np.ndarray, keys: np.ndarray) -> None:
        self._images, self._rows, self.keys = images, RowsByKey(contents), keys

    def find(self, contents: np.ndarray) -> np.ndarray:
        """The record of each file by the key of its content, int64 [M]; -1 where there is none."""
        return self._rows.find(contents)

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes | None]:
        """Records; None where one is not as it was written."""
        rows = np.asarray(rows, np.int64)
        try:
            records = self._images.read(rows)
        except RuntimeError:  # of the library, about a damaged or missing shard
            records = [record for row in rows for record in self._read_one(row)]
        sound = (keys_of(records) == self.keys[rows]).all(axis=1)
        return [record if is_sound else None for record, is_sound in zip(records, sound, strict=True)]

    def _read_one(self, row: int) -> list[bytes]:
        try:
            return self._images.read([row])
        except RuntimeError:
            return [b""]


def decoders() -> dict[str, str | None]:
    """Versions of the libraries that decide what is seen in a file; None where one is not installed."""
    return {name: _version(name) for name in _DECODERS}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class RecordsAhead:
    """What is packed ahead, unit by unit.

    Args:
      directory: is made if it is not there.
      made_with: plain values that decide how records are made.
    """

    def __init__(self, directory: pathlib.Path, made_with: Mapping[str, Any]) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        store.write_json(directory / _SETTINGS_FILE, made_with)

    def write(self, unit: int, contents: np.ndarray, records: Sequence[bytes]) -> None:
        """Writes the records of a unit, of different files with these keys."""
        if len(records):
            write_shard(self._directory, unit, records)
        keys = np.concatenate([contents, keys_of(records)], axis=1)
        store.write_array(self._directory / f"keys-{unit:05d}.npy", keys)


def open_ahead(directory: pathlib.Path, made_with: Mapping[str, Any]) -> KnownRecords | None:
    """What was packed ahead in a directory; None where there is nothing, or it was made otherwise."""
    try:
        if store.read_json(directory / _SETTINGS_FILE) != made_with:
            return None
    except (OSError, ValueError):
        return None
    counts, keys = list[int](), list[np.ndarray]()
    names = filter(None, (_KEYS_FILE.fullmatch(path.name) for path in directory.iterdir()))
    for unit, name in sorted((int(name[1]), name[0]) for name in names):
        found = store.read_array(directory / name)
        counts += [0] * (unit - len(counts))
        counts.append(len(found))
        keys.append(found)
    joined = np.concatenate(keys) if keys else np.zeros((0, 4), np.uint64)
    return KnownRecords(ImageStore(directory, counts=counts), joined[:, :2], joined[:, 2:])
