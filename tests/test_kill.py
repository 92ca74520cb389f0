"""`kill -9` in the middle of every stage, the same command again, and the same bytes in the end.

A moment is a stage, a file in its directory whose writing starts the clock, and a wait. What is
killed is the whole process group, as a machine that is switched off would.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest

from urnet_tf import store
from urnet_tf.stages import NAMES

STARTED = "key.txt"  # written whenever a stage starts or goes on
EVERY_STEP = ("--set=baseline.fit.checkpoint_s=0", "--set=train.fit.checkpoint_s=0")
WEIGHTS = ("reweight/weights.parquet", "train/weights.parquet")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill."""

    stage: str
    file: str = STARTED
    wait: float = 0.0  # after `file` was written, as a share of the seconds the stage takes undisturbed


def stamp(path):
    """Changes whenever a file is written anew; None where there is none."""
    try:
        return path.stat().st_mtime_ns, path.stat().st_ino
    except FileNotFoundError:
        return None


def kill_at(moment: Moment, command: dict, workdir: pathlib.Path, seconds: float) -> bool:
    """Runs a command and kills it; returns whether that hit the stage."""
    partial, marker = workdir / f"{moment.stage}.partial", workdir / moment.stage / store.MARKER
    awaited, before = partial / moment.file, stamp(partial / moment.file)
    with open(workdir.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(**command, stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None and not marker.exists():
            if stamp(awaited) not in (None, before):
                time.sleep(moment.wait * seconds)
                break
            time.sleep(0.002)
        assert process.poll() is None, f"{moment}: the run ended by itself, see {workdir.with_suffix('.log')}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return partial.exists() and not marker.exists()


def test_a_run_killed_twice_ends_with_the_same_bytes(
    drawn_crawl, finished_run, urnet_command, small_run, tmp_path
):
    # Checkpoints and exports do not enter the weights, so the run with other ones is what to compare with.
    # A checkpoint a step would cost more than the steps.
    cheap = ("export.formats=[keras]", "export.check_images=4", "train.fit.checkpoint_s=0.2")
    cheap = [f"--set={setting}" for setting in cheap]
    workdir = tmp_path / "killed"
    command = urnet_command(
        "run", "--data", drawn_crawl, "--workdir", workdir, *small_run, *cheap
    )
    for moment in (Moment("baseline", "features.npy"), Moment("train", "checkpoint/checkpoint.npz")):
        assert kill_at(moment, command, workdir, 0.0), moment
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: resumes" in done.stderr and "urnet: continues at step" in done.stderr
    for name in WEIGHTS:
        assert (workdir / name).read_bytes() == (finished_run[0] / name).read_bytes(), name


# --------------------------------------------------------------------------------- every stage

MOMENTS = (
    Moment("ingest"),
    Moment("ingest", "units_probe/000000.json"),
    Moment("ingest", wait=0.9),
    Moment("pack"),
    Moment("pack", "units_pack/000000.json"),
    Moment("pack", "units_pack/000004.json"),
    Moment("pack", wait=0.9),
    Moment("baseline"),
    Moment("baseline", "features.npy"),
    Moment("baseline", "units_features/000000.json"),
    Moment("baseline", "checkpoint_full/checkpoint.npz"),
    Moment("baseline", "checkpoint_full/checkpoint.npz", 0.03),
    Moment("baseline", "history_full.json"),
    Moment("baseline", "checkpoint_fold0/checkpoint.npz", 0.02),
    Moment("baseline", "model_fold1.keras"),
    Moment("extract"),
    Moment("extract", "topk_ids.npy"),
    Moment("extract", "balanced_topk_ids.npy"),
    Moment("reweight"),
    Moment("reweight", "units_cluster/000003.json"),
    Moment("reweight", "confidence.npy"),
    Moment("reweight", "weights.parquet"),
    Moment("train"),
    Moment("train", "checkpoint/checkpoint.npz"),
    Moment("train", "checkpoint/checkpoint.npz", 0.1),
    Moment("train", "urnet.keras"),
    Moment("train", "attention.npy"),
    Moment("train", "weights.parquet"),
    Moment("evaluate"),
    Moment("evaluate", "parts/000000000.npz"),
    Moment("evaluate", "predictions_urnet.npz"),
    Moment("export"),
    Moment("export", wait=0.4),
    Moment("export", "urnet", 0.3),
    Moment("export", "models.config"),
    Moment("export", wait=0.9),
    Moment("report"),
    Moment("report", wait=0.7),
)


@pytest.fixture(scope="module")
def big_crawl(tmp_path_factory):
    """Enough images for two units of the feature loop and a dozen shards."""
    from urnet_tf.data.drawn_crawl import draw_crawl

    path = tmp_path_factory.mktemp("big") / "crawl"
    draw_crawl(path, images=1400, num_classes=12, image_size_px=48, val_per_class=4, test_per_class=6)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_kills_in_every_stage_lose_nothing(big_crawl, urnet_command, urnet, small_run, tmp_path, seed):
    settings = [*small_run, *EVERY_STEP, "--set=pack.images_per_shard=120"]
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
    done = urnet("run", "--data", big_crawl, "--workdir", undisturbed, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = {name: store.Workdir(undisturbed).marker(name)["seconds"] for name in NAMES}

    rng = np.random.default_rng(seed)
    anywhere = [Moment(name, wait=round(float(rng.uniform(0.1, 0.8)), 2)) for name in NAMES]
    moments = sorted((*MOMENTS, *anywhere), key=lambda moment: NAMES.index(moment.stage))
    command = urnet_command("run", "--data", big_crawl, "--workdir", workdir, *settings)
    hits, kept = {name: 0 for name in NAMES}, {}
    for moment in moments:
        if (workdir / moment.stage / store.MARKER).exists():
            print("too late for", moment)
            continue
        hit = kill_at(moment, command, workdir, seconds[moment.stage])
        print("hit" if hit else "missed", moment)
        hits[moment.stage] += hit
        for unit in (workdir / f"{moment.stage}.partial").glob("units_*/*.json"):
            kept.setdefault((moment.stage, unit.parent.name, unit.name), stamp(unit))
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    assert min(hits.values()) >= 1 and sum(hits.values()) >= 0.6 * len(moments), hits
    assert ("baseline", "units_features", "000000.json") in kept
    for (stage, *unit), written in kept.items():
        path = workdir.joinpath(stage, *unit)
        assert stamp(path) in (written, None), f"{path} was done twice"  # None: stages remove some at the end
    for name in WEIGHTS:
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert contents(workdir) == contents(undisturbed)


def contents(workdir):
    """All files that must be equal: path → bytes, or None where only the name must be."""
    equal = (".parquet", ".npy", ".npz", ".keras", ".arrayrecord", ".txt", ".json")
    found = {}
    for path in workdir.rglob("*"):
        name = path.relative_to(workdir).as_posix()
        if path.is_dir() or "/tensorboard/" in name:
            continue
        same = path.suffix in equal and path.name != store.MARKER and not name.startswith("export/")
        found[name] = path.read_bytes() if same else None
    return found
