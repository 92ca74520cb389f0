"""Buckets on a server that speaks S3: moto's, in an environment of its own, since its pins are not ours.

`$URNET_MOTO_PYTHON` names an interpreter with `moto[s3,server]`.
"""

import os
import socket
import subprocess
import time

import pytest
from pyarrow import fs
from urnet_fixtures.ports import free_port

from urnet_tf import store
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import bucket_runs
from urnet_tf.store import bucket_lock, bucket_trees, buckets
from urnet_tf.store.mirror import find_mirror

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(scope="module")
def port():
    """Of a server on this machine."""
    python = os.environ.get("URNET_MOTO_PYTHON")
    if not python:
        pytest.skip("set URNET_MOTO_PYTHON to a Python interpreter that has moto[s3,server]")
    number = free_port()
    code = f"import sys; sys.argv = ['moto', '-p', '{number}']; from moto.server import main; main()"
    server = subprocess.Popen([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", number), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield number
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(port, monkeypatch, tmp_path):
    """The address of a new bucket."""
    settings = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1",
                "ENDPOINT_URL": f"http://127.0.0.1:{port}", "EC2_METADATA_DISABLED": "true"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(bucket_lock, "SETTLE_S", 0.0)
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "one"))
    bucket_trees.fetch_tree.cache_clear()
    name = f"bucket-{time.monotonic_ns()}"
    endpoint = f"http://127.0.0.1:{port}"
    fs.S3FileSystem(allow_bucket_creation=True, endpoint_override=endpoint).create_dir(name)
    return f"s3://{name}"


def make_stage(workdir, stage, files, key="k"):
    partial = workdir.open_partial(stage, key)
    for name, data in files.items():
        (partial / name).parent.mkdir(exist_ok=True, parents=True)
        (partial / name).write_bytes(data)
    workdir.finish(stage, {"key": key, "seconds": 1.0, "metadata": {}})


def test_a_stage_goes_to_a_second_machine(bucket, tmp_path, monkeypatch):
    files = {"a.bin": os.urandom(20_000_000), "deep/b.bin": b"", "Käfer 魚+%20.txt": b"3"}
    workdir = store.Workdir(bucket_runs.local_folder(f"{bucket}/run", exists=False))
    make_stage(workdir, "pack", files)
    with workdir.held():
        workdir.publish("pack")
    assert set(buckets.Bucket(bucket).list()) == {f"run/pack/{name}" for name in [*files, "done.json"]}
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "two"))
    other = store.Workdir(bucket_runs.local_folder(f"{bucket}/run"))
    assert other.root != workdir.root and not (other.root / "pack" / "a.bin").exists()
    assert other.find_damage("pack") == other.find_damage("pack", full=True) == []
    for name, data in files.items():
        assert other.checked("pack", name).read_bytes() == data


def test_replacing_and_damage(bucket, tmp_path, monkeypatch):
    workdir = store.Workdir(bucket_runs.local_folder(f"{bucket}/run", exists=False))
    with workdir.held():
        for number, files in enumerate(({"a": b"1", "b": b"2"}, {"b": b"3"})):
            make_stage(workdir, "pack", files, f"k{number}")
            workdir.publish("pack")
    there = buckets.Bucket(f"{bucket}/run")
    assert set(there.list()) == {"pack/b", "pack/done.json"}
    there.write("pack/b", b"4")
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "two"))
    other = store.Workdir(bucket_runs.local_folder(f"{bucket}/run"))
    with pytest.raises(store.DamagedResult, match="b is not as it was written in the bucket"):
        other.checked("pack", "b")


def test_the_lock_keeps_another_machine_out(bucket, tmp_path, monkeypatch):
    first = find_mirror(store.Workdir(bucket_runs.local_folder(f"{bucket}/run", exists=False)).root)
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "two"))
    second = find_mirror(store.Workdir(bucket_runs.local_folder(f"{bucket}/run", exists=False)).root)
    with first.held(), pytest.raises(UsageError, match="Expected to be the only run in s3://"), second.held():
        pass
    with second.held():
        pass
    assert buckets.Bucket(f"{bucket}/run").list() == {}


def test_a_crawl_comes_once(bucket, monkeypatch):
    there = buckets.Bucket(f"{bucket}/crawl")
    names = ["ant/1.jpg", "bee/2.jpg", "odd/../../3.jpg"]
    for name in names:
        there.write(name, name.encode())
    place = bucket_trees.fetch_tree(f"{bucket}/crawl")
    found = sorted(os.path.relpath(os.path.join(p, n), place) for p, _, ns in os.walk(place) for n in ns)
    assert found == names[:2]
    bucket_trees.fetch_tree.cache_clear()
    monkeypatch.setattr(buckets.Bucket, "download", None)  # which nothing needs
    assert bucket_trees.fetch_tree(f"{bucket}/crawl") == place


def test_what_is_wrong_is_one_sentence(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(buckets, "_ATTEMPTS", 2)  # of pyarrow, which tries each three times
    with pytest.raises(UsageError, match="Expected a bucket 'no-such-bucket' for s3://no-such-bucket/run"):
        bucket_runs.local_folder("s3://no-such-bucket/run", exists=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="cannot be listed: the store did not answer"):
        bucket_runs.local_folder(f"{bucket}/other", exists=False)
