"""A disk that is full, and places that cannot be written; where this user may mount file systems."""

import pathlib
import subprocess

import numpy as np
import pytest

from urnet_tf import store

SENTENCE_LENGTH = 400  # without the paths


@pytest.fixture
def mount(tmp_path):
    """Mounts a tmpfs of some megabytes at a new directory; `mount(path, size, "remount")` changes it."""
    mounted = []

    def make(path: pathlib.Path, *options: str) -> pathlib.Path:
        path.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no command to mount file systems")
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield make
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], check=False)


def assert_one_sentence(done, status, *named):
    """The exit status, and one sentence of ours as the last line, which names something."""
    told = done.stderr[-3000:]
    assert done.returncode == status, told
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("urnet: ")] == lines[-1:], told
    assert "Traceback" not in told
    assert any(str(name) in lines[-1] for name in named), told


def test_a_column_that_does_not_fit_is_refused_before_it_is_written(mount, tmp_path):
    disk = mount(tmp_path / "small", "size=1m")
    with pytest.raises((OSError, RuntimeError)):  # no SIGBUS later, in the middle of writing
        store.open_column(disk / "features.npy", (4096, 1024), "float32")
    assert list(disk.iterdir()) == []
    column = store.open_column(disk / "features.npy", (100, 1024), "float32")
    column[:] = np.arange(1024)
    assert column[99, 1023] == 1023


def test_a_failed_write_leaves_what_was_there(mount, tmp_path):
    disk = mount(tmp_path / "small", "size=64k")
    store.write_text(disk / "note.txt", "short")
    with pytest.raises(OSError):
        store.write_text(disk / "note.txt", "long" * 100_000)
    assert (disk / "note.txt").read_text() == "short" and len(list(disk.iterdir())) == 1


def test_a_work_directory_that_cannot_be_written(mount, drawn_crawl, urnet, tmp_path):
    disk = mount(tmp_path / "read_only", "size=1m", "ro")
    done = urnet("run", "--data", drawn_crawl, "--workdir", disk / "run")
    assert_one_sentence(done, 2, disk)


@pytest.mark.slow
def test_a_run_goes_on_after_space_is_freed(mount, drawn_crawl, finished_run, urnet, small_run, tmp_path):
    """Also with a crawl that cannot be written."""
    subprocess.run(["mount", "--bind", drawn_crawl, drawn_crawl], check=False)
    try:
        disk = mount(tmp_path / "small", "size=2m")
        subprocess.run(["mount", "-o", "remount,bind,ro", drawn_crawl], check=True)
        cheap = ("--set=export.formats=[keras]", "--set=export.check_images=4")
        arguments = ("run", "--data", drawn_crawl, "--workdir", disk / "run", *small_run, *cheap)
        for size in ("size=5m", "size=20m"):
            assert_one_sentence(urnet(*arguments), 1, disk)
            subprocess.run(["mount", "-o", f"remount,{size}", str(disk)], check=True)
        assert_one_sentence(urnet(*arguments), 1, disk)
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        done = urnet(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        for name in ("reweight/weights.parquet", "train/weights.parquet", "train/urnet.keras"):
            assert (disk / "run" / name).read_bytes() == (finished_run[0] / name).read_bytes(), name
    finally:
        subprocess.run(["umount", "--lazy", str(drawn_crawl)], check=False)
