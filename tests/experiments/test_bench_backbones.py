"""The benchmark of backbones: which images it takes, what the network sees, and what accuracy it tells."""

import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "bench_backbones.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_backbones", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_and_test_images_of_a_list(bench, tmp_path):
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{'train' if i < 6 else 'test'}\n" for i in range(9))
    (tmp_path / "list.csv").write_text(f"path,label,split\n{rows}", encoding="utf-8")
    train, test = bench.read_lists(str(tmp_path / "list.csv"), limit=3)
    assert [path.name for path, _ in train] == ["0.png", "2.png", "5.png"]
    assert [(path.name, label) for path, label in test] == [("6.png", "a"), ("7.png", "b"), ("8.png", "a")]


def test_the_central_square_is_seen(bench, tmp_path):
    image = np.zeros((8, 16, 3), np.uint8)
    image[1:7, 5:11] = 200
    Image.fromarray(image).save(tmp_path / "a.png")
    seen = bench.read_square(tmp_path / "a.png", 6, crop_fraction=0.75)
    np.testing.assert_array_equal(seen, np.full((6, 6, 3), 200, np.float32))


def test_accuracy_by_class_and_by_image(bench):
    rng = np.random.default_rng(0)
    labels = [np.repeat([0, 1], [12, 12]), np.array([0, 0, 0, 1])]
    features = np.concatenate([np.eye(2)[labels[0]], np.eye(2)[[0, 0, 1, 1]]]) + rng.normal(0, 0.05, (28, 2))
    row = bench.rate(features.astype(np.float16), labels)
    assert row["plain_by_image"] == row["weighted_by_image"] == 75.0
    assert row["plain_by_class"] == pytest.approx((200 / 3 + 100) / 2)
