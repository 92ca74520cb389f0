"""Pictures beside the texts of their pages, by hand, and as evidence."""

import dataclasses

import numpy as np

from urnet_tf.reweighting import factors, recipe
from urnet_tf.reweighting.page_fit import beyond_class, compute_page_fit
from urnet_tf.schema import BALANCED_BASELINE
from urnet_tf.text.pages import compare_pages


def test_the_best_text_of_a_page_counts():
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    images = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    found = compute_page_fit(texts, np.array([[1, 2], [0, -1], [-1, -1]]), images)
    np.testing.assert_allclose(found, [0.6, 0.6, np.nan], rtol=1e-6)
    assert found.dtype == np.float32


def test_what_goes_with_the_class_is_taken_off():
    cosine = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    residual = np.array([0.1, -0.2, 0.0, 0.2, -0.1])
    residual -= np.polyval(np.polyfit(cosine, residual, 1), cosine)
    fit = np.append(0.3 + 0.7 * cosine + residual, np.nan)
    found = beyond_class(fit, np.append(cosine, 0.9))
    np.testing.assert_allclose(found, np.append(residual, np.nan), atol=1e-12)
    assert np.isnan(beyond_class(np.array([0.1, 0.2, np.nan]), np.zeros(3))).all(), "two pages make a line"
    np.testing.assert_allclose(beyond_class(fit[:5], np.zeros(5)), fit[:5] - fit[:5].mean(), atol=1e-12)


def test_pages_are_compared_with_their_own_pictures():
    words = {"red": [1.0, 0.0], "blue": [0.0, 1.0]}
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([words[text] for text in texts], np.float32)

    columns = [["red", "", "red", ""], ["blue", "blue", "", " "]]
    images = np.array([[0.0, 3.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    found = compare_pages(columns, images, 4, encode)
    np.testing.assert_allclose(found, [1.0, 0.0, 1.0, np.nan])
    assert sorted(asked) == ["blue", "red"]
    assert np.isnan(compare_pages([["", ""]], images, 2, encode)).all()


def test_it_counts_as_far_as_the_crawl_shows():
    generator = np.random.default_rng(0)
    rows, classes = 3000, 4
    truth = generator.integers(0, classes, rows)
    wrong = generator.random(rows) < 0.4
    labels = np.where(wrong, (truth + 1) % classes, truth)
    logits = 1.5 * np.eye(classes)[truth] + generator.normal(size=(rows, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prediction = factors.Prediction(
        BALANCED_BASELINE, probs[np.arange(rows), labels], np.argsort(-probs, 1), -np.sort(-probs, 1)
    )
    plain = factors.Instances(
        labels, classes, prediction, np.arange(rows) % 4, np.zeros(rows, int), np.ones(rows, int)
    )
    used = factors.Recipe({"label_posterior": {}, "page_fit": {}})
    fit = np.where(np.arange(rows) % 3, ~wrong + generator.normal(0, 0.7, rows), np.nan)
    weighed = recipe.apply_recipe(dataclasses.replace(plain, page_fit=fit), used)
    moved = weighed.factors["page_fit"]
    told = np.isfinite(fit)
    assert moved[told & ~wrong].mean() > 1.1 * moved[told & wrong].mean()
    np.testing.assert_allclose(moved * weighed.factors["label_posterior"], weighed.right_prob, rtol=1e-4)
    assert (recipe.apply_recipe(plain, used).factors["page_fit"] == 1).all()
    noise = dataclasses.replace(plain, page_fit=generator.normal(size=rows))
    assert np.abs(recipe.apply_recipe(noise, used).factors["page_fit"] - 1).mean() < 0.05
