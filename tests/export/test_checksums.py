"""Checksums of an export: all files but the one that holds them, and every kind of damage."""

import hashlib
import json
import shutil

import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export import checksums
from urnet_tf.serving.model_files import find_model
from urnet_tf.serving.promoted import find_served_model


@pytest.fixture
def models(tmp_path):
    """`cats` with whole versions 1 and 2."""
    for number in (1, 2):
        version = tmp_path / "cats" / str(number)
        (version / "variables").mkdir(parents=True)
        (version / "assets").mkdir()
        (version / "saved_model.pb").write_bytes(b"graph")
        (version / "variables" / "variables.data").write_bytes(b"weights" * number)
        (version / "assets" / "labels.txt").write_text("tabby\n")
        (version / "README.md").write_text("A card\n")
        metadata = {"name": "cats", "version": number, checksums.KEY: checksums.list_checksums(version)}
        (version / "export.json").write_text(json.dumps(metadata))
    return tmp_path


def test_files_beside_a_savedmodel_that_is_missing_are_half_a_version_too(models):
    for number in (1, 2):
        version = models / "cats" / str(number)
        (version / "cats.keras").write_bytes(b"network")
        (version / "labels.txt").write_text("tabby\n")
        preparation = {"image_size_px": 8}
        metadata = {"name": "cats", "version": number, checksums.KEY: checksums.list_checksums(version)}
        (version / "export.json").write_text(json.dumps(metadata | {"preparation": preparation}))
    version = models / "cats" / "2"
    (version / "saved_model.pb").unlink()
    with pytest.raises(UsageError, match="cats/2; saved_model.pb is missing. .* --model .*cats/1$"):
        find_model(models / "cats")
    assert find_model(version / "cats.keras").version == 2  # is whole, and asked for
    (version / "cats.keras").write_bytes(b"net")
    with pytest.raises(UsageError, match="cats/2; cats.keras has 3 of 7 bytes"):
        find_model(version / "cats.keras")


def test_the_list_is_that_of_b2sum(models):
    found = checksums.list_checksums(models / "cats" / "1")
    names = ["README.md", "assets/labels.txt", "saved_model.pb", "variables/variables.data"]
    assert found["algorithm"] == "blake2b-128" and list(found["files"]) == names
    expected = {"bytes": 5, "hash": hashlib.blake2b(b"graph", digest_size=16).hexdigest()}
    assert found["files"]["saved_model.pb"] == expected


def damage(version, how):
    data = version / "variables" / "variables.data"
    if how == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif how == "changed":
        data.write_bytes(b"W" + data.read_bytes()[1:])
    elif how == "missing":
        data.unlink()
    elif how == "no graph":
        (version / "saved_model.pb").unlink()
    elif how == "empty":
        shutil.rmtree(version)
        version.mkdir()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "variables/variables.data has 13 of 14 bytes"),
        ("changed", "variables/variables.data has another content"),
        ("missing", "variables/variables.data is missing"),
        ("no graph", "saved_model.pb is missing"),
        ("empty", "saved_model.pb is missing"),
    ],
)
def test_a_half_copied_version_is_known_and_the_last_whole_one_offered(models, how, words):
    damage(models / "cats" / "2", how)
    for path in (models, models / "cats"):
        with pytest.raises(UsageError) as caught:
            find_served_model(path, contents=True)
        message = str(caught.value)
        assert words in message and "half copied: copy it again" in message
        assert message.endswith(f"The last whole version is 1: --model {models / 'cats' / '1'}")
    assert find_served_model(models / "cats" / "1", contents=True).versions == (1,)
    if how not in ("changed", "empty"):  # which only a server looks for
        with pytest.raises(UsageError, match="half copied"):
            find_model(models / "cats")


def test_no_damaged_version_is_offered(models):
    damage(models / "cats" / "1", "changed")
    damage(models / "cats" / "2", "missing")
    with pytest.raises(UsageError, match=r"copy it again\.$"):
        find_served_model(models / "cats", contents=True)


def test_what_no_server_reads_may_change(models):
    (models / "cats" / "2" / "README.md").write_text("A better card\n")
    found = find_served_model(models / "cats", contents=True)
    assert (found.versions, found.follow, found.path) == ((2,), True, models / "cats" / "2")


@pytest.mark.parametrize("value", [[], {"files": []}, {"files": {"saved_model.pb": 5}}, {"files": {"x": {}}}])
def test_damaged_checksums_are_one_sentence_or_none(models, value):
    path = models / "cats" / "2" / "export.json"
    path.write_text(json.dumps({"name": "cats", "version": 2, checksums.KEY: value}))
    try:
        find_served_model(models / "cats", contents=True)
    except UsageError as error:
        assert "checksums" in str(error) and "\n" not in str(error)


def test_exports_without_checksums_are_served(models):
    for number in (1, 2):
        path = models / "cats" / str(number) / "export.json"
        path.write_text(json.dumps({"name": "cats", "version": number}))
    assert find_served_model(models / "cats", contents=True).versions == (2,)


def test_a_list_of_models_decides(models):
    listed = 'model_config_list { config { name: "cats" %s } }'
    path = models / "models.config"
    path.write_text(listed % "model_version_policy { specific { versions: 1 } }")
    damage(models / "cats" / "2", "cut")  # nobody asks for it
    found = find_served_model(models / "cats", contents=True)
    assert (found.versions, found.follow) == ((1,), False)
    with pytest.raises(UsageError, match="half copied"):  # it is asked for by its number
        find_served_model(models / "cats" / "2")
    path.write_text(listed % "model_version_policy { specific { versions: 9 } }")
    with pytest.raises(UsageError, match="pins cats to versions that are not in .*; there are 1, 2"):
        find_served_model(models / "cats")


def test_labels_come_from_the_list(models):
    policy = "model_version_policy { specific { versions: 1 versions: 2 } }"
    labels = 'version_labels { key: "old" value: 1 } version_labels { key: "gone" value: 7 }'
    (models / "models.config").write_text(
        f'model_config_list {{ config {{ name: "cats" {policy} {labels} }} }}'
    )
    found = find_served_model(models / "cats", contents=True)
    assert (found.versions, found.labels, found.follow) == ((1, 2), {"old": 1}, False)
