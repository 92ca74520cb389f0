"""What people call training, validation and test sets: the one place that knows the words.

Input: names of folders, files or values of a column. Output: splits.
"""

import re
from collections.abc import Iterable

from urnet_tf.schema import TEST, TRAIN, VAL

_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "validate": VAL, "validating": VAL, "dev": VAL,
    "development": VAL, "eval": VAL, "evaluation": VAL, "holdout": VAL,
    "test": TEST, "testing": TEST, "tst": TEST,
}  # fmt: skip
# What may stand beside them: training_set, train_images, split-test.
_FILLERS = frozenset(
    ("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split",
     "folder", "files", "part", "subset", "samples")
)  # fmt: skip


def split_of(text: str) -> str | None:
    """The split that a value names ("Training", "test_set"), or None.

    >>> split_of(" Training_Set "), split_of("dev"), split_of("cat")
    ('train', 'val', None)
    """
    split, rest = _parse(text)
    return split if not rest else None


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """{name: split} of the names of siblings that are splits: `seg_train` and `seg_test`, too.

    A name counts if it holds one word for a split, and else nothing, fillers, or what another sibling with
    a word for another split holds as well. So `train` alone is a split, and `train_station` is none.

    >>> splits_of(["seg_train", "seg_test", "crash test dummy"])
    {'seg_train': 'train', 'seg_test': 'test'}
    """
    parsed = {name: _parse(name) for name in names}
    found = {}
    for name, (split, rest) in parsed.items():
        if split is None:
            continue
        partners = {s for s, other in parsed.values() if s is not None and other == rest}
        if not rest or len(partners) > 1:
            found[name] = split
    return found


def _parse(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split, and the words that are no fillers; (None, ...) without one word for a split."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    words = [part for word in words for part in _without_set(word.casefold())]
    splits = [_WORDS[word] for word in words if word in _WORDS]
    rest = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    others = re.findall(r"[^\W\d_a-zA-Z]+", name)  # letters beyond ASCII are words of their own
    return (splits[0] if len(splits) == 1 else None), (*rest, *others)


def _without_set(word: str) -> tuple[str, ...]:
    stem = word.removesuffix("set")
    return (stem, "set") if stem != word and stem in _WORDS else (word,)
