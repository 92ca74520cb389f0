"""Planning and running, on three small stages: skip, redo what changed, resume, lock."""

import dataclasses
import fcntl
import pathlib
import re

import pytest

from urnet_tf import runner
from urnet_tf.config import load_config
from urnet_tf.data import readers
from urnet_tf.errors import UsageError
from urnet_tf.stages import STAGES
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


MACHINE = {"num_classes": 5000, "cores": 2, "memory_bytes": 24 * 10**9}


def plan(monkeypatch, tmp_path, *overrides, gpus=0, config="experiments/configs/webvision.yaml"):
    """The text of a plan for a machine, as a dry run prints it; nothing is read from a crawl."""
    root = pathlib.Path(__file__).resolve().parent.parent
    facts = Facts(images=16_300_000, train_images=16_000_000, gpus=gpus, **MACHINE)
    monkeypatch.setattr(runner, "gather_facts", lambda config, workdir: facts)
    monkeypatch.setattr(runner, "Facts", lambda: facts)
    monkeypatch.setattr(runner, "STAGES", [dataclasses.replace(s, inputs=lambda config: "") for s in STAGES])
    monkeypatch.setattr(readers, "count_rows", lambda *args: 16_300_000)
    monkeypatch.setattr(readers, "detect_kind", lambda path: "webvision")
    config = load_config(root / config, ["ingest.path=webvision", *overrides])
    workdir = Workdir(tmp_path / "w")
    return runner.format_plan(config, runner.make_plan(config, workdir), workdir)


def row(text, stage, device):
    """The cells of the line of a stage on a device in the table of training memory."""
    lines = text[text.index("Memory of a device") :].splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    return next(c for c in cells if c[0] == stage and device in c)


def test_the_plan_of_the_paper_tells_network_flops_and_memory_per_device(monkeypatch, tmp_path):
    text = plan(monkeypatch, tmp_path, gpus=8)
    assert "resnext101_32x8d at 224 px, trained as a whole: 86.9 M parameters" in text
    assert "16.4 G multiply-adds (32.8 G FLOP) per image forward" in text
    stage, heads, classes, device, images, weights, gradients, optimizer, *others = row(
        text, "train", "8 GPUs"
    )
    assert (heads, classes, images) == ("21.5 M", "5,000", "96")
    # 86.9 M + 21.5 M parameters: float32 and a copy in 16 bits; 0.2 M statistics have no gradient.
    assert (weights, gradients, optimizer) == ("651 MB", "433 MB", "433 MB")
    assert row(text, "baseline", "4 GPUs")[4] == "192" and "CPU  " not in text
    assert "Warning" not in text, "activations lie on the GPUs"
    assert "Times on GPUs are rough" in text


def test_the_plan_warns_of_too_little_memory_and_says_what_to_lower(monkeypatch, tmp_path):
    text = plan(monkeypatch, tmp_path)
    assert "no GPU found" in text
    for hint in (
        "Lower baseline.fit.batch_images or raise baseline.fit.accumulate_steps.",
        "Lower train.fit.batch_images or raise train.fit.accumulate_steps.",
        "Lower evaluate.batch_images.",
    ):
        assert re.search(f"Warning: .*this machine has 24.0 GB. {hint}", text)
    small = ("baseline.fit.batch_images=6", "train.fit.batch_images=6", "evaluate.batch_images=30",
             "extract.batch_images=16")  # fmt: skip
    assert "Warning" not in plan(monkeypatch, tmp_path, *small)
    parts = ("train.fit.batch_images=768", "train.fit.accumulate_steps=256")
    assert row(plan(monkeypatch, tmp_path, *parts), "train", "CPU")[4] == "3"


def test_frozen_networks_are_planned_by_their_heads(monkeypatch, tmp_path):
    text = plan(monkeypatch, tmp_path, config="experiments/configs/webtiny.yaml")
    assert "efficientnet_lite0 at 128 px, frozen; only heads are trained: 3.4 M parameters" in text
    assert row(text, "baseline", "CPU")[1] == "6.4 M"


def test_many_views_and_a_small_stem_cost_their_work(monkeypatch, tmp_path):
    def seconds(stage, *overrides):
        config = load_config(None, ["model.mode=finetune", "model.backbone=resnext", *overrides])
        facts = Facts(images=1100, train_images=1000, gpus=0, **MACHINE)
        return next(s for s in STAGES if s.name == stage).estimate(config, facts).seconds

    one, ten = seconds("evaluate"), seconds("evaluate", "evaluate.crops=10")
    assert ten - 30 == pytest.approx(10 * (one - 30))
    small = "model.image_size_px=64"
    assert seconds("extract", small, "model.resnext_small_stem=true") > 4 * (seconds("extract", small) - 30)
