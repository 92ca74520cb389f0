"""Names of classes: spellings of one name, and what the user merges.

Two spellings that differ in their Unicode form or in blanks are one name. Two that differ in case only are
refused until the user says whether they are one class.
"""

import collections
import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

_SHOWN = 3


def plain_name(name: str) -> str:
    """A name in Unicode's composed form, with single blanks between words.

    >>> plain_name(" Red  Fox ")
    'Red Fox'
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


def tell_apart(classes: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    """Entries of classes.json with names of their own, and a note about those that shared one.

    A word may name two classes: WordNet has a crane that wades and one that lifts. Each class of a shared
    name takes its next word that no other class has, or else its id, behind the name. Case does not tell
    names apart.

    >>> crane = {"name": "crane", "words": ["crane"]}
    >>> told, note = tell_apart([crane | {"id": "n02012849"}, crane | {"id": "n03126707"}])
    >>> [entry["name"] for entry in told]
    ['crane (n02012849)', 'crane (n03126707)']
    """
    count = collections.Counter(entry["name"].casefold() for entry in classes)
    words = collections.Counter(word for entry in classes for word in {w.casefold() for w in entry["words"]})
    told, changed = [], []
    for entry in classes:
        name = entry["name"]
        if count[name.casefold()] > 1:
            own = (word for word in entry["words"] if words[word.casefold()] == 1)
            name = f"{name} ({next(own, entry['id'])})"
            changed.append(name)
        told.append({**entry, "name": name})
    if not changed:
        return told, None
    return told, f"{len(changed)} classes share their name with another; they are called {_shown(changed)}"


class ClassNames:
    """Which class a given name means.

    Args:
      merge: name → the name of the class that it is counted to; a name merged into itself says that it is
        a class of its own, although another differs from it in case only.
    """

    def __init__(self, merge: Mapping[str, str] | None = None) -> None:
        self._merge = {plain_name(name): plain_name(into) for name, into in (merge or {}).items()}
        self._given: dict[str, set[str]] = {}  # plain name → spellings

    def settle(self, name: str) -> str:
        """The class that a name means."""
        plain = plain_name(name)
        self._given.setdefault(plain, set()).add(name)
        return self._merge.get(plain, plain)

    def check(self) -> list[str]:
        """Looks at all names that were settled: notes about those that became one.

        Raises:
          UsageError: two differ in case only; a name to be merged was not given.
        """
        for name in self._merge:
            if name not in self._given:
                near = difflib.get_close_matches(name, self._given, 1)
                hint = f"did you mean {quote(near[0])}?" if near else f"there are {_shown(self._given)}."
                raise UsageError(
                    f"Expected names of classes in `merge`; received {quote(name)}, which is none; {hint}"
                )
        finals = dict.fromkeys(self._merge.get(name, name) for name in self._given)
        by_case: dict[str, list[str]] = {}
        for name in finals:
            by_case.setdefault(name.casefold(), []).append(name)
        for names in by_case.values():
            if len([name for name in names if self._merge.get(name) != name]) > 1:
                first, second = sorted(names)[:2]
                raise UsageError(
                    f"Expected classes whose names differ in more than case; received {quote(first)} and "
                    f"{quote(second)}; make them one with `merge={{{second}: {first}}}`, or keep them "
                    f"apart with `merge={{{second}: {second}}}`."
                )
        several = [sorted(names) for names in self._given.values() if len(names) > 1]
        notes = []
        if several:
            shown = "; ".join(" = ".join(map(ascii, names)) for names in several[:_SHOWN])
            notes.append(
                f"{len(several)} names of classes are written in several ways and are one each: {shown}"
            )
        merged = [name for name in self._given if self._merge.get(name, name) != name]
        if merged:
            notes.append(
                "merged classes: " + ", ".join(f"{quote(n)} into {quote(self._merge[n])}" for n in merged)
            )
        return notes


def _shown(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(quote, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
