"""The figures at the top, and the lines for a terminal."""

import numpy as np
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import overview
from urnet_tf.explain.matrix import count_confusions

ESTIMATED = {"clean_rate_estimate": 0.7, "clean_rate_interval": [0.6, 0.82], "labels_seen": False}


def test_lines_for_a_terminal():
    inputs = make_inputs(reweighting=ESTIMATED)
    inputs.weights["right_prob"][24:36] = 0.5
    assert overview.format_lines(inputs, count_confusions(inputs)) == [
        "About 30 % of the 48 labels look wrong (95 % interval: 18 % to 40 %).",
        "Worst classes: thing 2 50 % of 12; thing 0 37 % of 12; thing 1 37 % of 12.",
        "Most frequent mistakes: thing 0 that looks like thing 1 (4); thing 1 that looks like thing 2 (4); "
        "thing 3 that looks like thing 0 (4).",
    ]


def test_lines_of_models_that_saw_the_labels_and_before_there_are_any():
    seen = {"clean_rate_estimate": 0.7, "clean_rate_interval": None, "labels_seen": True}
    inputs = make_inputs(reweighting=seen)
    assert overview.format_lines(inputs, count_confusions(inputs))[0] == (
        "At least 30 % of the 48 labels look wrong."
    )
    inputs = make_inputs(weights={}, reweighting={})
    assert overview.format_lines(inputs, count_confusions(inputs)) == []


def test_names_from_the_web_do_not_steer_the_terminal():
    inputs = make_inputs(names=["a\x1b[31m\nb"] * 4, reweighting=ESTIMATED)
    text = "\n".join(overview.format_lines(inputs, count_confusions(inputs)))
    assert "a[31m b" in text and "\x1b" not in text


def test_classes_of_few_images_are_not_called_the_worst():
    inputs = make_inputs(label=np.array([0] * 40 + [1] * 5 + [2] * 3, np.int32))
    inputs.weights["right_prob"][:] = np.where(inputs.label == 0, 0.6, 0.1)
    assert overview.worst_classes(inputs) == [0, 1, 2]  # class 3 has none
    inputs = make_inputs(per_class=5)
    inputs.weights["right_prob"][:] = np.repeat([0.6, 0.1, 0.9, 0.3], 5)
    assert overview.worst_classes(inputs) == [1, 3, 0, 2]


def test_what_is_missing_in_words():
    assert overview.say_missing(make_inputs(missing={"export": "?", "features": "?"})) == ["the files to use"]


def test_where_people_judged_the_rest_is_spoken_of():
    inputs = make_inputs(reweighting=ESTIMATED | {"judged": {"trusted": 3}})
    lines = overview.format_lines(inputs, count_confusions(inputs))
    assert lines[0].startswith("About 30 % of the 48 labels that are left to train on look wrong (95 %")
