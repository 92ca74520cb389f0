"""Checksums of an export's files, by which a copy that is not whole is known before it is used.

`export.json` holds {"algorithm": "blake2b-128", "files": {path: {"bytes": ..., "hash": ...}}} of all files of
the version but itself; `b2sum -l 128` computes the same.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from urnet_tf.store import hash_file

KEY = "checksums"
EXPORT_JSON = "export.json"
SAVED_MODEL_PARTS = ("saved_model.pb", "variables/", "assets/", "assets.extra/")
_ALGORITHM = "blake2b-128"


def list_checksums(directory: str | os.PathLike) -> dict[str, Any]:
    """Of all files of a version, for its `export.json`."""
    directory = pathlib.Path(directory)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {
        name: {"bytes": path.stat().st_size, "hash": hash_file(path)}
        for path in paths
        if (name := path.relative_to(directory).as_posix()) != EXPORT_JSON
    }
    return {"algorithm": _ALGORITHM, "files": files}


def find_damage(
    directory: str | os.PathLike, metadata: Mapping, parts: Sequence[str] = (), *, contents: bool
) -> str | None:
    """What is wrong with a version's files, as the end of a sentence; None = nothing that can be known.

    Args:
      directory: of the version.
      metadata: of its `export.json`; exports of earlier releases hold no checksums.
      parts: files, and directories with `/` at the end, that are looked at; none = all.
      contents: whether to read the files; else their sizes are compared.
    """
    checksums = metadata.get(KEY)
    known = checksums.get("files") if isinstance(checksums, Mapping) else None
    if not isinstance(known, Mapping):
        return None
    for name, wanted in known.items():
        if parts and not any(
            name == part or (part.endswith("/") and name.startswith(part)) for part in parts
        ):
            continue
        path = pathlib.Path(directory, name)
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != wanted["bytes"]:
            return f"{name} has {size:,} of {wanted['bytes']:,} bytes"
        if contents and hash_file(path) != wanted["hash"]:
            return f"{name} has another content than was exported"
    return None
