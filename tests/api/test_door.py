"""What callers get wrong, and what they are told."""

import numpy as np
import pytest

import urnet_tf
from urnet_tf.errors import UsageError

LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBS = np.full((6, 3), 0.1) + 0.7 * np.eye(3)[LABELS]
FEATURES = np.eye(6)


def changed(array, row, value):
    array = np.array(array, dtype=float)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pred_probs": np.log(PROBS) + 3}, r"from 0 to 1; received .* logits, perhaps. Give their"),
        ({"pred_probs": np.log(PROBS)}, r"exponentials sum to 1: logarithms. Give np.exp"),
        ({"pred_probs": changed(PROBS, 4, [0.9, 0.9, 0.0])}, r"sum to 1; received 1.8 in row 4. Give a"),
        ({"pred_probs": changed(PROBS, 3, 0.0)}, r"received all zeros in row 3. Leave out"),
        ({"pred_probs": changed(PROBS, 2, np.nan)}, r"finite probabilities; received NaN .* row 2"),
        ({"pred_probs": PROBS[:5]}, r"`pred_probs` with one row for each of 6 labels; received 5"),
        ({"pred_probs": LABELS}, r"float \[N, C\] of 2 classes or more; received int64 \(6,\)"),
        ({"pred_probs": None}, r"`pred_probs`, or `features` to predict from; received neither"),
        ({"labels": LABELS + 1}, r"0..2; received 1..3, which start at 1. Give labels - 1"),
        ({"labels": LABELS - 1}, r"labels from 0; received -1 for 2 of 6 images. Leave out"),
        ({"labels": LABELS + 3}, r"0..2 for 3 classes; received 5"),
        ({"labels": ["a", "a", "b", "b", "c", "c"]}, r"received str.* like \['a'\]. .*np.unique\(labels"),
        ({"labels": LABELS.astype(float)}, r"whole numbers from 0; received float64"),
        ({"labels": np.eye(3)[LABELS]}, r"received shape \(6, 3\). For one-hot rows give labels.argmax"),
        ({"labels": [], "pred_probs": PROBS[:0]}, r"one label an image, \[N\]; received shape \(0,\)"),
        ({"alpha": 1.5}, r"`alpha` from 0 to 1; received 1.5"),
        ({"beta": -0.1}, r"`beta` from 0 to 1; received -0.1"),
        ({"recipe": "better"}, r"a recipe of best, sound, paper, or a Recipe; received 'better'"),
        ({"recipe": urnet_tf.Recipe({"luck": {}})}, r"factors of class_weight, .*; received 'luck'"),
        ({"recipe": urnet_tf.Recipe({}, formulas="new")}, r"'repaired' or 'literal'; received 'new'"),
        ({"rounds": 2}, r"`rounds` of 1, or 2 with `features` and several folds; received 2"),
        ({"features": FEATURES[:4]}, r"`features` with one row for each of 6 labels; received 4"),
        ({"features": changed(FEATURES, 1, np.inf)}, r"finite features; received NaN or infinity in row 1"),
        ({"features": FEATURES[0]}, r"features float \[N, D\], a row an image; received float64 \(6,\)"),
        ({"ranks": range(6)}, r"`ranks` as whole numbers from 1, .*; received int64 from 0"),
        ({"sources": ["google"]}, r"`sources` with one row for each of 6 labels; received 1"),
        ({"texts": [3] * 6}, r"`texts` as one text an image.*; received 3"),
        ({"texts": [("a", "b")] * 5 + [("a",)]}, r"rows of equally many texts"),
        ({"class_names": ["a", "b"]}, r"one number of classes in .*; received 3 and 2"),
        ({"class_names": ["a", "b", 3]}, r"`class_names` with a name, or several, for each of 3 classes"),
        ({"folds": 0}, r"`folds` as a number from 1, or one an image; received 0"),
        ({"folds": [0, 1]}, r"one fold, a whole number from 0, for each of 6 images"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_to_do(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        urnet_tf.compute_weights(**({"labels": LABELS, "pred_probs": PROBS} | arguments))
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) < 400


def test_what_is_right_passes():
    half = PROBS.astype(np.float16)
    for labels, probs in ((LABELS.tolist(), PROBS.tolist()), (LABELS.astype(np.uint8), half)):
        assert urnet_tf.compute_weights(labels, probs).num_rows == 6
    # No image of class 0: labels from 1 that do not reach C are no mistake.
    assert urnet_tf.compute_weights([1, 1, 2, 2, 1, 2], PROBS).num_rows == 6
