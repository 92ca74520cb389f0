"""Files: written whole or not at all, flushed to the disk, hashed, and removed only where that is allowed.

A file that `atomic_path` has put in place is on the disk with its contents (fsync of the file, then of its
directory), on file systems that keep what fsync promises: local ones such as ext4, XFS and APFS do, many
network and FUSE mounts do not.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from urnet_tf.errors import RunError

if TYPE_CHECKING:
    import pyarrow as pa

_HASH_BLOCK = 1 << 20
_MACHINE = os.urandom(4).hex()  # processes of two machines may have one number, and share a folder


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling of `path` that replaces it when the block ends without an error.

    A file is flushed to the disk before it replaces the old one. The block may make a directory instead,
    which it flushes itself where that matters (`sync_tree`).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{_MACHINE}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not temporary.is_dir():
            sync_file(temporary)
        os.replace(temporary, path)
        sync_file(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # a full disk names no file
    finally:
        remove(temporary, path.parent)


def sync_file(path: str | os.PathLike) -> None:
    """Flushes a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE mounts know no fsync of directories; of files they must.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: str | os.PathLike) -> None:
    """Flushes all files and directories below a directory, and itself, to the disk."""
    for parent, _, names in os.walk(os.fspath(directory), topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(parent, name)):
                sync_file(os.path.join(parent, name))
        sync_file(parent)


def remove(path: str | os.PathLike, inside: str | os.PathLike) -> None:
    """Removes a file, a link or a tree, if there is one; the only place in the program that removes anything.

    Links are removed and never followed, and no path leads out of `inside`, however it is written.

    Args:
      path: what goes.
      inside: a directory that the program made, or was given to write to; `path` must lie below it.

    Raises:
      RunError: `path` lies elsewhere; nothing was removed.
      OSError: it cannot be removed.
    """
    root = os.path.realpath(inside)
    place = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
    name = os.path.basename(place)
    if name in ("", ".", "..") or os.path.commonpath([root, place]) != root or place == root:
        raise RunError(
            f"Refused to remove {os.fspath(path)}, which does not lie below {os.fspath(inside)}; this is a "
            "fault of the program, please report it."
        )
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(place)


def hash_file(path: str | os.PathLike) -> str:
    """The blake2b-128 of a file's bytes, hexadecimal; reads it once, in blocks.

    Raises:
      OSError: there is no such file, or it is a directory, a pipe or a device, which is not waited for.
    """
    digest = hashlib.blake2b(digest_size=16)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.ENXIO, "a directory, pipe or device, not a file", os.fspath(path))
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically; numpy scalars and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; ValueError where it is none."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes one array as `.npy` atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Memory-maps a `.npy` file read-only."""
    return np.load(path, mmap_mode="r")


def write_table(
    path: str | os.PathLike,
    columns: Mapping,
    dtypes: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes Parquet atomically.

    Args:
      columns: column name to a sequence, numpy array or Arrow array of equal lengths.
      dtypes: column name to Arrow type name; one of the `*_COLUMNS` of `urnet_tf.schema`. Only
        these columns are written, in this order.
      metadata: of the file, which readers find at its schema.
    """
    import pyarrow as pa
    import pyarrow.parquet

    def arrow(values: Any, kind: Any) -> Any:
        is_arrow = isinstance(values, (pa.Array, pa.ChunkedArray))
        return values.cast(kind) if is_arrow else pa.array(values, type=kind)

    table = pa.table({name: arrow(columns[name], arrow_type(dtype)) for name, dtype in dtypes.items()})
    # Parquet's own types suffice. Arrow's would bind readers to the 64-bit offsets that are used here.
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True,
                               "store_schema": False}  # fmt: skip
    with atomic_path(path) as temporary:
        with pyarrow.parquet.ParquetWriter(temporary, table.schema, **options) as writer:
            writer.write_table(table)
            if metadata:
                writer.add_key_value_metadata(dict(metadata))


def read_table(
    path: str | os.PathLike, columns: Sequence[str] | None = None, where: Any = None
) -> "pa.Table":
    """Reads a Parquet file as a `pyarrow.Table`, its texts as large strings.

    With 32-bit offsets a column that is joined to one chunk fails at 2 GiB of text.

    Args:
      columns: that are read; None = all.
      where: a `pyarrow.compute` expression on the columns; None = all rows.
    """
    import pyarrow.parquet

    names = None if columns is None else list(columns)
    table = pyarrow.parquet.read_table(path, columns=names, filters=where, page_checksum_verification=True)
    return with_large_texts(table)


def read_column_names(path: str | os.PathLike) -> list[str]:
    """The names of the columns of a Parquet file, in order."""
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(path).names)


def with_large_texts(table: "pa.Table") -> "pa.Table":
    """A table whose columns of strings are of large strings: 64-bit offsets into their characters."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, table.schema.metadata))


def arrow_type(dtype: str) -> "pa.DataType":
    """The type of a column of the `*_COLUMNS` of `urnet_tf.schema`; a "string" is large."""
    import pyarrow as pa

    return pa.large_string() if dtype == "string" else pa.type_for_alias(dtype)


def columns_of(table: "pa.Table") -> dict[str, Any]:
    """Column name → column, as `write_table` takes them."""
    return dict(zip(table.column_names, table.columns, strict=True))


def column(table: "pa.Table", name: str) -> np.ndarray:
    """One column of a `pyarrow.Table` as a numpy array (object dtype for strings)."""
    return table.column(name).to_numpy(zero_copy_only=False)


def codes_of(column: "pa.ChunkedArray", ordered: bool = False) -> tuple[np.ndarray, list]:
    """A text column as numbers, int32 [N], and the distinct texts by number; see `encode_texts`."""
    numbers, texts = encode_texts(column, ordered)
    return numbers, texts.to_pylist()


def encode_texts(column: "pa.ChunkedArray", ordered: bool = False) -> tuple[np.ndarray, "pa.Array"]:
    """A text column as numbers, int32 [N], and the distinct texts by number, which stay in Arrow's memory.

    Args:
      column: without nulls.
      ordered: whether the texts come in the order of their code points; else in that of their first rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.zeros(0, np.int32), pa.array([], column.type)
    texts = encoded.chunk(0).dictionary
    numbers = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    numbers = numbers.astype(np.int32, copy=False)
    if not ordered:
        return numbers, texts
    order = pc.sort_indices(texts)
    place = np.empty(len(texts), np.int32)
    place[order.to_numpy()] = np.arange(len(texts), dtype=np.int32)
    return place[numbers], texts.take(order)


def number_groups(column: "pa.ChunkedArray") -> np.ndarray:
    """Numbers of a text column that are equal for equal texts, and -1 for "": int32 [N]."""
    import pyarrow.compute as pc

    numbers, texts = encode_texts(column)
    return np.where(numbers == pc.index(texts, "").as_py(), -1, numbers) if len(texts) else numbers


def is_equal(table: "pa.Table", name: str, text: str) -> np.ndarray:
    """Which rows hold a text: bool [N]. A text column as a numpy array would be an object a row."""
    import pyarrow.compute as pc

    return np.asarray(pc.equal(table.column(name), text).to_numpy(), bool)


def fingerprint(*values: Any) -> str:
    """A short hash of plain values; equal for equal JSON."""
    text = json.dumps(_plain(values), sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_column(path: str | os.PathLike, shape: tuple[int, ...], dtype: DTypeLike) -> np.memmap:
    """Memory-maps a `.npy` column for writing; an existing file of that shape and dtype is continued.

    Rows survive a kill of this process once assigned, and a power cut once a `UnitLog` that knows the
    column has marked them. The whole file is allocated at once, so that a full disk is an error here and
    not the end of the process (SIGBUS) at some assignment.

    Raises:
      OSError: the disk has no room for the column.
      RunError: the file holds another shape or dtype.
    """
    path = pathlib.Path(path)
    if path.exists():
        existing = np.lib.format.open_memmap(path, mode="r+")
        if existing.shape == tuple(shape) and existing.dtype == np.dtype(dtype):
            return existing
        raise RunError(
            f"{path} holds {existing.dtype} {existing.shape} where {np.dtype(dtype)} {tuple(shape)} was "
            "expected; delete it to start over."
        )
    with atomic_path(path) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=tuple(shape)).flush()
        _allocate(temporary, path)
    return np.lib.format.open_memmap(path, mode="r+")


def _allocate(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a sparse file its blocks."""
    with open(temporary, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
