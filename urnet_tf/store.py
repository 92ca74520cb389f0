"""The work directory: atomic files, completion markers, resumable units, memory-mapped columns.

A stage fills `<stage>.partial/` and the directory is renamed to `<stage>/` when its marker
`done.json` is inside, so a stage directory that has its final name is complete. A stage that was
killed finds its own units again as long as its key (configuration and inputs) is the same.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

import numpy as np

from urnet_tf.errors import RunError

MARKER = "done.json"
_KEY_FILE = "key.txt"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling of `path` that replaces it when the block ends without an error."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value) -> None:
    """Writes JSON atomically; numpy scalars and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike):
    """Reads a JSON file."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes one array as `.npy` atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Memory-maps a `.npy` file read-only."""
    return np.load(path, mmap_mode="r")


def write_table(path: str | os.PathLike, columns: Mapping, dtypes: Mapping[str, str]) -> None:
    """Writes Parquet atomically.

    Args:
      columns: column name to a sequence, numpy array or Arrow array of equal lengths.
      dtypes: column name to Arrow type name; one of the `*_COLUMNS` of `urnet_tf.schema`. Only
        these columns are written, in this order.
    """
    import pyarrow as pa
    import pyarrow.parquet

    def arrow(values, kind):
        is_arrow = isinstance(values, (pa.Array, pa.ChunkedArray))
        return values.cast(kind) if is_arrow else pa.array(values, type=kind)

    table = pa.table({name: arrow(columns[name], pa.type_for_alias(dtype)) for name, dtype in dtypes.items()})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd", compression_level=1)


def read_table(path: str | os.PathLike, columns: list[str] | None = None, where=None):
    """Reads a Parquet file as a `pyarrow.Table`; `where` is a `pyarrow.compute` expression on its columns."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=columns, filters=where)


def column(table, name: str) -> np.ndarray:
    """One column of a `pyarrow.Table` as a numpy array (object dtype for strings)."""
    return table.column(name).to_numpy(zero_copy_only=False)


def fingerprint(*values) -> str:
    """A short hash of plain values; equal for equal JSON."""
    text = json.dumps(_plain(values), sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_column(path: str | os.PathLike, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Memory-maps a `.npy` column for writing; an existing file of that shape and dtype is continued.

    Rows survive a kill of this process once assigned; mark them in a `UnitLog` after assigning.
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
    return np.lib.format.open_memmap(path, mode="r+")


class UnitLog:
    """Remembers which units of a long loop are complete, with a few facts about each.

    One small file a unit, written atomically after the unit's results, so a killed loop redoes at
    most the unit in hand.
    """

    def __init__(self, directory: str | os.PathLike, total: int):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.total = total

    def pending(self) -> list[int]:
        """The units not yet complete, in order."""
        return [unit for unit in range(self.total) if not self._path(unit).exists()]

    def complete(self, unit: int, facts=None) -> None:
        """Marks a unit complete; `facts` is JSON that `facts()` gives back."""
        write_json(self._path(unit), facts)

    def facts(self) -> list:
        """The facts of all units in order; every unit must be complete."""
        return [read_json(self._path(unit)) for unit in range(self.total)]

    def _path(self, unit):
        return self.directory / f"{unit:06d}.json"


class Workdir:
    """A run's directory with one sub-directory a stage."""

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)

    def path(self, stage: str) -> pathlib.Path:
        """The directory of a complete stage."""
        return self.root / stage

    def marker(self, stage: str) -> dict | None:
        """The completion marker of a stage, or None."""
        try:
            return read_json(self.root / stage / MARKER)
        except (OSError, ValueError):
            return None

    def open_partial(self, stage: str, key: str) -> pathlib.Path:
        """The directory that a stage fills; what is there under another key is removed first."""
        partial = self.root / f"{stage}.partial"
        if partial.exists() and _read_key(partial) != key:
            shutil.rmtree(partial)
        for litter in list(partial.rglob(".*.tmp")):  # of `atomic_path` in a killed process
            shutil.rmtree(litter) if litter.is_dir() else litter.unlink(missing_ok=True)
        partial.mkdir(parents=True, exist_ok=True)
        write_text(partial / _KEY_FILE, key)
        return partial

    def holds_partial(self, stage: str, key: str) -> bool:
        """Whether a killed run of this stage under the same key can be continued."""
        return _read_key(self.root / f"{stage}.partial") == key

    def finish(self, stage: str, marker: dict) -> None:
        """Writes the marker into the partial directory and gives the directory its final name."""
        write_json(self.root / f"{stage}.partial" / MARKER, marker)
        self._give_final_name(stage)

    def recover(self, stage: str) -> bool:
        """Goes on with a `finish` that was killed after its marker; returns whether there was one."""
        found = (self.root / f"{stage}.partial" / MARKER).exists()
        if found:
            self._give_final_name(stage)
        elif (self.root / stage).exists():
            shutil.rmtree(self.root / f"{stage}.old", ignore_errors=True)
        return found

    def _give_final_name(self, stage):
        partial, final = self.root / f"{stage}.partial", self.root / stage
        old = self.root / f"{stage}.old"
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)


def _read_key(directory):
    try:
        return (directory / _KEY_FILE).read_text(encoding="utf-8")
    except OSError:
        return None


def _plain(value):
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
