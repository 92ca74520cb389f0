"""The work directory: atomic writes, markers that notice damage, resumable units, removals."""

import ast
import errno
import os
import pathlib

import numpy as np
import pyarrow as pa
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
    assert log.metadata() == [None, {"n": 5}, None]


def test_a_stage_is_complete_only_under_its_final_name(tmp_path):
    workdir = store.Workdir(tmp_path)
    partial = workdir.open_partial("pack", "k1")
    (partial / "part").write_text("1")
    assert workdir.marker("pack") is None and workdir.holds_partial("pack", "k1")
    assert (workdir.open_partial("pack", "k1") / "part").exists(), "the same key goes on"
    assert not (workdir.open_partial("pack", "k2") / "part").exists(), "another key starts over"
    workdir.finish("pack", {"key": "k2"})
    assert workdir.marker("pack")["key"] == "k2"
    workdir.open_partial("pack", "k3")
    workdir.finish("pack", {"key": "k3"})
    assert workdir.marker("pack")["key"] == "k3"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack", "pack.partial.previous"]
    workdir.drop_previous(["pack"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack"]


def test_what_a_killed_run_left_waits_while_another_key_runs(tmp_path):
    workdir = store.Workdir(tmp_path)
    (workdir.open_partial("pack", "k1") / "part").write_text("1")
    (workdir.open_partial("pack", "k2") / "part").write_text("2")
    assert workdir.holds_partial("pack", "k1") and workdir.holds_partial("pack", "k2")
    assert not workdir.holds_partial("pack", "k3")
    assert (workdir.open_partial("pack", "k1") / "part").read_text() == "1"
    assert (workdir.open_partial("pack", "k2") / "part").read_text() == "2"
    workdir.finish("pack", {"key": "k2"})
    assert (workdir.open_partial("pack", "k1") / "part").read_text() == "1"


def test_what_was_begun_with_other_results_is_not_continued(tmp_path):
    workdir = store.Workdir(tmp_path)
    (workdir.open_partial("pack", "k", "a") / "part").write_text("1")
    assert (workdir.open_partial("pack", "k", "a") / "part").exists()
    assert workdir.holds_partial("pack", "k")
    assert not (workdir.open_partial("pack", "k", "b") / "part").exists()
    workdir.open_partial("pack", "other")
    assert workdir.open_partial("pack", "k", "a") and not (tmp_path / "pack.partial" / "part").exists()


def complete(workdir, stage, key, content, seconds=0):
    (workdir.open_partial(stage, key) / "part").write_text(content)
    workdir.finish(stage, {"key": key, "seconds": seconds})


def test_results_that_took_long_are_kept_until_the_run_is_complete(tmp_path):
    workdir = store.Workdir(tmp_path)
    complete(workdir, "train", "k1", "1", seconds=1000)
    complete(workdir, "train", "k2", "2", seconds=1000)
    assert workdir.previous_marker("train")["key"] == "k1"
    workdir.restore("train")
    assert (workdir.path("train") / "part").read_text() == "1" and workdir.marker("train")["key"] == "k1"
    assert workdir.previous_marker("train")["key"] == "k2"
    complete(workdir, "train", "k3", "3", seconds=1)
    assert workdir.previous_marker("train")["key"] == "k1", "one generation"
    complete(workdir, "train", "k4", "4")
    assert workdir.previous_marker("train")["key"] == "k1", "what took a second is not worth the disk"
    workdir.drop_previous(["train"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train"]


def test_a_killed_restore_leaves_a_complete_stage(tmp_path, monkeypatch):
    workdir = store.Workdir(tmp_path)
    complete(workdir, "train", "k1", "1", seconds=1000)
    complete(workdir, "train", "k2", "2", seconds=1000)
    replaced = []

    def replace(source, target):
        if len(replaced) == 1:
            raise KeyboardInterrupt
        replaced.append((source, target))
        return os.rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.workdir.os, "replace", replace)
        workdir.restore("train")
    assert not workdir.recover("train")
    assert workdir.marker("train")["key"] == "k2" and workdir.previous_marker("train")["key"] == "k1"


DAMAGES = {
    "delete": lambda path, data: path.unlink(),
    "halve": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "empty": lambda path, data: path.write_bytes(b""),
    "flip": lambda path, data: path.write_bytes(bytes([data[0] ^ 1]) + data[1:]),
    "zero": lambda path, data: path.write_bytes(bytes(len(data))),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["part", "deep/er/part", "done.json"])
def test_every_damage_to_a_complete_stage_is_found(tmp_path, kind, name):
    workdir = store.Workdir(tmp_path)
    out = workdir.open_partial("pack", "k")
    (out / "deep" / "er").mkdir(parents=True)
    for part in ("part", "deep/er/part", "deep/sound"):
        (out / part).write_text(f"the contents of {part}")
    workdir.finish("pack", {"key": "k"})
    assert workdir.find_damage("pack") == workdir.find_damage("pack", full=True) == []
    assert store.Workdir(tmp_path).checked("pack", "deep").is_dir()
    path = workdir.path("pack") / name
    DAMAGES[kind](path, path.read_bytes())
    for looking in (workdir, store.Workdir(tmp_path)):  # one that had seen the file sound, and a new process
        if name == "done.json":
            assert looking.marker("pack") is None
        else:
            (problem,) = looking.find_damage("pack")
            assert problem.startswith(f"{name} ")
        with pytest.raises(store.DamagedResult, match=name) as caught:
            looking.checked("pack", *(() if name == "done.json" else name.split("/")))
        assert caught.value.stage == "pack"
    if name != "done.json":
        assert workdir.checked("pack", "deep", "sound").is_file()


def test_a_marker_that_someone_edited_is_none(tmp_path):
    workdir = store.Workdir(tmp_path)
    complete(workdir, "pack", "k1", "1")
    path = workdir.path("pack") / "done.json"
    for old, new in (('"k1"', '"k2"'), ('"bytes": 1', '"bytes": 2'), ('"files"', '"Files"'), ("{", "[{")):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert workdir.marker("pack") is None, new
        path.write_text(text)
        assert workdir.marker("pack")["key"] == "k1"


def test_contents_that_changed_without_size_and_time_are_found_when_they_are_read(tmp_path):
    workdir = store.Workdir(tmp_path)
    complete(workdir, "pack", "k", "abc")
    path = workdir.path("pack") / "part"
    status = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh = store.Workdir(tmp_path)
    assert fresh.find_damage("pack") == []
    assert fresh.find_damage("pack", full=True) == [
        "part is not as it was written (its contents were changed)"
    ]
    with pytest.raises(store.DamagedResult):
        fresh.checked("pack", "part")
    assert store.Workdir(tmp_path, hashes=False).checked("pack", "part") == path


def test_removing_never_leaves_the_directory(tmp_path):
    inside, outside = tmp_path / "work", tmp_path / "mine"
    for directory in (inside / "a" / "b", outside / "photos"):
        directory.mkdir(parents=True)
        (directory / "x").write_text("x")
    (inside / "link").symlink_to(outside)
    (tmp_path / "work2").mkdir()
    for path in (outside, inside, tmp_path, "/", inside / "..", inside / ".", inside / "a" / ".." / "..",
                 inside / "link" / "photos", tmp_path / "work2", inside / ".." / "mine"):  # fmt: skip
        with pytest.raises(RunError, match="Refused to remove"):
            store.remove(path, inside)
    assert (outside / "photos" / "x").exists() and (inside / "a" / "b" / "x").exists()
    store.remove(inside / "link", inside)
    assert (outside / "photos" / "x").exists() and not (inside / "link").is_symlink()
    store.remove(inside / "a", inside)
    store.remove(inside / "a", inside)
    assert list(inside.iterdir()) == []


def test_only_the_store_removes_anything():
    """Every other place goes through `store.remove`, which refuses what lies outside."""
    package = pathlib.Path(store.__file__).parent.parent
    removers = {"rmtree", "unlink", "rmdir", "removedirs", "remove_tree", "rmtree_p", "DeleteRecursively"}
    found = []
    for path in [*package.rglob("*.py"), *package.parent.joinpath("experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if node.func.attr in removers or (owner == "os" and node.func.attr == "remove"):
                found.append(f"{path.relative_to(package.parent)}:{node.lineno}")
    assert [place for place in found if not place.startswith("urnet_tf/store/files.py:")] == []
    assert found, "the search finds what it looks for"


def test_files_are_flushed_before_they_are_renamed(tmp_path, monkeypatch):
    """A power cut after the rename must not leave an empty file behind a valid name."""
    events = []
    names = {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def open_file(path, *args, **kwargs):
        descriptor = real_open(path, *args, **kwargs)
        names[descriptor] = os.path.basename(os.fspath(path))
        return descriptor

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("flush", names.get(fd))), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("name", os.path.basename(b))),
                                                     real_replace(a, b)))  # fmt: skip
    workdir = store.Workdir(tmp_path)
    out = workdir.open_partial("pack", "k")
    (out / "folder").mkdir()
    (out / "folder" / "part").write_text("written by a library")
    events.clear()
    workdir.finish("pack", {"key": "k"})
    flat = [f"{what} {name}" for what, name in events]
    order = ["flush part", "flush folder", "flush pack.partial", "name done.json", "name pack"]
    assert [flat.index(event) for event in order] == sorted(flat.index(event) for event in order)
    marker = flat.index("name done.json")
    assert flat[marker - 1].startswith("flush .done.json.") and "flush pack.partial" in flat[marker:]
    assert flat[flat.index("name pack") + 1] == f"flush {tmp_path.name}"


def test_units_are_marked_after_their_columns_are_on_the_disk(tmp_path, monkeypatch):
    column = store.open_column(tmp_path / "c.npy", (4,), np.float32)
    log, events = store.UnitLog(tmp_path / "units", 2, column), []
    monkeypatch.setattr(np.memmap, "flush", lambda self: events.append("flushed"))
    monkeypatch.setattr(store.unit_log, "write_json", lambda path, value: events.append(path.name))
    log.complete(1)
    assert events == ["flushed", "000001.json"]


def test_a_unit_whose_file_is_damaged_is_done_again(tmp_path):
    log = store.UnitLog(tmp_path / "units", 2)
    log.complete(0)
    log.complete(1)
    (tmp_path / "units" / "000001.json").write_bytes(b"")
    assert log.pending() == [1]


def test_columns_have_their_blocks_when_they_are_opened(tmp_path):
    store.open_column(tmp_path / "c.npy", (1 << 20,), np.float32)
    assert (tmp_path / "c.npy").stat().st_blocks * 512 >= 4 << 20, "a hole would be a SIGBUS on a full disk"


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_column_of_another_type_is_refused(tmp_path, dtype):
    store.open_column(tmp_path / "c.npy", (4, 2), "float16")
    with pytest.raises(RunError, match="holds float16"):
        store.open_column(tmp_path / "c.npy", (4, 2), dtype)


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, store.atomic_path(tmp_path / "x.npz"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.npz") and caught.value.errno == errno.ENOSPC


def test_a_flipped_bit_in_a_table_is_an_error(tmp_path):
    path = tmp_path / "t.parquet"
    store.write_table(path, {"n": np.arange(100_000) * 7919 % 65_521}, {"n": "int32"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="(?i)crc|checksum|corrupt"):
        store.read_table(path)


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, monkeypatch, killed_at):
    """Killed before the old directory goes, before the new one comes, and before the old one is removed."""
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
        patch.setattr(store.workdir.os, "replace", until_killed(os.replace))
        patch.setattr(store.workdir, "remove", until_killed(store.remove))
        with pytest.raises(KeyboardInterrupt):
            workdir.finish("export", {"key": "k2"})
    assert workdir.recover("export") == (killed_at < 3)
    assert workdir.marker("export")["key"] == "k2" and (workdir.path("export") / "part").exists()
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


def test_codes_of_a_text_column():
    column = pa.chunked_array([["pear", "fig"], ["pear", "apple"]])
    numbers, texts = store.codes_of(column)
    assert (numbers.tolist(), texts) == ([0, 1, 0, 2], ["pear", "fig", "apple"])
    numbers, texts = store.codes_of(column, ordered=True)
    assert (numbers.tolist(), texts) == ([2, 1, 2, 0], ["apple", "fig", "pear"])
    assert numbers.dtype == np.int32


def test_what_was_made_ahead_goes_but_not_from_a_stage_that_is_shared(tmp_path):
    own, shared = tmp_path / "own", tmp_path / "shared"
    for root in (own, shared):
        (root / "ingest" / store.AHEAD).mkdir(parents=True)
    store.Workdir(own).drop_ahead("ingest")
    assert not (own / "ingest" / store.AHEAD).exists() and (own / "ingest").exists()
    store.Workdir(own).drop_ahead("ingest")  # nothing there is fine
    (own / "pack").symlink_to(shared / "ingest")
    store.Workdir(own).drop_ahead("pack")
    assert (shared / "ingest" / store.AHEAD).exists()
