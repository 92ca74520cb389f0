"""Promotion keeps what others wrote into `models.config`, and leaves what it does not understand alone."""

import json

import pytest
from urnet_fixtures.exports import read_models_config

from urnet_tf.errors import UsageError
from urnet_tf.export import checksums, models_config, tf_serving
from urnet_tf.export.promotion import promote, roll_back
from urnet_tf.store import read_json, write_json

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
    path.mkdir(parents=True, exist_ok=True)
    (path / "export.json").write_text(json.dumps({"name": name, "version": version, "created": created}))
    (path / "labels.txt").write_text("tabby\n")
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


def test_an_entry_of_the_model_itself_stays_to_the_byte(tmp_path, promoted):
    path = promoted / "models.config"
    path.write_text(WRITTEN)
    promote(make_export(tmp_path, "dogs", 7), promoted)
    done = promote(make_export(tmp_path, "dogs", 8, "tomorrow"), promoted)
    assert path.read_text() == WRITTEN and done.version.is_dir()
    assert done.remarks == [
        f"{path} stays as it is: it pins dogs to version 7, so version 8 is not served yet. --pin or --label "
        "changes that."
    ]


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
    assert models_config.add_model(path, "Käfer")
    *kept, added = read_models_config(path)
    assert kept == before and added.name == "Käfer"
    written = path.read_bytes().decode()
    assert all(line in written for line in text.split("\n")[:-1])
    assert not models_config.add_model(path, "Käfer") and path.read_bytes().decode() == written


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
    with pytest.raises(UsageError, match="left as it is"):
        roll_back_from(promoted)


def roll_back_from(promoted):
    for version in ("1", "2"):
        (promoted / "cats" / version).mkdir(parents=True)
        (promoted / "cats" / version / "saved_model.pb").touch()
    return roll_back(promoted / "cats")


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


# ------------------------------------------------------------------- pins, labels, the way back


@pytest.fixture
def cats(tmp_path, promoted):
    """Promotes one more version of cats: a function of the day and of what `promote` takes."""

    def add(day, **more):
        return promote(make_export(tmp_path, "cats", 1, day), promoted, **more)

    return add


def served(promoted, name="cats"):
    entry = next(e for e in read_models_config(promoted / "models.config") if e.name == name)
    policy = entry.model_version_policy
    versions = list(policy.specific.versions) if policy.HasField("specific") else "latest"
    return versions, dict(entry.version_labels)


def test_a_pin_holds_until_the_next(cats, promoted):
    assert cats("monday").remarks == [
        f"{promoted}/models.config now lists cats; its highest version is served."
    ]
    (number, says) = cats("tuesday").remarks
    assert "The export's version 1 is number 2 there, in all files." == number
    assert says.endswith("a running TF Serving goes from version 1 to version 2 by itself.")
    assert served(promoted) == ("latest", {})
    assert f"{promoted}/models.config now serves version 3 of cats." in cats("wednesday", pin=True).remarks
    assert served(promoted) == ([3], {})
    assert "not served yet" in cats("thursday").remarks[-1] and served(promoted) == ([3], {})
    cats("friday", pin=True)
    assert served(promoted) == ([5], {})
    assert tf_serving.find_versions(promoted / "cats") == [1, 2, 3, 4, 5]


def test_a_new_model_can_be_pinned_at_once(cats, promoted):
    cats("monday", pin=True)
    assert served(promoted) == ([1], {})


def test_a_canary_is_served_beside_the_stable_version(cats, promoted):
    cats("monday")
    remarks = cats("tuesday", label="canary").remarks
    assert served(promoted) == ([1, 2], {"canary": 2, "stable": 1})
    assert "The label canary means version 2." in remarks and "The label stable means version 1." in remarks
    assert any("get the highest that is served, 2" in remark for remark in remarks)
    cats("wednesday", label="canary")
    assert served(promoted) == ([1, 2, 3], {"canary": 3, "stable": 1})
    cats("thursday", pin=True, label="stable")
    assert served(promoted) == ([3, 4], {"canary": 3, "stable": 4})  # a label must lead somewhere


def test_a_dry_run_changes_nothing_and_says_the_same(cats, promoted):
    cats("monday")
    before = {path: path.read_bytes() for path in promoted.rglob("*") if path.is_file()}
    planned = cats("tuesday", label="canary", dry_run=True)
    assert planned.version == promoted / "cats" / "2" and not planned.version.exists()
    rolled = cats("tuesday", label="canary")
    assert rolled == planned
    plan = roll_back(promoted / "cats", dry_run=True)
    assert served(promoted)[0] == [1, 2]
    assert roll_back(promoted / "cats") == plan and served(promoted)[0] == [1]
    assert all(
        path.read_bytes() == content or path.name == "models.config" for path, content in before.items()
    )


def test_the_way_back(cats, promoted):
    for day in ("monday", "tuesday", "wednesday"):
        cats(day)
    change = roll_back(promoted / "cats")
    assert change.version == promoted / "cats" / "2" and served(promoted) == ([2], {})
    assert (promoted / "cats" / "3").is_dir() and "Version 3 stays" in change.remarks[-1]
    roll_back(promoted / "cats")
    assert served(promoted) == ([1], {})
    with pytest.raises(UsageError, match="whole version of cats below 1"):
        roll_back(promoted / "cats")
    with pytest.raises(UsageError, match="promoted model with versions"):
        roll_back(promoted / "dogs")


def test_a_version_that_is_there_is_pinned_or_labeled_without_a_copy(promoted, tmp_path):
    path = promoted / "models.config"
    promote(make_export(tmp_path, version=1, created="monday"), promoted, pin=True)
    promote(newer := make_export(tmp_path, version=2, created="tuesday"), promoted)  # not served: pinned
    with pytest.raises(UsageError, match="already, as .*/2. --pin or --label serves it"):
        promote(newer, promoted)
    before = path.read_text()
    dry = promote(newer, promoted, label="canary", dry_run=True)
    assert path.read_text() == before
    done = promote(newer, promoted, label="canary")
    assert dry == done and done.version == promoted / "cats" / "2"
    assert done.remarks[0] == "This export is there already; it is not copied again."
    assert sorted(p.name for p in (promoted / "cats").iterdir()) == ["1", "2"]
    (entry,) = read_models_config(path)
    assert dict(entry.version_labels) == {"canary": 2, "stable": 1}
    roll_back(promoted / "cats")
    promote(newer, promoted, pin=True)
    (entry,) = read_models_config(path)
    assert 2 in entry.model_version_policy.specific.versions
    told = read_json(done.version / "export.json") | {checksums.KEY: checksums.list_checksums(done.version)}
    write_json(done.version / "export.json", told)
    (done.version / "saved_model.pb").write_text("half")
    with pytest.raises(UsageError, match="cats/2, but not whole: saved_model.pb has 4 of 0 bytes"):
        promote(newer, promoted, pin=True)


def test_labels_go_back_with_the_version_and_others_stay(cats, promoted):
    for day in ("monday", "tuesday", "wednesday"):
        cats(day)
    path = promoted / "models.config"
    policy = "model_version_policy { specific { versions: 1 versions: 3 } }"
    labels = 'version_labels { key: "old" value: 1 } version_labels { key: "new" value: 3 }'
    path.write_text(f'model_config_list {{ config {{ name: "cats" {policy} {labels} }} }}')
    change = roll_back(promoted / "cats")
    assert served(promoted) == ([1, 2], {"old": 1, "new": 2})
    assert "The label new means version 2 now." in change.remarks


def test_a_damaged_version_is_not_gone_back_to(cats, promoted):
    for day in ("monday", "tuesday", "wednesday"):
        cats(day)
    version = promoted / "cats" / "2"
    metadata = read_json(version / "export.json")
    write_json(version / "export.json", metadata | {checksums.KEY: checksums.list_checksums(version)})
    (version / "saved_model.pb").write_bytes(b"cut")
    assert roll_back(promoted / "cats").version.name == "1"


def test_lines_around_an_edit_stay_to_the_byte(tmp_path, promoted):
    path = promoted / "models.config"
    path.write_text(WRITTEN)
    (promoted / "dogs" / "7").mkdir(parents=True)
    (promoted / "dogs" / "7" / "saved_model.pb").touch()
    promote(make_export(tmp_path, "dogs", 9), promoted, label="canary")
    expected = WRITTEN.replace("versions: 3 versions: 7", "versions: 3 versions: 7 versions: 9")
    expected = expected.replace('{ key: "canary" value: 7 }', '{ key: "canary" value: 9 }')
    assert path.read_text() == expected


def test_what_cannot_be_edited_is_printed_instead(tmp_path, promoted):
    path = promoted / "models.config"
    commented = WRITTEN.replace("specific {", "specific { # since the fire\n")
    path.write_text(commented)
    change = promote(make_export(tmp_path, "dogs", 9), promoted, pin=True)
    assert path.read_text() == commented and change.version.is_dir()
    (remark,) = change.remarks
    assert "left as it is, since there is a comment" in remark
    assert "model_version_policy { specific { versions: 3 versions: 7 versions: 9 } }" in remark


def test_an_export_that_is_not_whole_is_not_promoted(tmp_path, promoted):
    source = make_export(tmp_path)
    metadata = read_json(source / "export.json")
    write_json(source / "export.json", metadata | {checksums.KEY: checksums.list_checksums(source)})
    promote(source, promoted)
    (source / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"whole export in .*; saved_model.pb has 1 of 0 bytes"):
        promote(source, promoted)


@pytest.mark.parametrize("label", ["", "a b", "../x", "x\n"])
def test_a_label_is_a_plain_word(tmp_path, promoted, label):
    with pytest.raises(UsageError, match="for a label"):
        promote(make_export(tmp_path), promoted, label=label)


def test_files_of_the_server_are_written_once(cats, promoted):
    cats("monday")
    (promoted / "batching.config").write_text("max_batch_size { value: 4 }\n")
    cats("tuesday")
    assert (promoted / "batching.config").read_text() == "max_batch_size { value: 4 }\n"
    assert (promoted / "monitoring.config").is_file()
