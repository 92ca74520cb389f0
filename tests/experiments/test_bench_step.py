"""The benchmark of steps: its tables by hand, and one tiny run of it, with PyTorch where installed."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

DIRECTORY = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("step_tables", DIRECTORY / "step_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bench(*arguments):
    command = [sys.executable, DIRECTORY / "bench_step.py", "--arch=resnext26_1x4d", "--image_size_px=32"]
    command += ["--batch=2", "--rounds=1", "--turn_s=0.01", "--threads=2", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)


def test_the_tables_by_hand(tables):
    ours = {"inference": [20.0, 30.0, 50.0], "training": [4.0, 6.0, 5.0], "notes": {}, "built_mb": 900.0}
    ours |= {"inference_peak_mb": 1000.0, "training_peak_mb": 1500.0}
    keras = {"inference": [2.0], "training": [], "notes": {"training": "first training step over 300 s"}}
    torch = {"inference": [20.0, 20.0, 20.0], "training": [5.0, 5.0, 5.0], "notes": {}}
    rows = {"ours": ours, "keras": keras, "torch": torch}
    table = tables.format_tables("tiny", {"threads": 2, "rounds": 3, "others_cores": 0.0, "rows": rows})
    assert "| ours | 30.0 (20.0-50.0) | 5.00 (4.00-6.00) | 1000 | 1500 | 600 |" in table
    assert "| keras | 2.00 | first training step over 300 s | – | – | – |" in table
    assert "| ours / keras | 15.00 (10.00-25.00) | – |" in table  # 20/2, 30/2, 50/2
    assert "| ours / torch | 1.50 (1.00-2.50) | 1.00 (0.80-1.20) |" in table
    assert "Other processes" not in table and "not sleep" not in table


def test_a_busy_machine_is_named(tables):
    row = {"inference": [1.0], "training": [1.0], "notes": {}, "idle_cores": 0.9}
    table = tables.format_tables(
        "tiny", {"threads": 2, "rounds": 1, "others_cores": 1.5, "rows": {"ours": row}}
    )
    assert "Other processes used 1.5 cores" in table and "Did not sleep between turns" in table


@pytest.mark.slow
def test_a_tiny_run_measures_and_is_not_repeated(tmp_path):
    out = tmp_path / "out.json"
    done = _bench("--rows=ours,torch", f"--out={out}")
    assert done.returncode == 0, done.stderr
    ((name, result),) = json.loads(out.read_text())["configurations"].items()
    assert name == "resnext26_1x4d, 32 px, batch 2" and result["rounds"] == 1
    assert (importlib.util.find_spec("torch") is not None) == ("torch" in result["rows"])
    assert ("Skipped the rows of PyTorch" in done.stdout) == ("torch" not in result["rows"])
    for row in result["rows"].values():
        assert row["notes"] == {} and row["inference"][0] > 0 and row["training"][0] > 0
        assert row["training_peak_mb"] >= row["inference_peak_mb"] > 50
    if "torch" in result["rows"]:
        assert result["rows"]["ours"]["parameters"] == result["rows"]["torch"]["parameters"]
    again = _bench("--rows=ours", f"--out={out}")
    assert "0 of 1 configurations to measure" in again.stdout and "| ours |" in again.stdout


def test_wrong_flags_are_named():
    done = _bench("--rows=our")
    assert done.returncode and "received 'our'" in done.stderr + done.stdout
    done = _bench("--arch=vgg")
    assert done.returncode and "received 'vgg'" in done.stderr + done.stdout
