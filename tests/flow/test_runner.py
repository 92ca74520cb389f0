"""Planning and running, on three small stages: skip, redo what changed, resume, lock."""

import dataclasses
import fcntl
import os
import re
import shutil

import pytest

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.costs import units
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import plan, plan_text, runner
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import Workdir, read_json, write_json


@pytest.fixture
def flow(monkeypatch):
    """Three stages that note each run, and fail where told to."""
    log, failing = [], {}

    def make(name, needs, depends_on):
        def run(context):
            loop = context.units("loop", 3)
            for unit in loop.pending():
                if failing.get(name) == unit:
                    raise OSError("the disk went away")
                log.append((name, unit))
                loop.complete(unit)
            before = sum(read_json(context.path(n, "value.json")) for n in needs)
            write_json(context.out / "value.json", before + 1)
            return {"images": 3}

        return Stage(name, needs, depends_on, run, lambda config, plan: Estimate(rows=3, seconds=100.0))

    stages = (
        make("ingest", (), ("seed",)),
        make("pack", ("ingest",), ("pack",)),
        make("train", ("pack",), ("train",)),
    )
    monkeypatch.setattr(plan, "STAGES", stages)
    monkeypatch.setattr(plan, "gather_plan_context", lambda *_, **__: PlanContext())
    return log, failing


def run(tmp_path, *overrides, first=None):
    config, workdir = load_config(None, overrides), Workdir(tmp_path / "w")
    steps = plan.make_plan(config, workdir, first)
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


def test_what_was_killed_at_its_renaming_under_another_key_does_not_count(tmp_path, flow, monkeypatch):
    log, _ = flow
    run(tmp_path)
    shutil.rmtree(tmp_path / "w" / "pack")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Workdir, "_give_final_name", lambda self, stage: 1 / 0)
        run(tmp_path, "pack.jpeg_quality=80")
    log.clear()
    assert run(tmp_path) == ["skip", "run", "run"]
    assert [name for name, unit in log if unit == 0] == ["pack", "train"]
    assert reasons(tmp_path) == {}


def test_from_runs_a_stage_and_what_needs_it_again(tmp_path, flow):
    run(tmp_path)
    assert run(tmp_path, first="pack") == ["skip", "run", "run"]
    with pytest.raises(UsageError, match="Expected a stage"):
        run(tmp_path, first="pak")


def test_a_stage_is_told_whether_it_was_asked_for_by_name(tmp_path, flow, monkeypatch):
    named = {}

    def watch(stage):
        def run(context):
            named[stage.name] = context.named
            return stage.run(context)

        return dataclasses.replace(stage, run=run)

    monkeypatch.setattr(plan, "STAGES", tuple(map(watch, plan.STAGES)))
    run(tmp_path)
    assert named == {"ingest": False, "pack": False, "train": False}
    run(tmp_path, first="pack")
    assert named == {"ingest": False, "pack": True, "train": False}
    runner.run_single("train", load_config(), Workdir(tmp_path / "w"))
    assert named["train"]


def test_a_single_stage_needs_complete_inputs(tmp_path, flow):
    config, workdir = load_config(), Workdir(tmp_path / "w")
    with pytest.raises(UsageError, match="Expected stage ingest .* since it was not run yet"):
        runner.run_single("pack", config, workdir)
    runner.run_single("ingest", config, workdir)
    runner.run_single("pack", config, workdir)
    with pytest.raises(UsageError, match="since pack.jpeg_quality changed from 95 to 50"):
        runner.run_single("train", load_config(None, ["pack.jpeg_quality=50"]), workdir)


def reasons(tmp_path, *overrides, **arguments):
    """What a plan says of each stage that is not skipped."""
    workdir = Workdir(tmp_path / "w")
    steps = plan.make_plan(load_config(None, overrides), workdir, **arguments)
    return {step.stage.name: step.reason for step in steps if step.action != plan.SKIP}


def test_the_plan_says_why_a_stage_runs(tmp_path, flow):
    assert reasons(tmp_path) == {
        "ingest": "it was not run yet", "pack": "ingest runs", "train": "pack runs"
    }  # fmt: skip
    run(tmp_path)
    assert reasons(tmp_path, "train.head=logistic", "train.bag.size=4") == {
        "train": 'train.bag.size changed from 3 to 4 and train.head changed from "mean" to "logistic"'
    }
    reason = reasons(tmp_path, "train.head=trained")["train"]  # what else applies then comes after it
    assert reason.startswith('train.head changed from "mean" to "trained" and ')
    assert reason.endswith(" more things changed")
    assert reasons(tmp_path, first="train") == {"train": "--from names it"}
    config, workdir = load_config(None, ["pack.jpeg_quality=90"]), Workdir(tmp_path / "w")
    text = plan_text.format_plan(config, plan.make_plan(config, workdir), workdir)
    assert "pack has to run, since pack.jpeg_quality changed from 95 to 90." in text


def test_a_new_version_and_other_inputs_are_reasons(tmp_path, flow, monkeypatch):
    run(tmp_path)
    found = {"the crawl": "3 files #a"}

    def replace(**changes):
        stages = [dataclasses.replace(plan.STAGES[0], **changes), *plan.STAGES[1:]]
        monkeypatch.setattr(plan, "STAGES", tuple(stages))

    replace(inputs=lambda config: found)
    assert reasons(tmp_path)["ingest"] == "the crawl changed"
    run(tmp_path)
    assert reasons(tmp_path) == {}
    found = {"the crawl": "4 files #b"}
    assert reasons(tmp_path)["ingest"] == "the crawl changed (3 files before, 4 files now)"
    found = {"the crawl": "3 files #c"}
    assert reasons(tmp_path)["ingest"] == "the crawl changed"
    found = {"the crawl": "3 files #a"}
    replace(version=2)
    assert reasons(tmp_path)["ingest"] == "this version of the program computes something else"


def test_a_rescan_asks_complete_stages_for_a_reason(tmp_path, flow, monkeypatch):
    run(tmp_path)
    ingest = dataclasses.replace(plan.STAGES[0], rescan=lambda config, workdir: "an image changed")
    monkeypatch.setattr(plan, "STAGES", (ingest, *plan.STAGES[1:]))
    assert reasons(tmp_path) == {}
    found = reasons(tmp_path, rescan=True)
    assert found == {"ingest": "an image changed", "pack": "ingest runs", "train": "pack runs"}


def test_settings_without_effect_are_named_and_change_nothing(tmp_path, flow):
    run(tmp_path)
    without = ("train.init=baseline", "train.fit.checkpoint_s=5", "augment.policy=none",
               "model.resnext_depth=50", "reweight.class_weight.effective_beta=0.5")  # fmt: skip
    assert reasons(tmp_path, *without) == {}
    sentences = plan_text.format_ignored(load_config(None, without))
    for key, needs in (("train.init", "model.mode=finetune"), ("augment.policy", "model.mode=finetune"),
                       ("model.resnext_depth", "model.backbone=resnext"),
                       ("train.fit.checkpoint_s", "train.head=trained"),
                       ("reweight.class_weight.effective_beta",
                        "reweight.class_weight.kind=effective_number")):  # fmt: skip
        assert f"{key} has no effect here; it needs {needs}." in sentences
    assert len(sentences) == 5
    assert plan_text.format_ignored(load_config()) == []
    for preset in ("best", "sound", "paper"):
        for mode in ("frozen", "finetune"):
            config = load_config(None, [f"preset={preset}", f"model.mode={mode}"])
            assert plan_text.format_ignored(config) == [], "nobody set these"


def test_a_damaged_stage_is_named_and_made_again_with_what_needs_it(tmp_path, flow):
    log, _ = flow
    run(tmp_path)
    path = tmp_path / "w" / "pack" / "value.json"
    path.write_text(path.read_text().replace("2", "5"))
    assert reasons(tmp_path) == {
        "pack": "it is damaged: value.json is not as it was written (its contents were changed)",
        "train": "pack runs",
    }
    log.clear()
    assert run(tmp_path) == ["skip", "run", "run"]
    assert {name for name, _ in log} == {"pack", "train"}
    assert read_json(tmp_path / "w" / "train" / "value.json") == 3


def test_damage_that_is_found_while_a_stage_reads_is_repaired_in_the_same_run(tmp_path, flow, caplog):
    log, _ = flow
    run(tmp_path)
    path = tmp_path / "w" / "pack" / "value.json"
    status = path.stat()
    path.write_text(path.read_text().replace("2", "5"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that no plan sees it
    log.clear()
    assert run(tmp_path, "train.bag.size=4") == ["skip", "skip", "run"]
    assert [name for name, unit in log if unit == 0] == ["train", "pack"]
    assert read_json(tmp_path / "w" / "train" / "value.json") == 3, "never used"
    assert reasons(tmp_path, "train.bag.size=4") == {}


def test_a_disk_that_damages_a_file_again_and_again_ends_the_run(tmp_path, flow, monkeypatch):
    run(tmp_path)
    problem = store.DamagedResult(tmp_path, "pack", "value.json is missing")
    checked = Workdir.checked

    def damaged(self, stage, *parts):
        if stage == "pack":
            raise problem
        return checked(self, stage, *parts)

    monkeypatch.setattr(Workdir, "checked", damaged)
    with pytest.raises(store.DamagedResult):
        run(tmp_path, "train.bag.size=4")


def test_what_follows_a_stage_that_is_gone_runs_too(tmp_path, flow):
    run(tmp_path)
    shutil.rmtree(tmp_path / "w" / "ingest")
    assert run(tmp_path) == ["run", "run", "run"]


def test_a_stage_that_was_made_again_with_other_results_makes_the_next_run(tmp_path, flow, monkeypatch):
    """As after a kill between the two."""
    run(tmp_path)
    config, workdir = load_config(), Workdir(tmp_path / "w")
    runner.run_single("pack", config, workdir)
    assert reasons(tmp_path) == {}, "the same results"

    def another(context):
        write_json(context.out / "value.json", 7)
        return {}

    stages = [dataclasses.replace(s, run=another) if s.name == "pack" else s for s in plan.STAGES]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "STAGES", tuple(stages))
        runner.run_single("pack", config, workdir)
    assert reasons(tmp_path) == {"train": "pack has other results since"}


def test_long_work_is_kept_until_a_run_is_complete_and_taken_back(tmp_path, flow, monkeypatch):
    log, failing = flow
    monkeypatch.setattr(store.workdir, "KEPT_SECONDS", -1.0)
    run(tmp_path)
    failing["train"] = 1
    with pytest.raises(OSError):
        run(tmp_path, "pack.jpeg_quality=90")
    failing.clear()
    log.clear()
    assert run(tmp_path) == ["skip", "restore", "skip"], "the change is taken back"
    assert log == []
    failing["train"] = 1
    with pytest.raises(OSError):
        run(tmp_path, "pack.jpeg_quality=90")
    failing.clear()
    log.clear()
    assert run(tmp_path, "pack.jpeg_quality=90") == ["skip", "skip", "resume"]
    assert log == [("train", 1), ("train", 2)]
    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert names == {"ingest", "pack", "train", "config.yaml", ".lock"}


def test_a_stage_that_does_not_fit_on_the_disk_is_not_begun(tmp_path, flow, monkeypatch):
    large = [dataclasses.replace(s, estimate=lambda config, plan: Estimate(disk_bytes=10**15))
             if s.name == "pack" else s for s in plan.STAGES]  # fmt: skip
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match="1,000 TB of free disk for stage pack"),
    ):
        patch.setattr(plan, "STAGES", tuple(large))
        run(tmp_path)
    assert run(tmp_path) == ["skip", "run", "run"]


def test_verify_reads_every_file(tmp_path, flow):
    run(tmp_path)
    workdir = Workdir(tmp_path / "w")
    lines, sound = runner.verify(workdir)
    assert sound and len(lines) == 3
    assert re.fullmatch(r"pack: 1 files, \d+ bytes, as it was written", lines[1])
    path = tmp_path / "w" / "pack" / "value.json"
    status = path.stat()
    path.write_text(path.read_text().replace("2", "5"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "w" / "train" / "done.json").unlink()
    lines, sound = runner.verify(workdir)
    assert not sound
    assert lines[1].endswith("damaged: value.json is not as it was written (its contents were changed)")
    assert lines[2] == "train: damaged: its done.json is missing or was changed"


def test_two_processes_cannot_work_in_one_directory(tmp_path, flow):
    (tmp_path / "w").mkdir()
    with open(tmp_path / "w" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process"):
            run(tmp_path)
        with pytest.raises(UsageError, match="Another process"):
            runner.run_single("ingest", load_config(), Workdir(tmp_path / "w"))


def test_a_single_stage_goes_on_with_a_killed_renaming(tmp_path, flow, monkeypatch):
    config, workdir = load_config(), Workdir(tmp_path / "w")
    runner.run_single("ingest", config, workdir)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Workdir, "_give_final_name", lambda self, stage: 1 / 0)
        runner.run_single("ingest", load_config(None, ["seed=1"]), workdir)
    runner.run_single("ingest", config, workdir)
    assert workdir.marker("ingest")["key"] == plan.stage_keys(config)["ingest"]
    assert sorted(path.name for path in workdir.root.iterdir()) == [".lock", "ingest"]


def test_the_marker_says_what_was_used(tmp_path, flow):
    run(tmp_path)
    marker = Workdir(tmp_path / "w").marker("train")
    assert marker["settings"]["train.bag.size"] == 3
    assert "train.init" not in marker["settings"], "heads have nothing to start from"
    assert marker["versions"]["tensorflow"] and marker["seconds"] >= 0 and marker["metadata"] == {"images": 3}


def test_the_plan_adds_up(tmp_path, flow):
    config, workdir = load_config(), Workdir(tmp_path / "w")
    text = plan_text.format_plan(config, plan.make_plan(config, workdir), workdir)
    assert "Together about 5 min" in text
    assert units.format_seconds(7200) == "2.0 h" and units.format_bytes(3.44e9) == "3.4 GB"
