"""Names that callers see are spelled the American way, as those of Keras and NumPy are."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "urnet_tf"
BRITISH = re.compile(
    r"colour|neighbour|behaviour|favour|honour|centre|metre(?!d)|grey|catalogue|licence|defence|labelled|modelling|"
    r"cancelled|(analy|normali|optimi|initiali|seriali|synchroni|generali|regulari|recogni|quanti|tokeni|"
    r"organi|summari|minimi|maximi|randomi|visuali|locali|vectori|standardi|speciali|penali|finali)s(e|ed|er|ing|ation)",
    re.IGNORECASE,
)


def public_names(path):
    """Functions, classes, arguments, fields and constants of a module that do not begin with `_`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                yield node.name
                yield from (argument.arg for argument in arguments_of(node))
            targets = node.body if isinstance(node, ast.ClassDef) else []
        else:
            targets = node.body if isinstance(node, ast.Module) else []
        for statement in targets:
            assigned = getattr(statement, "targets", [getattr(statement, "target", None)])
            yield from (target.id for target in assigned if isinstance(target, ast.Name))


def arguments_of(node):
    if isinstance(node, ast.ClassDef):
        return []
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_american(path):
    names = {path.stem, *public_names(path)}
    assert not [name for name in names if not name.startswith("_") and BRITISH.search(name)]


def test_the_search_finds_british_names(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("COLOURS = 1\nclass A:\n    centre: int = 0\n    def recognise(self, labelled): ...\n")
    found = {name for name in public_names(path) if BRITISH.search(name)}
    assert found == {"COLOURS", "centre", "recognise", "labelled"}
    path.write_text("def raises(noise, wise, analysis, center, precise, parameter, diameter): ...\n")
    assert not [name for name in public_names(path) if BRITISH.search(name)]
