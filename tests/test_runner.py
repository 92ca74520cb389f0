"""Planning and running, on three small stages: skip, redo what changed, resume, lock."""

import fcntl

import pytest

from urnet_tf import runner
from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.stages.stage import Estimate, Facts, Stage
from urnet_tf.store import Workdir, read_json, write_json


@pytest.fixture
def flow(monkeypatch):
    """Three stages that note each run, and fail where told to."""
    log, failing = [], {}

    def make(name, needs, depends_on):
        def run(context):
            units = context.units("loop", 3)
            for unit in units.pending():
                if failing.get(name) == unit:
                    raise OSError("the disk went away")
                log.append((name, unit))
                units.complete(unit)
            before = sum(read_json(context.path(n, "value.json")) for n in needs)
            write_json(context.out / "value.json", before + 1)
            return {"images": 3}

        return Stage(name, needs, depends_on, run, lambda config, facts: Estimate(rows=3, seconds=100.0))

    stages = (
        make("ingest", (), ("seed",)),
        make("pack", ("ingest",), ("pack",)),
        make("train", ("pack",), ("train",)),
    )
    monkeypatch.setattr(runner, "STAGES", stages)
    monkeypatch.setattr(runner, "gather_facts", lambda config, workdir: Facts())
    return log, failing


def run(tmp_path, *overrides, first=None):
    config, workdir = load_config(None, overrides), Workdir(tmp_path / "w")
    steps = runner.make_plan(config, workdir, first)
    runner.run(config, workdir, steps)
    return [step.action for step in steps]


def test_a_second_run_skips_everything(tmp_path, flow):
    assert run(tmp_path) == ["run", "run", "run"]
    assert run(tmp_path) == ["skip", "skip", "skip"]
    assert len(flow[0]) == 9


def test_only_what_depends_on_a_change_runs_again(tmp_path, flow):
    run(tmp_path)
    assert run(tmp_path, "train.bag.size=4") == ["skip", "skip", "run"]
    assert run(tmp_path, "train.bag.size=4", "pack.jpeg_quality=90") == ["skip", "run", "run"]
    assert run(tmp_path, "train.bag.size=4", "pack.jpeg_quality=90", "report.classes=3") == ["skip"] * 3


def test_a_failed_stage_resumes_at_its_unit(tmp_path, flow):
    log, failing = flow
    failing["pack"] = 1
    with pytest.raises(OSError):
        run(tmp_path)
    assert log == [("ingest", 0), ("ingest", 1), ("ingest", 2), ("pack", 0)]
    failing.clear()
    assert run(tmp_path) == ["skip", "resume", "run"]
    assert log[4:6] == [("pack", 1), ("pack", 2)]
    assert read_json(tmp_path / "w" / "train" / "value.json") == 3


def test_a_stage_killed_at_its_renaming_is_not_run_again(tmp_path, flow, monkeypatch):
    log, _ = flow
    run(tmp_path, "pack.jpeg_quality=80")
    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "_give_final_name", lambda self, stage: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    log.clear()
    assert run(tmp_path, "pack.jpeg_quality=80") == ["skip", "skip", "skip"], "the other run's result waits"
    assert run(tmp_path) == ["skip", "resume", "run"]
    assert {name for name, _ in log} == {"train"}
    assert run(tmp_path) == ["skip", "skip", "skip"]


def test_from_runs_a_stage_and_what_needs_it_again(tmp_path, flow):
    run(tmp_path)
    assert run(tmp_path, first="pack") == ["skip", "run", "run"]
    with pytest.raises(UsageError, match="Expected a stage"):
        run(tmp_path, first="pak")


def test_a_single_stage_needs_complete_inputs(tmp_path, flow):
    config, workdir = load_config(), Workdir(tmp_path / "w")
    with pytest.raises(UsageError, match="needs stage ingest, which is missing"):
        runner.run_single("pack", config, workdir)
    runner.run_single("ingest", config, workdir)
    runner.run_single("pack", config, workdir)
    with pytest.raises(UsageError, match="made with other settings"):
        runner.run_single("train", load_config(None, ["pack.jpeg_quality=50"]), workdir)


def test_two_processes_cannot_work_in_one_directory(tmp_path, flow):
    (tmp_path / "w").mkdir()
    with open(tmp_path / "w" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process"):
            run(tmp_path)


def test_the_marker_says_what_was_used(tmp_path, flow):
    run(tmp_path)
    marker = Workdir(tmp_path / "w").marker("train")
    assert marker["settings"]["train"]["bag"]["size"] == 3
    assert marker["versions"]["tensorflow"] and marker["seconds"] >= 0 and marker["facts"] == {"images": 3}


def test_the_plan_adds_up(tmp_path, flow):
    config, workdir = load_config(), Workdir(tmp_path / "w")
    text = runner.format_plan(config, runner.make_plan(config, workdir), workdir)
    assert "Together about 5 min" in text
    assert runner.format_seconds(7200) == "2.0 h" and runner.format_bytes(3.44e9) == "3.4 GB"
