"""Parts that other processes write: checked before they are merged, and not made twice at a time."""

import errno
import fcntl
import subprocess
import sys
import threading
import time

import pytest

from urnet_tf import store
from urnet_tf.errors import RunError


def test_a_part_is_what_its_facts_say(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"abc")
    facts = store.describe_part(path)
    assert facts == {"bytes": 3, "hash": "cf4ab791c62b8d2b2109c90275287816"}  # blake2b-128 of b"abc"
    store.check_part(path, facts, patience_s=0)
    store.check_part(path, {**facts, "rows": 7}, patience_s=0)


@pytest.mark.parametrize(
    ("contents", "problem"),
    [(None, "it is missing"), (b"ab", "2 bytes instead of 3"), (b"abd", "its contents differ")],
)
def test_another_part_is_refused(tmp_path, contents, problem):
    path = tmp_path / "part"
    path.write_bytes(b"abc")
    facts = store.describe_part(path)
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(RunError, match=f"{path} is not as a node wrote it: .*{problem}"):
        store.check_part(path, facts, patience_s=0.05)


def test_a_part_that_shows_late_is_waited_for(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"abc")
    facts = store.describe_part(path)
    path.unlink()
    timer = threading.Timer(0.3, path.write_bytes, [b"abc"])
    timer.start()
    store.check_part(path, facts, patience_s=20)
    timer.join()


HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print('held', flush=True); input()"
)


def test_a_lock_waits_for_the_other_process_and_vanishes_with_it(tmp_path):
    path = tmp_path / "unit.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with store.unit_lock(path, patience_s=0.2) as held:
            assert not held, "the unit is done all the same"
        threading.Timer(0.3, other.kill).start()
        start = time.monotonic()
        with store.unit_lock(path, patience_s=20) as held:
            assert held and time.monotonic() - start < 10
    with store.unit_lock(path, patience_s=0) as held:
        assert held


def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch):
    def refuses(code):
        def flock(file, flags):
            raise OSError(code, "no")

        return flock

    monkeypatch.setattr(fcntl, "flock", refuses(errno.ENOLCK))
    with store.unit_lock(tmp_path / "unit.lock") as held:
        assert not held
    monkeypatch.setattr(fcntl, "flock", refuses(errno.EIO))
    with pytest.raises(OSError), store.unit_lock(tmp_path / "unit.lock"):
        pass


def test_temporary_files_of_two_machines_differ(tmp_path):
    code = (
        "import sys; from urnet_tf.store import atomic_path\nwith atomic_path('x') as t: print(t); t.touch()"
    )
    names = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert names[0].split(".")[2] != names[1].split(".")[2], "not by the number of the process alone"
