"""Which image of a run is meant: by the path that people have, an address, or an instance id.

A path may be as the crawl lists it, relative to where the user is, absolute, of a folder that was moved, or
any end of it.
"""

import dataclasses
import difflib
import os
import pathlib
import re
from typing import Any

from urnet_tf import store
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.errors import UsageError
from urnet_tf.store.bucket_trees import place_of
from urnet_tf.text_rules import one_line

_COMPARED = 2000  # paths compared with a name that nothing has
_ADDRESS = re.compile(r"(https?|ftp|s3|gs)://")


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a run was made from, and how it was read."""

    path: str
    kind: str  # of `crawl.readers`
    options: ListOptions


@dataclasses.dataclass(frozen=True)
class Found:
    """What fits: rows of instances.parquet, and rows of quarantine.parquet."""

    rows: list[dict[str, Any]]
    set_aside: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows) + len(self.set_aside)


def find_image(workdir_root: str | os.PathLike, image: str, origin: Origin | None = None) -> Found:
    """The images that a text means; at least one.

    Args:
      workdir_root: the work directory of a run that came at least as far as `pack`.
      image: an instance id, an address that the crawl tells, or a path or its end: `cat/12.jpg`, `12.jpg`.
      origin: where addresses are looked up.

    Raises:
      UsageError: nothing was packed yet, or no image fits; the message names the nearest ones.
    """
    root, image = pathlib.Path(workdir_root), str(image).strip()
    if not (root / "pack" / "instances.parquet").exists():
        raise UsageError(f"Expected a run with packed images in {root}; found none. Run `urnet run` first.")
    if not image:
        raise UsageError("Expected a path, file name, address or id of an image; received an empty text.")
    if _is_id(image):
        rows = _find_id(root, int(image))
        if rows:
            return Found(rows, [])
    texts = [image]
    if _ADDRESS.match(image):
        texts = _listed_under(origin, image)
    found = Found([], [])
    for text in texts:
        wanted = text.replace(os.sep, "/").removeprefix("./")
        inside = _inside_crawl(root, text)
        tables = (root / "pack" / f"{name}.parquet" for name in ("instances", "quarantine"))
        rows, set_aside = (_find(table, wanted, inside) for table in tables)
        if inside is not None and any(row["path"] == inside for row in (*rows, *set_aside)):
            rows, set_aside = ([r for r in some if r["path"] == inside] for some in (rows, set_aside))
        found = Found([*found.rows, *rows], [*found.set_aside, *set_aside])
    if not len(found):
        raise UsageError(_nothing_found(root, image))
    return found


def crawl_root(root: pathlib.Path) -> str | None:
    """Where the paths of a run start; None where that is not known."""
    marker = store.Workdir(root).marker("ingest") or {}
    place = (marker.get("metadata") or {}).get("root")
    return place_of(place) if isinstance(place, str) else None


def _inside_crawl(root: pathlib.Path, image: str) -> str | None:
    """A path on this machine, from where the user is, as the crawl lists it; None where it lies elsewhere."""
    place = crawl_root(root)
    if place is None:
        return None
    for resolve in (os.path.abspath, os.path.realpath):
        inside = os.path.relpath(resolve(image), resolve(place)).replace(os.sep, "/")
        if not inside.startswith("../") and os.path.lexists(resolve(image)):
            return inside
    return None


def _listed_under(origin: Origin | None, address: str) -> list[str]:
    """The paths that the crawl lists for an address."""
    from urnet_tf.crawl.addresses import find_address

    return [] if origin is None else find_address(origin.path, origin.kind, address, origin.options)


def _find_id(root: pathlib.Path, number: int) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    where = pc.field("instance_id") == number
    return store.read_table(root / "pack" / "instances.parquet", where=where).to_pylist()


def _find(table_path: pathlib.Path, wanted: str, inside: str | None) -> list[dict[str, Any]]:
    """Rows of that path, or whose path ends in it at a "/", or, of an absolute path, is an end of it."""
    import pyarrow.compute as pc

    if not table_path.exists():
        return []
    path = pc.field("path")
    where = (path == wanted) | pc.ends_with(path, f"/{wanted.lstrip('/')}")
    if inside is not None:
        where = where | (path == inside)
    rows = store.read_table(table_path, where=where).to_pylist()
    exact = [row for row in rows if row["path"] == wanted]
    if rows:
        return exact or rows
    # The listed path is relative to the root of the crawl, so it is an end of this one.
    ends = [wanted[i + 1 :] for i, letter in enumerate(wanted) if letter == "/"]
    rows = store.read_table(table_path, where=path.isin(ends)).to_pylist() if ends else []
    longest = max((len(row["path"]) for row in rows), default=0)
    return [row for row in rows if len(row["path"]) == longest]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _nothing_found(root: pathlib.Path, image: str) -> str:
    if _is_id(image):
        total = store.read_table(root / "pack" / "instances.parquet", ["instance_id"]).num_rows
        return f"Expected an instance id from 0 to {total - 1}, or a path; received {image}."
    if _ADDRESS.match(image):
        return (
            f"No image of this run is known to come from {one_line(image)[:200]}; give its path or file name."
        )
    name = image.replace(os.sep, "/").rsplit("/", 1)[-1]
    by_name = {path.rsplit("/", 1)[-1]: path for path in reversed(_similar_paths(root, name))}
    near = [by_name[n] for n in difflib.get_close_matches(name, by_name, n=3, cutoff=0.5)]
    hint = f" Nearest: {', '.join(one_line(path)[:200] for path in near)}." if near else ""
    return f"No image of this run is called {image!r}.{hint}"


def _similar_paths(root: pathlib.Path, name: str) -> list[str]:
    """Some paths that share the beginning of a file name, as long a one as there is; else the first paths."""
    import pyarrow.compute as pc

    stem, found = name.rsplit(".", 1)[0], []
    for table in ("instances", "quarantine"):
        table_path = root / "pack" / f"{table}.parquet"
        if not table_path.exists():
            continue
        for length in (*range(len(stem), 2, -2), 0):
            where = pc.match_substring(pc.field("path"), stem[:length], ignore_case=True) if length else None
            paths = store.read_table(table_path, ["path"], where=where)["path"][:_COMPARED].to_pylist()
            if paths:
                found += paths
                break
    return found
