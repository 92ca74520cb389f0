"""Work directories in buckets, on three small stages: second machines, kills, damage, locks.

A folder (file://) stands for the bucket, and a cache folder for each machine; tests/store/test_s3.py repeats
the essentials on an S3 server.
"""

import contextlib
import os

import pytest
from urnet_fixtures.machines import (
    Killed,
    at_once as at_once,
    files_of,
    kill_uploads_after,
    machine as machine,
    ran as ran,
)

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.crawl import corrections
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import bucket_runs, runner
from urnet_tf.store import bucket_lock, buckets, mirror, read_json, transfers, write_json

# ---------------------------------------------------------------------------- machines


def test_the_bucket_holds_what_a_local_directory_would(machine, tmp_path):
    assert machine("one") == ["ingest", "pack", "train"]
    names = {
        f"{stage}/{name}" for stage in ("ingest", "pack", "train") for name in ("done.json", "value.json")
    }
    assert files_of(machine.bucket) == names | {f"pack/shards/{i}.bin" for i in range(3)} | {"config.yaml"}
    assert machine("one") == []
    copied = store.Workdir(machine.bucket)  # as it is: a work directory
    assert copied.address is None and runner.verify(copied)[1]
    assert not (machine.bucket / bucket_lock.LOCK).exists()


def test_a_second_machine_goes_on_and_brings_only_what_it_reads(machine, tmp_path):
    machine("one")
    assert machine("two") == []
    (cache,) = (tmp_path / "two").iterdir()
    assert files_of(cache) == {f"{s}/done.json" for s in ("ingest", "pack", "train")} | {"config.yaml"}
    assert machine("two", "train.bag.size=4") == ["train"]
    assert "pack/value.json" in files_of(cache) and "pack/shards/0.bin" not in files_of(cache)
    assert machine("one", "train.bag.size=4") == [], "its cache was older than the bucket"
    assert read_json(next((tmp_path / "one").iterdir()) / "train" / "value.json") == 3


def test_changed_settings_replace_a_stage_and_what_it_had_written(machine):
    machine("one", "pack.images_per_shard=300")
    (machine.bucket / "pack" / "notes.txt").write_text("of a person")
    assert machine("two", "pack.images_per_shard=100") == ["pack", "train"]
    assert "pack/shards/0.bin" in files_of(machine.bucket)
    assert not {"pack/shards/1.bin", "pack/shards/2.bin"} & files_of(machine.bucket)
    assert (machine.bucket / "pack" / "notes.txt").exists(), "the program did not write it"
    assert machine("one", "pack.images_per_shard=100") == []


def test_what_is_there_is_not_sent_again(machine, monkeypatch):
    machine("one")
    sent, upload = [], buckets.Bucket.upload
    monkeypatch.setattr(buckets.Bucket, "upload", lambda s, p, n: (sent.append(n), upload(s, p, n)))
    machine("one", "pack.images_per_shard=400")
    files = [name for name in sent if name.startswith("pack")]
    assert files == ["pack/shards/3.bin", "pack/done.json"]


# ------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("count", [0, 1, 2, 4, 7, 8, 9])
def test_a_kill_between_files_and_marker_leaves_a_stage_complete_or_not_there(machine, monkeypatch, count):
    sent = []
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        kill_uploads_after(patch, count, sent)
        machine("one")
    complete = {
        name for name in ("ingest", "pack", "train") if (machine.bucket / name / "done.json").exists()
    }
    assert complete == {name.partition("/")[0] for name in sent if name.endswith("done.json")}
    for stage in complete:
        assert store.Workdir(machine.bucket).find_damage(stage, full=True) == []
    (machine.bucket / bucket_lock.LOCK).unlink(missing_ok=True)
    assert machine("two") == [name for name in ("ingest", "pack", "train") if name not in complete]


def test_a_killed_upload_goes_on_where_it_was(machine, monkeypatch):
    sent = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_uploads_after(patch, 5, sent)
        machine("one")
    assert sent == [
        "ingest/value.json", "ingest/done.json", "config.yaml", "pack/shards/0.bin", "pack/shards/1.bin",
    ]  # fmt: skip
    again, upload = [], buckets.Bucket.upload
    monkeypatch.setattr(buckets.Bucket, "upload", lambda s, p, n: (again.append(n), upload(s, p, n)))
    assert machine("one") == ["train"], "pack was complete here"
    assert again[:3] == ["pack/shards/2.bin", "pack/value.json", "pack/done.json"]


def test_a_kill_while_a_stage_is_replaced(machine, monkeypatch):
    machine("one")
    sent = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_uploads_after(patch, 2, sent)
        machine("one", "pack.jpeg_quality=50")
    assert sent == ["pack/shards/0.bin", "pack/shards/1.bin"], "of other contents than the third"
    assert not (machine.bucket / "pack" / "done.json").exists()
    (machine.bucket / bucket_lock.LOCK).unlink(missing_ok=True)
    assert machine("two", "pack.jpeg_quality=50") == ["pack", "train"]
    assert store.Workdir(machine.bucket).find_damage("pack", full=True) == []


# ------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("harm", ["other contents", "cut off", "gone"])
def test_a_damaged_object_is_noticed_and_its_stage_made_again(machine, harm):
    machine("one")
    path = machine.bucket / "pack" / "value.json"
    text = path.read_text()
    if harm == "gone":
        path.unlink()
    else:
        path.write_text("9" + text[1:] if harm == "other contents" else "")
    assert machine("two", "train.bag.size=4")[-2:] == ["pack", "train"]
    assert path.read_text() == text
    assert machine("three", "train.bag.size=4") == []


def test_a_download_is_hashed_also_where_files_are_not(machine, tmp_path, monkeypatch):
    machine("one")
    (machine.bucket / "pack" / "shards" / "1.bin").write_bytes(b"x" * 1000)
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "two"))
    workdir = store.Workdir(bucket_runs.local_folder(machine.address), hashes=False)
    with pytest.raises(store.DamagedResult, match="shards/1.bin is not as it was written in the bucket"):
        workdir.checked("pack")
    assert not (workdir.path("pack") / "shards" / "1.bin").exists()


def test_the_cache_that_is_whole_mends_the_bucket(machine):
    machine("one")
    path = machine.bucket / "pack" / "shards" / "1.bin"
    data = path.read_bytes()
    path.unlink()
    assert machine("one") == []
    assert path.read_bytes() == data


def test_a_damaged_cache_is_mended_from_the_bucket(machine, tmp_path):
    machine("one")
    (cache,) = (tmp_path / "one").iterdir()
    (cache / "pack" / "value.json").write_text("7\n")
    assert machine("one", "train.bag.size=4") == ["train"]
    assert read_json(cache / "pack" / "value.json") == 2


def test_files_for_commands_come_together(machine, tmp_path, monkeypatch):
    machine("one")
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "two"))
    calls, fetch = [], mirror.Mirror.fetch
    monkeypatch.setattr(
        mirror.Mirror, "fetch", lambda s, stage, listed: (calls.append(stage), fetch(s, stage, listed))[1]
    )
    root = bucket_runs.local_folder(machine.address, files=("pack/shards/*", "train/*.json", "none/*"))
    there = {name for name in files_of(root) if not name.endswith("done.json")}
    assert there == {
        "config.yaml",
        "pack/shards/0.bin",
        "pack/shards/1.bin",
        "pack/shards/2.bin",
        "train/value.json",
    }
    assert calls == ["pack", "train"]
    again = bucket_runs.local_folder(root, files=("pack/*",))  # the cache stands for the address
    assert again == root and "pack/value.json" in files_of(root)


def test_verify_reads_the_bucket(machine, tmp_path):
    machine("one")
    workdir = store.Workdir(bucket_runs.local_folder(machine.address))
    assert runner.verify(workdir)[1]
    (machine.bucket / "pack" / "shards" / "1.bin").write_bytes(b"x" * 1000)
    lines, sound = runner.verify(workdir)
    assert not sound and "shards/1.bin is not as it was written in the bucket" in lines[1]


def test_a_marker_cannot_name_files_elsewhere(machine, tmp_path):
    machine("one")
    marker = read_json(machine.bucket / "pack" / "done.json")
    marker["files"]["../../outside"] = marker["files"].pop("value.json")
    del marker["digest"]
    write_json(machine.bucket / "pack" / "done.json", {**marker, "digest": store.fingerprint(marker)})
    assert machine("two") == ["pack", "train"]


# ------------------------------------------------------------------- beside the stages


def judgement(path):
    return {"path": path, "verdict": "right", "given_label": "a", "who": "me"}


def test_judgements_travel_and_are_joined(machine, tmp_path, monkeypatch):
    machine("one")

    def judge(name, path, send=True):
        monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / name))
        folder = bucket_runs.local_folder(machine.address)
        log = os.path.join(folder, corrections.FILE_NAME)
        if path:
            corrections.append(log, [judgement(path)])
        if send:
            bucket_runs.send_files(folder)
        return set(corrections.read([log])["path"].to_pylist())

    assert judge("one", "1.jpg") == {"1.jpg"}
    assert judge("two", "2.jpg", send=False) == {"1.jpg", "2.jpg"}
    assert judge("one", "3.jpg") == {"1.jpg", "3.jpg"}
    assert judge("two", None) == {"1.jpg", "2.jpg", "3.jpg"}, "made on both sides"
    assert judge("one", None) == {"1.jpg", "2.jpg", "3.jpg"}


def test_the_names_are_those_that_the_program_uses():
    assert mirror.JUDGEMENTS == corrections.FILE_NAME


# ------------------------------------------------------------------------------ errors


def test_a_place_without_a_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(
        UsageError, match=f"Expected a run at file://{tmp_path}/none; no stage is complete there"
    ):
        bucket_runs.local_folder(f"file://{tmp_path}/none/")


def test_a_cache_without_room_stops_before_the_download(machine, monkeypatch):
    machine("one")
    monkeypatch.setattr(transfers.shutil, "disk_usage", lambda path: _Usage())
    with pytest.raises(
        RunError, match=r"Expected 2 bytes of free disk for files of ingest from .*--cache DIR"
    ):
        machine("two", "pack.images_per_shard=400")


class _Usage:
    free = 1


def test_machines_that_train_together_need_a_share(machine, tmp_path, monkeypatch):
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "one"))
    workdir = store.Workdir(bucket_runs.local_folder(machine.address, exists=False))
    with pytest.raises(UsageError, match="Give a folder on a share"):
        bucket_runs.refuse_machines(load_config(None, ["runtime.strategy=multi_worker"]), workdir)
    bucket_runs.refuse_machines(load_config(None, []), workdir)
