"""The work directory: atomic writes, markers, resumable units."""

import os
import shutil

import numpy as np
import pytest

from urnet_tf import store
from urnet_tf.errors import RunError


def test_an_error_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.txt"
    store.write_text(path, "old")
    with pytest.raises(KeyError), store.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_holds_numpy_values_and_turns_nan_into_null(tmp_path):
    store.write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan")})
    assert store.read_json(tmp_path / "x.json") == {"a": 0.5, "b": [0, 1], "c": None}


def test_tables_keep_dtypes_and_are_byte_identical(tmp_path):
    columns = {"n": np.array([1, 2]), "s": ["ä", ""], "extra": [0, 0]}
    for name in ("a", "b"):
        store.write_table(tmp_path / name, columns, {"n": "int32", "s": "string"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = store.read_table(tmp_path / "a")
    assert table.column_names == ["n", "s"]
    assert store.column(table, "n").dtype == np.int32
    assert list(store.column(table, "s")) == ["ä", ""]


def test_fingerprint_depends_on_values_not_on_key_order():
    assert store.fingerprint({"a": 1, "b": 2}) == store.fingerprint({"b": 2, "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})


def test_a_column_is_continued_and_another_shape_is_refused(tmp_path):
    column = store.open_column(tmp_path / "c.npy", (4, 2), "float16")
    column[1] = 3
    del column
    again = store.open_column(tmp_path / "c.npy", (4, 2), "float16")
    assert again[1].tolist() == [3, 3]
    with pytest.raises(RunError, match="delete it to start over"):
        store.open_column(tmp_path / "c.npy", (5, 2), "float16")


def test_units_are_pending_until_complete(tmp_path):
    log = store.UnitLog(tmp_path / "units", 3)
    log.complete(1, {"n": 5})
    assert store.UnitLog(tmp_path / "units", 3).pending() == [0, 2]
    log.complete(0)
    log.complete(2)
    assert log.facts() == [None, {"n": 5}, None]


def test_a_stage_is_complete_only_under_its_final_name(tmp_path):
    workdir = store.Workdir(tmp_path)
    partial = workdir.open_partial("pack", "k1")
    (partial / "part").write_text("1")
    assert workdir.marker("pack") is None and workdir.holds_partial("pack", "k1")
    assert (workdir.open_partial("pack", "k1") / "part").exists(), "the same key goes on"
    assert not (workdir.open_partial("pack", "k2") / "part").exists(), "another key starts over"
    workdir.finish("pack", {"key": "k2"})
    assert workdir.marker("pack") == {"key": "k2"}
    workdir.open_partial("pack", "k3")
    workdir.finish("pack", {"key": "k3"})
    assert workdir.marker("pack") == {"key": "k3"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack"]


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, monkeypatch, killed_at):
    """Killed before the old directory goes, before the new one comes, and before the old one is deleted."""
    workdir = store.Workdir(tmp_path)
    workdir.open_partial("export", "k1")
    workdir.finish("export", {"key": "k1"})
    (workdir.open_partial("export", "k2") / "part").write_text("2")
    steps = iter(range(9))

    def until_killed(function):
        def run(*args, **kwargs):
            if str(args[0]).endswith(("export", "export.partial", "export.old")) and next(steps) == killed_at:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", until_killed(os.replace))
        patch.setattr(store.shutil, "rmtree", until_killed(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            workdir.finish("export", {"key": "k2"})
    assert workdir.recover("export") == (killed_at < 3)
    assert workdir.marker("export") == {"key": "k2"} and (workdir.path("export") / "part").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export"]
    assert not workdir.recover("export")


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    workdir = store.Workdir(tmp_path)
    partial = workdir.open_partial("pack", "k")
    (partial / "units").mkdir()
    for name in ("a.npy", ".a.npy.123.tmp", "units/.000001.json.9.tmp"):
        (partial / name).write_text("x")
    (partial / ".urnet.7.tmp").mkdir()
    workdir.open_partial("pack", "k")
    assert sorted(p.name for p in partial.rglob("*")) == ["a.npy", "key.txt", "units"]
