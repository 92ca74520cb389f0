"""Which model a path means; files are empty here, for nothing is opened."""

import json

import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export.preparation import Preparation
from urnet_tf.serving.model_files import find_model
from urnet_tf.store import DamagedResult, Workdir

PREPARATION = Preparation(image_size_px=32, short_side_px=40)


def write_version(directory, *files, name="tiny", version=3, labels=("a", "b")):
    directory.mkdir(parents=True)
    for file in files:
        (directory / file).touch()
    (directory / "labels.txt").write_text("\n".join(labels) + "\n")
    metadata = {"name": name, "version": version, "preparation": PREPARATION.to_dict()}
    (directory / "export.json").write_text(json.dumps(metadata))
    return directory


def test_every_level_leads_to_the_newest_version(tmp_path):
    models = tmp_path / "run" / "export"
    for version in (2, 9, 10):
        write_version(models / "tiny" / str(version), "saved_model.pb", "tiny.keras", version=version)
    (models / "tiny" / "11").mkdir()  # nothing in it: a copy that has just begun
    (models / "tiny" / ".12.77.tmp").mkdir()
    for path in (models / "tiny" / "10", models / "tiny", models, tmp_path / "run"):
        found = find_model(path)
        assert (found.path, found.kind) == (models / "tiny" / "10", "saved_model")
    assert (found.name, found.version, found.labels) == ("tiny", 10, ("a", "b"))
    assert found.preparation == PREPARATION
    assert str(found) == f"tiny, version 10 (SavedModel): {models / 'tiny' / '10'}"
    keras = models / "tiny" / "9" / "tiny.keras"
    assert (find_model(keras).path, find_model(keras).kind, find_model(keras).version) == (keras, "keras", 9)
    assert find_model(models / "tiny" / "2" / "saved_model.pb").path == models / "tiny" / "2"


def test_a_damaged_export_of_a_run_is_never_used(tmp_path):
    workdir = Workdir(tmp_path / "run")
    write_version(workdir.open_partial("export", "k") / "tiny" / "1", "tiny.keras", "tiny_int8.tflite")
    workdir.finish("export", {"key": "k"})
    version = workdir.path("export") / "tiny" / "1"
    assert find_model(tmp_path / "run").path == version / "tiny.keras"
    labels = (version / "labels.txt").read_text()
    (version / "labels.txt").write_text(labels.replace("a", "b"))
    (tmp_path / "link").symlink_to(version)
    for path in (tmp_path / "run", version, version / "tiny.keras", tmp_path / "link"):
        with pytest.raises(DamagedResult, match="labels.txt is not as it was .* `urnet run`"):
            find_model(path)
    (version / "labels.txt").write_text(labels)
    assert find_model(version).labels == ("a", "b")


def test_other_formats_stand_in_for_a_missing_saved_model(tmp_path):
    version = write_version(tmp_path / "tiny" / "1", "tiny.onnx")
    assert find_model(tmp_path).path == version / "tiny.onnx"
    (version / "tiny.keras").touch()
    assert find_model(version).path == version / "tiny.keras"


def test_name_and_version_come_from_the_directories_where_nothing_tells(tmp_path):
    version = tmp_path / "other" / "7"
    (version / "assets").mkdir(parents=True)
    (version / "saved_model.pb").touch()
    (version / "assets" / "labels.txt").write_text("x\ny\n")
    found = find_model(version)
    assert (found.name, found.version, found.labels, found.preparation) == ("other", 7, ("x", "y"), None)


def test_several_models_are_listed(tmp_path):
    for name in ("cats", "dogs"):
        write_version(tmp_path / name / "1", "saved_model.pb")
    with pytest.raises(UsageError, match="it holds cats, dogs. Say which: .*cats"):
        find_model(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        find_model(tmp_path / "nothing")
    with pytest.raises(UsageError, match="it holds nothing"):
        find_model(tmp_path)
    (tmp_path / "pack").mkdir()
    with pytest.raises(UsageError, match="it holds pack. This run has no export yet"):
        find_model(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"\.onnx or a SavedModel\); received .*notes.txt"):
        find_model(tmp_path / "notes.txt")
    bare = tmp_path / "bare" / "x.keras"
    bare.parent.mkdir()
    bare.touch()
    with pytest.raises(UsageError, match="names of the classes in .*labels.txt"):
        find_model(bare)
    (bare.parent / "labels.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match="how images are prepared, in .*export.json; it is missing"):
        find_model(bare)
    (bare.parent / "export.json").write_text("{")
    with pytest.raises(UsageError, match="JSON object in .*export.json"):
        find_model(bare)
    (bare.parent / "export.json").write_text('{"preparation": {"crops": "10"}}')
    with pytest.raises(UsageError, match="export.json; received .*image_size_px"):
        find_model(bare)


@pytest.mark.parametrize(
    "metadata", ["{", "[" * 100_000, "[]", "\0", '{"preparation": {"image_size_px": []}}']
)
def test_damaged_facts_are_one_sentence(tmp_path, metadata):
    version = write_version(tmp_path / "3", "tiny.keras")
    (version / "export.json").write_text(metadata)
    with pytest.raises(UsageError, match="export.json") as caught:
        find_model(version)
    assert "\n" not in str(caught.value)
