"""Reads class-folder trees, tells the kinds of input apart, counts and fingerprints them.

Input: a directory `class/image.jpg` or `class/source/image.jpg`, maybe below `train/`, `val/`,
`test/`. Output: a `Crawl`. Lists are read by `list_reader`, WebVision trees by `webvision`.
"""

import dataclasses
import functools
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence

import pyarrow as pa

from urnet_tf.crawl import list_reader, webvision
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.crawl.table import (
    REJECTED_SCHEMA,
    ROW_SCHEMA,
    Crawl,
    RowBuilder,
    class_entry,
    is_utf8,
    printable,
    rejected_row,
)
from urnet_tf.errors import UsageError
from urnet_tf.images.probe import os_reason, os_status, retried_or_stop
from urnet_tf.schema import TEST, TRAIN, UNLABELED, VAL
from urnet_tf.text_rules import show_path

FOLDER, LIST, WEBVISION = "folder", "list", "webvision"
_SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
_SIDE_SUFFIXES = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".parquet"}
_SIDE_FILES = {"thumbs.db", "desktop.ini"}
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
_LINKED_LEVELS = 2  # class and source folders may be symbolic links; deeper ones are not followed


def detect_kind(path: str) -> str:
    """Tells whether a path is a "folder", "list" or "webvision" input.

    Raises:
      UsageError: there is nothing at the path, a file that is no list, or its name is not UTF-8.
      RunError: the disk or network fails.
    """
    if not is_utf8(os.path.abspath(path)):
        raise UsageError(
            f"Expected a path in UTF-8 for the images; received {show_path(printable(path))}. Rename it, or "
            "give a link."
        )
    try:
        mode = retried_or_stop(path, lambda: os.stat(path)).st_mode
    except FileNotFoundError:
        raise UsageError(f"Expected images at {show_path(path)}; there is no such file or folder.") from None
    except OSError as error:
        raise UsageError(
            f"Expected images at {show_path(path)}; it cannot be opened: {os_reason(error)}."
        ) from None
    if stat.S_ISDIR(mode):
        return WEBVISION if webvision.looks_like(path) else FOLDER
    if stat.S_ISREG(mode) and os.path.splitext(path)[1].lower() in list_reader.SUFFIXES:
        return LIST
    raise UsageError(
        f"Expected a folder, a WebVision tree or a list ({', '.join(list_reader.SUFFIXES)}); received "
        f"{show_path(path)}."
    )


def resolve_kind(path: str, kind: str = "auto") -> str:
    """`kind`, or what lies at the path where that is "auto"; raises as `detect_kind`."""
    return detect_kind(path) if kind == "auto" else kind


def count_rows(path: str, kind: str = "auto", sources: Sequence[str] | None = None) -> int:
    """Counts the listed rows of all splits without opening an image."""
    kind = resolve_kind(path, kind)
    if kind == WEBVISION:
        return webvision.count_rows(path, sources)
    if kind == LIST:
        return list_reader.count_rows(path)
    return sum(1 for _ in walk(path))


def count_classes(path: str, kind: str = "auto", first_classes: int | None = None) -> int | None:
    """Counts the classes without listing an image; None for a list, whose rows would have to be read."""
    kind = resolve_kind(path, kind)
    if kind == LIST:
        return None
    count = webvision.count_classes(path) if kind == WEBVISION else len(_class_names(os.path.abspath(path)))
    return min(count, first_classes or count)


def fingerprint_files(
    path: str,
    kind: str,
    options: ListOptions | None = None,
    sources: Sequence[str] | None = None,
) -> str:
    """The number of listed files, and a hash of their names, sizes and times: "120 files #5e0c...".

    In a WebVision tree the metadata files count, too. Opens no image.

    Raises:
      RunError: the disk or network fails, which is no change of the files.
    """
    if kind == FOLDER:
        root, files = path, walk(path)
    elif kind == LIST:
        root, listed = list_reader.listed_files(path, options)
        files = ((name, None) for name in listed)
    else:
        root, files = path, ((name, None) for name in webvision.listed_files(path, sources))
    digest, count = hashlib.blake2b(digest_size=16), 0
    for name, problem in files:
        try:
            file = os.path.join(root, name)
            status = retried_or_stop(file, functools.partial(os.stat, file))
            metadata = f"{status.st_size}:{status.st_mtime_ns}"
        except OSError as error:
            metadata = os_status(error)
        except ValueError:  # a NUL in the name
            metadata = "bad_name"
        digest.update(os.fsencode(name) + f"\0{problem}:{metadata}\n".encode())
        count += 1
    return f"{count:,} files #{digest.hexdigest()}"


def read_folder(path: str, names: ClassNames | None = None) -> Crawl:
    """Lists a tree of class folders.

    Classes are the sorted folder names. The rank of an image is its place (from 1) in the natural
    order of names inside class and source. The query of a class is its name, with `_` and `-` as
    spaces. Hidden files and side files (.txt, .json, …) are ignored; everything else is a row.

    Raises:
      UsageError: there is no such folder, it has no class folders, or a validation or test folder
        holds a class that is not trained.
    """
    root = os.path.abspath(path)
    if not os.path.isdir(root):
        raise UsageError(f"Expected a folder of class folders at {path}; there is no such folder.")
    rows, rejected = RowBuilder(ROW_SCHEMA), RowBuilder(REJECTED_SCHEMA)
    names, splits, folders = names or ClassNames(), _split_folders(root, _folders(root)), _class_names(root)
    if not folders:
        found = "only files" if next(walk(root), None) else "an empty folder"
        raise UsageError(
            f"Expected class folders like {os.path.join(path, 'cat')}; received {found}; give each class a "
            "folder with its images, or write a list with the columns path and label."
        )
    settled = sorted({names.settle(name) for name in folders})
    classes = [class_entry(label, name) for label, name in enumerate(settled)]
    for name, split in (splits or {"": TRAIN}).items():
        _list_split(root, name, split, classes, names, rows, rejected)
    return Crawl(root, classes, rows.table(), rejected.table(), tuple(names.check()))


def _class_names(root: str) -> list[str]:
    """Sorted names of the class folders, of the training split where there are splits."""
    folders = _folders(root)
    train = [name for name, split in _split_folders(root, folders).items() if split == TRAIN]
    names = _folders(os.path.join(root, train[0])) if train else folders
    return sorted(name for name in names if is_utf8(name))


def read_evaluation(
    path: str,
    split: str,
    classes: Sequence[dict],
    root: str,
    *,
    options: ListOptions | None = None,
    names: ClassNames | None = None,
) -> Crawl:
    """Lists the validation or test images of a folder or list outside of the training input.

    Args:
      split: "val" or "test"; test images may come without labels.
      classes: the classes of the training input.
      root: paths below it are given relative to it, all others absolute.
      options: how a list is written; its paths start beside it.
      names: which names of classes are one.

    Returns:
      The images, with the classes that were given.

    Raises:
      UsageError: there is no such input, or it holds a class that is not trained.
    """
    if detect_kind(path) == LIST:
        options = dataclasses.replace(options or ListOptions(), image_root=None)
        crawl = list_reader.read_list(path, options=options, classes=classes, split=split, names=names)
    else:
        rows, rejected = RowBuilder(ROW_SCHEMA), RowBuilder(REJECTED_SCHEMA)
        start = os.path.abspath(path)
        _list_split(start, "", split, classes, names or ClassNames(), rows, rejected)
        crawl = Crawl(start, list(classes), rows.table(), rejected.table())
    if not len(crawl.rows):
        raise UsageError(f"Expected {split} images in class folders or in a list; received none at {path}.")
    rows_there, rejected_there = (_rebased(t, crawl.root, root) for t in (crawl.rows, crawl.rejected))
    return Crawl(root, list(classes), rows_there, rejected_there, crawl.notes)


def walk(root: str) -> Iterator[tuple[str, str | None]]:  # noqa: C901  (a loop, as trees are deeper than stacks)
    """Walks a tree of any depth in natural order of names; no loop of links is entered.

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
            if not _is_side_file(entry.name):
                yield path, None
        elif _suffix(entry.name) in _IMAGE_SUFFIXES or (links <= 0 and entry.is_symlink()):
            yield path, "not_a_file"
        elif problem := enter(path, links - 1):
            yield path, problem


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: _natural(e.name))


def _natural(name: str) -> tuple[list[int | str], str]:
    """Sorts 9.jpg before 10.jpg; the name itself breaks the tie of 01 and 1."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_side_file(name: str) -> bool:
    return _suffix(name) in _SIDE_SUFFIXES or name.lower() in _SIDE_FILES


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return retried_or_stop(entry.path, entry.is_dir)
    except OSError:  # a link that leads to itself: probing tells
        return False


def _folders(directory: str) -> list[str]:
    try:
        entries = retried_or_stop(directory, lambda: _entries(directory))
    except OSError as error:
        raise UsageError(f"Cannot list the folder {directory}: {os_reason(error)}.") from None
    return [e.name for e in entries if _is_directory(e) and _suffix(e.name) not in _IMAGE_SUFFIXES]


def _split_folders(root: str, folders: list[str]) -> dict[str, str]:
    """{folder: split} if the root holds given splits, else {}."""
    if "train" not in folders or not _folders(os.path.join(root, "train")):
        return {}
    splits = {name: _SPLIT_FOLDERS[name] for name in folders if name in _SPLIT_FOLDERS}
    others = sorted(set(folders) - set(splits))
    if others and len(splits) > 1:
        raise UsageError(
            f"Expected only train, val and test folders in {root}, or only class folders; "
            f"received both: {', '.join(splits)} and {others[0]!r}."
        )
    if len(set(splits.values())) < len(splits):
        raise UsageError(f"Expected one validation folder in {root}; received {', '.join(splits)}.")
    return {} if others else splits


def _list_split(
    root: str,
    folder: str,
    split: str,
    classes: Sequence[dict],
    names: ClassNames,
    rows: RowBuilder,
    rejected: RowBuilder,
) -> None:
    """Appends the images of one split, whose class folders lie in root/folder."""
    top = os.path.join(root, folder)
    labels = {entry["id"]: entry["label"] for entry in classes}
    labels = {entry["name"]: entry["label"] for entry in classes} | labels
    flat = split == TEST and not _folders(top)
    ranks: dict[tuple[str, str], int] = {}
    for relative, problem in walk(top):
        path = f"{folder}/{relative}" if folder else relative
        parts = relative.split("/")
        name, source = parts[0], parts[1] if len(parts) > 2 else ""
        if (len(parts) == 1 and problem in (None, "not_a_file") and not flat) or not relative:
            reason = "the image lies outside of a class folder" if problem is None else None
            rejected.append(rejected_row(path, problem or "bad_row", split=split, reason=reason))
            continue
        known = labels.get(name) if is_utf8(name) else UNLABELED
        label = UNLABELED if flat else labels.get(names.settle(name), UNLABELED) if known is None else known
        if label == UNLABELED and not flat and len(parts) > 1:
            raise UsageError(
                f"The {split} folder {top} holds the class {name!r}, which has no training images."
            )
        rank = ranks[name, source] = ranks.get((name, source), 0) + 1
        if problem is not None:
            rejected.append(rejected_row(path, problem, split=split, label=label, source=source, rank=rank))
            continue
        query = classes[label]["queries"][0] if split == TRAIN and classes[label]["queries"] else ""
        rows.append((split, label, source, 0 if flat else rank, query, "", "", "", path))


def _rebased(table: pa.Table, start: str, root: str) -> pa.Table:
    """The table with its paths, which start at `start`, relative to `root` or else absolute."""
    inside = os.path.relpath(start, root)
    prefix = start if inside.startswith("..") else "" if inside == "." else inside
    paths = [os.path.join(prefix, path) for path in table["path"].to_pylist()]
    place = table.schema.get_field_index("path")
    return table.set_column(place, table.schema.field("path"), pa.array(paths, pa.large_string()))
