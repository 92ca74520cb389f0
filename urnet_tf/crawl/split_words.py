"""What people call training, validation and test sets: the one place that knows the words.

Input: names of folders, files or values of a column. Output: splits.
"""

import re
import unicodedata
from collections.abc import Iterable

from urnet_tf.schema import TEST, TRAIN, VAL

_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "validate": VAL, "validating": VAL, "dev": VAL,
    "development": VAL, "eval": VAL, "evaluation": VAL, "holdout": VAL,
    "test": TEST, "testing": TEST, "tst": TEST,
    # Spanish, Portuguese, French, Italian, Chinese
    "entrenamiento": TRAIN, "prueba": TEST, "pruebas": TEST, "validacion": VAL,
    "treino": TRAIN, "treinamento": TRAIN, "teste": TEST, "validacao": VAL,
    "entrainement": TRAIN, "apprentissage": TRAIN, "addestramento": TRAIN, "validazione": VAL,
    "训练": TRAIN, "训练集": TRAIN, "验证": VAL, "验证集": VAL, "测试": TEST, "测试集": TEST,
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
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)  # TrainSet
    words = [part for word in re.findall(r"[^\W\d_]+", plain) for part in _without_set(word.casefold())]
    splits = [_WORDS[word] for word in words if word in _WORDS]
    rest = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    return (splits[0] if len(splits) == 1 else None), rest


def _without_set(word: str) -> tuple[str, ...]:
    stem = word.removesuffix("set")
    return (stem, "set") if stem != word and stem in _WORDS else (word,)


def names_split(name: str, split: str) -> bool:
    """Whether a name holds a word for this split, and none for another.

    >>> names_split("seg_train", "train"), names_split("cat", "train")
    (True, False)
    """
    return _parse(name)[0] == split


def looks_like_split(name: str) -> bool:
    """Whether a name holds a word for a split, or a numbered part: train_v2, fold3.

    >>> looks_like_split("train_v2"), looks_like_split("fold 3"), looks_like_split("red fox")
    (True, True, False)
    """
    numbered = re.fullmatch(
        r"\W*(fold|part|split|subset|set|batch)\W*\d+\W*", name.casefold().replace("_", " ")
    )
    return _parse(name)[0] is not None or numbered is not None
