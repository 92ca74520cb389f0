"""A small folder of pictures, and runs of the stage ingest by itself."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from urnet_tf.config import from_dict
from urnet_tf.stages import ingest
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import Workdir, fingerprint


def draw_images(root, names, seed=0):
    generator = np.random.default_rng(seed)
    for name in names:
        path = pathlib.Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), np.uint8)).save(path)


def run(workdir, *, named=False, **settings):
    config = from_dict({"ingest": {k: v if k != "path" else str(v) for k, v in settings.items()}})
    out = Workdir(workdir).open_partial("ingest", fingerprint(ingest.inputs(config)))
    return ingest.run(StageContext(config, Workdir(workdir), out, named)), out


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "crawl"
    draw_images(
        root,
        [f"{name}/{source}/{n}.png" for name in ("cat", "dog") for source in ("g", "f") for n in range(10)],
    )
    (root / "cat/g/bad.jpg").write_text("<html>")
    (root / "dog/g/copy.png").write_bytes((root / "dog/g/0.png").read_bytes())
    (root / "dog/g/x.jpg").mkdir()
    return root
