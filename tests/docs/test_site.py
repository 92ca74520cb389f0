"""The site builds without a warning, and its pages load nothing from elsewhere."""

import html.parser
import importlib.util
import pathlib
import re
import runpy
import subprocess
import sys
import types

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
LOADED = {"src", "srcset", "data", "poster"}  # attributes whose address a browser fetches by itself


class Loads(html.parser.HTMLParser):
    """Collects what a browser would fetch, and where links lead."""

    def __init__(self):
        super().__init__()
        self.fetched, self.linked = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in LOADED or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            elif tag == "a" and name == "href":
                self.linked.append(value or "")


def loads_of(page):
    parser = Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing; the site is built where docs/requirements.txt is installed")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return directory


def test_examples_and_formulas_of_docstrings_become_blocks(monkeypatch):
    griffe = types.SimpleNamespace(Extension=object, Object=object)  # installed with the docs' tools only
    monkeypatch.setitem(sys.modules, "griffe", griffe)
    as_written = runpy.run_path(str(REPOSITORY / "docs" / "docstrings.py"))["as_written"]
    text = "A mean.\n\n  m = s / n\n\nExample:\n  >>> mean([1, 2])\n  [1.5]\n\nArgs:\n  values: float [n]."
    assert as_written(text) == (
        "A mean.\n\n```text\nm = s / n\n```\n\nExample:\n\n```pycon\n>>> mean([1, 2])\n[1.5]\n```\n\n\n"
        "Args:\n  values: float [n]."
    )


def test_the_settings_page_needs_no_more_than_the_docs_install():
    code = (
        "import sys; before = set(sys.modules); import urnet_tf.config; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    third_party = {name for name in done.stdout.split() if not name.startswith("_")}
    assert third_party - {"cython_runtime"} == {"urnet_tf", "numpy", "yaml"}  # a part of PyYAML


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        foreign = [a for a in loads_of(page).fetched if re.match(r"(https?:)?//", a)]
        assert not foreign, page
    for sheet in site.rglob("*.css"):
        assert not re.findall(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")
        ), sheet


@pytest.mark.slow
def test_links_between_pages_lead_to_files(site):
    for page in site.rglob("*.html"):
        for address in loads_of(page).linked:
            if page.name != "404.html" and not re.match(r"\w+:|#|$", address):
                assert (page.parent / address.partition("#")[0]).exists(), f"{address} in {page}"


@pytest.mark.slow
def test_generated_pages_have_their_content(site):
    settings = (site / "settings.html").read_text(encoding="utf-8")
    assert "drawn per class when no validation set is given" in settings
    assert "compute_class_weight" in (site / "api.html").read_text(encoding="utf-8")
    assert "Two commands" in (site / "index.html").read_text(encoding="utf-8")
    assert "data:image/png" in (site / "notebook" / "reading_a_run.ipynb.html").read_text(encoding="utf-8")
