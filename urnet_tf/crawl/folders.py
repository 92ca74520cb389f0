"""Reads trees of class folders.

Input: `class/image.jpg` or `class/source/image.jpg`, maybe below folders of splits under any of their usual
names, maybe some levels deeper than the path that was given. Output: a `Crawl`. Where names of folders can
mean two things the tree is refused; where something was assumed there is a note.
"""

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import ClassNames, plain_name
from urnet_tf.crawl.file_ranks import NONE, FileRanks
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
    listing = _Listing(tree, classes, names)
    ranks = FileRanks()
    for folder, split in layout.splits.items():
        listing.add_split(folder, split, aside=layout.aside, ranks=ranks if split == TRAIN else None)
    listing.add_outside(layout.splits)
    how = ranks.decide() if rank == "auto" else rank
    notes = [*layout.notes, *names.check(), *(ranks.notes(how) if rank == "auto" else [])]
    rows = listing.rows.table()
    if how == NONE:
        rows = _without_ranks(rows)
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


def _without_ranks(rows: pa.Table) -> pa.Table:
    trained = pc.equal(rows["split"], TRAIN)
    place = rows.schema.get_field_index("rank")
    ranks = pc.if_else(trained, pa.scalar(0, pa.int32()), rows["rank"])
    return rows.set_column(place, rows.schema.field("rank"), ranks)


class _Listing:
    """Collects the files of a tree as rows."""

    def __init__(self, tree: Tree, classes: Sequence[dict], names: ClassNames) -> None:
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
        self, folder: str, split: str, *, aside: Collection[str] = (), ranks: FileRanks | None = None
    ) -> None:
        """Appends the images of one split, whose class folders lie in the folder."""
        flat = split == TEST and not self._tree.folders(folder)
        numbers: dict[tuple[str, str], int] = {}
        for relative, problem in self._tree.walk(folder):
            path = join(folder, relative)
            parts = relative.split("/")
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
                    f"{quote(name)}, which has no training images{self._same_but_for_case(name)}."
                )
            number = numbers[name, source] = numbers.get((name, source), 0) + 1
            if problem is not None:
                row = rejected_row(path, problem, split=split, label=label, source=source, rank=number)
                self.rejected.append(row)
                continue
            if ranks is not None:
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
