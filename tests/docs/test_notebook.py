"""The notebook runs, and what is kept of its outputs is small."""

import importlib.util
import json
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "notebook"
NOTEBOOK = NOTEBOOKS / "reading_a_run.ipynb"
LARGEST = 300_000  # bytes, with outputs


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_executed_in_order_and_small():
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [output for output in outputs if output["output_type"] in ("error", "stream")]
    assert NOTEBOOK.stat().st_size < LARGEST


@pytest.mark.slow
def test_it_runs(finished_run, tmp_path, monkeypatch):
    pytest.importorskip(
        "nbclient", reason="the notebook is executed where docs/requirements.txt is installed"
    )
    spec = importlib.util.spec_from_file_location("execute_notebook", NOTEBOOKS / "execute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setenv(script.SETTING, "")  # the script sets it; this restores it
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent.parent))
    script.execute(finished_run[0], tmp_path / "out.ipynb")
    executed = json.loads((tmp_path / "out.ipynb").read_text("utf-8"))["cells"]
    assert [cell["source"] for cell in executed if cell["cell_type"] == "code"] == [
        c["source"] for c in cells()
    ]
    assert all(cell["execution_count"] for cell in executed if cell["cell_type"] == "code")
