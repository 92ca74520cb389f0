"""How answers are written: CSV and JSON lines for programs, a table for people.

CSV and JSON lines are read back, so that a killed run can go on behind its last complete row. Texts in
CSV that a spreadsheet would take for a formula (after = + - @, a tab or a line break) get a leading '.
Names that are not UTF-8 appear with backslash escapes; what is written is always valid UTF-8.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from urnet_tf.serving.predictor import Answer
from urnet_tf.text_rules import one_line


class Row(NamedTuple):
    """One image: its printable path, what the model says, and why not if it says nothing."""

    path: str
    answer: Answer
    reason: str = ""


class Csv:
    """One row an image: path, valid, reason, label_1, probability_1, ..., none_of_these if there is such.

    At the end stand the ids of the classes, id_1, ..., where the export tells them.
    """

    def __init__(self, top_k: int, none_of_these: bool, class_ids: Sequence[str] = ()):
        self._ids = class_ids
        ids = [f"id_{place}" for place in range(1, top_k + 1)] if class_ids else []
        ranked = [f"{what}_{place}" for place in range(1, top_k + 1) for what in ("label", "probability")]
        self._header = [
            "path",
            "valid",
            "reason",
            *ranked,
            *(["none_of_these"] if none_of_these else []),
            *ids,
        ]

    def header(self) -> str:
        """The first line."""
        return _csv_line(self._header)

    def lines(self, row: Row) -> str:
        """The line of one image; empty fields where it was not answered."""
        answer = row.answer
        numbers = map(_number, answer.probabilities)
        pairs = [(_guarded(label), number) for label, number in zip(answer.labels, numbers, strict=True)]
        values: list[str | float] = [
            _guarded(row.path),
            "true" if answer.valid else "false",
            _guarded(row.reason),
        ]
        values += [value for pair in pairs for value in pair]
        if answer.none_of_these is not None:
            values.append(_number(answer.none_of_these))
        if self._ids:
            values += [_guarded(self._ids[number]) for number in answer.classes]
        return _csv_line(values + [""] * (len(self._header) - len(values)))

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool, int]]:
        """Yields (path, valid, where the row ends) of the complete rows of a binary file."""
        end = 0

        def complete_lines() -> Iterator[str]:
            nonlocal end
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line.decode("utf-8", "replace")

        rows = csv.reader(complete_lines())
        try:
            if next(rows, None) != self._header:
                return
            for values in rows:
                if len(values) != len(self._header):  # cut off inside of a quoted field
                    return
                path = values[0].removeprefix("'") if _FORMULA.match(values[0]) else values[0]
                yield path, values[1] == "true", end
        except csv.Error:
            return


class JsonLines:
    """One object an image: path, valid, reason, predictions [{label, id, class, probability}], none_of_these.

    `id` is there where the export tells the ids of its classes.
    """

    def __init__(self, class_ids: Sequence[str] = ()):
        self._ids = class_ids

    def header(self) -> str:
        """Nothing."""
        return ""

    def lines(self, row: Row) -> str:
        """The line of one image."""
        answer = row.answer
        ranked = zip(answer.labels, answer.classes, answer.probabilities, strict=True)
        values = {
            "path": row.path,
            "valid": answer.valid,
            "reason": row.reason,
            "predictions": [self._prediction(*found) for found in ranked],
        }
        if answer.none_of_these is not None:
            values["none_of_these"] = _number(answer.none_of_these)
        return json.dumps(values, ensure_ascii=False) + "\n"

    def _prediction(self, label: str, number: int, prob: float) -> dict[str, str | int | float]:
        identity = {"id": self._ids[number]} if self._ids else {}
        return {"label": label, **identity, "class": number, "probability": _number(prob)}

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool, int]]:
        """Yields (path, valid, where the line ends) of the complete lines of a binary file."""
        end = 0
        for line in file:
            try:
                values = json.loads(line)
                path, valid = values["path"], values["valid"]
            except (ValueError, KeyError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield path, valid, end


class Table:
    """A line a class: the image, the class, its probability; as wide as a terminal at most.

    Args:
      labels: all that may appear; with `longest_path` they fix the widths, so that rows can be
        written before the last one is known.
      longest_path: cells of the widest path.
      width: of the terminal.
    """

    def __init__(self, labels: Sequence[str], longest_path: int, width: int):
        room = max(width, 40) - len("  ") - len("  probability")
        longest_label = max(cells(one_line(label)) for label in (*labels, "class", _NONE))
        self._label = min(longest_label, max(room // 2, room - longest_path))
        self._path = min(max(longest_path, len("image")), room - self._label)

    def header(self) -> str:
        """The names of the columns."""
        return self._line("image", "class", "probability") + "-" * (self._path + self._label + 15) + "\n"

    def lines(self, row: Row) -> str:
        """One line a class, the path in the first; or why there is no answer."""
        path, answer = one_line(row.path), row.answer
        if not answer.valid:
            return f"{_left(_shortened(path, self._path), self._path)}  not used: {one_line(row.reason)}\n"
        ranked = list(zip(answer.labels, answer.probabilities, strict=True))
        if answer.none_of_these is not None:
            ranked.append((_NONE, answer.none_of_these))
        paths = [path] + [""] * (len(ranked) - 1)
        return "".join(
            self._line(p, one_line(label), _percent(probability))
            for p, (label, probability) in zip(paths, ranked, strict=True)
        )

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool, int]]:
        """Nothing: shortened paths cannot be known again."""
        return iter(())

    def _line(self, path: str, label: str, probability: str) -> str:
        path = _left(_shortened(path, self._path), self._path)
        label = _left(_shortened(label, self._label, keep_end=False), self._label)
        return f"{path}  {label}  {probability:>11}\n"


_NONE = "(none of these)"
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # what was guarded before is guarded once more, to be told apart


def _guarded(text: str) -> str:
    """Text for a field of CSV, which a spreadsheet shows and does not compute."""
    return f"'{text}" if _FORMULA.match(text) else text


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(letter) for letter in text)


def _cells_of(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _shortened(text: str, width: int, keep_end: bool = True) -> str:
    """The end of a path, which tells most, or the beginning of a label, in at most `width` cells."""
    if cells(text) <= width:
        return text
    kept, used = [], 1  # one for the dots
    for letter in reversed(text) if keep_end else text:
        used += _cells_of(letter)
        if used > width:
            break
        kept.append(letter)
    return "…" + "".join(reversed(kept)) if keep_end else "".join(kept) + "…"


def _left(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _percent(share: float) -> str:
    return "below 0.1%" if share < 0.001 else f"{100 * share:.1f}%"


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def _csv_line(values: Iterable[float | str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(values)  # what is in it is quoted inside of fields
    return buffer.getvalue().removesuffix("\r\n") + "\n"
