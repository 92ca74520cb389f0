"""Every departure from the paper is said where it is made, and the table of the docs says the same."""

import importlib.util
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGE = REPOSITORY / "urnet_tf"
MODULES = sorted([*(PACKAGE / "reweighting").glob("*.py"), PACKAGE / "models" / "urnet.py"])


@pytest.fixture(scope="module")
def paper_table():
    path = REPOSITORY / "docs" / "paper_table.py"
    spec = importlib.util.spec_from_file_location("paper_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_says_its_source_and_where_it_departs(paper_table, path):
    said = [labels for _, labels in paper_table.statements(path)]
    of_the_paper = [labels for labels in said if paper_table.is_of_the_paper(labels)]
    if of_the_paper:
        for label in ("Differs", "Reading"):
            assert any(label in labels for labels in of_the_paper), f"no line `{label}:` in {path.name}"
    else:
        foreign = [labels["Source"] for labels in said if "Source" in labels]
        assert any(source.startswith("not in the paper") for source in foreign), f"no source in {path.name}"


def test_the_files_of_the_paper_are_known_to_be(paper_table):
    """Or the test above would be content with `not in the paper`."""
    names = {"bag_saliency", "class_weight", "cluster_weight", "combine", "instance_weight", "recipe",
             "soft_label", "text_network", "urnet"}  # fmt: skip
    found = {
        path.stem
        for path in MODULES
        if any(paper_table.is_of_the_paper(said) for _, said in paper_table.statements(path))
    }
    assert names <= found


def test_the_table_of_the_docs_is_that_of_the_docstrings(paper_table):
    page = paper_table.PAGE.read_text(encoding="utf-8")
    assert paper_table.with_table(page) == page, "run `python docs/paper_table.py`"
    assert len(paper_table.rows()) >= 20 and page.count(paper_table.BEGIN) == 1


def test_statements_are_cut_at_the_next_label_and_at_an_empty_line(paper_table, tmp_path):
    lines = ("A.", "", "Source: Eq. 1,", "  Sec. 4.1.", "Diffs: no.", "Differs: in", "  two.", "Reading: x.",
             "", "More: y.")  # fmt: skip
    text = '"""' + "\n".join(lines) + '\n"""\n'
    (tmp_path / "a.py").write_text(text)
    ((name, said),) = paper_table.statements(tmp_path / "a.py")
    assert (name, said["Differs"], said["Reading"]) == ("", "in two.", "x.")
    assert said["Source"].startswith("Eq. 1, Sec. 4.1.") and paper_table.is_of_the_paper(said)
    for source in ("not in the paper, which has Table 1.", "Menon et al., Eq. 3."):
        assert not paper_table.is_of_the_paper({"Source": source})
