"""One run at a time in a bucket: who is named, who takes over, and what a run that was taken over does."""

import json
import os
import time

import pytest
from urnet_fixtures.machines import at_once as at_once, machine as machine, ran as ran

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import bucket_runs, plan, runner
from urnet_tf.store import bucket_lock, buckets, mirror, read_json


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
