"""The score for pictures of none of the classes: by hand, in a model, in what is served."""

import json

import numpy as np
import pytest
from urnet_fixtures.exports import build_tiny_model

from urnet_tf.export.model_card import build_model_card
from urnet_tf.export.none_of_these import NoneOfThese, compute_energy, fit_none_of_these


def logits_of(energies):
    """Two equal logits each: their energy is one of them plus log 2."""
    return np.repeat(np.asarray(energies, float)[:, None] - np.log(2), 2, axis=1)


def test_by_hand():
    energies = np.arange(101.0)  # the 5 % quantile is 5, the median 50
    np.testing.assert_allclose(compute_energy(logits_of(energies)), energies)
    found = fit_none_of_these([logits_of(energies[:40]), logits_of(energies[40:])], 0.05)
    assert (found.energy, found.images) == (pytest.approx(5.0), 101)
    np.testing.assert_allclose(found.score(logits_of([5.0, 50.0])), [0.5, 0.05])
    assert found.score(logits_of([-100.0]))[0] > 0.99
    assert list(found.thresholds) == [0.99, 0.95, 0.9]
    for kept, threshold in found.thresholds.items():
        assert np.mean(found.score(logits_of(energies)) <= threshold + 1e-9) == pytest.approx(kept, abs=0.011)
    assert found.thresholds[0.95] == pytest.approx(0.5)


def test_other_pictures_get_a_higher_score():
    generator = np.random.default_rng(0)
    known = generator.normal(0, 1, (300, 5))
    known[np.arange(300), generator.integers(0, 5, 300)] += 6
    found = fit_none_of_these([known], 0.1)
    assert (found.score(known) > 0.5).mean() == pytest.approx(0.1, abs=0.01)
    assert (found.score(generator.normal(0, 1, (300, 5))) > 0.5).mean() > 0.8


def test_pictures_that_people_judged_say_how_many_are_found():
    held, judged = np.arange(100.0), np.r_[np.full(15, -5.0), np.full(15, 50.5)]
    found = fit_none_of_these([logits_of(held)], 0.05, [logits_of(judged[:10]), logits_of(judged[10:])])
    assert found.energy == fit_none_of_these([logits_of(held)], 0.05).energy, "the score stays as it was"
    outside = found.outside
    assert outside.images == 30 and outside.refused == {0.99: 0.5, 0.95: 0.5, 0.9: 0.5}
    assert outside.auroc == pytest.approx(0.5 * 1 + 0.5 * 0.49)  # half are below all, half above 51 of 100
    low, high = outside.interval
    # Hanley and McNeil: Q1 = .5936, Q2 = .6361, variance (.1900 + 29 * .0386 + 99 * .0811) / 3000
    assert low < outside.auroc < high and high - low == pytest.approx(2 * 1.96 * 0.0558, abs=1e-3)
    assert (
        "30 pictures that people judged" in outside.sentence() and "refuses 50% of them" in outside.sentence()
    )
    told = json.loads(json.dumps(found.describe()))
    assert told["outside_images"] == 30 and told["thresholds"][0]["refused_outside"] == 0.5
    card = build_model_card({"name": "x", "version": 1, "classes": 2, "none_of_these": told}, ["a", "b"])
    assert "refused of 30 judged to be other things" in card
    assert fit_none_of_these([logits_of(held)], 0.05, [logits_of(judged[:19])]).outside is None


@pytest.mark.parametrize("blocks", [[], [np.zeros((19, 3))], [np.zeros((50, 3))]])
def test_few_or_equal_images_give_no_score(blocks):
    assert fit_none_of_these(blocks, 0.05) is None


def test_the_model_gives_the_score_beside_what_it_gave():
    import keras

    model = build_tiny_model()
    named = keras.Model(model.input, {"logits": model.output})
    score = NoneOfThese(0.3, 0.2, 50, {0.95: 0.5})
    images = np.random.default_rng(0).uniform(0, 255, (4, *model.input.shape[1:])).astype(np.float32)
    outputs = score.attach(named)(images)
    np.testing.assert_allclose(outputs["logits"], model(images), rtol=1e-6)
    np.testing.assert_allclose(outputs["none_of_these"], score.score(np.asarray(model(images))), rtol=1e-4)


def test_the_card_tells_how_to_use_it():
    metadata = {
        "name": "x", "version": 1, "classes": 2,
        "none_of_these": NoneOfThese(1.234, 0.2, 1000, {0.99: 0.8, 0.95: 0.5}).describe(),
    }  # fmt: skip
    card = build_model_card(json.loads(json.dumps(metadata)), ["a", "b"])
    assert "| 99% | 0.80 |" in card and "| 95% | 0.50 |" in card and "1,000 held images" in card
    assert "a = 1.234, b = 0.2" in card and "It knows only its own classes" not in card
