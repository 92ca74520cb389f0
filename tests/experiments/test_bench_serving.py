"""The benchmark of serving: its tables by hand, wrong flags, and one tiny run of it."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

DIRECTORY = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


def _bench(*arguments):
    command = [sys.executable, DIRECTORY / "bench_serving.py", "--rounds=1", "--turn_s=0.01", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)


# In a process of its own: the module defines flags.
_BY_HAND = """
import sys
sys.path.insert(0, sys.argv[1])
import bench_serving as bench
rows = {
    "saved_model_bytes": {"calls": {8: [0.1, 0.2, 0.3]}, "speeds": {8: [40.0, 30.0]}, "bytes": 2_000_000},
    "saved_model_tensor": {"calls": {8: [0.1]}, "speeds": {8: [50.0, 60.0]}, "bytes": 2_000_000},
    "tflite_float32_1t": {"calls": {1: [0.01]}, "speeds": {1: [100.0]}, "bytes": 1_000_000},
    "tflite_int8_1t": {"calls": {1: [0.005]}, "speeds": {1: [200.0]}, "bytes": 310_000},
    "torch": {"calls": {}, "speeds": {}, "note": "ended with 1: ImportError"},
}
rows = {name: {"note": None} | row for name, row in rows.items()}
print(bench.format_tables("tiny", rows))
print(bench.format_reach(rows))
"""


def test_the_tables_by_hand():
    done = subprocess.run([sys.executable, "-c", _BY_HAND, str(DIRECTORY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "| saved_model_bytes | 8 | 200.0 | 298.0 | 35.0 | 2.0 |",
        "| torch | failed: ended with 1: ImportError | | | |  |",
        "| saved_model_bytes / saved_model_tensor | – | 0.65 (0.50-0.80) |",
        "| tflite_int8_1t / tflite_float32_1t | 2.00 (2.00-2.00) | – |",
        "NOT reached: bytes at batch 8, of the speed of tensors: 0.65 (0.50-0.80); wanted at least 0.9",
        "NOT reached: TFLite int8 has 0.31 of the size of float32; wanted at most 0.3",
        "reached: TFLite int8 on 1 thread, of the speed of float32: 2.00 (2.00-2.00); wanted at least 1.5",
    ):
        assert line in done.stdout.splitlines(), line


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(DIRECTORY))
    spec = importlib.util.spec_from_file_location("serving_load", DIRECTORY / "serving_load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_load_checks_every_answer(load):
    pytest.importorskip("uvicorn")
    from urnet_fixtures.servers import LengthModel, running

    class Confused(LengthModel):
        """Gives a wrong answer now and then."""

        def run(self, signature, inputs):
            outputs = super().run(signature, inputs)
            if len(self.calls) % 7 == 0:
                outputs["probabilities"] = outputs["probabilities"] * 0.9
            return outputs

    photos = [b"P short", b"P this is long", b"P this one is longer"]
    with running({1: LengthModel()}, name=load.NAME) as server:
        row = load.measure(server.port, photos, 4, 200, 60)
    assert (row["answered"], row["hostile"], row["refused"], row["wrong"]) == (180, 20, 0, [])
    assert 0 < row["p50_ms"] <= row["p99_ms"] and row["images_per_s"] > 0
    with running({1: Confused()}, name=load.NAME) as server:
        assert load.measure(server.port, photos, 4, 100, 60)["wrong"]
    table = load.format_load("tiny", {"own": ([row], 123.4)})
    assert "| own | 4 |" in table and "| 180 | 0 | 20 | 0 | 123 |" in table


def test_wrong_flags_are_named():
    done = _bench("--arch=vgg")
    assert done.returncode and "received 'vgg'" in done.stderr + done.stdout
    done = _bench("--rows=tflite")
    assert done.returncode and "received tflite" in done.stderr + done.stdout


@pytest.mark.slow
def test_a_tiny_run_measures_every_row(tmp_path):
    out = tmp_path / "out.json"
    done = _bench("--arch=resnext26_32x4d", "--image_size_px=32", "--batch=1,2", f"--out={out}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert (importlib.util.find_spec("torch") is not None) == ("torch" in rows)
    for name, row in rows.items():
        batches = ["1"] if name.startswith("tflite") else ["1", "2"]
        assert row["note"] is None and list(row["speeds"]) == batches, name
        assert name == "torch" or row["bytes"] > 0
    assert "| saved_model_bytes / saved_model_tensor |" in done.stdout


@pytest.mark.slow
def test_native_convolutions_need_onednn(tmp_path):
    out = tmp_path / "out.json"
    done = _bench(
        "--arch=resnext26_32x4d", "--image_size_px=32", "--batch=1", "--compare_convolutions", f"--out={out}"
    )
    assert done.returncode == 0, done.stderr
    notes = {name: row["note"] for name, row in json.loads(out.read_text())["rows"].items()}
    assert "UnimplementedError" in notes.pop("native_plain") and not any(notes.values())
