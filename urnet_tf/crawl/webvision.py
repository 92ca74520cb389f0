"""Reads a WebVision tree (1.0 and 2.0 layouts): lists, queries and search metadata.

Input: a directory with `info/` (file lists, metadata lists, synsets, queries), image folders and
metadata as one JSON array a query. Output: a `Crawl`. The file list's label is the truth about a
label; the query map only tells which texts belong to a class. Each metadata file is read once and
dropped. Missing or broken metadata leaves texts empty and ranks in list order.
"""

import array
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from urnet_tf.crawl.class_names import tell_apart
from urnet_tf.crawl.search_metadata import Records, metadata_places, read_rank, read_records
from urnet_tf.crawl.table import (
    REJECTED_SCHEMA,
    ROW_SCHEMA,
    Crawl,
    RowBuilder,
    clean_text,
    cut_texts,
    is_utf8,
    printable,
    rejected_row,
    running_number,
)  # fmt: skip
from urnet_tf.crawl.webvision_info import (
    SOURCES,
    evaluation_folder,
    list_parts,
    read_lines,
    read_queries,
    read_query_map,
    read_synsets,
)
from urnet_tf.errors import UsageError
from urnet_tf.images.probe import retried_or_stop
from urnet_tf.schema import TEST, TRAIN, UNLABELED, VAL
from urnet_tf.text_rules import quote

_QUERY_FOLDER = re.compile(r"^q(\d+)$")


def looks_like(path: str) -> bool:
    """Whether a directory is a WebVision tree."""
    info = os.path.join(path, "info")
    return os.path.exists(os.path.join(info, "synsets.txt")) or bool(
        glob.glob(os.path.join(glob.escape(info), "train_filelist_*.txt"))
    )


def info_files(path: str) -> list[str]:
    """Paths of the text files that describe the tree, sorted."""
    return sorted(glob.glob(os.path.join(glob.escape(path), "info", "*.txt")))


def listed_files(path: str, sources: Sequence[str] | None = None) -> Iterator[str]:
    """Paths of all listed images, as they are on disk, and of the metadata files, relative to the tree.

    Raises:
      UsageError: a file of `info/` is missing.
    """
    next(read_lines(path, "synsets.txt"), None)  # without it there is no tree
    folders = _Folders(os.path.abspath(path))
    metas: dict[str, None] = {}
    for part in list_parts(path, sources):
        for line in read_lines(path, f"train_filelist_{part}.txt"):
            yield folders.find(line.rpartition(" ")[0].rstrip())
        for line in read_lines(path, f"train_meta_list_{part}.txt"):
            metas.setdefault(line.rpartition(" ")[0].strip())
    for meta in metas:
        yield from metadata_places(meta)
    for split in (VAL, TEST):
        folder = evaluation_folder(path, split)
        if folder is None or not os.path.exists(os.path.join(path, "info", f"{split}_filelist.txt")):
            continue
        for line in read_lines(path, f"{split}_filelist.txt"):
            name = line.rpartition(" ")[0].rstrip() or line
            yield folders.find(name if name.startswith(f"{folder}/") else f"{folder}/{name}")


def read_webvision(
    path: str, *, sources: Sequence[str] | None = None, first_classes: int | None = None,
    metadata: bool = True,
) -> Crawl:  # fmt: skip
    """Lists the images of a WebVision tree with their queries, ranks and texts.

    Args:
      path: the directory that holds `info/`.
      sources: only these training sources, like ("google",); None = all.
      first_classes: only the first classes of `synsets.txt` (mini-WebVision: 50); None = all.
      metadata: whether ranks and texts are wanted, most of which the metadata files tell.

    Raises:
      UsageError: a file of `info/` is missing, lists of one source differ in length, or a label
        lies outside of `synsets.txt`.
    """
    root = os.path.abspath(path)
    if not os.path.isdir(root):
        raise UsageError(f"Expected a WebVision tree at {path}; there is no such folder.")
    classes, shared = tell_apart(read_synsets(path))
    texts, given_queries = read_queries(path), read_query_map(path)
    listing = _Listing(root, len(classes), first_classes)
    for part in list_parts(path, sources):
        listing.read_train_list(path, part, sources)
    if not listing.labels:
        wanted = quote(sources) if sources else "any source"
        raise UsageError(f"Expected training images of {wanted} in {path}; received none.")
    notes = listing.add_queries(classes, texts, given_queries)
    rows, more_notes = listing.with_metadata(texts, read_records if metadata else _no_records)
    notes += more_notes + ([shared] if shared else [])
    for split in (VAL, TEST):
        notes += listing.read_evaluation_list(path, split, rows)
    count = first_classes or len(classes)
    table, more_notes = cut_texts(rows.table())
    return Crawl(root, classes[:count], table, listing.rejected.table(), (*notes, *more_notes))


class _Listing:
    """The training rows as plain columns, filled list by list."""

    def __init__(self, root: str, num_classes: int, first_classes: int | None) -> None:
        self.root, self.num_classes, self.count = root, num_classes, first_classes or num_classes
        self.rejected = RowBuilder(REJECTED_SCHEMA)
        self._paths: list[pa.Array] = []
        self._path_chunk: list[str] = []
        columns = (array.array("i") for _ in range(5))  # 4 bytes a row where a list takes 8 to 36
        self.labels, self._sources, self._queries, self._metas, self._meta_rows = columns
        self._source_codes: dict[str, int] = {}
        self._meta_codes: dict[str, int] = {}
        self._folders = _Folders(root)

    def read_train_list(self, path: str, part: str, sources: Iterable[str] | None) -> None:
        name = f"train_filelist_{part}.txt"
        metas = read_lines(path, f"train_meta_list_{part}.txt")
        for number, line in enumerate(read_lines(path, name), 1):
            meta = next(metas, None)
            if meta is None:
                raise UsageError(
                    f"Expected as many lines in info/train_meta_list_{part}.txt as in info/{name}; "
                    f"received {number - 1} lines."
                )
            listed, label = self._parse(name, number, line, TRAIN)
            if listed is None or label >= self.count:
                continue
            folders = listed.split("/")[:-1]
            source = _source_of(folders, part)
            if sources is not None and source not in sources:
                continue
            if not _can_be_a_name(listed):
                self.rejected.append(rejected_row(listed, "bad_name", label=label, source=source))
                continue
            query = _QUERY_FOLDER.match(folders[-1]) if folders else None
            meta_path, _, meta_row = meta.rpartition(" ")
            self._add_path(listed)
            self.labels.append(label)
            self._sources.append(self._source_codes.setdefault(source, len(self._source_codes)))
            self._queries.append(int(query[1]) if query and len(query[1]) < 10 else -1)
            self._metas.append(self._meta_codes.setdefault(meta_path.strip(), len(self._meta_codes)))
            self._meta_rows.append(int(meta_row) if meta_row.isdecimal() and len(meta_row) < 10 else 0)
        if next(metas, None) is not None:
            raise UsageError(f"Expected as many lines in info/train_meta_list_{part}.txt as in info/{name}; "
                             "received more.")  # fmt: skip

    def read_evaluation_list(self, path: str, split: str, rows: RowBuilder) -> list[str]:
        name = f"{split}_filelist.txt"
        if not os.path.exists(os.path.join(path, "info", name)):
            return []
        folder = evaluation_folder(path, split)
        if folder is None:
            return [f"info/{name} is there, but no folder {split}_images_256: its images are left out"]
        for number, line in enumerate(read_lines(path, name), 1):
            listed, label = self._parse(name, number, line, split)
            if listed is None or label >= self.count:
                continue
            listed = listed if listed.startswith(f"{folder}/") else f"{folder}/{listed}"
            if _can_be_a_name(listed):
                rows.append((split, label, "", 0, "", "", "", "", self._folders.find(listed)))
            else:
                self.rejected.append(rejected_row(listed, "bad_name", split=split, label=label))
        return []

    def add_queries(
        self, classes: list[dict[str, Any]], texts: dict[str | None, Any], given: dict[int, int]
    ) -> list[str]:
        """Gives every class its query texts; checks the map with the file lists."""
        pairs = np.unique(np.array(self._queries, np.int64) * self.num_classes + np.array(self.labels))
        listed: dict[int, set[int]] = {}
        for query, label in zip(*(part.tolist() for part in np.divmod(pairs, self.num_classes)), strict=True):
            if query < 0:
                continue
            listed.setdefault(query, set()).add(label)
        base = _map_base(given, listed, self.num_classes)
        by_class: list[set[int]] = [set() for _ in classes]
        wrong = sum(1 for q, s in given.items() if q in listed and s - base not in listed[q])
        for query, synset in given.items():
            if query not in listed and 0 <= synset - base < len(classes):
                by_class[synset - base].add(query)
        for query, labels in listed.items():
            for label in labels:
                by_class[label].add(query)
        for entry, queries in zip(classes, by_class, strict=True):
            found = [
                text for q in sorted(queries) for texts_of in texts.values() if (text := texts_of.get(q))
            ]
            entry["queries"] = list(dict.fromkeys(found))
        if wrong:
            return [f"queries_synsets_map.txt names another class than the file lists for {wrong} queries"]
        return []

    def with_metadata(
        self, texts: dict[str | None, Any], read: Callable[[str, str], Records | None]
    ) -> tuple[RowBuilder, list[str]]:
        """The training rows with query, rank, title, description and tags, grouped by metadata file.

        Args:
          texts: of queries.
          read: (root, metadata file) → its records, or None.
        """
        labels, sources = np.array(self.labels, np.int32), np.array(self._sources, np.int32)
        queries, metas = np.array(self._queries, np.int64), np.array(self._metas, np.int32)
        meta_rows, self.labels = np.array(self._meta_rows, np.int64), array.array("i")
        fallback = running_number(sources, np.where(queries >= 0, queries, -1 - labels))
        self._paths.append(pa.array(self._path_chunk, pa.large_string()))
        paths = pa.chunked_array(self._paths).combine_chunks()
        source_names, meta_names = list(self._source_codes), list(self._meta_codes)
        rows, missing_files, missing_records = RowBuilder(ROW_SCHEMA), 0, 0
        order = np.argsort(metas, kind="stable")
        records, current = Records([]), -1
        for row in order.tolist():
            if metas[row] != current:
                current = metas[row]
                found = read(self.root, meta_names[current])
                missing_files += found is None
                records = found or Records([])
            path, source = self._folders.find(paths[row].as_py()), source_names[sources[row]]
            record = records.find(int(meta_rows[row]), path)
            missing_records += record is None and bool(len(records))
            record = record or {}
            text = texts.get(source, texts.get(None, {})).get(int(queries[row]), "")
            rows.append(
                (TRAIN, int(labels[row]), source, read_rank(record.get("rank"), int(fallback[row])), text)
                + tuple(clean_text(record.get(name)) for name in ("title", "description", "tags"))
                + (path,)
            )
        notes = []
        if missing_files:
            notes.append(f"{missing_files} of {len(meta_names)} metadata files are missing or broken")
        if missing_records:
            notes.append(f"{missing_records} training images have no metadata record")
        return rows, notes

    def _parse(self, name: str, number: int, line: str, split: str) -> tuple[str | None, int]:
        """Path and label of a line of a file list; (None, -1) for a line that cannot be read."""
        path, _, number_text = line.rpartition(" ")
        path = path.rstrip()
        if path and re.fullmatch(r"-?\d{1,9}", number_text):
            label = int(number_text)
            if not 0 <= label < self.num_classes and not (split == TEST and label == UNLABELED):
                raise UsageError(
                    f"The label {label} in line {number} of info/{name} is outside of the "
                    f"{self.num_classes} classes of info/synsets.txt."
                )
            return path, label
        if split == TEST:
            return line, UNLABELED
        reason = f"line {number} of info/{name}: expected a path and a label"
        self.rejected.append(rejected_row(line, "bad_row", split=split, reason=reason))
        return None, UNLABELED

    def _add_path(self, path: str) -> None:
        self._path_chunk.append(path)
        if len(self._path_chunk) >= 100_000:
            self._paths.append(pa.array(self._path_chunk, pa.large_string()))
            self._path_chunk = []


def _no_records(root: str, listed: str) -> Records:
    return Records([])


def _can_be_a_name(path: str) -> bool:
    return is_utf8(path) and "\0" not in path


class _Folders:
    """Finds listed files, also under another extension; remembers the names of one folder."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folder: str | None = None
        self._names: frozenset[str] = frozenset()
        self._stems: dict[str, str] | None = None

    def find(self, listed: str) -> str:
        """The path as listed, or with the extension that is on disk (.jpg first)."""
        folder, _, name = listed.rpartition("/")
        if folder != self._folder:
            self._folder, self._stems = folder, None
            directory = os.path.join(self._root, folder)
            try:
                self._names = frozenset(retried_or_stop(directory, lambda: os.listdir(directory)))
            except (OSError, ValueError):  # a null byte; probing tells, for each of the files
                self._names = frozenset()
        if name in self._names or not self._names:
            return listed
        if self._stems is None:
            ordered = sorted(self._names, key=lambda n: (not n.endswith(".jpg"), n), reverse=True)
            self._stems = {os.path.splitext(n)[0]: n for n in ordered if is_utf8(n)}
        other = self._stems.get(os.path.splitext(name)[0])
        return listed if other is None else f"{folder}/{other}" if folder else other


def _map_base(given: dict[int, int], listed: dict[int, set[int]], num_classes: int) -> int:
    """Whether synset ids count from 0 or from 1; the file lists decide, then the range of ids."""
    agreement = {
        base: sum(1 for q, synset in given.items() if synset - base in listed.get(q, ())) for base in (0, 1)
    }
    if agreement[0] != agreement[1]:
        return max(agreement, key=lambda base: agreement[base])
    ids = given.values()
    return 1 if ids and min(ids) >= 1 and max(ids) >= num_classes else 0


def _source_of(folders: list[str], part: str) -> str:
    """google for google/q0001 and google_images_resized/q00932; else the name of the list."""
    first = re.sub(r"_(images|image)(_\w+)?$", "", folders[0]) if folders else ""
    return first if first in SOURCES or part == "all" else printable(part)
