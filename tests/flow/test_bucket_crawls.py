"""Crawls in buckets: brought once, told by their address, and the same on every machine."""

import os
import shutil

import pytest
from urnet_fixtures.blobs import draw_blobs

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.flow import bucket_runs, plan, runner
from urnet_tf.stages import ingest, pack
from urnet_tf.store import bucket_lock, buckets
from urnet_tf.store.bucket_trees import address_of, fetch_tree, place_of

SETTINGS = (
    "pack.short_side_px=32",
    "pack.images_per_shard=8",
    "model.image_size_px=32",
    "model.weights=null",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_lock, "SETTLE_S", 0.0)
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / "one"))
    fetch_tree.cache_clear()
    yield tmp_path / "one"
    fetch_tree.cache_clear()


@pytest.fixture
def crawl(tmp_path):
    """Two classes of eight images in a folder that stands for a bucket."""
    root = tmp_path / "bucket" / "crawl"
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for n in range(8):
            draw_blobs(100 * label + n).resize((48, 40)).save(root / name / f"{n}.jpg")
    return root


def tree(folder):
    return {
        os.path.relpath(os.path.join(p, n), folder): (os.stat(os.path.join(p, n)).st_mtime_ns)
        for p, _, names in os.walk(folder) for n in names
    }  # fmt: skip


def test_files_come_once_and_with_their_times(crawl, monkeypatch):
    address = f"file://{crawl}"
    place = fetch_tree(address)
    assert tree(place) == tree(crawl) and place == place_of(address)
    os.unlink(crawl / "ant" / "1.jpg")
    shutil.copyfile(crawl / "ant" / "2.jpg", crawl / "bee" / "new.jpg")
    assert fetch_tree(address) == place and tree(place) != tree(crawl), "once in a process"
    fetch_tree.cache_clear()
    fetched, download = [], buckets.Bucket.download
    monkeypatch.setattr(buckets.Bucket, "download", lambda s, n, p: (fetched.append(n), download(s, n, p)))
    fetch_tree(address)
    assert fetched == ["bee/new.jpg"] and tree(place) == tree(crawl)


def test_a_list_comes_with_what_lies_beside_it(crawl):
    (crawl / "list.csv").write_text("path,label\nant/1.jpg,ant\n")
    place = fetch_tree(f"file://{crawl}/list.csv")
    assert tree(os.path.dirname(place)) == tree(crawl) and place.endswith("/list.csv")
    with pytest.raises(UsageError, match="Expected a list at file://.*none.csv; there is no such object"):
        fetch_tree(f"file://{crawl}/none.csv")


def test_one_object_may_be_a_crawl(crawl):
    (crawl / "shard.tar").write_bytes(b"1")
    address = f"file://{crawl}/shard.tar"
    place = fetch_tree(address)
    assert os.listdir(os.path.dirname(place)) == ["shard.tar"] and place == place_of(address)
    root = address_of(os.path.dirname(place), address)
    assert root.startswith(address) and place_of(root) == os.path.dirname(place)


def test_an_empty_place_is_named(crawl):
    with pytest.raises(UsageError, match="Expected a crawl at file://.*/none; there are no objects"):
        fetch_tree(f"file://{crawl.parent}/none")


def test_paths_stay_paths():
    for path in ("crawl", "/a/b", "", "https://host/x"):
        assert fetch_tree(path) == path == place_of(path) == address_of(path, path)
    assert address_of("/elsewhere", "s3://b/crawl") == "/elsewhere"


def run(machine, crawl, tmp_path, monkeypatch):
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path / machine))
    monkeypatch.setattr(plan, "STAGES", (ingest.STAGE, pack.STAGE))
    workdir = store.Workdir(bucket_runs.local_folder(f"file://{tmp_path}/bucket/run", exists=False))
    config = load_config(None, [*SETTINGS, f"ingest.path=file://{crawl}"])
    steps = plan.make_plan(config, workdir)
    runner.run(config, workdir, steps)
    return [step.action for step in steps], workdir


def test_a_run_of_a_crawl_in_a_bucket_goes_on_on_another_machine(crawl, tmp_path, monkeypatch):
    actions, workdir = run("one", crawl, tmp_path, monkeypatch)
    marker = workdir.completed("ingest")
    assert actions == ["run", "run"]
    assert marker["metadata"]["root"] == f"file://{crawl}/" and marker["metadata"]["images"] == 16
    assert marker["settings"]["ingest.path"] == f"file://{crawl}"
    assert run("two", crawl, tmp_path, monkeypatch)[0] == ["skip", "skip"], "the same files, elsewhere"
    shutil.rmtree(tmp_path / "bucket" / "run" / "pack")
    assert run("two", crawl, tmp_path, monkeypatch)[0] == ["skip", "run"], "pack finds the images"
    os.unlink(crawl / "ant" / "1.jpg")
    assert run("one", crawl, tmp_path, monkeypatch)[0] == ["run", "run"]


def test_commands_make_no_folder_of_an_address(crawl, tmp_path, monkeypatch, urnet_here):
    monkeypatch.chdir(tmp_path)
    address = f"file://{tmp_path}/none"
    for command in ("verify", "noise", "promote", "review", "report", "why x.jpg", "clean --out new"):
        done = urnet_here(*command.split(), "--workdir", address, "--data", f"file://{tmp_path}/no_crawl")
        assert done.returncode == 2 and address.removesuffix("none") in done.stderr, command
        assert done.stderr.splitlines()[-1].startswith("urnet: ") and "Traceback" not in done.stderr, command
    for flags in ("predict x.jpg --model", "serve --model", "ensemble r --workdir", "rollback --model",
                  "draw --out", "clean --out", "promote --out", "review --export"):  # fmt: skip
        done = urnet_here(*flags.split(), address)
        is_read = flags.startswith(("predict", "serve"))
        told = f"Expected a run at {address}" if is_read else "the address 'file:"
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, flags
    assert not {"file:", "s3:", "none", "new"} & set(os.listdir(tmp_path))


def test_the_cache_can_be_named(crawl, tmp_path, monkeypatch, urnet_here):
    monkeypatch.setenv(buckets.CACHE_VARIABLE, "/never")
    done = urnet_here("verify", "--workdir", f"file://{tmp_path}/none", "--cache", tmp_path / "chosen")
    assert done.returncode == 2 and len(os.listdir(tmp_path / "chosen")) == 1
