"""Promotion keeps what others wrote into `models.config`, and leaves what it does not understand alone."""

import json

import pytest
from absl import logging
from urnet_fixtures.exports import read_models_config

from urnet_tf.errors import UsageError
from urnet_tf.export import tf_serving
from urnet_tf.export.promotion import promote

WRITTEN = """\
# written by hand: do not touch }
model_config_list {
  config {
    name: "dogs"  # in production }
    base_path: "/mnt/models/{dogs}"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 7 } }
    version_labels { key: 'stable' value: 3 }
    version_labels { key: "canary" value: 7 }
  }
}
# the end: } >
"""


def make_export(path, name="cats", version=1, created="today"):
    path = path / "runs" / created / "export" / str(version)
    path.mkdir(parents=True)
    (path / "export.json").write_text(json.dumps({"name": name, "version": version, "created": created}))
    (path / "saved_model.pb").touch()
    return path


@pytest.fixture
def promoted(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_entries_that_are_there_stay_to_the_byte(tmp_path, promoted):
    path = promoted / "models.config"
    path.write_text(WRITTEN)
    promote(make_export(tmp_path), promoted)
    text = path.read_text()
    end = WRITTEN.rindex("}\n#")
    assert text.startswith(WRITTEN[:end]) and text.endswith(WRITTEN[end:]), text
    dogs, cats = read_models_config(path)
    assert list(dogs.model_version_policy.specific.versions) == [3, 7]
    assert dict(dogs.version_labels) == {"stable": 3, "canary": 7} and dogs.base_path == "/mnt/models/{dogs}"
    assert (cats.name, cats.base_path, cats.model_platform) == ("cats", "/models/cats", "tensorflow")
    assert cats.model_version_policy.latest.num_versions == 1


def test_an_entry_of_the_model_itself_stays_to_the_byte(tmp_path, promoted, monkeypatch):
    path, said = promoted / "models.config", []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    path.write_text(WRITTEN)
    promote(make_export(tmp_path, "dogs", 7), promoted)
    assert path.read_text() == WRITTEN and not said
    assert promote(make_export(tmp_path, "dogs", 8, "tomorrow"), promoted).is_dir()
    assert path.read_text() == WRITTEN
    assert said == [f"{path} pins dogs to version 3, 7; version 8 is not served yet."]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet }",
        "model_config_list {}",
        "model_config_list: < >",
        "model_config_list { config { name: 'a }' base_path: \"/x\\\"}\" } }",
        "model_config_list <\n config <\n name: \"a\" >\n>\n\n",
        "model_config_list {\n  config { name: 'a' }\n  # the last } of all\n}",
        "model_config_list {\r\n  config { name: 'a' }\r\n}\r\n",
    ],
)  # fmt: skip
def test_lists_of_every_style_are_added_to(tmp_path, text):
    path = tmp_path / "models.config"
    path.write_bytes(text.encode())
    before = read_models_config(path)
    assert tf_serving.add_model(path, "Käfer")
    *kept, added = read_models_config(path)
    assert kept == before and added.name == "Käfer"
    written = path.read_bytes().decode()
    assert all(line in written for line in text.split("\n")[:-1])
    assert not tf_serving.add_model(path, "Käfer") and path.read_bytes().decode() == written


@pytest.mark.parametrize(
    "content",
    [
        b"models: 5",
        b"model_config_list {",
        b"model_config_list { config { name: 'a' } } }",
        b"model_config_list { config { nickname: 'a' } }",
        b"\xff\xfe",
        b"\0" * 100,
        b"x" * 100_000,
        b'custom_model_config { type_url: "x" }',
    ],
    ids=lambda content: content[:30].decode("latin-1"),
)
def test_what_is_no_list_is_left_as_it_is(tmp_path, promoted, content):
    path = promoted / "models.config"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="left as it is") as caught:
        promote(make_export(tmp_path), promoted)
    message = str(caught.value).replace(str(path), "")
    assert "\n" not in message and len(message) < 400
    assert path.read_bytes() == content and [p.name for p in promoted.iterdir()] == ["models.config"]


def test_a_directory_in_its_place_is_told(tmp_path, promoted):
    (promoted / "models.config").mkdir()
    with pytest.raises(UsageError, match="Cannot read .*Is a directory"):
        promote(make_export(tmp_path), promoted)


@pytest.mark.parametrize("name", ["../cats", "/cats", "models.config", "", ".."])
def test_a_name_that_leaves_the_directory_is_refused(tmp_path, promoted, name):
    with pytest.raises(UsageError, match="for the name in .*export.json"):
        promote(make_export(tmp_path, name), promoted)
    assert not list(promoted.iterdir())


@pytest.mark.parametrize(
    "metadata", ["", "{", "[" * 100_000, "[]", '{"name": "cats"}', '{"name": [], "version": 1}']
)
def test_damaged_facts_are_one_sentence(tmp_path, promoted, metadata):
    source = make_export(tmp_path)
    (source / "export.json").write_text(metadata)
    with pytest.raises(UsageError, match="export.json"):
        promote(source, promoted)
    assert not list(promoted.iterdir())
