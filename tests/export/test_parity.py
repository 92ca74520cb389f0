"""The gate, by hand-computed numbers."""

import re

import numpy as np
import pytest

from urnet_tf.export.parity import Comparison, Tolerance, explain_refusals, find_refusal

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])


def test_differences_over_two_batches():
    found = EXPECTED + np.array([[0.0, 0.0, 0.0], [0.0, 0.03, -0.03], [-0.04, 0.0, 0.04]])
    comparison = Comparison()
    comparison.add(EXPECTED[:2], found[:2])
    comparison.add(EXPECTED[2:], found[2:])
    parity = comparison.parity()
    assert parity["max_difference"] == pytest.approx(0.04)
    square, reference = 2 * 0.03**2 + 2 * 0.04**2, 0.54 + 0.46 + 0.38
    assert parity["relative_difference"] == pytest.approx((square / reference) ** 0.5)
    assert parity["top1_agreement"] == 1.0


def test_served_classes_are_compared_with_their_own_probabilities():
    comparison = Comparison()
    comparison.add(
        EXPECTED, np.array([[0.7, 0.2], [0.6, 0.3], [0.31, 0.5]]), np.array([[0, 1], [2, 1], [2, 1]])
    )
    parity = comparison.parity()
    assert parity["max_difference"] == pytest.approx(0.01)
    assert parity["top1_agreement"] == pytest.approx(2 / 3)
    accuracy = comparison.accuracy(np.array([0, 0, 2]), 3)
    assert accuracy["top1"] == pytest.approx(2 / 3) and accuracy["balanced_top1"] == pytest.approx(0.75)
    assert accuracy["top5"] is None, "two of three classes were served"
    # Confidences .7, .6 and .5, of which the second is wrong, each in a bin of its own.
    assert accuracy["ece"] == pytest.approx((0.3 + 0.6 + 0.5) / 3)


def test_an_image_that_a_file_refuses_counts_as_different():
    comparison = Comparison()
    comparison.add(EXPECTED[:1], np.zeros((1, 2)), np.array([[-1, -1]]))
    assert comparison.parity()["max_difference"] == 1.0 and comparison.parity()["top1_agreement"] == 0.0


def test_accuracy_needs_labels():
    comparison = Comparison()
    comparison.add(EXPECTED, EXPECTED)
    assert comparison.accuracy(np.array([-1, -1, -1]), 3) is None
    assert comparison.accuracy(np.array([0, -1, 0]), 3)["top1"] == 0.5


def parity(largest=0.0, relative=0.0, agreement=1.0):
    return {"max_difference": largest, "relative_difference": relative, "top1_agreement": agreement}


@pytest.mark.parametrize(
    ("precision", "values", "accuracy", "reason"),
    [
        ("float32", parity(1e-4, 1e-4), 0.5, None),
        ("float32", parity(1.1e-4), 0.5, r"up to 0.00011, relatively by 0 \(allowed 0.0001\)"),
        ("float32", parity(1e-5, 2e-4), 0.5, "relatively by 0.0002"),
        ("float32", parity(np.nan), 0.5, "up to nan"),
        ("float16", parity(5e-2, 9e-3), 0.1, None),
        ("float16", parity(2e-2, 1.1e-2), 0.5, r"allowed 0.01\), the same best class on 100.0 %"),
        ("int8", parity(0.4, 0.4, 0.9), 0.4851, None),
        (
            "int8",
            parity(0.4, 0.4, 0.9),
            0.4849,
            r"48.49 % where Keras has 50.00 %: 1.51 points lost \(allowed 1.5\)",
        ),
        ("int8", parity(0.4, 0.4, 0.9), 0.5151, None),  # a file may be better by any amount
        ("int8", parity(0.4, 0.4, 0.9), 1.0, None),
        ("int8", parity(np.nan), 0.5, "up to nan"),
        ("int8", parity(agreement=0.95), None, None),
        ("int8", parity(agreement=0.94), None, "at least 95 % without labels"),
    ],
)
def test_what_may_pass(precision, values, accuracy, reason):
    accuracy, reference = (accuracy and {"top1": accuracy}), (accuracy and {"top1": 0.5})
    found = find_refusal(precision, values, accuracy, reference, Tolerance())
    assert found is None if reason is None else re.search(reason, found)


def test_the_tolerance_decides():
    assert find_refusal("float32", parity(0.5, 0.5), None, None, Tolerance(float32=0.6)) is None
    lost = find_refusal("int8", parity(), {"top1": 0.9}, {"top1": 1.0}, Tolerance(int8_points=9.9))
    assert "10.00 points lost" in lost


@pytest.mark.parametrize(
    ("precision", "kept", "is_error"),
    [("float32", True, False), ("int8", False, False), ("float16", False, False), ("float32", False, True)],
)
def test_a_refused_float32_file_is_an_error_and_a_smaller_one_a_finding(precision, kept, is_error):
    entry = {"kept": kept, "precision": precision, "refused": None if kept else "9.00 points lost"}
    told = [] if kept else ["some_file was refused: 9.00 points lost."]
    assert explain_refusals({"some_file": entry}) == (told, is_error)
