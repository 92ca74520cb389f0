"""The image store: packed images in ArrayRecord shards, read at random by instance id.

    images-00000.arrayrecord ...   one JPEG a record, in id order
    shards.json                    [{"first_id": 0, "count": 2048}, ...], one entry a shard

Records are single and uncompressed ("group_size:1,uncompressed"), so a read touches what it returns.
No TensorFlow here.
"""

import collections
import json
import os
import pathlib
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import store
from urnet_tf.errors import UsageError
from urnet_tf.images import headers
from urnet_tf.images.orientation import exif_orientation
from urnet_tf.store import machine

if TYPE_CHECKING:
    from urnet_tf.images.headers import Segment

INDEX_FILE = "shards.json"
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # no threads and no buffers: random access


class ImageStore:
    """Encoded images by instance id.

    Several threads may read at once. A pickled store opens its files anew.

    Args:
      directory: holds the shards and `shards.json`.
      max_open: shards kept open; the one that was not read for longest is closed. None = all, or as many as
        this machine lets the process open: to open a shard for each record takes five times as long.

    Raises:
      UsageError: the directory holds no image store.
    """

    def __init__(self, directory: str | os.PathLike, max_open: int | None = None):
        self.directory = pathlib.Path(directory)
        try:
            shards = store.read_json(self.directory / INDEX_FILE)
        except (OSError, json.JSONDecodeError) as error:
            raise UsageError(f"Expected an image store in {self.directory}; {INDEX_FILE}: {error}.") from None
        self._first_ids = np.array([shard["first_id"] for shard in shards], np.int64)
        self._size = sum(shard["count"] for shard in shards)
        self._max_open = max_open if max_open is not None else machine.allow_open_files(len(shards))
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "max_open": self._max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ImageStore.__init__(self, **state)

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads images in the order of `ids`, which may repeat.

        Raises:
          UsageError: an id is not in the store.
        """
        ids = np.asarray(ids, np.int64)
        if not len(ids):
            return []
        if ids.min() < 0 or ids.max() >= self._size:
            raise UsageError(
                f"Expected image ids from 0 to {self._size - 1}; received {ids.min()} to {ids.max()}."
            )
        shards = np.searchsorted(self._first_ids, ids, side="right") - 1
        result = [b""] * len(ids)
        by_shard = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[by_shard])) + 1
        for places in np.split(by_shard, borders):
            shard = int(shards[places[0]])
            records = self._reader(shard).read((ids[places] - self._first_ids[shard]).tolist())
            for place, record in zip(places, records, strict=True):
                result[place] = record
        return result

    def _reader(self, shard: int) -> Any:
        with self._lock:
            reader = self._readers.get(shard)
            if reader is None:
                reader = open_shard(shard_path(self.directory, shard))
                self._readers[shard] = reader
                if len(self._readers) > self._max_open:
                    # Not closed by hand: another thread may be reading; its last reference closes it.
                    self._readers.popitem(last=False)
            self._readers.move_to_end(shard)
            return reader


def shard_path(directory: str | os.PathLike, shard: int) -> pathlib.Path:
    """The file of a shard."""
    return pathlib.Path(directory) / f"images-{shard:05d}.arrayrecord"


def open_shard(path: str | os.PathLike) -> Any:
    """An ArrayRecord file: `num_records()`, `read([row, ...])`.

    Raises:
      RuntimeError: there is none, or it is damaged.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(os.fspath(path), _READER_OPTIONS)


def write_shard(directory: str | os.PathLike, shard: int, records: Iterable[bytes]) -> None:
    """Writes one shard atomically; equal records give equal files."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with store.atomic_path(shard_path(directory, shard)) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), _WRITER_OPTIONS)
        try:
            for record in records:
                writer.write(record)
        finally:
            writer.close()


def write_index(directory: str | os.PathLike, counts: Sequence[int]) -> None:
    """Writes `shards.json`, which makes the shards a store; `counts` are the records of each shard."""
    first_ids = np.cumsum([0, *counts[:-1]])
    shards = [{"first_id": int(f), "count": int(c)} for f, c in zip(first_ids, counts, strict=True)]
    store.write_json(pathlib.Path(directory) / INDEX_FILE, shards)


def plain_jpeg(data: bytes, short_side_px: int) -> bytes | None:
    """A file that can be stored as it is, less its metadata; None if it must be encoded anew.

    It can when it is a baseline JPEG of 8 bits, gray or of three channels, with a short side of at most
    `short_side_px`. Comments and application data (EXIF, position, thumbnails, profiles) are cut out, but for
    the two segments that say how colors are coded; a file without any comes back as it is. Whether the
    picture data is sound is not looked at. A picture that its EXIF data turns must be encoded anew.
    """
    if data[:2] != b"\xff\xd8" or exif_orientation(data) != 1:
        return None
    kept, position, is_baseline = [data[:2]], 2, False
    for segment in headers.jpeg_segments(data):
        if segment.start != position:  # something stands between
            return None
        if segment.marker == headers.START_OF_SCAN:  # the picture data follows
            if not is_baseline:
                return None
            is_cut = sum(map(len, kept)) < position
            return b"".join([*kept, data[position:]]) if is_cut else data
        if segment.end < position + 4:  # no length
            return None
        if headers.is_frame(segment):
            if segment.marker != 0xC0 or not _can_be_kept(data, segment, short_side_px):
                return None
            is_baseline = True
        if not _is_metadata(segment.marker):
            kept.append(data[position : segment.end])
        position = segment.end
    return None


def _can_be_kept(data: bytes, segment: "Segment", short_side_px: int) -> bool:
    try:
        frame = headers.read_frame(data, segment)
    except struct.error:
        return False
    return (
        frame.bits == 8 and frame.channels in (1, 3) and 0 < min(frame.height, frame.width) <= short_side_px
    )


def _is_metadata(marker: int) -> bool:
    return marker == 0xFE or (0xE0 <= marker <= 0xEF and marker not in (0xE0, 0xEE))
