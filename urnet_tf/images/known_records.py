"""Packed images of earlier work, found by the bytes of the files that they were made of.

Two directories hold such records: an image store, whose table tells the content of each file, and what the
stage ingest packs ahead while it looks into files, in the order in which it meets them:

    made_with.json          how the records were made
    records-00000.bin ...   records one behind the other, a file a unit
    keys-00000.npy ...      uint64 [n, 6]: keys of each file's content and of its record, where that ends, and
                            its checksum, which is sooner computed again than its key

A record counts only if it has the key or checksum that was noted when it was written, so what is damaged is
made again.
"""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf import store
from urnet_tf.images.image_store import ImageStore
from urnet_tf.store.lookup import RowsByKey, keys_of

RECORD_KEYS_FILE = "record_keys.npy"  # beside an image store: uint64 [images, 2], by id
_SETTINGS_FILE = "made_with.json"
_LAYOUT = 3  # of what is packed ahead; raise it when the files are others
_RECORDS_FILE = "records-{:05d}.bin"
_KEYS_FILE = re.compile(r"keys-(\d+)\.npy")
_DECODERS = ("opencv-python-headless", "pillow", "pillow-heif")


class KnownRecords:
    """Records that need not be made again.

    Args:
      read: rows, int [n] → records; b"" for one that cannot be read.
      contents: uint64 [N, 2], keys of the files, record by record.
      keys: uint64 [N, 2], keys of the records, see `store.lookup.keys_of`.
      checksums: uint64 [N], CRC-32 of the records; None = their keys tell whether they are sound.
    """

    def __init__(
        self, read: Callable[[np.ndarray], list[bytes]], contents: np.ndarray, keys: np.ndarray,
        checksums: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._read, self._rows, self.keys, self._checksums = read, RowsByKey(contents), keys, checksums

    def find(self, contents: np.ndarray) -> np.ndarray:
        """The record of each file by the key of its content, int64 [M]; -1 where there is none."""
        return self._rows.find(contents)

    def read(self, rows: np.ndarray) -> list[bytes | None]:
        """Records; None where one is not as it was written."""
        records = self._read(rows)
        if self._checksums is None:
            sound = (keys_of(records) == self.keys[rows]).all(axis=1)
        else:
            sound = _checksums(records) == self._checksums[rows]
        return [record if is_sound else None for record, is_sound in zip(records, sound, strict=True)]


def reader_of(images: ImageStore) -> Callable[[np.ndarray], list[bytes]]:
    """Reads records of an image store; b"" where a shard is damaged or missing."""

    def read_one(row: int) -> bytes:
        try:
            return images.read([row])[0]
        except RuntimeError:
            return b""

    def read(rows: np.ndarray) -> list[bytes]:
        try:
            return images.read(rows)
        except RuntimeError:  # of the library
            return [read_one(row) for row in rows]

    return read


def decoders() -> dict[str, str | None]:
    """Versions of the libraries that decide what is seen in a file; None where one is not installed."""
    return {name: _version(name) for name in _DECODERS}


@functools.cache  # it takes milliseconds to read
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checksums(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32, uint64 [n]; the highest number of all for what could not be read."""
    return np.array([zlib.crc32(record) if record else -1 for record in records], np.int64).view(np.uint64)


class RecordsAhead:
    """What is packed ahead, unit by unit.

    Args:
      directory: is made if it is not there.
      made_with: plain values that decide how records are made.
    """

    def __init__(self, directory: pathlib.Path, made_with: Mapping[str, Any]) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        store.write_json(directory / _SETTINGS_FILE, {**made_with, "layout": _LAYOUT})

    def write(
        self, unit: int, contents: np.ndarray, records: Sequence[bytes], record_keys: np.ndarray
    ) -> None:
        """Writes the records of a unit, of different files with these keys, and those of the records."""
        path = self._directory / _RECORDS_FILE.format(unit)
        with store.atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.writelines(records)
        ends = np.cumsum([len(record) for record in records], dtype=np.uint64)
        columns = [contents, record_keys, ends[:, None], _checksums(records)[:, None]]
        keys = np.concatenate(columns, axis=1)
        store.write_array(self._directory / f"keys-{unit:05d}.npy", keys)


class _RecordFiles:
    """The files that `RecordsAhead` writes; `rows` count through all of them."""

    def __init__(self, directory: pathlib.Path) -> None:
        names = filter(None, (_KEYS_FILE.fullmatch(path.name) for path in directory.iterdir()))
        units = sorted((int(name[1]), name[0]) for name in names)
        keys = [store.read_array(directory / name) for _, name in units]
        self._files = [directory / _RECORDS_FILE.format(unit) for unit, _ in units]
        self._firsts = np.cumsum([0, *map(len, keys)])
        self.keys = np.concatenate([np.zeros((0, 6), np.uint64), *keys])

    def read(self, rows: np.ndarray) -> list[bytes]:
        found = [b""] * len(rows)
        files = np.searchsorted(self._firsts, rows, side="right") - 1
        for number in np.unique(files):
            with contextlib.suppress(OSError), open(self._files[number], "rb", buffering=0) as file:
                for place in np.flatnonzero(files == number):
                    row = rows[place]
                    start = int(self.keys[row - 1, 4]) if row > self._firsts[number] else 0
                    found[place] = os.pread(file.fileno(), int(self.keys[row, 4]) - start, start)
        return found


def open_ahead(directory: pathlib.Path, made_with: Mapping[str, Any]) -> KnownRecords | None:
    """What was packed ahead in a directory; None where there is nothing, or it was made otherwise."""
    try:
        if store.read_json(directory / _SETTINGS_FILE) != {**made_with, "layout": _LAYOUT}:
            return None
    except (OSError, ValueError):
        return None
    files = _RecordFiles(directory)
    return KnownRecords(files.read, files.keys[:, :2], files.keys[:, 2:4], files.keys[:, 5])
