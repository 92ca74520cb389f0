"""What the program keeps on disk: files, and the work directory of a run."""

from urnet_tf.store.files import (
    atomic_path,
    codes_of,
    column,
    fingerprint,
    hash_file,
    open_column,
    read_array,
    read_json,
    read_table,
    remove,
    sync_file,
    sync_tree,
    write_array,
    write_json,
    write_table,
    write_text,
)
from urnet_tf.store.workdir import MARKER, DamagedResult, UnitLog, Workdir

__all__ = [
    "MARKER",
    "DamagedResult",
    "UnitLog",
    "Workdir",
    "atomic_path",
    "codes_of",
    "column",
    "fingerprint",
    "hash_file",
    "open_column",
    "read_array",
    "read_json",
    "read_table",
    "remove",
    "sync_file",
    "sync_tree",
    "write_array",
    "write_json",
    "write_table",
    "write_text",
]
