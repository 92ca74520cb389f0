"""Paths of a list that lead nowhere as they are written: the obvious repairs, tried and told.

Input: the root and the listed paths. Output: paths that lead to files, and notes. Whether a repair is needed
is asked of a sample of the rows; each file that is found as it is written stays as it is.
"""

import functools
import itertools
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.trees import IMAGE_SUFFIXES
from urnet_tf.text_rules import quote

_SAMPLE = 100  # paths of each kind
_FOLDERS_TO_TRY = 200
_TEXT = pa.large_string()
URL = r"^(https?|ftp|s3|gs)://"  # an address in a network
_DRIVE = re.compile(r"[A-Za-z]:[/\\]|\\\\")

Rewriting = Callable[[str], str]


def mend_paths(root: str, paths: Any) -> tuple[Any, list[str]]:
    """The paths, changed where that finds their files, and notes.

    Tried are: slashes for backslashes, file:// addresses, the folders of another machine in front left out,
    the other Unicode form, other case, and a suffix of images that is not written.

    Args:
      root: where relative paths start.
      paths: a text column.
    """
    sample = _sample(paths)
    lost = [path for path in sample if not _is_there(root, path)]
    if not lost:
        return paths, []
    finder = _Finder(root)
    ways = [("", _unchanged), *_notations(lost), *_without_folders(finder, lost)]
    counts = [sum(finder.find(rewrite(path)) is not None for path in lost) for _, rewrite in ways]
    best = max(range(len(ways)), key=lambda place: (counts[place], -place))
    if not counts[best]:
        return paths, []
    words, rewrite = ways[best]
    listed, found, examples = paths.to_pylist(), 0, list[str]()
    for place, path in enumerate(listed):
        if _is_there(root, path):
            continue
        other = finder.find(rewrite(path))
        if other is not None:
            listed[place], found = other, found + 1
            if len(examples) < 1:
                examples.append(f"{ascii(path)} is read as {ascii(other)}")
    how = words or "in the other Unicode form or case, or with the suffix that is on disk"
    note = (
        f"{found} of {len(listed)} listed files are not there as written, and are found {how}: {examples[0]}"
    )
    return pa.chunked_array([pa.array(listed, _TEXT)]), [note]


def suggest_root(root: str, paths: Sequence[str]) -> str | None:
    """Another folder in which the first of the paths would be found, or None."""
    parents = [os.path.dirname(root), os.path.dirname(os.path.dirname(root))]
    try:
        with os.scandir(root) as entries:
            some = itertools.islice(entries, _FOLDERS_TO_TRY)
            below = sorted(entry.path for entry in some if entry.is_dir())
    except OSError:
        below = []
    for folder in (*below, *parents):
        finder = _Finder(folder)
        ways = [("", _unchanged), *_notations(paths), *_without_folders(finder, paths)]
        if any(finder.find(rewrite(path)) for _, rewrite in ways for path in paths):
            return folder
    return None


def _is_there(root: str, path: str) -> bool:
    try:
        return os.path.lexists(os.path.join(root, path))
    except ValueError:  # a null byte
        return False


def _sample(paths: Any) -> list[str]:
    """Paths from everywhere in the list, and more of those that hold what often needs a repair."""
    count = len(paths)
    step = max(1, count // _SAMPLE)
    found = [paths[place].as_py() for place in range(0, count, step)]
    is_odd = pc.or_(pc.invert(pc.string_is_ascii(paths)), pc.match_substring_regex(paths, r"[\\%]"))
    odd = paths.filter(is_odd).slice(0, _SAMPLE).to_pylist()
    return [path for path in [*found, *odd] if path and "\0" not in path]


def _unchanged(path: str) -> str:
    return path


def _notations(paths: Iterable[str]) -> list[tuple[str, Rewriting]]:
    """Ways of writing a path that programs elsewhere use, as far as these paths could be written so."""
    ways: list[tuple[str, Rewriting]] = []
    some = list(paths)
    if any(path.casefold().startswith("file:") for path in some):
        ways.append(("as the path of their file: address", _from_file_url))
    if any("\\" in path for path in some):
        ways.append(("with slashes for backslashes", _with_slashes))
    if any("%" in path for path in some):
        ways.append(("with %20 and the like decoded", urllib.parse.unquote))
    return ways


def _from_file_url(path: str) -> str:
    if not path.casefold().startswith("file:"):
        return path
    return urllib.parse.unquote(urllib.parse.urlsplit(path).path)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _plain(path: str) -> str:
    return _with_slashes(_from_file_url(path))


def _without_folders(finder: "_Finder", paths: Sequence[str]) -> list[tuple[str, Rewriting]]:
    """Rewritings that leave out folders in front, which another machine or a parent has."""
    for path in paths[:20]:
        parts = _plain(path).split("/")
        for count in range(1, len(parts)):
            if parts[count] and finder.find("/".join(parts[count:])) is not None:
                prefix = "/".join(parts[:count]) + "/"
                return [(f"without {quote(prefix)} in front", functools.partial(_without, prefix))]
    return []


def _without(prefix: str, path: str) -> str:
    return _plain(path).removeprefix(prefix)


class _Finder:
    """Finds files below a root although case, Unicode form or suffix differ; reads each folder once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names = functools.lru_cache(4096)(self._list)

    def find(self, path: str) -> str | None:
        """The path as it is on disk, or None."""
        if not path or "\0" in path:
            return None
        if _is_there(self._root, path):
            return path
        if os.path.isabs(path) or _DRIVE.match(path):
            return None
        folder = ""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for place, part in enumerate(parts):
            if part != "..":
                found = self._find_name(folder, part, is_last=place == len(parts) - 1)
                if found is None:
                    return None
                part = found
            folder = f"{folder}/{part}" if folder else part
        return folder

    def _find_name(self, folder: str, name: str, is_last: bool) -> str | None:
        exact, folded = self._names(folder)
        if name in exact:
            return name
        for wanted in (_folded(name), *(_folded(name + suffix) for suffix in IMAGE_SUFFIXES if is_last)):
            found = folded.get(wanted, ())
            forms = [other for other in found if _nfc(other) == _nfc(name)]
            if len(forms) == 1 or len(found) == 1:
                return [*forms, *found][0]
        return None

    def _list(self, folder: str) -> tuple[frozenset[str], dict[str, list[str]]]:
        try:
            names = os.listdir(os.path.join(self._root, folder))
        except (OSError, ValueError):
            names = []
        folded: dict[str, list[str]] = {}
        for name in names:
            folded.setdefault(_folded(name), []).append(name)
        return frozenset(names), folded


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _nfc(name).casefold()
