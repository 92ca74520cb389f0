"""The examples beside fit_urnet.py, on tiny data. In this process: another would load TensorFlow again."""

import importlib.util
import pathlib
import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import urnet_tf
from urnet_tf import schema, store

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_own_arrays(tmp_path, monkeypatch, capsys):
    assert len((EXAMPLES / "own_arrays.py").read_text().splitlines()) <= 30
    rng = np.random.default_rng(0)
    truth, test_labels = np.arange(240) % 4, np.arange(400) % 4
    centers = 0.3 * rng.normal(size=(4, 64))
    np.savez(
        tmp_path / "data.npz", labels=np.where(rng.random(240) < 0.45, rng.permutation(truth), truth),
        features=centers[truth] + rng.normal(size=(240, 64)), test_labels=test_labels,
        test_features=centers[test_labels] + rng.normal(size=(400, 64)),
    )  # fmt: skip
    run(monkeypatch, "own_arrays.py", tmp_path / "data.npz")
    accuracy = dict(re.findall(r"([a-z ]+): accuracy ([\d.]+)", capsys.readouterr().out))
    assert float(accuracy["weighted"]) > float(accuracy["as given"]) + 0.03  # seen: 0.80, 0.88


def test_image_directory(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name, color in (("cherry", (220, 20, 40)), ("lime", (60, 220, 40))):
        (tmp_path / name).mkdir()
        for number in range(12):
            shown = color if number else (30, 60, 250)  # the first of each shows something else
            pixels = np.clip(np.array(shown) + rng.normal(scale=25, size=(40, 40, 3)), 0, 255).astype(
                np.uint8
            )
            Image.fromarray(pixels).save(tmp_path / name / f"{number:02d}.png")
    image = keras.Input((32, 32, 3))
    colors = keras.layers.Rescaling(1 / 255)(keras.layers.GlobalAveragePooling2D()(image))
    seen = keras.Model(image, colors)  # in place of a network, which takes its time
    monkeypatch.setattr(urnet_tf, "build_backbone", lambda name, size_px: seen)
    run(monkeypatch, "image_directory.py", tmp_path, 32)
    printed = capsys.readouterr().out
    assert len(re.findall(r"\n  \S+\.png", printed)) == 5
    assert {f"{name}/00.png" for name in ("cherry", "lime")} <= set(re.findall(r"\w+/\d+\.png", printed))
    assert float(re.search(r"given labels: ([\d.]+)", printed)[1]) >= 0.5


@pytest.fixture
def finished(tmp_path):
    """The folder of a reweight stage and the images it is about."""
    (tmp_path / "run" / "reweight").mkdir(parents=True)
    columns = {name: np.zeros(6, dtype) if dtype != "string" else [""] * 6
               for name, dtype in schema.WEIGHT_COLUMNS.items()}  # fmt: skip
    columns |= {"path": [f"{i}.png" for i in range(6)], "sample_weight": np.linspace(0.5, 1.5, 6)}
    store.write_table(tmp_path / "run/reweight/weights.parquet", columns, schema.WEIGHT_COLUMNS)
    store.write_array(
        tmp_path / "run/reweight/target_ids.npy", np.arange(12, dtype=np.int32).reshape(6, 2) % 3
    )
    store.write_array(tmp_path / "run/reweight/target_probs.npy", np.tile(np.float32([0.8, 0.2]), (6, 1)))
    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_torch_weights_reads_a_run(finished):
    script = runpy.run_path(str(EXAMPLES / "torch_weights.py"))
    data = script["WeightedImages"](finished / "run", finished, np.asarray)
    assert len(data) == 6
    image, ids, probs, weight = data[5]
    assert image.shape == (40, 40, 3) and image[0, 0].tolist() == [200, 0, 0]
    assert ids.tolist() == [1, 2] and ids.dtype == np.int64
    np.testing.assert_allclose([*probs, weight], [0.8, 0.2, 1.5], rtol=1e-6)


@pytest.mark.torch
def test_torch_weights_trains(finished):
    for module in ("torch", "timm"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    # In a program of its own: PyTorch and TensorFlow can crash each other in one.
    code = (
        "import runpy, sys; path, run, images = sys.argv[1:]; "
        "print(runpy.run_path(path)['train'](run, images, 'resnet10t', batch_size=3, pretrained=False)[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, EXAMPLES / "torch_weights.py", finished / "run", finished],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Three classes that a random network tells apart hardly: about log 3.
    assert 0.3 < float(done.stdout) < 3
