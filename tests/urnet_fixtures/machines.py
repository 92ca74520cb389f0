"""Machines that work on one run in a bucket: three small stages, a folder as the bucket, a cache for each."""

import os

import pytest

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.flow import bucket_runs, plan, runner
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import bucket_lock, buckets, read_json, transfers, write_json


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
