"""Reads trees of class folders.

Input: `class/image.jpg` or `class/source/image.jpg`, maybe below or above folders of splits under any of
their usual names, maybe some levels deeper than the path that was given. Output: a `Crawl`. Where
names of folders can mean two things the tree is refused; where something was assumed there is a note.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_choice import named_counts
from urnet_tf.crawl.class_names import ClassNames, plain_name
from urnet_tf.crawl.file_ranks import NONE, FileRanks, rank_by_name
from urnet_tf.crawl.folder_layout import find_layout, join
from urnet_tf.crawl.table import (
    REJECTED_SCHEMA,
    ROW_SCHEMA,
    Crawl,
    RowBuilder,
    class_entry,
    is_utf8,
    rejected_row,
)
from urnet_tf.crawl.trees import Tree, names_image
from urnet_tf.errors import UsageError
from urnet_tf.schema import TEST, TRAIN, UNLABELED
from urnet_tf.text_rules import quote, show_path

# Where crawls come from: such names of folders are surely sources.
_ENGINES = frozenset(
    ("google", "flickr", "bing", "baidu", "yahoo", "yandex", "duckduckgo", "sogou", "naver", "pinterest",
     "instagram", "reddit", "tumblr", "unsplash", "pixabay", "pexels", "wikimedia", "getty", "shutterstock")
)  # fmt: skip


def read_folder(
    tree: Tree, names: ClassNames | None = None, *, rank: str = "auto", believed: Collection[str] = ()
) -> Crawl:
    """Lists a tree of class folders.

    Classes are the sorted folder names. The query of a class is its name, with `_` and `-` as spaces. Hidden
    files and side files (.txt, .json, …) are ignored; everything else is a row.

    Args:
      names: which names of folders are one class.
      rank: "name": the order of names inside class and source is the search rank, from 1; "none": there are
        no ranks (0); "auto": the former where names look like numbered results.
      believed: names of folders that are classes, however they look.

    Raises:
      UsageError: there are no class folders, names of folders can mean two things, or a validation or test
        folder holds a class that is not trained.
    """
    names, layout = names or ClassNames(), find_layout(tree, believed)
    settled = sorted({names.settle(name) for name in layout.classes if is_utf8(name)})
    classes = [class_entry(label, name) for label, name in enumerate(settled)]
    listing = _Listing(tree, classes, names, layout.inner)
    ranks = FileRanks()
    for folder, split in layout.splits.items():
        listing.add_split(folder, split, aside=layout.aside, ranks=ranks if split == TRAIN else None)
    listing.add_outside(layout.splits)
    how = ranks.decide() if rank == "auto" else rank
    rows = listing.rows.table()
    notes = [*layout.notes, *_sources_note(rows), *names.check()]
    notes += ranks.notes(how) if rank == "auto" else []
    if how == NONE:
        rows, _ = rank_by_name(rows, NONE)
    return Crawl(tree.root, classes, rows, listing.rejected.table(), tuple(notes))


def _outside(tree: Tree, places: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """The files of a tree that lie in none of the folders."""
    waiting = [] if "" in places else [""]
    while waiting:
        folder = waiting.pop()
        yield from ((join(folder, name), None) for name in tree.files(folder))
        for name in tree.folders(folder):
            path = join(folder, name)
            if any(place.startswith(f"{path}/") for place in places):
                waiting.append(path)
            elif path not in places:
                yield from ((join(path, relative), problem) for relative, problem in tree.walk(path))


def read_evaluation_folder(
    tree: Tree, split: str, classes: Sequence[dict], names: ClassNames | None = None
) -> Crawl:
    """Lists a folder of class folders whose images are all of one split; raises as `read_folder`."""
    listing = _Listing(tree, classes, names or ClassNames())
    listing.add_split("", split)
    return Crawl(tree.root, list(classes), listing.rows.table(), listing.rejected.table())


def _sources_note(rows: pa.Table) -> list[str]:
    """Notes that folders inside of classes are sources, where their names are not those of search engines."""
    counted = {row["values"]: row["counts"] for row in pc.value_counts(rows["source"]).to_pylist()}
    unusual = sorted(name for name in counted if name and plain_name(name).casefold() not in _ENGINES)
    if not unusual:
        return []
    shown = named_counts({name: counted[name] for name in unusual})
    return [f"folders inside of classes are read as sources, with so many files: {shown}"]


class _Listing:
    """Collects the files of a tree as rows; `inner`: folder inside of classes → the split of its images."""

    def __init__(
        self, tree: Tree, classes: Sequence[dict], names: ClassNames, inner: Mapping[str, str] | None = None
    ) -> None:
        self._inner = inner or {}
        self.rows, self.rejected = RowBuilder(ROW_SCHEMA), RowBuilder(REJECTED_SCHEMA)
        self._tree, self._classes, self._names = tree, classes, names
        labels = {entry["id"]: entry["label"] for entry in classes}
        self._labels = {entry["name"]: entry["label"] for entry in classes} | labels

    def add_outside(self, places: Collection[str]) -> None:
        """Rejects images that lie in none of the folders that were read."""
        for path, problem in _outside(self._tree, places):
            if problem or names_image(path):
                self.rejected.append(rejected_row(path, problem or "no_class"))

    def add_split(
        self, folder: str, own_split: str, *, aside: Collection[str] = (), ranks: FileRanks | None = None
    ) -> None:
        """Appends the images of one split, whose class folders lie in the folder."""
        flat = own_split == TEST and not self._tree.folders(folder)
        numbers: dict[tuple[str, str, str], int] = {}
        for relative, problem in self._tree.walk(folder):
            path = join(folder, relative)
            parts = relative.split("/")
            split = self._inner.get(parts[1], own_split) if len(parts) > 2 else own_split
            if len(parts) > 2 and parts[1] in self._inner:
                del parts[1]
            name, source = parts[0], parts[1] if len(parts) > 2 else ""
            if join(folder, name) in aside and len(parts) > 1:
                if problem or names_image(path):
                    self.rejected.append(rejected_row(path, problem or "no_class", split=split))
                continue
            if (len(parts) == 1 and problem in (None, "not_a_file") and not flat) or not relative:
                reason = "the image lies outside of a class folder" if problem is None else None
                self.rejected.append(rejected_row(path, problem or "bad_row", split=split, reason=reason))
                continue
            label = UNLABELED if flat else self._label_of(name)
            if label == UNLABELED and not flat and len(parts) > 1:
                raise UsageError(
                    f"The {split} folder {show_path(join(self._tree.root, folder))} holds the class "
                    f"{quote(name)}, which has no training images{self._same_but_for_case(name)}; give the "
                    "folder of training images alone, and these as class folders or a list of their own "
                    f"(`{split}_path`)."
                )
            place = split, name, source
            number = numbers[place] = numbers.get(place, 0) + 1
            if problem is not None:
                row = rejected_row(path, problem, split=split, label=label, source=source, rank=number)
                self.rejected.append(row)
                continue
            if ranks is not None and split == TRAIN:
                ranks.add((name, source), parts[-1])
            query = self._classes[label]["queries"][0] if self._has_query(split, label) else ""
            self.rows.append((split, label, source, 0 if flat else number, query, "", "", "", path))

    def _same_but_for_case(self, name: str) -> str:
        other = next(
            (known for known in self._labels if known.casefold() == plain_name(name).casefold()), None
        )
        return "" if other is None else f"; if {quote(other)} is meant, say so: `merge={{{name}: {other}}}`"

    def _has_query(self, split: str, label: int) -> bool:
        return split == TRAIN and bool(self._classes[label]["queries"])

    def _label_of(self, name: str) -> int:
        if not is_utf8(name):
            return UNLABELED
        found = self._labels.get(name)
        return self._labels.get(self._names.settle(name), UNLABELED) if found is None else found
