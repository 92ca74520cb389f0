"""The command line as a person meets it: help, exit status, one-sentence errors."""

import errno
import os
import subprocess
import sys

import pytest


def urnet(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "urnet_tf", *map(str, arguments)], capture_output=True, text=True, **kwargs
    )


def test_help_is_complete_and_comes_without_tensorflow():
    done = urnet("--help", env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    for word in ("urnet run", "urnet why", "urnet draw", "--workdir", "--dry_run", "--from", "Exit status"):
        assert word in done.stdout
    assert "tensorflow" not in done.stderr and "keras" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "received 'rnu'"),
        (["run", "surplus"], "Did not expect 'surplus'"),
        (["run"], "ingest.path"),
        (["run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "--data", ".", "--set", "train.fit.learnin_rate=1"], "did you mean train.fit.learning_rate"),
        (["run", "--data", 'it\'s \\ a "dog" 🐶: x'], 'it\'s \\ a "dog" 🐶: x'),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "--data", ".", "--from", "trian"], "Expected a stage"),
        (["draw"], "--out"),
        (["why"], "Expected images"),
        (["why", "x.jpg", "--format", "csv"], "Expected --format text, json or jsonl"),
        (["predict", "x.jpg", "--model", "m", "--format", "json"], "Expected --format table"),
        (["noise", "--data", ".", "--from", "train"], "Expected --from with a stage that runs here"),
        (["predict", "x.jpg"], "Expected --model"),
        (["predict", "x.jpg", "--model", "nowhere"], "no such file or directory"),
        (["train", "--data", "."], "it was not run yet. Run `urnet run` first"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(tmp_path, monkeypatch, urnet_here, arguments, message):
    monkeypatch.chdir(tmp_path)
    check_one_sentence(urnet_here(*arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "Expected a command"), (["run", "--nope"], "nope"), (["run"], "ingest.path")],
)
def test_the_program_itself_ends_so(tmp_path, arguments, message):
    done = urnet(*arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.getcwd()})
    check_one_sentence(done, message)


FULL = "The disk is full: w/x.npy. Free some space, and the same command goes on from here."
GOES_ON = "When that is mended, the same command goes on from here."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "w/x.npy"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "w/x.npy"), FULL),
        (RuntimeError("x: No space left on device [Op:Save]"), "The disk is full: in runs/urnet or the"),
        (OSError(errno.EIO, "Input/output error", "w/x.npy"), f"Input/output error: w/x.npy. {GOES_ON}"),
        (PermissionError(errno.EACCES, "Permission denied", "w"), f"Permission denied: w. {GOES_ON}"),
        (OSError(errno.EMFILE, "Too many open files"), f"Too many open files. {GOES_ON}"),
        (OSError(errno.EXDEV, "Not on one disk", "a", None, "b"), f"Not on one disk: a and b. {GOES_ON}"),
        (OSError("a library\nsays so"), f"a library says so. {GOES_ON}"),
        (MemoryError(), "There is not enough memory."),
    ],
)
def test_a_fault_of_the_machine_is_one_sentence_and_exit_1(urnet_here, monkeypatch, error, sentence):
    def fail(command, arguments):
        raise error

    monkeypatch.setattr("urnet_tf.__main__._dispatch", fail)
    done = urnet_here("run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"urnet: {sentence}")


def test_a_fault_of_the_program_is_a_traceback(urnet_here, monkeypatch):
    monkeypatch.setattr("urnet_tf.__main__._dispatch", lambda command, arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        urnet_here("run")


def check_one_sentence(done, message):
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
