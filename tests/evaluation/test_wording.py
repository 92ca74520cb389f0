"""Accuracies in words: both ways of counting, intervals, whose labels."""

import numpy as np

from urnet_tf.evaluation import metrics, wording
from urnet_tf.schema import DRAWN, GIVEN, JUDGED


def evaluated(**told):
    labels = np.repeat([0, 1], [80, 20])
    right, half = labels[:, None], np.where(np.arange(100) % 2, labels, 1 - labels)[:, None]
    models = {}
    for name, ids in (("baseline", half), ("urnet", right)):
        models[name] = metrics.summarize(labels, ids, np.ones((100, 1)), 2)
    models["urnet"]["change"] = metrics.summarize_change(labels, half, right, 2)
    return {"split": "test", "models": models, "num_classes": 2, **told}


def test_models_stand_side_by_side_with_intervals_and_the_change():
    told = evaluated()
    first, second, change, closing = wording.format_models(told)
    low, high = told["models"]["baseline"]["intervals"]["top1"]
    assert f"each image alike 50.0 % ({100 * low:.1f} to {100 * high:.1f})" in first
    assert "each class alike 50.0 % (" in first and first.startswith("baseline  ")
    assert "each class alike 100.0 % (" in second and second.startswith("urnet     ")
    _, low, high = told["models"]["urnet"]["change"]["balanced_top1"]
    assert f"+50.0 points ({100 * low:+.1f} to {100 * high:+.1f})" in change
    assert 35 < 100 * low < 50 < 100 * high < 65
    assert "on 100 test images" in closing
    assert len(wording.format_models(told, ("urnet",))) == 2
    assert wording.format_models({"models": {}}) == []


def test_labels_of_the_crawl_are_no_truth():
    (*_, note) = wording.format_models(evaluated(labels=DRAWN, wrong_share=0.31))
    assert "come from the crawl itself, about 31% of them wrong" in note and "test list" in note
    assert len(wording.format_models(evaluated(labels=GIVEN, wrong_share=None))) == 4
    assert "itself, so the" in wording.whose_labels(evaluated(labels=DRAWN))


def test_judged_images_are_told_beside_the_others_and_whose_labels_they_have():
    judged = evaluated(labels=JUDGED) | {"split": "judged"}
    lines = wording.format_models(evaluated(labels=DRAWN, wrong_share=0.3) | {"judged": judged})
    assert len(lines) == 10
    assert "come from the crawl itself" in lines[4]
    assert "on 100 judged images" in lines[8] and "judged by people, of a random sample" in lines[9]
    assert wording.format_models(judged) == lines[5:]


def test_five_guesses_among_five_classes_are_not_told():
    assert wording.shown_accuracies(5) == ("balanced_top1", "top1")
    assert len(wording.shown_accuracies(6)) == len(wording.shown_accuracies(None)) == 4
