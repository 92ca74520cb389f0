r"""What plans say and what comes: time, memory and disk of each stage, for several kinds of runs.

    python experiments/benchmarks/bench_plan.py [--run small --run classes ...] [--scratch DIR]

Each run is the whole flow on a crawl of squares of few colors that is written here, in its own process. A
stage's `done.json` keeps what was planned and what came. Prints plan ÷ reality for each stage that took two
seconds or more, 100 MB of disk, or 1.5 GB, and for the run as a whole: near 1 is right, below 1 too
little was promised. Memory is the largest resident set while the stage ran.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags
from PIL import Image

from urnet_tf import store

# name → classes, images, side in px, settings
RUNS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "small": (10, 1_000, 240, ()),
    "frozen": (100, 10_000, 128, ("model.image_size_px=128",)),
    "classes": (1_000, 20_000, 64, ("model.image_size_px=64",)),
    "many_classes": (5_000, 25_000, 48, ("model.image_size_px=48", "baseline.head=discriminant",
                                         "train.head=discriminant")),
    "whole": (10, 600, 128, ("model.mode=finetune", "model.image_size_px=128")),
    "large": (100, 200_000, 32, ("model.image_size_px=32",)),
}  # fmt: skip
_RUN = flags.DEFINE_multi_enum("run", ["small", "frozen", "classes", "whole"], list(RUNS), "which runs")
_SCRATCH = flags.DEFINE_string("scratch", None, "where crawls and runs are written; None = temporary")
_LEAST = {"seconds": 2.0, "disk_bytes": 1e8, "peak_memory_bytes": 1.5e9}  # less is not compared


def write_crawl(root: pathlib.Path, classes: int, images: int, side_px: int) -> None:
    """Writes JPEG files of two colors a class and much noise, in class folders."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(0, 255, (classes, 2, 3))
    for number in range(images):
        label = number % classes
        small = colors[label][rng.integers(0, 2, (4, 4))] + rng.normal(0, 40, (4, 4, 3))
        picture = Image.fromarray(small.clip(0, 255).astype(np.uint8)).resize((side_px, side_px))
        noisy = np.asarray(picture, np.float32) + rng.normal(0, 12, (side_px, side_px, 3))
        folder = root / f"class {label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{rng.bytes(6).hex()}.jpg")


def compare(name: str, workdir: pathlib.Path) -> list[str]:
    """Rows of a table: for each stage and for all, the planned figure, what came, and their ratio."""
    lines, sums = [], {key: np.zeros(2) for key in _LEAST}
    for marker in sorted(workdir.glob("*/done.json"), key=lambda path: path.stat().st_mtime):
        told = store.read_json(marker)
        told["disk_bytes"] = sum(entry["bytes"] for entry in told["files"].values())
        for key, least in _LEAST.items():
            planned, came = (told["planned"] or {}).get(key), told[key]
            if planned is None:
                continue
            pair = np.array([planned, came])
            sums[key] = np.maximum(sums[key], pair) if key == "peak_memory_bytes" else sums[key] + pair
            if max(pair) >= least:
                lines.append(_row(name, marker.parent.name, key, planned, came))
    return lines + [_row(name, "all", key, *pair) for key, pair in sums.items()]


def _row(run: str, stage: str, key: str, planned: float, came: float) -> str:
    unit, name = (1.0, "s") if key == "seconds" else (1e6, "MB")
    what = {"seconds": "time", "disk_bytes": "disk", "peak_memory_bytes": "memory"}[key]
    return (
        f"| {run} | {stage} | {what} | {planned / unit:,.0f} {name} | {came / unit:,.0f} {name} | "
        f"{planned / max(came, 1e-9):.2f} |"
    )


def main(_) -> None:
    print("| run | stage | | planned | came | planned ÷ came |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as scratch:
        for name in _RUN.value:
            classes, images, side_px, settings = RUNS[name]
            crawl, workdir = pathlib.Path(scratch, name, "crawl"), pathlib.Path(scratch, name, "run")
            write_crawl(crawl, classes, images, side_px)
            command = [
                sys.executable,
                "-m",
                "urnet_tf",
                "run",
                "--data",
                str(crawl),
                "--workdir",
                str(workdir),
            ]
            command += [part for setting in settings for part in ("--set", setting)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            print("\n".join(compare(name, workdir)), flush=True)


if __name__ == "__main__":
    app.run(main)
