"""An extension of griffe, which reads the docstrings of the API page: formulas stay as they were written."""

import re
import textwrap

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.M)
_EXAMPLE = "Example:\n"


class Formulas(griffe.Extension):
    """Shows indented paragraphs and examples before the first section as blocks, departures as paragraphs."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called for each module, class and function."""
        if obj.docstring:
            obj.docstring.value = as_written(obj.docstring.value)


def as_written(text: str) -> str:
    """Markdown that shows a docstring as it is laid out."""
    section = _SECTION.search(text)
    start = section.start() if section else len(text)
    paragraphs = map(_block, text[:start].split("\n\n"))
    return "\n\n".join(paragraphs) + re.sub(r"\n(?=Differs: )", "\n\n", text[start:])


def _block(paragraph: str) -> str:
    """A paragraph, as a block of code where it is indented or an example."""
    if paragraph.startswith(_EXAMPLE):
        return f"Example:\n\n```pycon\n{textwrap.dedent(paragraph.removeprefix(_EXAMPLE)).rstrip()}\n```\n"
    if paragraph.startswith("  "):
        return f"```text\n{textwrap.dedent(paragraph)}\n```"
    return paragraph
