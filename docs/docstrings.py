"""An extension of griffe, which reads the docstrings of the API page: formulas stay as they were written."""

import re
import textwrap

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.M)


class Formulas(griffe.Extension):
    """Shows indented paragraphs before the first section as blocks, and departures as paragraphs."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called for each module, class and function."""
        if obj.docstring:
            obj.docstring.value = as_written(obj.docstring.value)


def as_written(text: str) -> str:
    """Markdown that shows a docstring as it is laid out."""
    section = _SECTION.search(text)
    start = section.start() if section else len(text)
    paragraphs = [
        f"```text\n{textwrap.dedent(paragraph)}\n```" if paragraph.startswith("  ") else paragraph
        for paragraph in text[:start].split("\n\n")
    ]
    return "\n\n".join(paragraphs) + re.sub(r"\n(?=Differs: )", "\n\n", text[start:])
