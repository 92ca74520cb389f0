"""Steps that devices cannot divide are refused before anything runs."""

import json

import pytest

from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.flow import together
from urnet_tf.store import Workdir, machine
from urnet_tf.training import fit

_WHOLE = "model.mode=finetune"


@pytest.mark.parametrize(
    ("settings", "devices", "expected"),
    [
        ((), 2, None),  # fitted heads have no steps
        ((_WHOLE,), 8, None),  # 24 images by default
        ((_WHOLE, "train.fit.batch_images=255"), 5, None),
        (
            (_WHOLE, "train.fit.batch_images=255"),
            2,
            "train.*bags of 3.*2 devices.*are 85.*batch_images=252 does",
        ),
        ((_WHOLE, "train.fit.batch_images=6"), 4, "which are 2.*train.fit.batch_images=12 does"),
        (("train.head=trained", "train.fit.batch_images=252"), 4, None),
        (
            ("train.head=trained", "train.bag.size=1", "train.fit.batch_images=254"),
            4,
            "images that 4.*batch_images=252 does",
        ),
        (("baseline.head=trained",), 2, "baseline.fit.batch_images to give images.*255.*=254 does"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_does(settings, devices, expected):
    config = load_config(None, list(settings))
    if expected is None:
        together.check_batches(config, devices)
    else:
        with pytest.raises(UsageError, match=expected) as caught:
            together.check_batches(config, devices)
        mended = load_config(None, [*settings, str(caught.value).split()[-2]])
        together.check_batches(mended, devices)


def test_machines_that_take_a_network_each_divide_nothing():
    config = load_config(None, ["baseline.head=trained"])
    together.check_batches(config, 2, machines=2)
    with pytest.raises(UsageError, match="4 devices"):
        together.check_batches(config, 4, machines=2)
    with pytest.raises(UsageError, match="2 devices"):
        together.check_batches(
            load_config(None, ["baseline.head=trained", "baseline.folds=1"]), 2, machines=2
        )


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_a_run_asks_before_it_begins(monkeypatch, tmp_path, strategy):
    workers = ["a:1", "b:1"] if strategy == "multi_worker" else ["a:1"]
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setattr(machine, "count_gpus", lambda: 4 // len(workers))
    monkeypatch.setattr(fit, "build_strategy", lambda *_: pytest.fail("it waits for machines"))
    settings = [_WHOLE, f"runtime.strategy={strategy}", "train.fit.batch_images=255"]
    config = load_config(None, settings)
    with pytest.raises(UsageError, match="4 devices divide equally"):
        together.open_machines(config, Workdir(tmp_path))
