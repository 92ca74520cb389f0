"""Says what the folders of a tree mean: classes, splits, or nothing of a crawl.

Input: a tree. Output: where the class folders of each split are. Where names can mean two things the tree is
refused, with what to do; what was assumed is a note.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

from urnet_tf.crawl.split_words import looks_like_split, names_split, splits_of
from urnet_tf.crawl.table import is_utf8
from urnet_tf.crawl.trees import Tree
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import ARCHIVES
from urnet_tf.schema import TEST, TRAIN
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
      inner: folder inside of class folders → the split of its images, where classes come before splits.
    """

    splits: dict[str, str]
    classes: list[str]
    aside: list[str]
    notes: list[str]
    inner: dict[str, str] = dataclasses.field(default_factory=dict)


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
        where = quote(join(base, deeper))
        notes.append(f"the class folders are looked for in {where}, the only folder with images")
        base = join(base, deeper)
    classes, aside = _class_folders(tree, base, folders, believed)
    _check_some(tree, base, classes, believed)
    _check_repeated_sources(tree, base, classes)
    inner = _splits_in_classes(tree, base, classes)
    if inner:
        notes.append(f"the folders inside of classes are read as splits: {_named(inner)}")
    notes += _own_folders_note(tree, base, classes)
    if aside:
        notes.append(_aside_note(aside))
    return Layout({base: TRAIN}, classes, [join(base, name) for name in aside], notes, inner)


def join(*parts: str) -> str:
    """A path in a tree; empty parts are left out."""
    return "/".join(part for part in parts if part)


def _find_splits(tree: Tree, base: str, folders: list[str]) -> tuple[dict[str, str], list[str]]:
    """{folder: split} if the folders are splits, and the other ones; ({}, []) if they are not."""
    splits = splits_of(folders)
    where = show_path(join(tree.root, base))
    others = [name for name in folders if name not in splits and _may_be_class(tree, base, name)]
    trained = [name for name, split in splits.items() if split == TRAIN]
    if not any(tree.folders(join(base, name)) for name in trained):
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
    return not unlabeled and is_plausible(name) and tree.holds_images(join(base, name))


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
        place = join(base, name)
        for _ in range(_LEVELS):
            inner = tree.folders(place)
            again = len(inner) == 1 and _holds_again(inner[0], split)
            if not again or tree.has_images(place):
                break
            if split != TEST and not tree.folders(join(place, inner[0])):
                break
            place = join(place, inner[0])
        places[place] = split
    words = {name: split for name, split in splits.items() if name != split}
    if words:
        read = ", ".join(f"{quote(name)} as {split}" for name, split in words.items())
        notes = [*notes, f"folders of splits are read by their names: {read}"]
    if beside:
        notes = [*notes, f"the folders {_named(beside)} beside them are left out"]
    train = next(place for place, split in places.items() if split == TRAIN)
    classes, aside = _class_folders(tree, train, tree.folders(train), believed)
    _check_some(tree, train, classes, believed)
    notes = [*notes, *_own_folders_note(tree, train, classes)]
    if aside:
        notes = [*notes, _aside_note(aside)]
    return Layout(places, classes, [join(place, name) for place in places for name in aside], notes)


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
    with_images = [name for name in folders if tree.holds_images(join(base, name))]
    candidates = [name for name in with_images if name in plausible] or with_images
    if len(candidates) != 1 or candidates[0] in believed:
        return None
    inner = join(base, candidates[0])
    return candidates[0] if tree.folders(inner) and not tree.has_images(inner) else None


def _class_folders(
    tree: Tree, base: str, folders: list[str], believed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Names of the class folders, and of those that are none."""
    implausible = [name for name in folders if not is_plausible(name) and name not in believed]
    classes = [name for name in folders if name not in implausible]
    if len(classes) + (not implausible) < 2:  # nothing else could be meant
        with_images = [name for name in folders if tree.holds_images(join(base, name))]
        classes = sorted({*classes, *with_images})
        implausible = [name for name in folders if name not in classes]
    return sorted(name for name in classes if is_utf8(name)), implausible


def _check_some(tree: Tree, base: str, classes: list[str], believed: Collection[str]) -> None:
    """Refuses a tree without class folders."""
    found = ""
    if not classes:
        found = "only files" if next(tree.walk(base), None) else "an empty folder"
        archives = [name for name in tree.files(base) if name.lower().endswith(ARCHIVES)]
        if len(archives) > 1:
            found += f", {len(archives)} of them archives: unpack each into a folder of its own"
        elif archives:
            found += f", one of them an archive: give {show_path(join(tree.root, base, archives[0]))}"
    elif len(classes) == 1 and classes[0] not in believed:
        if not is_plausible(classes[0]) or looks_like_split(classes[0]):
            found = f"images in the folder {quote(classes[0])} alone"
    if found:
        lists = tree.lists(base)
        found += f", beside {quote(lists[0])}: give that file if it lists them" if lists else ""
        raise UsageError(
            f"Expected class folders like {show_path(join(tree.root, base, 'cat'))}; received {found}; give "
            "each class a folder with its images, or write a list with the columns path and label."
        )


def _check_repeated_sources(tree: Tree, base: str, classes: list[str]) -> None:
    """Refuses "classes" that look like splits, where what they hold looks like classes."""
    suspects = [name for name in classes if looks_like_split(name)]
    if not suspects or len(classes) < 2 or len(classes) > _FEW:
        return
    inner = {name: set(tree.folders(join(base, name))) for name in classes}
    beside = next((name for name in suspects if inner[name].intersection(classes)), None)
    common = set.intersection(*inner.values())
    where = show_path(join(tree.root, base))
    if beside is not None:
        raise UsageError(
            f"Expected class folders in {where}; received {quote(beside)} beside them, which looks like a "
            "split and holds folders of the same names; move the others into a folder named train."
        )
    if len(common) >= 2 or (common and len(suspects) == len(classes)):
        raise UsageError(
            f"Expected class folders in {where}; received {_named(classes[:4])}, which look like splits, "
            f"each with the folders {_named(sorted(common)[:3])}; name them train, val and test, or give one "
            "of them alone."
        )


def _splits_in_classes(tree: Tree, base: str, classes: list[str]) -> dict[str, str]:
    """{folder: split} if all folders inside of the classes are splits (cat/train, cat/test), else {}."""
    names = set[str]()
    for label in classes:
        names.update(tree.folders(join(base, label)))
        if not all(map(looks_like_split, names)):  # as sources do, at the first class
            return {}
    found = splits_of(names)
    return found if names == found.keys() and {TRAIN} < set(found.values()) else {}


def _own_folders_note(tree: Tree, base: str, classes: list[str]) -> list[str]:
    """Notes that every class holds folders of its own: a level too few may have been given."""
    if not 2 <= len(classes) <= _FEW or any(tree.has_images(join(base, name)) for name in classes):
        return []
    inner = [tree.folders(join(base, name)) for name in classes]
    names = [name for found in inner for name in found]
    if min(map(len, inner)) < 1 or len(names) < 2 * len(classes) or len(set(names)) < len(names):
        return []
    return [
        f"each of the classes {_named(classes[:3])} holds folders of its own ({_named(names[:3])}), which "
        "are read as its sources; if they are the classes, move them one level up"
    ]
