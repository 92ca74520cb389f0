"""Losses with a memory, mixup, other rules of learning in `fit_model`: exact resume, clear refusals."""

import dataclasses

import numpy as np
import pytest
from urnet_fixtures.training import StopAt

from urnet_tf import config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.feed.batches import FeatureBatches
from urnet_tf.feed.sampling import BagSampler, InstanceSampler
from urnet_tf.models.classifier import build_classifier
from urnet_tf.models.urnet import build_urnet
from urnet_tf.stages.settings import fit_settings
from urnet_tf.training import fit as training
from urnet_tf.training.fit import FitOptions
from urnet_tf.training.optimization import Trainee
from urnet_tf.training.robust_losses import build_loss

N, D, CLASSES = 60, 6, 3
LABELS = np.repeat(np.arange(CLASSES), N // CLASSES)


def batches(bag):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(N, D)) + 2 * np.eye(CLASSES, D)[LABELS]).astype("float32")
    sampler = BagSampler(np.arange(N), LABELS, 3, 4, 1) if bag else InstanceSampler(np.arange(N), 12, 1)
    ones = np.ones(N, np.float32)
    weights = rng.uniform(0.5, 1.5, N).astype("float32")
    return FeatureBatches(features, sampler, LABELS[:, None], ones[:, None], weights, bag=bag)


def build(bag):
    return build_urnet(D, CLASSES, 3, seed=1) if bag else build_classifier(D, CLASSES, seed=1)


def loss_of(kind):
    return build_loss(kind, class_counts=np.bincount(LABELS), num_instances=N, logit_adjustment=0.5)


@pytest.mark.parametrize(
    ("bag", "kind", "settings"),
    [
        (False, "elr", {}),
        pytest.param(True, "elr", {"accumulate_steps": 2}, marks=pytest.mark.slow),
        pytest.param(True, "elr", {"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param(False, "gce", {"mixup": 0.4}, marks=pytest.mark.slow),
        (True, "sce", {"mixup": 0.4}),
    ],
)
def test_interrupted_run_ends_bitwise_equal(bag, kind, settings, tmp_path):
    options = FitOptions(learning_rate=0.05, checkpoint_s=0, **settings)
    ends = []
    for stop, directory in ((None, tmp_path / "straight"), (4, tmp_path), (None, tmp_path)):
        model, loss = build(bag), loss_of(kind)
        callbacks = [StopAt(stop)] if stop else []
        try:
            history = training.fit_model(
                model,
                batches(bag),
                options,
                total_steps=9,
                loss=loss,
                callbacks=callbacks,
                checkpoint_dir=directory,
            )
            ends.append((model, loss, history))
        except KeyboardInterrupt:
            pass
    (straight, loss, history), (resumed, loss_again, history_again) = ends
    assert history == history_again
    assert history[-1]["loss"] < history[0]["loss"]
    for a, b in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    if kind == "elr":
        memory = loss.memory.numpy()
        np.testing.assert_array_equal(memory, loss_again.memory.numpy())
        assert (memory.sum(1) > 0).sum() > N / 2  # every image that was seen in a pass and more


def test_parts_of_a_step_remember_what_the_whole_step_does():
    ends = []
    for parts in (1, 4):
        model, loss = build_classifier(D, CLASSES, dropout=0.0), loss_of("elr")
        training.fit_model(
            model, batches(False), FitOptions(accumulate_steps=parts), total_steps=5, loss=loss
        )
        ends.append((loss.memory.numpy(), model.get_weights()))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-3)
    for whole, parted in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_allclose(whole, parted, atol=1e-4)


def test_a_checkpoint_of_another_loss_is_refused(tmp_path):
    settings = {"total_steps": 3, "checkpoint_dir": tmp_path, "options": FitOptions(checkpoint_s=0)}
    training.fit_model(build(False), batches(False), loss=loss_of("elr"), **settings)
    with pytest.raises(RunError, match="another model"):
        training.fit_model(build(False), batches(False), **settings)


def test_early_learning_with_mixup_is_refused():
    with pytest.raises(UsageError, match="no mixup.*mixup=0.4"):
        training.fit_model(
            build(False), batches(False), FitOptions(mixup=0.4), total_steps=1, loss=loss_of("elr")
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.fit.loss.kind=elr", "train.fit.mixup=0.4"], "Expected train.fit.mixup=null"),
        (["baseline.fit.loss.kind=elr", "runtime.strategy=mirrored"], "Expected runtime.strategy=none"),
        (["train.fit.mixup=0"], "Expected a number between 0.001 and 1,000.0 for train.fit.mixup"),
        (["train.fit.loss.kind=mae"], "one of cross_entropy, gce, sce, focal, elr"),
        (["train.fit.loss.gce_q=0"], "between 0.01 and 1.0 for train.fit.loss.gce_q"),
        (
            ["reweight.class_weight.kind=effective_number", "reweight.class_weight.alpha=1"],
            "Expected reweight.class_weight.alpha=null",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(overrides, message):
    with pytest.raises(UsageError, match=message):
        config.load_config(None, overrides)


def test_another_rule_of_learning_takes_the_steps():
    class Still(Trainee):
        def compute_loss(self, *args, **kwargs):
            return 0.0 * super().compute_loss(*args, **kwargs)

    model = build(False)
    before = model.get_weights()
    options = FitOptions(weight_decay=0.0)
    history = training.fit_model(model, batches(False), options, total_steps=3, build_trainee=Still)
    assert history[-1]["loss"] == 0.0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_setting_of_a_fit_reaches_it():
    fit = config.FitConfig(mixup=0.4, label_smoothing=0.1, loss=config.LossConfig("focal", focal_gamma=1.0))
    settings = fit_settings(fit, config.RuntimeConfig(jit_compile=True), 8)
    options, loss = settings.pop("options"), settings.pop("loss")
    assert not settings
    assert (options.mixup, options.jit_compile) == (0.4, True)
    assert (loss.gamma, loss.label_smoothing) == (1.0, 0.1)
    elsewhere = {"epochs", "batch_images", "label_smoothing", "loss"}
    reached = {field.name for field in dataclasses.fields(options)} - {"jit_compile"}
    assert reached | elsewhere == {field.name for field in dataclasses.fields(fit)}
