"""The truth about labels, and the oracle that corrects them."""

import pathlib
import sys

import numpy as np
import pyarrow as pa
import pytest

from urnet_tf import schema, store
from urnet_tf.errors import UsageError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))

from ablations import other_methods, truth  # noqa: E402
from ablations.rows import GROUPS, split_settings  # noqa: E402

PATHS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.fixture
def truth_path(tmp_path):
    """d is of no class, c is called a hare and is a fox; names are not the run's."""
    path = tmp_path / "truth.csv"
    path.write_text("path,label,true_label\nd.jpg,hare,-1\nc.jpg,hare,fox\nb.jpg,hare,hare\na.jpg,fox,fox\n")
    return str(path)


def test_true_classes_are_told_in_the_numbers_of_the_run(truth_path):
    np.testing.assert_array_equal(truth.read_truth(truth_path, PATHS), [True, True, False, False])
    np.testing.assert_array_equal(
        truth.read_true_classes(truth_path, PATHS, np.array([7, 2, 2, 2])), [7, 2, 7, -1]
    )
    with pytest.raises(UsageError, match=r"'hare' is given to classes 2 and 3"):
        truth.read_true_classes(truth_path, PATHS, np.array([7, 2, 3, 2]))
    with pytest.raises(UsageError, match=r"'e.jpg' is missing"):
        truth.read_true_classes(truth_path, ["e.jpg"], np.array([0]))


def test_the_corrected_oracle_trains_on_true_classes_alone(truth_path, tmp_path):
    class Context:
        out = tmp_path

        def path(self, stage, name):
            return tmp_path / f"{stage}_{name}"

    labels = np.array([1, 0, 0, 0], np.int32)
    store.write_table(
        tmp_path / "pack_instances.parquet",
        {"split": pa.array(["train"] * 4), "label": labels}, {"split": "string", "label": "int32"},
    )  # fmt: skip
    store.write_json(tmp_path / "pack_classes.json", ["hare", "fox"])

    def reweigh(context):
        columns = {
            name: pa.array(PATHS) if kind == "string" else np.ones(4, kind)
            for name, kind in schema.WEIGHT_COLUMNS.items()
        }
        columns["label"] = labels
        store.write_table(context.out / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
        return {"kept": True}

    metadata = other_methods._correct(Context(), reweigh, truth_path)
    assert metadata == {"kept": True, "dropped": 1, "corrected": 1}
    weights = store.read_table(tmp_path / "weights.parquet")
    assert weights.column("label").to_pylist() == [1, 0, 1, 0]
    np.testing.assert_allclose(weights.column("sample_weight").to_numpy(), [1, 1, 1, 0])
    with pytest.raises(UsageError, match="Expected --truth for the oracle"):
        other_methods._correct(Context(), reweigh, None)


def test_the_row_of_the_corrected_oracle_changes_reweight():

    _, method = split_settings(GROUPS["oracle"]["corrected_oracle"])
    assert method == {"oracle.correct_wrong": "true"}
