"""What a plan of whole networks says of memory and time, without running anything."""

import dataclasses
import pathlib
import re

import pytest

from urnet_tf.config import load_config
from urnet_tf.crawl import readers
from urnet_tf.flow import plan, plan_text
from urnet_tf.stages import STAGES
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import Workdir

MACHINE = {"num_classes": 5000, "cores": 2, "memory_bytes": 24 * 10**9}


def printed_plan(monkeypatch, tmp_path, *overrides, gpus=0, config="experiments/configs/webvision.yaml"):
    """The text of a plan for a machine, as a dry run prints it; nothing is read from a crawl."""
    root = pathlib.Path(__file__).resolve().parents[2]
    metadata = PlanContext(images=16_300_000, train_images=16_000_000, gpus=gpus, **MACHINE)
    monkeypatch.setattr(plan, "gather_plan_context", lambda *_, **__: metadata)
    monkeypatch.setattr(plan_text, "PlanContext", lambda: metadata)
    monkeypatch.setattr(plan, "STAGES", [dataclasses.replace(s, inputs=lambda config: {}) for s in STAGES])
    monkeypatch.setattr(readers, "detect_kind", lambda path: "webvision")
    config = load_config(root / config, ["ingest.path=webvision", *overrides])
    workdir = Workdir(tmp_path / "w")
    return plan_text.format_plan(config, plan.make_plan(config, workdir), workdir)


def row(text, stage, device):
    """The cells of the line of a stage on a device in the table of training memory."""
    lines = text[text.index("Memory of a device") :].splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    return next(c for c in cells if c[0] == stage and device in c)


def test_the_plan_of_the_paper_tells_network_flops_and_memory_per_device(monkeypatch, tmp_path):
    text = printed_plan(monkeypatch, tmp_path, gpus=8)
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
    whole = ("baseline.fit.accumulate_steps=1", "train.fit.accumulate_steps=1")
    text = printed_plan(monkeypatch, tmp_path, *whole)
    assert "no GPU found" in text
    for hint in (
        "Lower baseline.fit.batch_images or raise baseline.fit.accumulate_steps.",
        "Lower train.fit.batch_images or raise train.fit.accumulate_steps.",
        "Lower evaluate.batch_images.",
    ):
        assert re.search(f"Warning: .*this machine has 24.0 GB. {hint}", text)
    text = printed_plan(monkeypatch, tmp_path)  # divides steps as memory asks for
    assert not re.search("Warning: (baseline|train)", text)
    for stage in ("baseline", "train"):
        assert int(row(text, stage, "CPU")[4]) < 256 and re.search(rf"{stage} .*; steps in \d+ parts", text)
    small = ("baseline.fit.batch_images=6", "train.fit.batch_images=6", "evaluate.batch_images=30",
             "extract.batch_images=16")  # fmt: skip
    assert "Warning" not in printed_plan(monkeypatch, tmp_path, *small)
    parts = ("train.fit.batch_images=768", "train.fit.accumulate_steps=256")
    assert row(printed_plan(monkeypatch, tmp_path, *parts), "train", "CPU")[4] == "3"


def test_frozen_networks_are_planned_by_their_heads(monkeypatch, tmp_path):
    text = printed_plan(monkeypatch, tmp_path, config="experiments/configs/webtiny.yaml")
    assert "5 fitted heads" in text and "Memory of a device" not in text
    trained = "baseline.head=trained", "train.head=trained"
    text = printed_plan(monkeypatch, tmp_path, *trained, config="experiments/configs/webtiny.yaml")
    assert (
        "efficientnet_lite0 at 128 px (made for 224 px), frozen; only heads are trained: 3.4 M parameters"
        in text
    )
    assert row(text, "baseline", "CPU")[1] == "6.4 M"


def test_many_views_and_a_small_stem_cost_their_work(monkeypatch, tmp_path):
    def seconds(stage, *overrides):
        config = load_config(None, ["model.mode=finetune", "model.backbone=resnext", *overrides])
        metadata = PlanContext(images=1100, train_images=1000, gpus=0, **MACHINE)
        return next(s for s in STAGES if s.name == stage).estimate(config, metadata).seconds

    one, ten = seconds("evaluate"), seconds("evaluate", "evaluate.crops=10")
    assert ten - 30 == pytest.approx(10 * (one - 30))
    small = "model.image_size_px=64"
    assert seconds("extract", small, "model.resnext_small_stem=true") > 4 * (seconds("extract", small) - 30)


def test_classes_of_many_images_cost_less_an_image_to_cluster():
    def clustering(images, *overrides):
        """Two cores, 5,000 classes, each with its four neighbors."""
        seconds = []
        for enabled in ("true", "false"):
            choice = f"reweight.cluster_weight.enabled={enabled}"
            config = load_config(None, [choice, "reweight.cluster_weight.neighbors=4", *overrides])
            stage = next(stage for stage in STAGES if stage.name == "reweight")
            seconds.append(stage.estimate(config, PlanContext(train_images=images, **MACHINE)).seconds)
        return seconds[0] - seconds[1]

    assert clustering(1_000_000) == pytest.approx(5e6 * 6e-5 / 2)
    # PCA sees 4,096 of the 16,000 rows that are clustered for each class.
    assert clustering(16_000_000) == pytest.approx((8e7 * 1.5e-5 + 5000 * 4096 * 4.5e-5) / 2)
    whole = "reweight.cluster_weight.pca_dim=null"
    assert clustering(16_000_000, whole) == pytest.approx(16 * clustering(1_000_000, whole))


def test_tensorflow_starts_once_and_a_process_keeps_memory(monkeypatch, tmp_path):
    costs = {"ingest": (5.0, 10**8), "pack": (1.0, 10**8), "features": (9.0, 10**9), "extract": (2.0, 10**7),
             "export": (7.0, 10**10), "report": (3.0, 10**8)}  # fmt: skip

    def stage(name, seconds, memory):
        cost = Estimate(seconds=seconds, memory_bytes=memory)
        real = next(other for other in STAGES if other.name == name)
        return Stage(name, (), (), None, lambda config, plan: cost, starts_tensorflow=real.starts_tensorflow)

    monkeypatch.setattr(plan, "STAGES", [stage(name, *cost) for name, cost in costs.items()])
    monkeypatch.setattr(plan, "gather_plan_context", lambda *_, **__: PlanContext(**MACHINE))
    monkeypatch.setattr(plan, "say_unknown", lambda config, name, cost: cost)
    steps = plan.make_plan(load_config(None, []), Workdir(tmp_path / "run"))
    seconds = {step.stage.name: step.estimate.seconds - costs[step.stage.name][0] for step in steps}
    assert seconds == {name: (plan._START_SECONDS if name == "features" else 0) for name in costs}
    memory = [step.estimate.memory_bytes for step in steps]
    assert memory == [10**8, 10**8, 10**9, 8 * 10**8, 10**10, plan._MOST_KEPT_BYTES]
