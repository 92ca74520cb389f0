"""Links in the README and in docs/ lead to files and headings, and the API page to modules."""

import importlib.util
import pathlib
import posixpath
import re
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md")))]


@pytest.fixture(scope="module")
def hooks():
    """docs/hooks.py, which needs MkDocs only where a site is built."""
    spec = importlib.util.spec_from_file_location("docs_hooks", REPOSITORY / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def anchors_of(text):
    """Those of GitHub that MkDocs agrees with: headings whose signs both treat alike."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        github, mkdocs = words.replace(" ", "-"), re.sub(r"[-\s]+", "-", words)
        if github == mkdocs:
            yield f"#{github}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(hooks, page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    own = re.findall(r"\]\((#[^)]*)\)", text)
    for target, anchor in [*hooks.links(text), *(("", anchor) for anchor in own)]:
        path = REPOSITORY / posixpath.dirname(page) / target if target else REPOSITORY / page
        assert path.is_file(), f"{target} in {page}"
        known = ["", *anchors_of(path.read_text(encoding="utf-8"))] if path.suffix == ".md" else [""]
        assert anchor in known, f"{target}{anchor} in {page}"


def test_every_page_is_in_the_site_and_in_the_readme(hooks):
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    in_site = {"README.md", *(f"docs/{name}" for name in re.findall(r": (\S+\.md)$", navigation, re.M))}
    in_site.remove("docs/index.md")
    notebooks = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.ipynb")}
    assert in_site == {*PAGES, *(f"{notebook}.md" for notebook in notebooks)}
    readme = {target for target, _ in hooks.links((REPOSITORY / "README.md").read_text(encoding="utf-8"))}
    assert {*PAGES, *notebooks} - {"README.md"} <= readme


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_api_page_names_modules_that_exist():
    names = re.findall(r"^::: ([\w.]+)$", (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8"), re.M)
    assert names
    for name in names:
        path = REPOSITORY.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


# ----------------------------------------------------------------------------------------- the hooks


def test_links_are_moved_with_their_page(hooks):
    assert hooks.site_uri("README.md") == "index.md"
    assert hooks.site_uri("docs/api.md") == "api.md"
    assert hooks.site_uri("experiments/LOG.md") == "experiments/LOG.md"
    assert hooks.site_uri("urnet_tf/errors.py") == "urnet_tf/errors.py.md"
    text = "[a](docs/api.md#x) ![b](experiments/images/report.png) [c](https://example.org) `[d](LICENSE)`"
    moved = "[a](api.md#x) ![b](experiments/images/report.png) [c](https://example.org) `[d](LICENSE)`"
    assert hooks.relink(text, "README.md") == moved
    assert hooks.relink("[e](../../README.md) [f](#g)", "docs/notebook/n.md") == "[e](../index.md) [f](#g)"
    assert hooks.links("[g](a.md#b)\n```text\n[h](no.md)\n```\n[i](c.md)") == [("a.md", "#b"), ("c.md", "")]


def test_files_outside_are_found_through_other_files(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "REPOSITORY", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("[to](../B.md) [back](../README.md) [in](b.md)")
    (tmp_path / "B.md").write_text("[to](code/c.py) [again](B.md)")
    assert hooks.outside_files(["docs/a.md"]) == ["B.md", "code/c.py"]


def test_comments_of_settings_are_read_where_they_stand(hooks):
    source = """
class A:
    # above,
    # in two lines
    x: int = 1
    y: int = _between(0, 0, 9)  # beside
    z: str = _choice(
        None, "b"
    )  # below, closing
    nothing: int = 2


# about B
class B:
    x: int = 3  # other
"""
    assert hooks.read_comments(source) == {
        ("A", "x"): "above, in two lines", ("A", "y"): "beside", ("A", "z"): "below, closing",
        ("A", "nothing"): "", ("B", "x"): "other",
    }  # fmt: skip


def test_the_settings_page_has_every_setting(hooks):
    from urnet_tf.config import Config

    sections = re.split(r"^### ", hooks.settings_tables(), flags=re.M)[2:]  # the first two are about presets
    rows = set()
    for section in sections:
        title, _, body = section.partition("\n")
        prefix = "" if title == "At the top" else f"{title}."
        same = re.search(r"The same settings as `([\w.]+)`", body)
        names = re.findall(r"^\| `(\w+)` \|", body, re.M)
        rows |= {f"{prefix}{name}" for name in names}
        if same:
            first = f"{same[1]}."
            rows |= {prefix + key.removeprefix(first) for key in rows if key.startswith(first)}
    assert rows == dict(hooks._flatten(Config())).keys()


def test_a_setting_has_its_default_range_and_comment(hooks):
    tables = hooks.settings_tables()
    assert (
        "| `kind` | `auto` | `auto`, `folder`, `list`, `webvision`, `dataset` | dataset: as img2dataset, "
        in tables
    )
    assert "| `val_fraction` | `0.1` | 0 to 0.9 | drawn per class when no validation set is given |" in tables
    assert "| `flip` | `true` | `true`, `false` |  |" in tables
    assert "The same settings as `baseline.fit`; by default `mixup` is `0.4`" in tables.replace(
        "`loss.logit_adjustment` is `1.0`, ", ""
    )


def test_the_presets_are_told_by_what_they_change(hooks):
    table = hooks.settings_tables().partition("\n### At the top")[0]
    assert "| `reweight.formulas` | `repaired` | `repaired` | `repaired` | `literal` |" in table
    assert "| `train.fit.mixup` | `0.4` | `null` | `null` | `null` |" in table
    assert "`seed`" not in table
