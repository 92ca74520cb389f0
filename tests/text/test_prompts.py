"""Words of classes in sentences: what is asked, and the mean of what comes back."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.text.prompts import TEMPLATES, class_prompt_vectors, class_words


def entry(name, words=(), label_id="n1"):
    return {"name": name, "words": list(words), "queries": ["a query"], "id": label_id}


def encode(texts):
    """A direction that the text decides, of length 1."""
    angles = np.array([sum(map(ord, text)) % 97 for text in texts]) / 97
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_words_come_before_names_and_are_plain():
    classes = [
        entry("lion", ["lion", "king_of  beasts", "lion"]),
        entry("school_bus"),
        entry("", label_id="cat"),
    ]
    assert class_words(classes) == [["lion", "king of beasts"], ["school bus"], ["cat"]]


def test_classes_without_words_are_named():
    with pytest.raises(
        UsageError, match=r"^Expected words of every class .*; class 1 is called '0017'\. Give"
    ):
        class_words([entry("lion"), entry("0017", ["0017"])])
    assert class_words([entry("7up"), entry("獅子"), entry("007", ["007", "bond"])])[2] == ["bond"]


def test_the_mean_over_words_and_sentences(monkeypatch):
    monkeypatch.setattr("urnet_tf.text.prompts._CLASSES_AT_ONCE", 2)
    classes = [entry("lion", ["lion", "big cat"]), entry("bus"), entry("pizza")]
    found = class_prompt_vectors(classes, encode)
    assert found.shape == (3, 2) and found.dtype == np.float32
    for place, words in enumerate((["lion", "big cat"], ["bus"], ["pizza"])):
        mean = encode([template.format(word) for word in words for template in TEMPLATES]).mean(axis=0)
        np.testing.assert_allclose(found[place], mean / np.linalg.norm(mean), rtol=1e-6)
    one = class_prompt_vectors(classes, encode, templates=("{}",))
    np.testing.assert_allclose(one[1:], encode(["bus", "pizza"]), rtol=1e-6)


def test_each_template_has_one_place_for_the_word():
    assert all(template.count("{}") == 1 for template in TEMPLATES) and len(set(TEMPLATES)) == len(TEMPLATES)
