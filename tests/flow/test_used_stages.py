"""Stages that another one uses where they are complete, and does without else: the report."""

import shutil

import pytest

from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.flow import plan, runner
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import Workdir, read_json, write_json


@pytest.fixture
def report_flow(monkeypatch):
    """Four stages: the last needs the first, and uses the two between where they are complete."""

    def make(name, needs, uses=()):
        def run(context):
            known = [n for n in uses if n not in context.missing]
            values = {n: read_json(context.path(n, "value.json")) for n in (*needs, *known)}
            write_json(context.out / "value.json", {"read": sorted(values), "missing": dict(context.missing)})
            return {"images": 3}

        return Stage(name, needs, (name,), run, lambda config, plan: Estimate(), uses=uses)

    stages = (
        make("ingest", ()), make("reweight", ("ingest",)), make("train", ("reweight",)),
        make("report", ("ingest",), ("reweight", "train")),
    )  # fmt: skip
    monkeypatch.setattr(plan, "STAGES", stages)
    monkeypatch.setattr(plan, "gather_plan_context", lambda config, workdir, lists: PlanContext())


def run_some(tmp_path, only, *overrides):
    config, workdir = load_config(None, overrides), Workdir(tmp_path / "w")
    steps = plan.make_plan(config, workdir, only=only)
    runner.run(config, workdir, steps)
    reasons = {step.stage.name: step.reason for step in steps if step.reason}
    return reasons, read_json(tmp_path / "w" / "report" / "value.json")


NOISE = {"ingest", "reweight", "report"}
NOT_YET = "it was not run yet"


def test_a_stage_does_without_what_it_only_uses(tmp_path, report_flow):
    reasons, told = run_some(tmp_path, NOISE)
    assert set(reasons) == NOISE
    assert told == {"read": ["ingest", "reweight"], "missing": {"train": NOT_YET}}
    assert run_some(tmp_path, NOISE)[0] == {}
    # The whole flow goes on from there, and the report is made again since train runs.
    assert run_some(tmp_path, None)[0] == {"train": NOT_YET, "report": "train runs"}
    assert run_some(tmp_path, NOISE)[0] == {} and run_some(tmp_path, None)[0] == {}
    assert plan.with_needs("reweight") == {"ingest", "reweight"}


def test_the_report_is_made_again_when_a_stage_is_complete_or_gone_since(tmp_path, report_flow):
    run_some(tmp_path, NOISE)
    runner.run_single("train", load_config(None), Workdir(tmp_path / "w"))
    reasons, told = run_some(tmp_path, NOISE)
    assert reasons == {"report": "train is complete since"} and "train" in told["read"]
    shutil.rmtree(tmp_path / "w" / "train")
    reasons, told = run_some(tmp_path, NOISE)
    assert reasons == {"report": "train has other results since"} and told["missing"] == {"train": NOT_YET}


def test_results_of_other_settings_are_not_shown(tmp_path, report_flow):
    """Weights that are made again leave a network behind that was trained with the old ones."""
    run_some(tmp_path, None)
    reasons, told = run_some(tmp_path, NOISE, "reweight.rounds=1")
    assert set(reasons) == {"reweight", "report"} and told["read"] == ["ingest", "reweight"]
    assert set(told["missing"]) == {"train"}
    assert (tmp_path / "w" / "train" / "value.json").exists()
    assert set(run_some(tmp_path, None, "reweight.rounds=1")[0]) == {"train", "report"}


def test_a_single_report_takes_what_is_there(tmp_path, report_flow):
    config, workdir = load_config(None), Workdir(tmp_path / "w")
    with pytest.raises(UsageError, match="Expected stage ingest to be complete"):
        runner.run_single("report", config, workdir)
    runner.run_single("ingest", config, workdir)
    runner.run_single("report", config, workdir)
    told = read_json(tmp_path / "w" / "report" / "value.json")
    assert told == {"read": ["ingest"], "missing": {"reweight": NOT_YET, "train": NOT_YET}}


def test_what_was_kept_of_earlier_runs_goes_when_the_whole_flow_is_complete(tmp_path, report_flow):
    run_some(tmp_path, None)
    kept = tmp_path / "w" / "reweight.previous"
    shutil.copytree(tmp_path / "w" / "reweight", kept)
    run_some(tmp_path, NOISE)
    assert kept.exists()
    run_some(tmp_path, None)
    assert not kept.exists()
