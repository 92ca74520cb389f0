"""Work directories in buckets, on three small stages: second machines, kills, damage, locks.

A folder (file://) stands for the bucket, and a cache folder for each machine; tests/store/test_s3.py repeats
the essentials on an S3 server.
"""

import contextlib
import json
import os
import time

import pytest

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.crawl import corrections
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import bucket_runs, plan, runner
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import bucket_lock, buckets, mirror, read_json, transfers, write_json


class Killed(BaseException):
    """As kill -9: nothing cleans up but `finally`."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(bucket_lock, "SETTLE_S", 0.0)
    monkeypatch.setattr(buckets, "_FIRST_WAIT_S", 0.0)


@pytest.fixture
def ran(monkeypatch):
    """Three stages that note their runs; `pack` writes a file for each 100 of `pack.images_per_shard`."""
    log = []

    def make(name, needs, depends_on):
        def run(context):
            log.append(name)
            quality = context.config.pack.jpeg_quality
            before = sum(read_json(context.path(n, "value.json")) for n in needs)
            write_json(context.out / "value.json", before + 1)
            if name == "pack":
                (context.out / "shards").mkdir(exist_ok=True)
                for shard in range(context.config.pack.images_per_shard // 100):
                    (context.out / "shards" / f"{shard}.bin").write_bytes(bytes([shard, quality]) * 500)
            return {"images": 3}

        return Stage(name, needs, depends_on, run, lambda config, plan: Estimate(rows=3))

    stages = (
        make("ingest", (), ("seed",)),
        make("pack", ("ingest",), ("pack.images_per_shard", "pack.jpeg_quality")),
        make("train", ("pack",), ("train",)),
    )
    monkeypatch.setattr(plan, "STAGES", stages)
    monkeypatch.setattr(plan, "gather_plan_context", lambda *_, **__: PlanContext())
    return log


@pytest.fixture
def machine(tmp_path, monkeypatch, ran):
    """Runs on one of several machines; what ran there."""
    address = f"file://{tmp_path}/bucket/run"

    def go(name, *overrides, first=None):
        monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / name))
        config = load_config(None, ["pack.images_per_shard=300", *overrides])
        workdir = store.Workdir(bucket_runs.local_folder(address, exists=False))
        del ran[:]
        runner.run(config, workdir, plan.make_plan(config, workdir, first))
        return list(ran)

    go.address, go.bucket = address, tmp_path / "bucket" / "run"
    return go


def files_of(folder):
    found = (os.path.relpath(os.path.join(p, n), folder) for p, _, names in os.walk(folder) for n in names)
    return {name for name in found if not name.startswith((".bucket/", ".lock", ".urnet_lock"))}


def kill_uploads_after(monkeypatch, count, sent):
    """The process dies when it has sent some files; `sent` gets the names."""
    upload = buckets.Bucket.upload

    def counted(self, path, name):
        if len(sent) == count:
            raise Killed
        upload(self, path, name)
        sent.append(name)

    monkeypatch.setattr(transfers, "_THREADS", 1)
    monkeypatch.setattr(buckets.Bucket, "upload", counted)


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


# ------------------------------------------------------------------------------- locks


def hold(machine, owner, age=0.0):
    lock = machine.bucket / bucket_lock.LOCK
    lock.write_text(json.dumps({"owner": owner, "who": "process 7 on far", "since": "noon"}))
    os.utime(lock, (time.time() - age,) * 2)
    return lock


def test_another_machine_that_works_there_is_named(machine):
    machine("one")
    lock = hold(machine, "another", age=100)
    with pytest.raises(
        UsageError, match=r"only run in file://.*process 7 on far works there since noon.*100 s"
    ):
        machine("one", "train.bag.size=4")
    assert lock.exists(), "it is not ours to remove"
    lock.unlink()
    assert machine("two", "train.bag.size=4") == ["train"]


def test_a_lock_without_a_sign_of_life_is_taken_over(machine):
    machine("one")
    hold(machine, "another", age=bucket_lock.STALE_S + 5)
    assert machine("two", "train.bag.size=4") == ["train"]


def test_a_wrong_clock_takes_nothing_over(machine, monkeypatch):
    machine("one")
    hold(machine, "another", age=10)
    monkeypatch.setattr(bucket_lock.time, "time", lambda: 1e10)
    with pytest.raises(UsageError, match="Expected to be the only run"):
        machine("two", "train.bag.size=4")
    assert [p.name for p in machine.bucket.glob(".urnet_lock*")] == [bucket_lock.LOCK]


def test_the_lock_that_this_cache_left_is_its_own(machine, tmp_path):
    machine("one")
    (cache,) = (tmp_path / "one").iterdir()
    hold(machine, read_json(cache / ".bucket" / "address.json")["owner"])
    assert machine("one", "train.bag.size=4") == ["train"]


def test_nothing_is_written_once_another_machine_has_taken_over(machine, monkeypatch):
    def take_over(self, stage, publish=mirror.Mirror.publish):
        if stage == "pack":
            hold(machine, "another")
        publish(self, stage)

    monkeypatch.setattr(mirror.Mirror, "publish", take_over)
    with pytest.raises(RunError, match="taken over by process 7 on far"):
        machine("one")
    assert not (machine.bucket / "pack").exists() and (machine.bucket / bucket_lock.LOCK).exists()


def test_the_lock_is_renewed(machine, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEW_S", 0.01)
    lock = bucket_lock.BucketLock(buckets.Bucket(machine.address), "me")
    with lock.held():
        first = (machine.bucket / bucket_lock.LOCK).stat().st_mtime_ns
        end = time.monotonic() + 10
        while (machine.bucket / bucket_lock.LOCK).stat().st_mtime_ns == first and time.monotonic() < end:
            time.sleep(0.01)
        assert (machine.bucket / bucket_lock.LOCK).stat().st_mtime_ns > first


def test_a_plan_that_another_machine_made_old_is_not_run(machine, tmp_path, monkeypatch):
    machine("one")
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "one"))
    config = load_config(None, ["pack.images_per_shard=300", "train.bag.size=4"])
    workdir = store.Workdir(bucket_runs.local_folder(machine.address))
    steps = plan.make_plan(config, workdir)
    machine("two", "train.bag.size=8")
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "one"))
    with pytest.raises(UsageError, match="another machine changed train. Run the same command again"):
        runner.run(config, workdir, steps)


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
