"""Whole runs on two machines, which are two processes on this one."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import SMALL_RUN
from urnet_fixtures.cluster import REPOSITORY, run_together

from urnet_tf.training.saving import load_model

pytestmark = pytest.mark.slow


def command(workdir, crawl, *settings):
    # Dropout draws other masks on each device.
    settings = (*SMALL_RUN, "model.dropout=0", "train.members=2", "train.distill=true", *settings)
    flags = [f"--set={setting}" for setting in settings]
    return [sys.executable, "-m", "urnet_tf", "run", "--workdir", str(workdir), "--data", str(crawl), *flags]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "crawl"
    draw = [sys.executable, "-m", "urnet_tf", "draw", "--out", str(out), "--images=240", "--classes=4"]
    subprocess.run([*draw, "--size_px=64"], check=True, cwd=REPOSITORY)
    return out


def test_two_machines_make_what_one_makes(tmp_path, crawl):
    subprocess.run(command(tmp_path / "one", crawl), check=True, cwd=REPOSITORY)
    together = command(tmp_path / "two", crawl, "runtime.strategy=multi_worker")
    ended = run_together(tmp_path, [together, together])
    assert ended.statuses == [0, 0], ended.logs
    assert "baseline: takes part" in ended.logs[1] and "train: takes part" in ended.logs[1]
    fits = [re.findall(r"baseline (\w+): pass", log) for log in ended.logs]
    assert (set(fits[0]), set(fits[1])) == ({"full", "fold1"}, {"fold0"})  # a network each in turn
    for name in ("full", "fold0", "fold1"):
        one, two = (tmp_path / run / "baseline" / f"model_{name}.keras" for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    for place in ("urnet.keras", "member1/urnet.keras", "distilled/urnet.keras"):
        one, two = (load_model(tmp_path / run / "train" / place).get_weights() for run in ("one", "two"))
        for mine, other in zip(one, two, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5)
    verify = [sys.executable, "-m", "urnet_tf", "verify", "--workdir", str(tmp_path / "two")]
    assert subprocess.run(verify, cwd=REPOSITORY).returncode == 0
    assert not [name for name in os.listdir(tmp_path / "two") if "partial" in name]


def test_machines_with_other_settings_are_refused(tmp_path, crawl):
    settings = ("seed=1", "runtime.strategy=multi_worker"), ("seed=2", "runtime.strategy=multi_worker")
    ended = run_together(tmp_path, [command(tmp_path / "run", crawl, *some) for some in settings])
    assert ended.statuses == [2, 2], ended.logs
    assert all("Expected the same command" in log for log in ended.logs)


def test_what_fails_on_the_first_machine_is_told_to_the_others(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    empty = command(tmp_path / "run", tmp_path / "empty", "runtime.strategy=multi_worker")
    ended = run_together(tmp_path, [empty, empty])
    assert ended.statuses == [2, 1], ended.logs
    (said,) = re.findall(r"urnet: (.*empty.*)", ended.logs[0])
    assert f"urnet: The first machine failed: {said}" in ended.logs[1]
