"""What earlier runs have found out about the files of a crawl: a part of the stage ingest.

A file is known by its path, size, time and inode, so that it need not be read, or by its bytes, so that it
need not be decoded. What was found under other limits, or by other versions of the decoders, does not count.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf.config import Config
from urnet_tf.images.known_records import KnownRecords, decoders, open_ahead
from urnet_tf.images.probe import PROBE_COLUMNS
from urnet_tf.images.thumbnails import THUMBNAIL_BYTES
from urnet_tf.stages.settings import packed_with
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import AHEAD, DamagedResult, arrow_type, read_array, read_json, read_table, write_json
from urnet_tf.store.lookup import RowsByKey, keys_of, keys_of_hex

if TYPE_CHECKING:
    import pyarrow as pa

FILES, UNITS, THUMBNAILS = "files.parquet", "units_files", "thumbnails.npy"
# Of a file in a unit: its place in the listing, and its key, see `keys_of_files`.
UNIT_COLUMNS = {"place": "int64", "identity_key": "uint64", "path_key": "uint64"}
# Of FILES, a row a listed file, usable or not; `picture` is "" where it is not.
FILE_COLUMNS = PROBE_COLUMNS | UNIT_COLUMNS | {"path": "string", "picture": "string"}
_INSPECTED_WITH = "inspected_with.json"


class KnownFiles:
    """Rows about files, from one or two directories of the stage ingest, and their thumbnails.

    Attributes:
      table: of `probe.PROBE_COLUMNS`, M rows.
    """

    def __init__(self, tables: Iterable["pa.Table"], thumbnails: Iterable[np.ndarray | None]) -> None:
        import pyarrow as pa

        tables = list(tables)
        self._thumbnails = list(thumbnails)
        self._ends = np.cumsum([len(table) for table in tables])
        columns = PROBE_COLUMNS | UNIT_COLUMNS
        none = pa.table({name: pa.array([], arrow_type(kind)) for name, kind in columns.items()})
        table = pa.concat_tables(tables or [none])
        self.table: Any = table.select(list(PROBE_COLUMNS))
        self._places = table["place"].to_numpy()
        self._by_file = RowsByKey(file_keys_in(table))
        self._by_content = RowsByKey(keys_of_hex(table["content_hash"]))

    def __len__(self) -> int:
        return len(self._places)

    def find_files(self, keys: np.ndarray) -> np.ndarray:
        """The rows of files by their keys, uint64 [n, 2]: int64 [n], -1 where there is none."""
        return self._by_file.find(keys)

    def find_content(self, content_hash: str) -> int:
        """The row of a file with these bytes, or -1."""
        if not len(self):
            return -1
        return int(self._by_content.find(keys_of_hex([content_hash]))[0])

    def thumbnails_of(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, THUMBNAIL_BYTES]."""
        found = np.zeros((len(rows), THUMBNAIL_BYTES), np.uint8)
        sources = np.searchsorted(self._ends, rows, side="right")
        for number, thumbnails in enumerate(self._thumbnails):
            mine = sources == number
            if thumbnails is not None and mine.any():
                found[mine] = thumbnails[self._places[rows[mine]]]
        return found


def keys_of_files(names: Sequence[str], identities: Sequence[str]) -> np.ndarray:
    """What tells that a file is the one that was looked into: uint64 [n, 2].

    Args:
      names: paths as listed.
      identities: what `probe.identify_file` says of them; "" = nothing, which gives zeros.

    Returns:
      A hash of the identity, and one of the path, a row each.
    """
    found = np.zeros((len(names), 2), np.uint64)
    there = [row for row, identity in enumerate(identities) if identity]
    for column, texts in enumerate((identities, names)):
        found[there, column] = keys_of([texts[row].encode() for row in there])[:, 0]
    return found


def file_keys_in(table: "pa.Table") -> np.ndarray:
    """The keys of files as a table with UNIT_COLUMNS has them: uint64 [n, 2]."""
    return np.stack([table["identity_key"].to_numpy(), table["path_key"].to_numpy()], axis=1)


def inspected_with(config: Config) -> dict[str, Any]:
    """What decides what is found in a file."""
    settings = config.ingest
    limits = {name: getattr(settings, name) for name in ("max_bytes", "max_pixels", "min_side_px")}
    # Raise the version when the same files give other results, thumbnails or groups of copies.
    return {"version": 3, **limits, "decoders": decoders()}


def note_how(context: StageContext) -> None:
    """Writes into the directory of the stage how its files are looked into."""
    write_json(context.out / _INSPECTED_WITH, inspected_with(context.config))


def open_known_files(context: StageContext) -> tuple[KnownFiles, list[KnownRecords]]:
    """What the last complete run of ingest knows, and one that was killed when the crawl was another.

    Also what they have packed ahead and the stage pack has not taken yet.
    """
    with_thumbnails = context.config.ingest.copy_similarity is not None
    tables: list[pa.Table] = []
    thumbnails: list[np.ndarray | None] = []
    ahead: list[KnownRecords] = []
    complete, killed = _last_complete(context, with_thumbnails), context.kept_partial()
    for place in (complete, killed):
        if place is None or not was_alike(place, context.config):
            continue
        pictures = place / THUMBNAILS
        if with_thumbnails and not pictures.exists():
            continue
        tables += _tables_in(place)
        thumbnails += [read_array(pictures) if with_thumbnails else None] * (len(tables) - len(thumbnails))
        records = open_ahead(place / AHEAD, packed_with(context.config))
        ahead += [records] if records is not None else []
    return KnownFiles(tables, thumbnails), ahead


def _last_complete(context: StageContext, with_thumbnails: bool) -> pathlib.Path | None:
    names = [FILES, _INSPECTED_WITH] + [THUMBNAILS] * with_thumbnails
    try:
        return [context.earlier(name) for name in names][0].parent
    except DamagedResult as damage:
        if context.earlier_marker() is not None:
            logging.info("ingest: what is known of the files is not used, since %s.", damage.problem)
        return None


def was_alike(place: pathlib.Path, config: Config) -> bool:
    """Whether the files of another run of ingest were looked into in the same way."""
    try:
        return bool(read_json(place / _INSPECTED_WITH) == inspected_with(config))
    except (OSError, ValueError):
        return False


def _tables_in(place: pathlib.Path) -> list["pa.Table"]:
    """The table of a complete run, or the units of one that was killed."""
    import pyarrow as pa

    columns = [*PROBE_COLUMNS, *UNIT_COLUMNS]
    if (place / FILES).exists():
        return [read_table(place / FILES, columns)]
    tables = [read_table(path, columns) for path in sorted((place / UNITS).glob("part-*.parquet"))]
    return [pa.concat_tables(tables)] if tables else []
