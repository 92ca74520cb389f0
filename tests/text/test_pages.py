"""Scores of pages, part by part."""

import numpy as np
import pytest

from urnet_tf.reweighting.page_text import compute_page_score
from urnet_tf.reweighting.units import UnitsInMemory
from urnet_tf.text import pages

CLASSES = [{"id": n, "name": n, "words": [n], "queries": []} for n in ("cat", "dog", "owl")]
LABELS = np.repeat([0, 1, 2], 4)
TITLES = ["a cat", "untitled", "", "dog", "dog", "untitled", "owl cat", "", "owl", "cat", " ", "dog"]
TAGS = ["", "cat", "", "", "owl", "", "dog", "  ", "", "", "", "owl"]
WORDS = ("cat", "dog", "owl", "untitled")


def encode(texts):
    """How often each word occurs, normalized."""
    counts = np.array([[word in text for word in WORDS] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)


def test_parts_do_not_matter_and_read_in_order(monkeypatch):
    whole, told = pages.score_pages([TITLES, TAGS], CLASSES, LABELS, encode)
    assert told == {"with_text": pytest.approx(9 / 12), "nearer_to_another_class": pytest.approx(2 / 9)}
    assert (
        np.isnan(whole[[2, 7, 10]]).all() and whole[0] == pytest.approx(1) and whole[3] == pytest.approx(-1)
    )
    # "owl cat" and "dog": the own class fits fully, the next best by the root of a half, as float16 has it.
    assert whole[6] == pytest.approx(1 - np.sqrt(0.5), abs=1e-3)

    encoded, asked = [], []
    monkeypatch.setattr(pages, "_PAGES_A_PART", 5)
    monkeypatch.setattr(pages, "_TEXTS_AT_ONCE", 2)

    def read(start, stop):
        asked.append((start, stop))
        return [TITLES[start:stop], TAGS[start:stop]]

    def counting(texts):
        encoded.append(list(texts))
        return encode(texts)

    parts, _ = pages.score_pages(read, CLASSES, LABELS, counting)
    np.testing.assert_array_equal(parts, whole)
    assert asked == [(0, 5), (5, 10), (10, 12)]
    assert encoded[0] == ["cat", "dog", "owl"] and max(len(texts) for texts in encoded[1:]) == 2
    first = [text for texts in encoded[1:3] for text in texts]
    assert first == ["a cat", "untitled", "dog", "cat"]  # each once, down the columns


def test_a_part_that_is_complete_is_not_read_again(monkeypatch):
    monkeypatch.setattr(pages, "_PAGES_A_PART", 5)
    kept, units = np.full(12, 7, np.float32), UnitsInMemory(3)
    units.complete(1)
    asked = []

    def read(start, stop):
        asked.append(start)
        return [TITLES[start:stop], TAGS[start:stop]]

    score, _ = pages.score_pages(
        read, CLASSES, LABELS, encode, open_units=lambda name, column, total, shape, dtype: (kept, units)
    )
    assert asked == [0, 10] and (score[5:10] == 7).all() and not (score[:5] == 7).any()


def test_pages_without_any_text_load_no_encoder():
    score, told = pages.score_pages([[""] * 12, [" "] * 12], CLASSES, LABELS, None)
    assert np.isnan(score).all() and told == {"with_text": 0.0}


def test_scores_are_those_of_all_texts_at_once():
    texts = sorted({text.strip() for text in TITLES + TAGS} - {""})
    places = np.array([[texts.index(t.strip()) if t.strip() else -1 for t in row]
                       for row in zip(TITLES, TAGS, strict=True)])  # fmt: skip
    vectors = encode(texts).astype(np.float16)
    expected = compute_page_score(vectors, places, LABELS, encode([*WORDS[:3]]), np.arange(3))
    np.testing.assert_array_equal(pages.score_pages([TITLES, TAGS], CLASSES, LABELS, encode)[0], expected)
