"""Markdown of model cards, in which names and reasons cannot become links, markup or table cells."""

import re
from collections.abc import Iterable, Sequence

from urnet_tf.text_rules import one_line

UNKNOWN = "not measured"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number as a format says, or that it was not measured."""
    return UNKNOWN if value is None else f"{value:{form}}{unit}"


def code(text: str) -> str:
    """Any text as code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def plain(value: object) -> str:
    """Any text as one line of Markdown that shows just its characters."""
    text = " ".join(one_line(str(value)).split())
    return re.sub(r"[\\`*_\[\]<>&|~$@]|:(?=//)|(?<=\S)\.(?=[^\s\d])", r"\\\g<0>", text) or "(no name)"
