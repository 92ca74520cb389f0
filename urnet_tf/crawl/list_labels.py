"""The labels of a list: which rows have one, and which class each means.

Input: the text of the label column. A label is the name of a class. With a `classes.txt` beside the list, or
the classes of a training input, it may be the number of one instead, from 0.
"""

import collections
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import ClassNames, plain_name, tell_apart
from urnet_tf.crawl.list_tables import A_LIST
from urnet_tf.crawl.table import class_entry, open_text
from urnet_tf.errors import UsageError
from urnet_tf.schema import TEST, TRAIN, UNLABELED
from urnet_tf.store import codes_of
from urnet_tf.text_rules import quote, show_path

CLASSES_FILE = "classes.txt"
# What programs write where a value is missing. "NA" is left out: it is a country and a name.
_MISSING = frozenset(("", "nan", "none", "null", "<na>", "n/a", "#n/a", "nat"))
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,8})", re.ASCII)
_FLOAT = re.compile(r"(0|[1-9][0-9]{0,8})\.0+", re.ASCII)


class Labels(NamedTuple):
    """What the label column says: a code a row, and the text of each code."""

    codes: np.ndarray  # int [N]
    texts: list[str]
    faults: np.ndarray  # object [N]: why a row has no label, or None
    notes: list[str]


def read_labels(column: Any, splits: np.ndarray, known: Sequence[str] | None, name: str) -> Labels:
    """The labels of all rows, and which of them are missing.

    Args:
      column: text [N].
      splits: object [N]; -1 says "not known" in test rows.
      known: names that are classes whatever they look like, or None.
      name: of the list, for notes.
    """
    codes, texts = codes_of(pc.utf8_trim_whitespace(column))
    known_names = {plain_name(text) for text in known or ()}
    faults = [None if plain_name(text) in known_names else _fault_of(text) for text in texts]
    notes, given = [], [text for text, fault in zip(texts, faults, strict=True) if fault is None]
    if given and all(map(_FLOAT.fullmatch, given)) and not known_names.intersection(given):
        notes.append(f"the labels of {name} are whole numbers with decimals: {given[0]} is read as "
                     f"{given[0].partition('.')[0]}")  # fmt: skip
        texts = [text.partition(".")[0] if _FLOAT.fullmatch(text) else text for text in texts]
    # A class -1 beside a class 1 is a way to write two classes; beside others it says that there is none.
    others = set(given) - {str(UNLABELED)}
    is_unlabeled = np.array([text == str(UNLABELED) and text not in known_names for text in texts] + [False])[
        codes
    ]
    of_row = np.array([*faults, None], object)[codes]
    of_row[is_unlabeled & (splits == TEST)] = "the label is missing"
    if len(others) > 1:
        of_row[is_unlabeled] = f"the label is missing ({UNLABELED})"
    return Labels(codes, texts, of_row, notes)


def _fault_of(text: str) -> str | None:
    if text.casefold() in _MISSING:
        return f"the label is missing ({text})" if text else "the label is missing"
    if text == A_LIST or (text[0] in "[{(" and _is_list(text)):
        return "the label is a list; expected one label an image"
    return None


def _is_list(text: str) -> bool:
    closing = {"[": "]", "{": "}", "(": ")"}[text[0]]
    if not text.endswith(closing):
        return False
    inner = text[1:-1].strip()
    if text[0] == "[":
        try:
            json.loads(text)
            return True
        except (ValueError, RecursionError):
            pass
    return not inner or bool(re.fullmatch(r"""(['"]).*\1(\s*,\s*(['"]).*\3)*,?""", inner))


def read_class_names(path: str) -> list[str] | None:
    """The names in classes.txt beside the list, or None."""
    names = os.path.join(os.path.dirname(path), CLASSES_FILE)
    try:
        with open_text(names, errors="replace") as file:
            return [name for line in file if (name := line.strip())]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"Expected one class name a line in {show_path(names)}; it cannot be read: {error.strerror}. "
            "Mend it, or remove it: then the labels name the classes."
        ) from None


class _Resolver:
    """Finds the class of a label text."""

    def __init__(self, texts: Sequence[str], classes: Sequence[Mapping[str, Any]], names: ClassNames) -> None:
        self._count, self._names = len(classes), names
        self._by_name = {plain_name(entry["name"]): entry["label"] for entry in classes}
        self._by_name |= {plain_name(entry["id"]): entry["label"] for entry in classes}
        self._are_ids = all(map(_NUMBER.fullmatch, texts)) and not all(map(self._find_name, texts))

    def find(self, text: str) -> int | None:
        if self._are_ids:
            label = int(text)
            return label if 0 <= label < self._count else None
        found = self._find_name(text)
        return None if found is None else found[0]

    def _find_name(self, text: str) -> tuple[int] | None:
        name = plain_name(text)
        label = self._by_name.get(name, self._by_name.get(self._names.settle(text)))
        return None if label is None else (label,)


def resolve_labels(
    lines: tuple[Callable[[int], str], Any], labels: Labels, splits: np.ndarray, *,
    classes: Sequence[dict] | None, listed: Sequence[str] | None, names: ClassNames,
) -> tuple[list[dict], np.ndarray, list[str]]:  # fmt: skip
    """The classes, the id of every row, int32 [N], and notes.

    Args:
      lines: what a line is called, and the line of each row.
      classes: of the training input, or None.
      listed: the names in classes.txt, or None.
      names: which spellings are one class.

    Raises:
      UsageError: a label is none of the classes.
    """
    codes, texts, notes = labels.codes, labels.texts, list[str]()
    labeled = labels.faults == None  # noqa: E711 (elementwise)
    used = np.unique(codes[labeled]).tolist()
    given = "the trained ones" if classes is not None else CLASSES_FILE
    if classes is None and listed is not None:
        classes, notes = _listed_classes(listed, names)
        _check_words({texts[code] for code in used}, listed)
    elif classes is None:
        trained = np.unique(codes[labeled & (splits == TRAIN)]).tolist()
        classes = _named_classes({names.settle(texts[code]) for code in trained})
        given = "those with training rows"
    resolver = _Resolver([texts[code] for code in used], classes, names)
    ids = np.full(len(texts) + 1, UNLABELED, np.int32)
    for code in sorted(
        used, key=lambda code: bool(_NUMBER.fullmatch(texts[code]))
    ):  # a word among ids is odd
        label = resolver.find(texts[code])
        if label is None:
            row = int(np.flatnonzero((codes == code) & labeled)[0])
            place = lines[0](lines[1][row].as_py())
            raise UsageError(
                f"The label {quote(texts[code])} in {place} is outside of the {len(classes)} classes "
                f"({given})."
            )
        ids[code] = label
    return list(classes), np.where(labeled, ids[codes], UNLABELED).astype(np.int32), notes


def _listed_classes(listed: Sequence[str], names: ClassNames) -> tuple[list[dict], list[str]]:
    """The classes of classes.txt; those that share a name are known by their numbers, and a note says so."""
    shared = _shared(listed)
    classes = [
        class_entry(label, names.settle(name), str(label) if plain_name(name) in shared else None)
        for label, name in enumerate(listed)
    ]
    if not shared:
        return classes, []
    told, note = tell_apart(classes)
    return told, [note] if note else []


def _check_words(texts: Collection[str], listed: Sequence[str]) -> None:
    """Raises UsageError where a label is the name of two classes."""
    shared = _shared(listed)
    for text in sorted(texts):
        if plain_name(text) in shared:
            raise UsageError(
                f"Expected labels of one class each; {CLASSES_FILE} has two classes called {quote(text)}. "
                "Use their line numbers, from 0, as labels, or give one of them another name."
            )


def _shared(names: Sequence[str]) -> set[str]:
    return {name for name, times in collections.Counter(map(plain_name, names)).items() if times > 1}


def _named_classes(names: set[str]) -> list[dict]:
    """Classes in the order of their names; numbers in that of their values, and without words."""
    if not all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return [class_entry(label, name) for label, name in enumerate(sorted(names))]
    ordered = sorted(names, key=lambda name: (int(name[:4000]), name))
    return [class_entry(label, name, words=[], queries=[]) for label, name in enumerate(ordered)]
