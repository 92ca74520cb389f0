"""Trees of files as the readers of layouts see them: the folders, names and order of what lies there.

Input: a directory. Output: names of folders, and a walk over all files in natural order. What is never a part
of a crawl (hidden names, side files, folders that systems put beside pictures, work directories of this
program) is passed over here and nowhere else.
"""

import os
import re
from collections.abc import Collection, Iterator

from urnet_tf.crawl.table import is_utf8
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import DAMAGED, open_container
from urnet_tf.images.probe import os_reason, os_status, retried_or_stop
from urnet_tf.schema import LIST_SUFFIXES
from urnet_tf.text_rules import show_path

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".avif",
    ".heic", ".heif",
)  # fmt: skip
_SIDE_SUFFIXES = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".parquet"}
_SIDE_FILES = {"thumbs.db", "desktop.ini"}
# What systems and programs put beside pictures; names that begin with a dot are passed over anyway.
_SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "__pycache__", "$recycle.bin", "system volume information", "lost+found",
    "#recycle", "node_modules",
}  # fmt: skip
_OWN_LOCK = ".lock"  # in a work directory of this program, which may lie in the crawl
_DIGITS = re.compile(r"(\d+)")
_LINKED_LEVELS = 2  # class and source folders may be symbolic links; deeper ones are not followed


class Tree:
    """A directory of files.

    Attributes:
      root: its absolute path.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def folders(self, relative: str = "") -> list[str]:
        """Names of the folders in a folder, in natural order.

        Raises:
          UsageError: the folder cannot be listed.
          RunError: the disk or network fails.
        """
        return list_folders(os.path.join(self.root, relative))

    def files(self, relative: str = "") -> list[str]:
        """Names of the files in a folder, without side files; raises as `folders`."""
        return sorted(self._files_in(relative), key=natural)

    def lists(self, relative: str = "") -> list[str]:
        """Names of the files in a folder that may list images; raises as `folders`."""
        names = (e.name for e in _listed(os.path.join(self.root, relative)) if not _is_directory(e))
        return sorted((name for name in names if name.lower().endswith(LIST_SUFFIXES)), key=natural)

    def has_images(self, relative: str = "") -> bool:
        """Whether a folder itself holds a file with the name of an image."""
        return any(map(names_image, self._files_in(relative)))

    def _files_in(self, relative: str) -> Iterator[str]:
        """As `files`, in any order."""
        entries = _listed(os.path.join(self.root, relative))
        return (e.name for e in entries if not _is_directory(e) and not is_side_file(e.name))

    def holds_images(self, relative: str = "") -> bool:
        """Whether there is a file with the name of an image somewhere in a folder."""
        found = walk(os.path.join(self.root, relative), in_order=False)
        return any(names_image(path) for path, problem in found)

    def walk(self, relative: str = "") -> Iterator[tuple[str, str | None]]:
        """As `walk`, of a folder."""
        return walk(os.path.join(self.root, relative))


_IMAGE_NAME = re.compile(r".*\.(jpe?g|png|gif|bmp|webp|tiff?|heic|avif|jp2)(?![a-z0-9])")


class ArchiveTree(Tree):
    """The files of a tar or zip archive, as a tree.

    Raises:
      UsageError: it is none, or damaged.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._folders: dict[str, dict[str, None]] = {"": {}}
        self._files: dict[str, list[str]] = {}
        try:
            members = retried_or_stop(self.root, lambda: list(open_container(self.root).members()))
        except (*DAMAGED, OSError) as error:
            raise UsageError(
                f"Expected a tar or zip archive at {show_path(self.root)}; it cannot be read: {error}."
            ) from None
        for member in members:
            parts = member.split("/")
            if any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in parts):
                continue
            for place in range(len(parts) - 1):
                self._folders.setdefault("/".join(parts[:place]), {})[parts[place]] = None
            self._files.setdefault("/".join(parts[:-1]), []).append(parts[-1])

    def folders(self, relative: str = "") -> list[str]:
        return sorted(self._folders.get(relative, ()), key=natural)

    def files(self, relative: str = "") -> list[str]:
        return sorted(self._files_in(relative), key=natural)

    def lists(self, relative: str = "") -> list[str]:
        return []  # none can be given from inside of an archive

    def _files_in(self, relative: str) -> Iterator[str]:
        return (name for name in self._files.get(relative, ()) if not is_side_file(name))

    def holds_images(self, relative: str = "") -> bool:
        return any(names_image(path) for path, _ in self.walk(relative))

    def walk(self, relative: str = "") -> Iterator[tuple[str, str | None]]:
        waiting = [""]
        while waiting:
            place = waiting.pop()
            full = "/".join(part for part in (relative, place) if part)
            if place and full not in self._folders and full not in self._files:  # a file
                yield place, None if is_utf8(place) else "bad_name"
                continue
            names = sorted({*self.folders(full), *self.files(full)}, key=natural, reverse=True)
            waiting += [f"{place}/{name}" if place else name for name in names]


def open_tree(path: str) -> Tree:
    """The tree of a directory or an archive; raises as these."""
    return Tree(path) if os.path.isdir(path) else ArchiveTree(path)


def names_image(path: str) -> bool:
    """Whether a file is called like an image: x.jpg, x.JPG, x.jpg?w=640, or has no suffix at all.

    >>> [names_image(name) for name in ("a/x.JPG", "x.jpg?w=640", "5f3a9c", "model.pth")]
    [True, True, True, False]
    """
    name = path.rpartition("/")[2].lower()
    return "." not in name or bool(_IMAGE_NAME.match(name))


def walk(  # noqa: C901  (a loop, as trees are deeper than stacks)
    root: str, in_order: bool = True
) -> Iterator[tuple[str, str | None]]:
    """Walks a tree of any depth in natural order of names, or in any; no loop of links is entered.

    Yields:
      The path relative to `root` with "/", and None for a file or the status of a directory or
      name that cannot be used.

    Raises:
      RunError: the disk or network fails.
    """
    entered, ancestors = [], set()  # the directories from the root to here, and their identities

    def enter(relative: str, links: int) -> str | None:
        """Goes into a directory; the status that it has where that is not possible, else None."""
        directory = os.path.join(root, relative)
        try:
            status, entries = retried_or_stop(directory, lambda: (os.stat(directory), _entries(directory)))
        except OSError as error:
            return os_status(error)
        identity = status.st_dev, status.st_ino
        if identity in ancestors:
            return "symlink_loop"
        ancestors.add(identity)
        if in_order:
            entries.sort(key=lambda entry: natural(entry.name))
        entered.append((identity, relative, links, iter(entries)))
        return None

    if problem := enter("", _LINKED_LEVELS):
        yield "", problem
    while entered:
        identity, relative, links, entries = entered[-1]
        entry = next(entries, None)
        if entry is None:
            ancestors.remove(identity)
            entered.pop()
            continue
        path = f"{relative}/{entry.name}" if relative else entry.name
        if not is_utf8(entry.name):
            yield path, "bad_name"
        elif not _is_directory(entry):
            if not is_side_file(entry.name):
                yield path, None
        elif _suffix(entry.name) in IMAGE_SUFFIXES or (links <= 0 and entry.is_symlink()):
            yield path, "not_a_file"
        elif problem := enter(path, links - 1):
            yield path, problem


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What lies in a directory and may be a part of a crawl, in any order."""
    with os.scandir(directory) as entries:
        found = list(entries)
    names = {entry.name for entry in found}
    if _are_of_a_run(names):
        return []
    return [e for e in found if not e.name.startswith(".") and e.name.lower() not in _SYSTEM_FOLDERS]


def natural(name: str) -> tuple[list[int | str], str]:
    """Sorts 9.jpg before 10.jpg; the name itself breaks the tie of 01 and 1."""
    parts: list[int | str] = [*_DIGITS.split(name)]
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_side_file(name: str) -> bool:
    return _suffix(name) in _SIDE_SUFFIXES or name.lower() in _SIDE_FILES


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return retried_or_stop(entry.path, entry.is_dir)
    except OSError:  # a link that leads to itself: probing tells
        return False


def _listed(directory: str) -> list[os.DirEntry[str]]:
    try:
        return retried_or_stop(directory, lambda: _entries(directory))
    except OSError as error:
        raise UsageError(f"Cannot list the folder {show_path(directory)}: {os_reason(error)}.") from None


def list_folders(directory: str) -> list[str]:
    """Names of the folders in a directory, in natural order; raises as `Tree.folders`."""
    entries = _listed(directory)
    folders = [e for e in entries if _is_directory(e) and _suffix(e.name) not in IMAGE_SUFFIXES]
    return sorted((e.name for e in folders if not _is_work_directory(e.path)), key=natural)


def _is_work_directory(path: str) -> bool:
    return os.path.exists(os.path.join(path, _OWN_LOCK)) and _are_of_a_run(os.listdir(path))


def _are_of_a_run(names: Collection[str]) -> bool:
    """Whether a directory holds what a run leaves: its lock, and its configuration or first stage."""
    return _OWN_LOCK in names and any(n == "config.yaml" or n.partition(".")[0] == "ingest" for n in names)
