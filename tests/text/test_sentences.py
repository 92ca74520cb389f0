"""Texts of pages and classes, each different one once."""

import numpy as np

from urnet_tf.text.sentences import class_names, unique_texts


def test_each_text_once_and_none_for_nothing():
    texts, places = unique_texts([["lion", "untitled", ""], [" lion\n", "  ", "big cat"]])
    assert texts == ["lion", "untitled", "big cat"]
    np.testing.assert_array_equal(places, [[0, 0], [1, -1], [-1, 2]])


def test_every_class_has_a_name():
    classes = [
        {"id": "n1", "name": "alp", "words": ["alp", "mountain"], "queries": ["alp"]},
        {"id": "n2", "name": "", "words": [], "queries": []},
    ]
    names, labels = class_names(classes)
    assert names == ["alp", "mountain", "n2"]
    np.testing.assert_array_equal(labels, [0, 0, 1])
