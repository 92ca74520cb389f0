"""Edits of `models.config` change what they are about, in every style of writing, or nothing."""

import pytest
from urnet_fixtures.exports import read_models_config

from urnet_tf.export import models_config
from urnet_tf.export.models_config import CannotEdit, find_served, with_model, with_versions

PLAIN = """model_config_list {
  config {
    name: "cats"
    base_path: "/models/cats"
    model_platform: "tensorflow"
  }
}
"""
STYLES = [
    PLAIN,
    'model_config_list: < config: < name: "cats" base_path: "/c" > >',
    "model_config_list{config{name:'cats',base_path:'/c';model_platform:'tensorflow'}}",
    '# model_config_list { config { name: "cats" } }\nmodel_config_list {\n  config { name: "dogs" }\n'
    '  config { name: "cats" }  # ours }\n}',
    'model_config_list {\r\n config {\r\n  name: "cats"\r\n  model_version_policy { all { } }\r\n }\r\n}\r\n',
    'model_config_list { config { base_path: "/name: \\"cats\\" }" name: "cats" version_labels { value: 1 '
    'key: "b" } } }',
    'model_config_list { config { name: "cats" logging_config { log_collector_config { type: "x" } } } }',
]


def entry(text, tmp_path):
    (tmp_path / "models.config").write_bytes(text.encode())
    return next(e for e in read_models_config(tmp_path / "models.config") if e.name == "cats")


@pytest.mark.parametrize("text", STYLES)
def test_versions_and_labels_are_set_in_every_style(text, tmp_path):
    before = entry(text, tmp_path)
    edited = with_versions(text, "cats", [2, 4], {"b": 4, "a": 2})
    after = entry(edited, tmp_path)
    assert list(after.model_version_policy.specific.versions) == [2, 4]
    assert dict(after.version_labels) == {"a": 2, "b": 4}
    for field in ("name", "base_path", "model_platform", "logging_config"):
        assert getattr(after, field) == getattr(before, field)
    again = with_versions(edited, "cats", [5], {})
    assert list(entry(again, tmp_path).model_version_policy.specific.versions) == [5]
    assert again.replace("versions: 5", "versions: 2 versions: 4") == edited  # nothing else has changed


def test_what_is_added_stands_on_lines_of_its_own():
    assert with_versions(PLAIN, "cats", [3], {"canary": 3}) == PLAIN.replace(
        "  }\n}",
        "    model_version_policy { specific { versions: 3 } }\n"
        '    version_labels { key: "canary" value: 3 }\n  }\n}',
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('model_config_list { config { name: "dogs" } }', "the model is not in it"),
        ('model_config_list { config: [{ name: "dogs" }, { name: "cats" }] }', "not understood"),
        ('model_config_list { config { name: "ca" "ts" } }', "not understood"),
        (
            'model_config_list { config { name: "cats" version_labels: [{ key: "a" value: 1 }] } }',
            "not understood",
        ),
        ('model_config_list { config { name: "cats" } config { name: "cats" } }', "not understood"),
        ('model_config_list { config { name: "cats" model_version_policy { # why\n all {} } } }', "comment"),
        (
            'model_config_list { config { name: "cats" version_labels { key: "a" value: 1 # why\n } } }',
            "comment",
        ),
    ],
)
def test_what_is_not_understood_is_left(text, reason):
    with pytest.raises(CannotEdit, match=reason):
        with_versions(text, "cats", [1], {"a": 2})


def test_which_versions_are_served():
    there = [1, 2, 5]
    listed = 'model_config_list { config { name: "cats" model_version_policy { %s } } }'
    assert find_served(PLAIN, "cats", there) == ([5], False, {})
    assert find_served(PLAIN, "dogs", there) is None and find_served("", "cats", there) is None
    assert find_served(listed % "latest { num_versions: 2 }", "cats", there).versions == [2, 5]
    assert find_served(listed % "all {}", "cats", there) == (there, False, {})
    assert find_served(listed % "specific { versions: 9 versions: 2 }", "cats", there) == ([2], True, {})


def test_a_model_is_added_with_versions_and_labels(tmp_path):
    text = with_model("", "cats", [1, 2], {"stable": 1})
    assert with_model(text, "cats") == text
    found = entry(text, tmp_path)
    assert list(found.model_version_policy.specific.versions) == [1, 2]
    assert dict(found.version_labels) == {"stable": 1} and found.base_path == "/models/cats"


def test_the_snippet_is_what_an_edit_would_write():
    lines = models_config.snippet("cats", [1, 3], {"a": 3}).splitlines()
    edited = with_versions(PLAIN, "cats", [1, 3], {"a": 3})
    assert all(line.strip() in edited for line in lines) and len(lines) == 2
