"""Groups of look-alikes that look wrong: which are shown, and in which order."""

import numpy as np
import pytest
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import look_alikes
from urnet_tf.explain.pictures import Thumbnails
from urnet_tf.reweighting.cluster_weight import Members


def grouped(group, distance):
    """Every class has these groups."""
    return lambda label, clusters: Members(
        np.arange(12) + 12 * label, 12, np.array(group), np.array(distance)
    )


CLOSE = [1.0] * 6 + [1.5, 1.4, 1.3, 1.2, 1.1, 1.0]


def test_a_group_is_shown_where_its_labels_look_wrong():
    inputs = make_inputs(group_class=grouped([0] * 6 + [1] * 6, [2.0] * 6 + CLOSE[6:]))
    inputs.weights["right_prob"][:] = 0.9
    inputs.weights["right_prob"][18:24] = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3]
    inputs.weights["predicted_label"][18:24] = [3, 3, 3, 0, 0, 1]
    (group,) = look_alikes.find_groups(inputs, 5)
    assert group.label == 1 and group.ids.tolist() == [23, 22, 21, 20, 19, 18]
    assert group.wrong[0] == pytest.approx(0.8) and group.called == [(3, 3), (0, 2), (1, 1)]
    (shown,) = look_alikes.show_groups(inputs, Thumbnails(inputs, 32), [group])
    assert (shown["name"], shown["images"], shown["called"][0]) == ("thing 1", 6, ("thing 3", 3))
    assert [entry["text"] for entry in shown["pictures"]][:2] == ["title 23", "title 22"]


def test_what_is_left_over_is_no_group():
    """The wrong images of class 1 lie farther from their middle than is usual: they are no look-alikes."""
    inputs = make_inputs(group_class=grouped([0] * 6 + [1] * 6, [1.0] * 6 + [2.0] * 6))
    inputs.weights["right_prob"][:] = 0.9
    inputs.weights["right_prob"][18:24] = 0.1
    assert look_alikes.find_groups(inputs, 5) == []


def test_a_small_group_lies_near_its_middle_by_chance():
    """Three images at .8 each: 2.4 / 2 > 11.4 / 10. At .7 they are look-alikes: 2.1 / 2 < 11.1 / 10."""
    for distance, expected in ((0.8, 0), (0.7, 1)):
        inputs = make_inputs(group_class=grouped([0] * 9 + [1] * 3, [1.0] * 9 + [distance] * 3))
        inputs.weights["right_prob"][:] = 0.9
        inputs.weights["right_prob"][21:24] = 0.1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(look_alikes, "_FEWEST", 3)
            assert len(look_alikes.find_groups(inputs, 5)) == expected


def test_half_wrong_is_not_enough():
    inputs = make_inputs(group_class=grouped([0] * 6 + [1] * 6, [1.0] * 12))
    inputs.weights["right_prob"][:] = 0.45
    assert look_alikes.find_groups(inputs, 5) == []


def test_those_with_most_wrong_labels_come_first_and_two_of_a_class_at_most(monkeypatch):
    monkeypatch.setattr(look_alikes, "_FEWEST", 4)
    three = [0] * 4 + [1] * 4 + [2] * 4
    inputs = make_inputs(group_class=grouped(three, [1.0] * 12))
    inputs.weights["right_prob"][:] = 0.9
    inputs.weights["right_prob"][12:24] = np.repeat([0.3, 0.1, 0.2], 4)
    inputs.weights["right_prob"][40:44] = 0.0
    found = look_alikes.find_groups(inputs, 9)
    assert [(group.label, round(group.wrong_images, 2)) for group in found] == [(3, 4.0), (1, 3.6), (1, 3.2)]
    assert len(look_alikes.find_groups(inputs, 1)) == 1
    assert look_alikes.find_groups(make_inputs(), 9) == []  # no features


def test_few_images_make_no_groups():
    assert (
        look_alikes.find_groups(make_inputs(per_class=6, group_class=grouped([0] * 12, [1.0] * 12)), 9) == []
    )
