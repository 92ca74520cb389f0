"""The command line as a person meets it: help, exit status, one-sentence errors."""

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
        (["why"], "Expected one image"),
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


def check_one_sentence(done, message):
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
