"""The figures of the report."""

import numpy as np
import pytest
from urnet_fixtures.reports import build_page, make_inputs

from urnet_tf.explain import matrix, pictures, summary
from urnet_tf.reweighting.combine import effective_sample_size


def test_doubtful_is_more_probably_wrong_than_right():
    inputs = make_inputs()
    inputs.weights["right_prob"][:3] = [0.5, 0.49, 0.0]
    assert inputs.doubtful[:3].tolist() == [False, True, True]


def test_shares_of_wrong_labels_have_intervals():
    inputs = make_inputs()
    inputs.weights["right_prob"][:] = np.where(inputs.label == 0, 0.6, 1.0)
    first, second, *_, absent = inputs.shares_wrong(inputs.label, 5)
    # 12 images: chance sqrt(.4 .6 / 12) = .1414, error of the estimate .05 + .15 .4 = .11
    assert first == pytest.approx((0.4, 0.4 - 1.96 * 0.17916, 0.4 + 1.96 * 0.17916), abs=1e-4)
    assert second == pytest.approx((0.0, 0.0, 1.96 * 0.05), abs=1e-6)
    assert absent is None


def test_effective_sample_size():
    assert effective_sample_size([1, 1, 1, 1]) == 4
    assert effective_sample_size([2, 0, 0, 0]) == 1
    assert effective_sample_size([3, 1]) == pytest.approx(16 / 10)


def test_class_sizes_and_profile():
    inputs = make_inputs()
    assert summary.class_sizes(inputs).tolist() == [[6, 6]] * 4
    sizes = np.arange(1, 1001)[:, None]
    profile = summary.size_profile(sizes)
    assert len(profile) == 120
    assert profile[0, 0] > profile[-1, 0] and profile[0, 0] == pytest.approx(np.mean(np.arange(992, 1001)))


def test_by_rank_means_of_bins():
    inputs = make_inputs(per_class=240)
    curves = summary.by_rank(inputs, inputs.rank.astype(float))
    assert [name for name, _, _ in curves] == ["flickr", "google"]
    for _, ranks, means in curves:
        assert np.allclose(ranks, means)  # the middle of a bin is the mean of its ranks
    assert summary.by_rank(make_inputs(rank=np.zeros(48, np.int32)), np.ones(48)) == []


def test_by_source():
    inputs = make_inputs()
    rows = summary.by_source(inputs)
    assert [(r["name"], r["images"]) for r in rows] == [("flickr", 24), ("google", 24)]
    assert rows[0]["wrong"][0] == pytest.approx((0.9 + 2 * 0.1) / 3, abs=1e-6)
    assert rows[0]["weight"] == pytest.approx(1)


def test_confused_pairs_come_by_wrong_labels_with_the_most_doubtful_examples():
    inputs = make_inputs()  # of each class every third image is called the next class
    inputs.weights["right_prob"][[2, 5, 8, 11]] = [0.6, 0.5, 0.3, 0.4]
    inputs.weights["right_prob"][[14, 17, 20, 23]] = [0.9, 0.9, 0.9, 0.0]
    pairs = summary.confused_pairs(inputs, matrix.count_confusions(inputs), 4)
    assert [(p["given"], p["predicted"], p["count"]) for p in pairs] == [
        (2, 3, 4), (3, 0, 4), (0, 1, 4), (1, 2, 4)
    ]  # fmt: skip
    assert [p["wrong"] for p in pairs] == pytest.approx([3.6, 3.6, 2.2, 1.3])
    assert pairs[2]["share"] == pytest.approx(1 / 3)
    assert pairs[2]["ids"].tolist() == [8, 11, 5, 2]


def test_histogram_counts_every_value():
    values = np.concatenate([np.full(10, 0.05), np.geomspace(0.1, 10, 90)])
    found = summary.histogram_of(values)
    assert found["ratio"] and found["counts"].sum() == 100
    assert not summary.histogram_of(np.linspace(-1, 1, 50))["ratio"]
    assert summary.histogram_of(np.ones(5)) is None


def test_quarantined_and_duplicates_are_grouped():
    inputs = make_inputs(
        quarantine={
            "path": np.array(["a", "b", "c"], object),
            "status": np.array(["empty", "missing", "missing"], object),
            "reason": np.array(["no bytes", "gone", "gone"], object),
        },
        duplicates={
            "content_hash": np.array(["x", "x", "y", "y", "v", "w"], object),
            "picture": np.array(["x", "x", "y", "y", "v", "v"], object),
            "kind": np.array(
                ["same_label"] * 2 + ["several_labels"] * 2 + ["near_several_labels"] * 2, object
            ),
            "path": np.array(["p", "q", "r", "s", "t", "u"], object),
            "split": np.array(["train"] * 6, object),
            "label": np.array([0, 0, 0, 1, 2, 3]),
        },
    )
    assert [(g["status"], g["count"]) for g in summary.quarantined(inputs)] == [("missing", 2), ("empty", 1)]
    groups = summary.duplicate_groups(inputs)
    assert [(g["kind"], g["files"], g["pictures"], g["groups"]) for g in groups] == [
        ("several_labels", 2, 1, [["r", "s"]]),
        ("same_label", 2, 1, [["p", "q"]]),
        ("near_several_labels", 2, 1, [["t", "u"]]),
    ]
    page = build_page(inputs)
    assert "There is no such file" in page and "p = q" in page


def test_choose_classes_takes_extremes_without_repeats():
    inputs = make_inputs(classes=6)
    inputs.weights["right_prob"][:] = np.where(inputs.label == 3, 0.1, 0.9)
    chosen = pictures.choose_classes(inputs, 4)
    assert len({label for label, _ in chosen}) == 4
    assert dict(chosen)[3] == "most labels that look wrong"
    assert dict(chosen)[5] == "biggest gain"
    assert len(pictures.choose_classes(inputs, 100)) == 6
