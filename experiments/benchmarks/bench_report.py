"""How long a report of 5,000 classes and a million images takes to build and to open; the images are made up.

python experiments/benchmarks/bench_report.py --out DIR [--images 1000000] [--classes 5000] [--image_px 128]

The work directory is as the stages up to `reweight` leave it: titles, queries, ranks, copies, features,
weights, and images, of which 256 differ. It needs --out on a disk with room: 3 GB of features and 5 GB of
images of 128 px. The report is built in a process of its own, so that its time holds the hashing of all that
it reads. Then the page is opened as a file in Chromium, where there is one: until its script has read all
classes, until a class is shown, and until the matrix is. A directory that is there already is used again.
"""

import io
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from urnet_tf import config as config_lib, schema, store
from urnet_tf.images import image_store
from urnet_tf.stages import report
from urnet_tf.stages.stage import StageContext

_SHARD = 2048
_PICTURES = 256  # that differ
_LATER = ("train", "evaluate", "export")
_WRONG = 0.3


def define_flags() -> None:
    """Of this script alone; tests import it."""
    flags.DEFINE_string("out", None, "the work directory to make", required=True)
    flags.DEFINE_integer("images", 1_000_000, "training images", lower_bound=100)
    flags.DEFINE_integer("classes", 5_000, "classes", lower_bound=2)
    flags.DEFINE_integer("image_px", 128, "short side of a stored image", lower_bound=16)
    flags.DEFINE_integer("feature_dim", 1280, "features of an image", lower_bound=2)
    flags.DEFINE_bool(
        "build", False, "only build the report of a directory that is there, and tell the costs"
    )


def class_sizes(images: int, classes: int) -> np.ndarray:
    """A long tail: int64 [classes] that add up to `images`, each at least 2."""
    share = 1 / (np.arange(classes) + classes / 50)
    sizes = np.maximum(np.floor(images * share / share.sum()).astype(np.int64), 2)
    sizes[0] += images - sizes.sum()
    return sizes


def make_workdir(root: pathlib.Path, images: int, classes: int, image_px: int, feature_dim: int) -> None:
    """Writes all stages that a report reads, with their markers."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(classes, dtype=np.int32), class_sizes(images, classes))
    wrong = rng.random(images) < _WRONG
    near = np.clip(label + rng.integers(1, 4, images), 0, classes - 1)
    called = np.where(rng.random(images) < 0.6, near, rng.integers(0, classes, images))
    predicted = np.where(wrong | (rng.random(images) < 0.1), called, label).astype(np.int32)
    right = np.where(wrong, rng.beta(1, 6, images), rng.beta(8, 1, images)).astype(np.float32)
    for stage in ("ingest", "pack", "features", "extract", "reweight"):
        (root / stage).mkdir(parents=True)
    paths = _write_instances(root, label, rng)
    _write_images(root / "pack", images, image_px, rng)
    _write_features(root / "features" / "features.npy", predicted, feature_dim, rng)
    _write_weights(root / "reweight" / "weights.parquet", label, predicted, right, paths)
    clean = {"clean_rate_estimate": 1 - _WRONG, "clean_rate_interval": [0.6, 0.8], "labels_seen": False}
    metadata: dict[str, Any] = {
        "ingest": {"held_labels": {}},
        "pack": {"images": images, "train_images": images, "bytes": 0},
        "extract": {"features": "features/features.npy"},
        "reweight": {**clean, "predicted_by": schema.SECOND_ROUND, "formulas": "repaired"},
    }
    workdir = store.Workdir(root)
    for stage in ("ingest", "pack", "features", "extract", "reweight"):
        marker = {"key": stage, "seconds": 1, "versions": {}, "metadata": metadata.get(stage, {})}
        workdir.write_marker(root / stage, marker)


def _write_instances(root: pathlib.Path, label: np.ndarray, rng: np.random.Generator) -> list[str]:
    images, classes = len(label), int(label.max()) + 1
    words = np.array([f"word{i:05d}" for i in range(20_000)])
    chosen = rng.integers(0, len(words), (images, 4))
    titles = [f"{' '.join(words[some])} class {j}" for some, j in zip(chosen, label.tolist(), strict=True)]
    source = rng.integers(0, 2, images)
    query = [
        f"query {j}.{q}" for j, q in zip(label.tolist(), rng.integers(0, 3, images).tolist(), strict=True)
    ]
    paths = [f"{('google', 'flickr')[s]}/{j:05d}/{i:08d}.jpg"
             for i, (s, j) in enumerate(zip(source.tolist(), label.tolist(), strict=True))]  # fmt: skip
    columns = {
        "instance_id": np.arange(images), "split": ["train"] * images, "label": label,
        "source": np.array(["google", "flickr"])[source], "rank": rng.integers(1, 200, images),
        "query": query, "title": titles, "description": [""] * images, "tags": [""] * images, "path": paths,
        "content_hash": [f"{i:032x}" for i in range(images)], "picture": [f"{i:032x}" for i in range(images)],
        "width_px": np.full(images, 640), "height_px": np.full(images, 480), "judged": [""] * images,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    none: dict[str, list] = {name: [] for name in schema.QUARANTINE_COLUMNS}
    store.write_table(root / "pack" / "quarantine.parquet", none, schema.QUARANTINE_COLUMNS)
    names = [{"label": j, "name": f"class {j} of {classes}"} for j in range(classes)]
    store.write_json(root / "pack" / "classes.json", names)
    twice = np.repeat(np.arange(images // 100), 2)
    first = np.stack([np.arange(images // 100), images - 1 - np.arange(images // 100)], 1).ravel()
    copies = {
        "content_hash": [f"{i:032x}" for i in twice], "picture": [f"{i:032x}" for i in twice],
        "kind": ["several_labels"] * len(twice), "split": ["train"] * len(twice), "label": label[first],
        "path": [paths[i] for i in first],
    }  # fmt: skip
    store.write_table(root / "ingest" / "duplicates.parquet", copies, schema.DUPLICATE_COLUMNS)
    return paths


def _write_images(out: pathlib.Path, images: int, px: int, rng: np.random.Generator) -> None:
    pictures = []
    for _ in range(min(_PICTURES, images)):
        pixels = rng.integers(0, 255, (px // 16, px // 12, 3), np.uint8)
        stream = io.BytesIO()
        large = Image.fromarray(pixels).resize((px * 4 // 3, px), Image.Resampling.BICUBIC)
        large.save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    counts = [min(_SHARD, images - start) for start in range(0, images, _SHARD)]
    for shard, count in enumerate(counts):
        image_store.write_shard(out, shard, (pictures[i % len(pictures)] for i in range(count)))
    image_store.write_index(out, counts)


def _write_features(path: pathlib.Path, predicted: np.ndarray, dim: int, rng: np.random.Generator) -> None:
    """Each image lies near the middle of what it is called."""
    features = np.lib.format.open_memmap(path, "w+", np.float16, (len(predicted), dim))
    noise = rng.normal(size=(4096, dim)).astype(np.float16)
    centers = rng.normal(size=(int(predicted.max()) + 1, dim)).astype(np.float16)
    for start in range(0, len(predicted), len(noise)):
        rows = predicted[start : start + len(noise)]
        features[start : start + len(noise)] = centers[rows] + noise[: len(rows)]
    features.flush()


def _write_weights(
    path: pathlib.Path, label: np.ndarray, predicted: np.ndarray, right: np.ndarray, paths: list[str]
) -> None:
    ones = np.ones(len(label), np.float32)
    floats = [name for name, dtype in schema.WEIGHT_COLUMNS.items() if dtype == "float32"]
    texts = {name: [""] * len(label) for name in schema.WEIGHT_TEXTS}
    columns = dict.fromkeys(floats, ones) | texts | {
        "instance_id": np.arange(len(label)), "label": label, "path": paths, "predicted_label": predicted,
        "cluster": np.full(len(label), -1), "label_posterior": right, "right_prob": right,
        "page_text": 0.5 + right, "sample_weight": right / right.mean(),
    }  # fmt: skip
    store.write_table(path, columns, schema.WEIGHT_COLUMNS)


def build(root: pathlib.Path) -> dict[str, float]:
    """Builds the report; seconds, bytes and the peak of memory."""
    workdir = store.Workdir(root)
    store.remove(root / "report.partial", root)
    out = workdir.open_partial("report", "key")
    missing = dict.fromkeys(_LATER, "it was not run yet")
    start, cpu = time.monotonic(), time.process_time()
    metadata = report.run(StageContext(config_lib.load_config(None), workdir, out, missing=missing))
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "bytes": metadata["bytes"],
        "page_bytes": (out / metadata["path"]).stat().st_size,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def open_page(page_path: pathlib.Path) -> dict[str, float] | None:
    """Seconds until the page is read, and until a class and the matrix are shown; None without a browser."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return None
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})

        def timed(name: str, action: str, selector: str) -> None:
            start = time.monotonic()
            page.evaluate(action) if action else page.goto(page_path.as_uri())
            page.wait_for_selector(selector, timeout=60_000)
            found[name] = time.monotonic() - start

        timed("page", "", "#class-table .sort >> nth=0")  # its script has read all classes
        timed("class", "location.hash = '#/class/1'", "#view .card img >> nth=0")
        timed("back", "location.hash = '#wrong'", "#wrong")
        timed("matrix", "document.getElementById('matrix-open').click()", "#matrix canvas")
        timed(
            "whole matrix",
            "document.querySelectorAll('#matrix .buttons button')[2].click()",
            "#matrix canvas",
        )
        browser.close()
    return found


def main(argv: list[str]) -> None:
    """Makes the directory, builds in another process, opens."""
    del argv
    values = flags.FLAGS
    root = pathlib.Path(values.out)
    if values.build:
        print(json.dumps(build(root)))
        return
    if not (root / "reweight" / store.MARKER).exists():
        start = time.monotonic()
        make_workdir(root, values.images, values.classes, values.image_px, values.feature_dim)
        print(f"made a work directory in {time.monotonic() - start:.0f} s")
    done = subprocess.run(
        [sys.executable, __file__, "--out", values.out, "--build"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    costs = json.loads(done.stdout.splitlines()[-1])
    print(
        f"built in {costs['seconds']:.0f} s, {costs['cpu_seconds']:.0f} s of CPU time, with "
        f"{costs['memory_bytes'] / 1e9:.1f} GB of memory: a page of "
        f"{costs['page_bytes'] / 1e6:.1f} MB, {costs['bytes'] / 1e6:.0f} MB with what lies beside it"
    )
    times = open_page(root / "report.partial" / "index.html")
    if times is None:
        print("not opened: there is no Chromium here")
    else:
        print("opened in " + ", ".join(f"{seconds:.2f} s ({name})" for name, seconds in times.items()))


if __name__ == "__main__":
    define_flags()
    app.run(main)
