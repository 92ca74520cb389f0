"""What is long or branches much is split, or says why not: `# Long because ...` where it is long.

A file may have 400 lines; a function 60, without its docstring. Complexity is C901 of ruff, up to 10; what is
exempted from it has the reason behind that in parentheses.
"""

import ast
import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FILES = [
    path
    for folder in ("urnet_tf", "experiments", "tests", "docs")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
REASON = re.compile(r"# Long because \w+ \w+")
BRANCHES = re.compile(r"^\s*def .*# noqa: C901(?!  \(\w+ \w+)")


def faults_of(source):
    """What is too long without a reason."""
    lines = source.splitlines()
    if len(lines) > MOST_LINES and not REASON.search("\n".join(lines[:40])):
        yield f"{len(lines)} lines"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        own = lines[node.lineno - 1 : node.end_lineno]
        if ast.get_docstring(node) is not None:
            del own[node.body[0].lineno - node.lineno : node.body[0].end_lineno - node.lineno + 1]
        if len(own) > MOST_FUNCTION_LINES and not REASON.search("\n".join(own)):
            yield f"{node.name}: {len(own)} lines"
    yield from (f"no reason: {line.strip()}" for line in lines if BRANCHES.match(line))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_is_long_says_why(path):
    assert not list(faults_of(path.read_text(encoding="utf-8")))


def test_the_search_finds_what_is_long():
    body = "    x = 1\n" * 59
    documented = 'def f():\n    """One.\n\n    Two.\n    """\n'
    assert not list(faults_of(f"def f():\n{body}")) and not list(faults_of(documented + body))
    assert list(faults_of(f"{documented}    y = 2\n{body}")) == ["f: 61 lines"]
    assert not list(faults_of(f"{documented}    # Long because of reasons.\n{body}"))
    assert list(faults_of("x = 1\n" * 401)) == ["401 lines"]
    bare = "def f():  # noqa: " + "C901"
    assert list(faults_of(f"{bare}\n    pass")) == [f"no reason: {bare}"]
    assert not list(faults_of(f"{bare}  (a list of cases)\n    pass"))
