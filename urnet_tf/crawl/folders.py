"""Reads trees of class folders.

Input: `class/image.jpg` or `class/source/image.jpg`, maybe below folders of splits under any of their usual
names, maybe some levels deeper than the path that was given. Output: a `Crawl`. Where names of folders can
mean two things the tree is refused; where something was assumed there is a note.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import ClassNames, plain_name
from urnet_tf.crawl.file_ranks import NONE, FileRanks
from urnet_tf.crawl.split_words import looks_like_split, names_split, splits_of
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
from urnet_tf.images.containers import ARCHIVES
from urnet_tf.schema import TEST, TRAIN, UNLABELED
from urnet_tf.text_rules import quote, show_path

# Names of folders that hold no class: what programs write, and what holds classes.
_NO_CLASSES = frozenset(
    """images image imgs img pictures photos data dataset datasets raw jpegimages
    models model checkpoints weights runs logs output outputs results exports
    annotations labels masks metadata info meta docs scripts src code notebooks
    venv env build dist tmp temp cache""".split()
)
_UNLABELED = frozenset(("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup"))
_LEVELS = 4  # how deep class folders are looked for
_FEW = 50  # folders that are looked into, to see whether they hold images


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the folders of a tree mean.

    Attributes:
      splits: folder, relative to the tree → the split whose class folders it holds.
      classes: names of the class folders of training images.
      aside: folders beside these, whose files belong to no class.
      notes: what was assumed.
    """

    splits: dict[str, str]
    classes: list[str]
    aside: list[str]
    notes: list[str]


def is_plausible(name: str) -> bool:
    """Whether a folder can be a class by its name."""
    return name.casefold() not in _NO_CLASSES


def find_layout(tree: Tree, believed: Collection[str] = ()) -> Layout:
    """Says where the class folders are.

    Args:
      believed: names that are classes, however they look.

    Raises:
      UsageError: there are none, or the names of folders can mean two things.
    """
    base, notes = "", list[str]()
    for _ in range(_LEVELS):
        folders = tree.folders(base)
        splits, beside = _find_splits(tree, base, folders)
        if splits:
            return _split_layout(tree, base, splits, beside, believed, notes)
        deeper = _only_folder_with_classes(tree, base, folders, believed)
        if deeper is None:
            break
        where = quote(_join(base, deeper))
        notes.append(f"the class folders are looked for in {where}, the only folder with images")
        base = _join(base, deeper)
    classes, aside = _class_folders(tree, base, folders, believed)
    if not classes:
        found = "only files" if next(tree.walk(), None) else "an empty folder"
        archives = [name for name in tree.files() if name.lower().endswith(ARCHIVES)]
        found += (
            f", one of them an archive: give {show_path(_join(tree.root, archives[0]))}" if archives else ""
        )
        raise UsageError(
            f"Expected class folders like {show_path(_join(tree.root, 'cat'))}; received {found}; give each "
            "class a folder with its images, or write a list with the columns path and label."
        )
    _check_repeated_sources(tree, base, classes)
    if aside:
        notes.append(_aside_note(aside))
    return Layout({base: TRAIN}, classes, [_join(base, name) for name in aside], notes)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _find_splits(tree: Tree, base: str, folders: list[str]) -> tuple[dict[str, str], list[str]]:
    """{folder: split} if the folders are splits, and the other ones; ({}, []) if they are not."""
    splits = splits_of(folders)
    where = show_path(_join(tree.root, base))
    others = [name for name in folders if name not in splits and _may_be_class(tree, base, name)]
    trained = [name for name, split in splits.items() if split == TRAIN]
    if not any(tree.folders(_join(base, name)) for name in trained):
        if len(splits) > 1 and len(splits) == len(folders):
            raise UsageError(
                f"Expected a folder of training images with a folder for each class in {where}; received "
                f"{_named(splits)}; give each class a folder in a folder named train, or write a list with "
                "the columns path and label."
            )
        return {}, []
    if others and len(splits) > 1:
        raise UsageError(
            f"Expected only folders of training, validation and test images in {where}, or only class "
            f"folders; received both: {_named(splits)} and {quote(others[0])}; move one of them, or give the "
            "folder of training images alone."
        )
    if len(set(splits.values())) < len(splits):
        raise UsageError(f"Expected one folder of each split in {where}; received {_named(splits)}.")
    return ({}, []) if others else (splits, [name for name in folders if name not in splits])


def _may_be_class(tree: Tree, base: str, name: str) -> bool:
    unlabeled = bool(_UNLABELED.intersection(re.findall(r"[a-z]+", name.casefold())))
    return not unlabeled and is_plausible(name) and tree.holds_images(_join(base, name))


def _named(names: Collection[str]) -> str:
    return ", ".join(map(quote, sorted(names)))


def _split_layout(
    tree: Tree,
    base: str,
    splits: Mapping[str, str],
    beside: list[str],
    believed: Collection[str],
    notes: list[str],
) -> Layout:
    """The layout of folders of splits; one that holds itself once more is entered (seg_train/seg_train)."""
    places = {}
    for name, split in splits.items():
        place = _join(base, name)
        for _ in range(_LEVELS):
            inner = tree.folders(place)
            again = len(inner) == 1 and _holds_again(inner[0], split)
            if not again or tree.has_images(place):
                break
            if split != TEST and not tree.folders(_join(place, inner[0])):
                break
            place = _join(place, inner[0])
        places[place] = split
    words = {name: split for name, split in splits.items() if name != split}
    if words:
        read = ", ".join(f"{quote(name)} as {split}" for name, split in words.items())
        notes = [*notes, f"folders of splits are read by their names: {read}"]
    if beside:
        notes = [*notes, f"the folders {_named(beside)} beside them are left out"]
    train = next(place for place, split in places.items() if split == TRAIN)
    classes, aside = _class_folders(tree, train, tree.folders(train), believed)
    if aside:
        notes = [*notes, _aside_note(aside)]
    return Layout(places, classes, [_join(place, name) for place in places for name in aside], notes)


def _aside_note(aside: Collection[str]) -> str:
    return f"the folders {_named(aside)} are taken for no classes; name them in `classes` if they are"


def _holds_again(name: str, split: str) -> bool:
    return names_split(name, split) or not is_plausible(name)


def _only_folder_with_classes(
    tree: Tree, base: str, folders: list[str], believed: Collection[str]
) -> str | None:
    """The folder that has to be entered to find class folders, or None if they are here."""
    plausible = [name for name in folders if is_plausible(name) or name in believed]
    if len(folders) > _FEW:
        return None
    with_images = [name for name in folders if tree.holds_images(_join(base, name))]
    candidates = [name for name in with_images if name in plausible] or with_images
    if len(candidates) != 1 or candidates[0] in believed:
        return None
    inner = _join(base, candidates[0])
    return candidates[0] if tree.folders(inner) and not tree.has_images(inner) else None


def _class_folders(
    tree: Tree, base: str, folders: list[str], believed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Names of the class folders, and of those that are none."""
    implausible = [name for name in folders if not is_plausible(name) and name not in believed]
    classes = [name for name in folders if name not in implausible]
    if len(classes) + (not implausible) < 2:  # nothing else could be meant
        with_images = [name for name in folders if tree.holds_images(_join(base, name))]
        classes = sorted({*classes, *with_images})
        implausible = [name for name in folders if name not in classes]
    return sorted(name for name in classes if is_utf8(name)), implausible


def _check_repeated_sources(tree: Tree, base: str, classes: list[str]) -> None:
    """Refuses "classes" that look like splits and hold the same folders each: these are the classes."""
    suspects = [name for name in classes if looks_like_split(name)]
    if not suspects or len(classes) < 2 or len(classes) > _FEW:
        return
    inner = [set(tree.folders(_join(base, name))) for name in classes]
    common = set.intersection(*inner)
    if len(common) >= 2 and all(len(names) <= 2 * len(common) for names in inner):
        raise UsageError(
            f"Expected class folders in {show_path(_join(tree.root, base))}; received {_named(classes[:4])}, "
            f"which look like splits, each with the folders {_named(sorted(common)[:3])}; name them train, "
            "val and test, or give one of them alone."
        )


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
        yield from ((_join(folder, name), None) for name in tree.files(folder))
        for name in tree.folders(folder):
            path = _join(folder, name)
            if any(place.startswith(f"{path}/") for place in places):
                waiting.append(path)
            elif path not in places:
                yield from ((_join(path, relative), problem) for relative, problem in tree.walk(path))


def read_evaluation_folder(
    tree: Tree, split: str, classes: Sequence[dict], names: ClassNames | None = None
) -> Crawl:
    """Lists a folder of class folders whose images are all of one split; raises as `read_folder`."""
    listing = _Listing(tree, classes, names or ClassNames())
    listing.add_split("", split)
    return Crawl(tree.root, list(classes), listing.rows.table(), listing.rejected.table())


def count_classes(tree: Tree) -> int:
    """How many classes there are; raises as `read_folder`."""
    return len([name for name in find_layout(tree).classes if is_utf8(name)])


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
            path = _join(folder, relative)
            parts = relative.split("/")
            name, source = parts[0], parts[1] if len(parts) > 2 else ""
            if _join(folder, name) in aside and len(parts) > 1:
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
                    f"The {split} folder {show_path(_join(self._tree.root, folder))} holds the class "
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
