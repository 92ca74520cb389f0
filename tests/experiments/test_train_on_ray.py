"""Ray Train launches a whole run on two machines, of which one is killed in the middle of a fit."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import SMALL_RUN
from urnet_fixtures.cluster import REPOSITORY, own_network

from urnet_tf import store
from urnet_tf.stages import NAMES

LONGEST_S = 420


def find_worker(workdir, rank):
    """The process id of `urnet` on a machine; None where there is none."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        config = [line[10:] for line in environment.split(b"\0") if line.startswith(b"TF_CONFIG=")]
        if b"urnet_tf" in command and str(workdir).encode() in command and config:
            if command.startswith(b"ray::") or b"train_on_ray" in command:
                continue
            if json.loads(config[0])["task"]["index"] == rank:
                return int(entry.name)
    return None


@pytest.mark.slow
def test_ray_train_begins_again_when_a_machine_is_lost(tmp_path):
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pandas") is None:
        pytest.skip("ray[train] is not installed: pip install 'ray[train]'")
    crawl, workdir, log = tmp_path / "crawl", tmp_path / "run", tmp_path / "log"
    draw = [sys.executable, "-m", "urnet_tf", "draw", "--out", str(crawl), "--images=240", "--classes=4"]
    subprocess.run([*draw, "--size_px=64"], check=True, cwd=REPOSITORY)
    settings = [f"--set={one}" for one in (*SMALL_RUN, "train.fit.epochs=60", "train.fit.checkpoint_s=0.2")]
    command = [
        *own_network(), sys.executable, "experiments/examples/train_on_ray.py", "--machines=2",
        f"--records={tmp_path / 'records'}", "--",
        "run", f"--workdir={workdir}", f"--data={crawl}", *settings,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=file, stderr=file, start_new_session=True
        )
    killed, until = None, time.monotonic() + LONGEST_S
    try:
        while process.poll() is None and time.monotonic() < until:
            checkpoint = workdir / "train.partial" / "checkpoint" / "checkpoint.npz"
            if killed is None and checkpoint.exists() and (worker := find_worker(workdir, 1)) is not None:
                os.kill(worker, signal.SIGKILL)
                killed = worker
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text(errors="replace")
    assert process.wait() == 0, said[-5000:]
    assert killed is not None, "the fit was over before a machine could be killed"
    assert "continues at step" in said
    assert all(store.Workdir(workdir).marker(name) is not None for name in NAMES)
