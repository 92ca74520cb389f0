"""Groups of look-alikes for the report: which classes, which groups first, which pictures; by hand."""

import numpy as np
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import groups, pictures
from urnet_tf.reweighting.cluster_weight import Members

# A class of five images and seven of others, in three groups; the distances say who is nearest.
MEMBERS = Members(
    ids=np.array([12, 13, 14, 15, 16, 0, 1, 24, 25, 26, 36, 37]),
    num_own=5,
    group=np.array([0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 2, 2]),
    distance=np.array([3.0, 1.0, 2.0, 5.0, 4.0, 0.5, 0.2, 9.0, 8.0, 7.0, 1.0, 0.0]),
)
LABELS = np.repeat(np.arange(4), 12)
WEIGHTS = np.array([0.5, 0.5, 0.5, 1.75, 1.75])


def test_groups_by_weight_with_the_nearest_pictures():
    first, second, last = groups.describe_groups(MEMBERS, LABELS, WEIGHTS)
    assert (first.number, second.number, last.number) == (1, 0, 2)
    assert (first.weight, first.size, first.own, first.others) == (1.75, 5, 2, [(2, 3)])
    assert first.ids.tolist() == [16, 15, 26, 25, 24]
    assert (second.weight, second.own, second.others) == (0.5, 3, [(0, 2)])
    assert second.ids.tolist() == [13, 14, 12, 1, 0]
    assert (last.weight, last.own, last.others, last.ids.tolist()) == (None, 0, [(3, 2)], [37, 36])


def test_own_pictures_and_others_share_the_places():
    many = Members(np.arange(30), 20, np.zeros(30, int), np.arange(30.0))
    (group,) = groups.describe_groups(many, np.repeat([0, 1, 2], 10), np.ones(20))
    assert group.ids.tolist() == [0, 1, 2, 3, 4, 20, 21, 22]
    few = Members(np.arange(30), 2, np.zeros(30, int), np.arange(30.0))
    (group,) = groups.describe_groups(few, np.repeat([0, 1, 2], 10), np.ones(2))
    assert group.ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    alone = Members(np.arange(30), 30, np.zeros(30, int), np.arange(30.0))
    (group,) = groups.describe_groups(alone, np.zeros(30, int), np.ones(30))
    assert group.ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_the_classes_are_those_whose_groups_differ_most():
    inputs = make_inputs()
    weight = np.ones(48)
    weight[12:24] = np.where(np.arange(12) % 2, 1.5, 0.5)  # deviation 0.5
    weight[24:36] = np.where(np.arange(12) % 2, 18.0, 2.0)  # 0.8 of its mean of 10
    inputs.weights["cluster_weight"] = weight
    assert groups.choose_classes(inputs, 3) == [2, 1] and groups.choose_classes(inputs, 1) == [2]
    np.testing.assert_allclose(groups.relative_weights(inputs)[24:26], [0.2, 1.8])


def test_a_section_tells_of_whose_pictures_they_are():
    cluster = np.zeros(48, np.int32)
    cluster[12:17] = MEMBERS.group[:5]
    inputs = make_inputs(read_members=lambda label: MEMBERS)
    inputs.weights["cluster"] = cluster
    inputs.weights["cluster_weight"] = np.ones(48)
    inputs.weights["cluster_weight"][12:15] = 0.5
    (entry,) = groups.build_groups(inputs, pictures.Thumbnails(inputs, 32), 2)
    assert (entry["name"], entry["found_again"], entry["joined"]) == (
        "thing 1",
        True,
        ["thing 0", "thing 2", "thing 3"],
    )
    shown = entry["groups"][0]["pictures"]
    assert [(p["text"], p["other"]) for p in shown[1:3]] == [
        ("thing 1: title 15", ""), ("thing 2: title 26", "thing 2")
    ]  # fmt: skip
    # Image 14 is called another class: (.1 + .1 + .9) / 3 in its group.
    assert [g["wrong"] and round(g["wrong"][0], 3) for g in entry["groups"]] == [0.1, 0.367, None]
    cluster[12] = 1
    (entry,) = groups.build_groups(inputs, pictures.Thumbnails(inputs, 32), 2)
    assert not entry["found_again"] and entry["groups"] == []
    assert groups.build_groups(make_inputs(), pictures.Thumbnails(inputs, 32), 2) == []


def test_groups_that_did_not_count_are_not_shown():
    inputs = make_inputs(read_members=lambda label: MEMBERS)
    inputs.weights["cluster_weight"] = np.ones(48)
    assert groups.build_groups(inputs, pictures.Thumbnails(inputs, 32), 2) == []
    inputs.weights["cluster_weight"] = np.linspace(1, 2, 48)
    assert groups.describe_rule(inputs).startswith("The more of a group belongs to the class")
