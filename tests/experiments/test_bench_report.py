"""The benchmark of the report: what it makes up is a work directory that the stage takes."""

import importlib.util
import pathlib

import numpy as np
import pytest

from urnet_tf import store

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "bench_report.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sizes_have_a_long_tail_and_add_up(bench):
    sizes = bench.class_sizes(10_000, 100)
    assert sizes.sum() == 10_000 and sizes.min() >= 2 and (np.diff(sizes) <= 0).all()
    assert sizes[0] > 10 * sizes[-1]


def test_a_small_one_is_made_and_built(bench, tmp_path):
    root = tmp_path / "run"
    bench.make_workdir(root, images=400, classes=8, image_px=32, feature_dim=16)
    costs = bench.build(root)
    out = root / "report.partial"
    assert len(list((out / "data").glob("class-*.js"))) == 8
    assert costs["page_bytes"] == (out / "index.html").stat().st_size < costs["bytes"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "400 training images" in page and 'id="copies"' in page and "Searches that brought" in page
    label = store.column(store.read_table(root / "pack" / "instances.parquet", ["label"]), "label")
    assert len(np.unique(label)) == 8
