"""The sparse matrix of mix-ups and the order of its classes, by hand."""

import numpy as np
import pytest
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain.matrix import Matrix, count_confusions, order_classes


def test_counts_and_wrong_labels_of_each_cell():
    inputs = make_inputs()  # four of twelve images are called the next class, with P(right) of .1
    found = count_confusions(inputs)
    cells = dict(
        zip(zip(found.given.tolist(), found.predicted.tolist(), strict=True), found.count, strict=True)
    )
    assert cells == {(0, 1): 4, (1, 2): 4, (2, 3): 4, (3, 0): 4} and found.cells == 4
    assert found.agreed.tolist() == [8, 8, 8, 8]
    assert found.wrong == pytest.approx([3.6] * 4, abs=1e-5) and found.left_out == 0
    some = count_confusions(inputs, most=3)
    assert some.cells == 3 and some.left_out == 1 and some.given.tolist() == [0, 1, 2]


def test_the_cells_with_most_wrong_labels():
    matrix = Matrix(np.arange(3), np.arange(3)[::-1], np.array([9, 5, 4]), np.array([1.0, 4.0, 3.0]),
                    np.zeros(3, int), 0)  # fmt: skip
    assert matrix.by_wrong(2) == [1, 2]


def test_before_anything_was_weighed_it_is_empty():
    found = count_confusions(make_inputs(weights={}))
    assert found.cells == 0 and found.agreed.tolist() == [0] * 4 and found.by_wrong(3) == []


def order(pairs, size):
    given, predicted, count = (np.array(column) for column in zip(*pairs, strict=True))
    return order_classes(
        Matrix(given, predicted, count, count * 1.0, np.zeros(len(size), int), 0), np.array(size)
    )


def test_classes_that_are_mixed_up_stand_side_by_side():
    # 0 and 3 most, then 1 and 4, then 3 and 1: 0 3 | 4 1 are joined at 3 and 1. Class 2 is never mixed up.
    found = order([(0, 3, 9), (1, 4, 8), (3, 1, 5)], [20] * 5)
    assert found in ([0, 3, 1, 4, 2], [4, 1, 3, 0, 2])
    # Both directions count together: 4 + 4 beats 7.
    assert abs(np.diff([order([(0, 1, 7), (1, 2, 4), (2, 1, 4)], [10] * 3).index(j) for j in (1, 2)])) == 1
    # Shares count, not images: 5 of 10 beat 20 of 200.
    found = order([(0, 1, 20), (0, 2, 5)], [100, 100, 5])
    assert found.index(0) in (found.index(2) - 1, found.index(2) + 1)


def test_every_class_is_in_the_order_once():
    rng = np.random.default_rng(0)
    given, predicted, count = (rng.integers(low, high, 400) for low, high in ((0, 60), (0, 60), (1, 9)))
    pairs = [row for row in zip(given, predicted, count, strict=True) if row[0] != row[1]]
    assert sorted(order(pairs, [30] * 60)) == list(range(60))
