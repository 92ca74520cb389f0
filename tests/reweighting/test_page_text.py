"""How near the text of a page is to its label: scores by hand."""

import numpy as np
import pytest

from urnet_tf.reweighting.page_text import compute_page_score

NAMES = np.eye(4, dtype=np.float32)[:3]  # class 0 has the names e0 and e1, class 1 the name e2
NAME_LABELS = np.array([0, 0, 1])


def test_score_by_hand():
    vectors = np.array([[0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    texts = np.array([[0, -1], [0, -1], [0, 1], [1, 2], [2, -1], [3, -1], [-1, -1]])
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    score = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    # own: the nearer of two names; two texts: the nearest of each class; nothing in common: 0.
    np.testing.assert_allclose(score, [0.8, -0.8, -0.2, -1.0, 0.0, np.nan, np.nan], rtol=1e-6)
    assert score.dtype == np.float32


def test_score_does_not_depend_on_the_chunk(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((20, 4)).astype(np.float32)
    texts, labels = generator.integers(-1, 20, (50, 3)), generator.integers(0, 2, 50)
    whole = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    monkeypatch.setattr("urnet_tf.reweighting.page_text._CHUNK", 7)
    parts = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("name_labels", [[0, 1, 0], [0, 0, 0], [1, 1, 2], [0, 0, 2]])
def test_names_by_class_are_expected(name_labels):
    with pytest.raises(ValueError, match="two or more classes"):
        compute_page_score(NAMES, np.zeros((1, 1), int), np.zeros(1, int), NAMES, np.array(name_labels))
