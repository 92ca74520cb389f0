"""The settings that the program's texts name exist, so that no advice leads to an unknown key."""

import ast
import dataclasses
import pathlib
import re

import pytest

from urnet_tf import config

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "urnet_tf").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# No keys.
ENDINGS = {"h5", "html", "input", "json", "keras", "md", "npy", "parquet", "py", "safetensors", "yaml"}
# A gap (\0) stands for what a text is filled with; `*`, … and { for several endings.
DOTTED = re.compile(r"(?<![\w./-])(?:[a-z]\w*|\0)(?:\.[a-z]\w*)+(?![\w/(]|\.[\w/])([\0*…{])?")


def keys_of(section, prefix=""):
    for field in dataclasses.fields(section):
        yield prefix + field.name
        if dataclasses.is_dataclass(value := getattr(section, field.name)):
            yield from keys_of(value, f"{prefix}{field.name}.")


KEYS = set(keys_of(config.Config()))
SECTIONS = {part for key in KEYS for part in key.split(".")[:-1]}


def unknown_settings(text):
    """What looks like a setting and is none: `section.name`, or a gap and the end of a key."""
    for found in DOTTED.finditer(text):
        name = found[0].rstrip("\0*…{")
        *sections, last = name.split(".")
        if last in ENDINGS or sections[0] == "urnet_tf" or not SECTIONS & set(sections):
            continue
        if name.startswith("\0"):
            known = any(key.endswith(name[1:]) for key in KEYS)
        elif found[1] or name.endswith("_"):
            known = any(key.startswith(name) for key in KEYS)
        else:
            known = name in KEYS
        if not known:
            yield name


def texts_of(source):
    """Every text of a module but its documentation, with gaps where values are filled in."""
    tree = ast.parse(source)
    left_out = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if documented and isinstance(node.body[0], ast.Expr):
            left_out.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr):
            left_out |= set(node.values)
            yield "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_in_messages_exist(path):
    unknown = [name for text in texts_of(path.read_text(encoding="utf-8")) for name in unknown_settings(text)]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_settings_in_the_documentation_exist(page):
    assert not list(unknown_settings(page.read_text(encoding="utf-8")))


def test_the_search_finds_wrong_names():
    wrong = 'f"Try {x}, fit.learning_rate, train.fit.rate=3, {name}.fit.batch, or model.resnet_{y}." + "a.b"'
    found = [name for text in texts_of(wrong) for name in unknown_settings(text)]
    assert found == ["fit.learning_rate", "train.fit.rate", "\0.fit.batch", "model.resnet_"]
    right = 'f"Lower train.fit.epochs, {name}.fit.batch_images (model.resnext_{y}); see model.keras."'
    assert not [name for text in texts_of(right) for name in unknown_settings(text)]


# What the core may name by the configuration's keys: the files that it describes hold these.
KEYS_BELONG = {
    "schema.py",  # what ingest, by its limits, makes of a file
    "export/model_card.py",  # lists the settings of the run
    "reweighting/combine.py",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_does_not_name_keys_of_the_configuration(path):
    place = path.relative_to(ROOT / "urnet_tf")
    rooms = ("stages", "flow", "config", "commands", "__main__.py")
    if place.parts[0] in rooms or place.as_posix() in KEYS_BELONG:
        return
    texts = texts_of(path.read_text(encoding="utf-8"))
    named = {found[0] for text in texts for found in DOTTED.finditer(text) if is_key(found)}
    assert not named, "name the argument, in backticks, and put `settings_named` around the call in the stage"


def is_key(found):
    """Whether a match of DOTTED is a key, or the beginning of one with a gap behind it."""
    name = found[0].rstrip("\0*…{")
    return name in KEYS or bool(found[1]) and any(key.startswith(name) for key in KEYS)


def test_every_fit_of_a_stage_says_where_its_settings_are():
    sections = []
    for path in SOURCES:
        if path.parent.name != "stages":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.With) or not [*calls(node, "fit_model"), *calls(node, "refit_folds")]:
                continue
            (given,) = [inner for item in node.items for inner in calls(item, "keys_of")]
            sections.append((path.stem, given.args[1].value))
    expected = {"baseline": "baseline.fit", "reweight": "reweight.refit", "urnet_fit": "train.fit"}
    assert dict(sections) == expected and len(sections) == 3
    for _, section in sections:
        assert isinstance(config.select(config.Config(), section), config.FitConfig)


def calls(node, name):
    """The calls of a function inside a node."""
    found = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return [call for call in found if name in (getattr(call.func, "attr", ""), getattr(call.func, "id", ""))]
