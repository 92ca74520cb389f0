"""The table from the paper to the code, made from the lines of the docstrings that say where code comes from.

    python docs/paper_table.py     writes it into docs/webvision.md

A docstring of what the paper describes says "Source: Sec. …" and then, where true, "Differs:" (what the code
does otherwise, or can) and "Reading:" (how it fills what the paper leaves open). Each ends at an empty line.
"""

import ast
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "webvision.md"
LABELS = ("Source", "Differs", "Reading")
BEGIN, END = "<!-- from the paper to the code: docs/paper_table.py -->", "<!-- end of the table -->"
_STATEMENT = re.compile(rf"^({'|'.join(LABELS)}): (.*(?:\n(?!\n|(?:{'|'.join(LABELS)}): ).*)*)", re.MULTILINE)
_OF_THE_PAPER = re.compile(r"(Sec\.|Eq\.|Fig\.|Table) ?\d")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def statements(path: pathlib.Path) -> list[tuple[str, dict[str, str]]]:
    """What each docstring of a module says of its source: name ("" = the module) and label → sentence."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
        said = {label: " ".join(words.split()) for label, words in _STATEMENT.findall(text or "")}
        if said:
            found.append((getattr(node, "name", ""), said))
    return found


def is_of_the_paper(said: dict[str, str]) -> bool:
    """Whether a docstring names a part of the paper as its source, and not another work."""
    source = said.get("Source", "")
    return bool(_OF_THE_PAPER.match(source))


def rows() -> list[tuple[str, str, str, str]]:
    """(code, source, differs, reading) of all that is from the paper, in the order of its sections."""
    found = []
    for path in sorted((REPOSITORY / "urnet_tf").rglob("*.py")):
        name = path.relative_to(REPOSITORY).as_posix()
        for member, said in statements(path):
            if is_of_the_paper(said):
                code = f"[{path.name}](../{name})" + (f" `{member}`" if member else "")
                found.append((code, *(said.get(label, "") for label in LABELS)))
    return sorted(found, key=lambda row: (_place(row[1]), row[0]))


def _place(source):
    """Sections before tables; a figure or equation alone comes where its section is named, else first."""
    section = re.search(r"Sec\. (\d+)(?:\.(\d+))?", source)
    if section:
        return int(section[1]), int(section[2] or 0)
    return (9, 0)


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| code | paper | where it departs, or can | how it reads what the paper leaves open |",
        "|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows()]
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
