"""Images that lie inside of other files: archives, and tables with a column of encoded images.

A path leads on behind the name of the container: `shard.tar/0001.jpg`, `crawl.zip/cat/1.jpg`, and for row 17
of the column `image` of a table `train.parquet/image/17`. Nothing is unpacked: each is read where it lies.
No TensorFlow here.
"""

import collections
import errno
import itertools
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from urnet_tf.images.headers import Refused

ARCHIVES = (".tar", ".zip")
_MOST_OPEN = 256  # containers whose index is kept
_GROUP_BYTES = 512 * 2**20  # of decoded groups of Parquet rows that are kept
# Arrow's errors of damaged tables are ValueErrors.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, ValueError, NotImplementedError,
           EOFError)  # fmt: skip


class Container(Protocol):
    """An opened container."""

    def members(self) -> Iterator[str]:
        """Names of all files inside."""

    def size(self, member: str) -> float:
        """About how many bytes a file inside has, without reading it; KeyError where there is none."""

    def read(self, member: str, max_bytes: int) -> bytes:
        """The bytes of a file inside; KeyError where there is none of the name."""


def find_container(path: str) -> tuple[str, str] | None:
    """The file that a path leads into, and the rest of the path; None for other paths."""
    container, member = os.path.split(path)
    while container and member:
        try:
            kind = os.stat(container).st_mode
        except (FileNotFoundError, NotADirectoryError):
            container, name = os.path.split(container)
            member = f"{name}/{member}" if name else ""
            continue
        return (container, member) if stat.S_ISREG(kind) else None
    return None


def read_member(container: str, member: str, max_bytes: int) -> bytes:
    """The bytes of an image in a container.

    Raises:
      Refused: it is empty, longer than `max_bytes`, or cannot be read.
      FileNotFoundError: there is none of the name.
      OSError: the container cannot be read.
    """
    try:
        data = open_container(container).read(member, max_bytes)
    except KeyError:
        raise FileNotFoundError(
            errno.ENOENT, "no such file in the archive or table", f"{container}/{member}"
        ) from None
    except DAMAGED as error:
        raise Refused("unreadable", f"the archive is damaged there: {error}") from None
    if not data:
        raise Refused("empty", "the file has no bytes")
    return data


def size_of(path: str) -> float | None:
    """About how many bytes an image has, wherever it lies; None where that cannot be told."""
    try:
        try:
            return float(os.stat(path).st_size)
        except NotADirectoryError:
            inside = find_container(path)
            return None if inside is None else open_container(inside[0]).size(inside[1])
    except (*DAMAGED, OSError, KeyError):
        return None


_opened: collections.OrderedDict[tuple[str, int, int], Container] = collections.OrderedDict()
_lock = threading.Lock()


def open_container(path: str) -> Container:
    """A container with its index, which is kept while the file stays as it is.

    Raises:
      OSError: it cannot be read.
      tarfile.TarError, zipfile.BadZipFile, pyarrow.ArrowException: it is none, or damaged.
    """
    status = os.stat(path)
    key = path, status.st_size, status.st_mtime_ns
    with _lock:
        if key in _opened:
            _opened.move_to_end(key)
            return _opened[key]
    made = _open(path)
    with _lock:
        _opened[key] = made
        while len(_opened) > _MOST_OPEN:
            _opened.popitem(last=False)  # not closed by hand: another thread may be reading
    return made


def _open(path: str) -> Container:
    name = os.path.basename(path).lower()
    if name.endswith(".zip"):
        return _Zip(path)
    if name.endswith((".parquet", ".pq")):
        return _Parquet(path)
    if name.endswith(".arrow"):
        return _Arrow(path)
    if ".tfrecord" in name or ".array_record" in name:
        return _Records(path)
    if name.endswith(".tar"):
        return _Tar(path)
    raise FileNotFoundError(errno.ENOENT, "no archive or table of images, so that nothing lies in it", path)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Refused("too_many_bytes", f"{size} bytes; {max_bytes} are allowed")


def _plain(name: str) -> str:
    """A member's name without what leads nowhere: ./a//b is a/b."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


class _Tar:
    """An uncompressed tar: where each file's bytes are."""

    def __init__(self, path: str) -> None:
        self._path, self._places = path, dict[str, tuple[int, int]]()
        with tarfile.open(path, "r:") as file:
            try:
                for member in file:
                    self._add(member)
            except tarfile.ReadError:  # cut off: its last file says so when it is read
                if not self._places:
                    raise

    def _add(self, member: tarfile.TarInfo) -> None:
        name = _plain(member.name)
        if member.islnk() and _plain(member.linkname) in self._places:
            self._places[name] = self._places[_plain(member.linkname)]
        elif member.isreg() and not member.issparse():
            self._places[name] = member.offset_data, member.size

    def members(self) -> Iterator[str]:
        return iter(self._places)

    def size(self, member: str) -> float:
        return self._places[member][1]

    def read(self, member: str, max_bytes: int) -> bytes:
        offset, size = self._places[member]
        _check_size(size, max_bytes)
        with open(self._path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise Refused("unreadable", "the archive ends in the midst of the file")
        return data


class _Zip:
    """A zip archive, whose files are compressed one by one."""

    def __init__(self, path: str) -> None:
        try:
            self._file = zipfile.ZipFile(path, metadata_encoding="utf-8")  # as systems write it unasked
        except UnicodeDecodeError:
            self._file = zipfile.ZipFile(path)
        self._infos = {_plain(info.filename): info for info in self._file.infolist() if not info.is_dir()}

    def members(self) -> Iterator[str]:
        return iter(self._infos)

    def size(self, member: str) -> float:
        return self._infos[member].file_size

    def read(self, member: str, max_bytes: int) -> bytes:
        info = self._infos[member]
        _check_size(info.file_size, max_bytes)
        if info.flag_bits & 1:
            raise Refused("unreadable", "the file is encrypted in the archive")
        with self._file.open(info) as file:
            return file.read(max_bytes + 1)


def _place(member: str) -> tuple[str, int]:
    """Column and row of a member of a table."""
    column, _, row = member.rpartition("/")
    if not row.isdecimal() or not row.isascii():
        raise KeyError(member)
    return column, int(row)


def _bytes_of(value: Any, max_bytes: int) -> bytes:
    """The encoded image of a cell: bytes, or a structure with the field `bytes`."""
    if isinstance(value, dict):
        value = value.get("bytes")
    data = value if isinstance(value, bytes) else b""
    _check_size(len(data), max_bytes)
    return data


class _Parquet:
    """A Parquet file; a group of rows is decoded at a time, and kept as long as there is room."""

    _groups: collections.OrderedDict[tuple[int, str, int], Any] = collections.OrderedDict()  # of all files
    _groups_lock = threading.Lock()
    _numbers = itertools.count()

    def __init__(self, path: str) -> None:
        import numpy as np
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._sizes: dict[str, float] = {}  # by column
        self._loading, self._number = threading.Lock(), next(self._numbers)

    def members(self) -> Iterator[str]:
        return iter(())

    def size(self, member: str) -> float:
        name, _ = _place(member)
        if name not in self._sizes:
            self._sizes[name] = self._mean_size(name)
        return self._sizes[name]

    def _mean_size(self, name: str) -> float:
        groups = map(self._file.metadata.row_group, range(self._file.metadata.num_row_groups))
        parts = [group.column(place) for group in groups for place in range(group.num_columns)]
        mine = (part for part in parts if part.path_in_schema.partition(".")[0] == name)
        return sum(part.total_compressed_size for part in mine) / max(1, self._file.metadata.num_rows)

    def read(self, member: str, max_bytes: int) -> bytes:
        import numpy as np

        column, row = _place(member)
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group >= len(self._ends):
            raise KeyError(member)
        first = int(self._ends[group - 1]) if group else 0
        return _bytes_of(self._group(column, group)[row - first].as_py(), max_bytes)

    def _group(self, column: str, group: int) -> Any:
        key = self._number, column, group
        with self._loading:  # threads that want rows of one group wait for one of them
            with self._groups_lock:
                if key in self._groups:
                    self._groups.move_to_end(key)
                    return self._groups[key]
            if column not in self._file.schema_arrow.names:
                raise KeyError(column)
            found = self._file.read_row_group(group, columns=[column])[column]
            with self._groups_lock:
                self._groups[key] = found
                while len(self._groups) > 1 and _bytes_in(self._groups) > _GROUP_BYTES:
                    self._groups.popitem(last=False)
            return found


def _bytes_in(groups: Mapping[Any, Any]) -> int:
    return sum(group.nbytes for group in groups.values())


class _Arrow:
    """An Arrow stream or file, mapped into memory."""

    def __init__(self, path: str) -> None:
        self._table = read_arrow(path)
        self._mean_bytes = os.path.getsize(path) / max(1, len(self._table))

    def members(self) -> Iterator[str]:
        return iter(())

    def size(self, member: str) -> float:
        return self._mean_bytes

    def read(self, member: str, max_bytes: int) -> bytes:
        column, row = _place(member)
        if column not in self._table.column_names or row >= len(self._table):
            raise KeyError(member)
        return _bytes_of(self._table[column][row].as_py(), max_bytes)


def read_arrow(path: str) -> Any:
    """A pyarrow.Table whose bytes stay on disk until they are looked at."""
    import pyarrow as pa

    source = pa.memory_map(path)
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source).read_all()


class _Records:
    """A TFRecord or ArrayRecord file of tf.train.Example."""

    def __init__(self, path: str) -> None:
        from urnet_tf.images import tf_records

        self._records = tf_records.RecordFile(path)
        self._mean_bytes = self._records.mean_size()

    def members(self) -> Iterator[str]:
        return iter(())

    def size(self, member: str) -> float:
        return self._mean_bytes

    def read(self, member: str, max_bytes: int) -> bytes:
        from urnet_tf.images import tf_records

        feature, row = _place(member)
        if row >= len(self._records):
            raise KeyError(member)
        values = tf_records.parse_example(self._records.read(row))[feature]
        return _bytes_of(values[0] if values else None, max_bytes)
