"""Executes the notebook beside this file and keeps its outputs in it.

    bash experiments/quickstart.sh
    python docs/notebook/execute.py [WORKDIR, default runs/quickstart/work] [OUT, default the notebook itself]

Needs what docs/requirements.txt names, beside this package.
"""

import os
import pathlib
import sys

import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).resolve().parent
NOTEBOOK = HERE / "reading_a_run.ipynb"
SETTING = "URNET_WORKDIR"  # what the notebook reads
_TIMEOUT_S = 300  # of a cell


def execute(workdir, out) -> None:
    """Executes the notebook on the run in `workdir` and writes it to `out`.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ[SETTING] = str(pathlib.Path(workdir).resolve())
    NotebookClient(notebook, timeout=_TIMEOUT_S, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this machine
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    nbformat.write(notebook, out)


if __name__ == "__main__":
    given = sys.argv[1:]
    execute(*(given + ["runs/quickstart/work", NOTEBOOK][len(given) :]))
