"""Pictures under several labels: which, how many, and what is shown of them."""

import numpy as np
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import copies
from urnet_tf.explain.pictures import Thumbnails

ROWS = [  # content_hash, picture, kind, split, label, path
    ("b", "b", "several_labels", "train", 0, "0.jpg"),
    ("b", "b", "several_labels", "train", 1, "13.jpg"),
    ("a", "a", "several_labels", "train", 2, "25.jpg"),
    ("a", "a", "several_labels", "val", 3, "v.jpg"),
    ("a", "a", "several_labels", "train", 3, "37.jpg"),
    ("c", "c", "same_label", "train", 0, "1.jpg"),
    ("c", "c", "same_label", "train", 0, "2.jpg"),
    ("d", "p", "near_several_labels", "train", 0, "3.jpg"),
    ("e", "p", "near_several_labels", "train", -1, "gone.jpg"),
]  # fmt: skip


def make_copies():
    names = ("content_hash", "picture", "kind", "split", "label", "path")
    columns = {
        name: np.array(values, object) for name, values in zip(names, zip(*ROWS, strict=True), strict=True)
    }
    ids = {f"{i}.jpg": i for i in range(48)}
    return make_inputs(duplicates=columns, find_ids=lambda paths: [ids.get(path, -1) for path in paths])


def test_contradictions_are_counted():
    assert copies.count_contradictions(make_copies()) == {
        "several_labels": (2, 5), "near_several_labels": (1, 2)
    }  # fmt: skip
    assert copies.count_contradictions(make_inputs()) == {
        "several_labels": (0, 0), "near_several_labels": (0, 0)
    }  # fmt: skip


def test_each_file_stands_with_its_label_and_how_right_it_is():
    inputs = make_copies()
    inputs.weights["right_prob"][[0, 13]] = [0.25, 0.75]
    first, second, near = copies.show_contradictions(inputs, Thumbnails(inputs, 32), 9)
    assert [(f["path"], f["name"], f["right"]) for f in first["files"]] == [
        ("0.jpg", "thing 0", 0.25), ("13.jpg", "thing 1", 0.75)
    ]  # fmt: skip
    assert first["uri"].startswith("data:image/jpeg") and not first["near"]
    assert [(f["split"], f["right"] is None) for f in second["files"]] == [
        ("train", False), ("val", True), ("train", False)
    ]  # fmt: skip
    # Near copies differ, so each has its picture; one that was not packed has none, nor has -1 a name.
    assert near["near"] and [bool(f["uri"]) for f in near["files"]] == [True, False]
    assert near["files"][1]["name"] == ""
    assert len(copies.show_contradictions(inputs, Thumbnails(inputs, 32), 1)) == 1


def test_large_groups_are_cut(monkeypatch):
    monkeypatch.setattr(copies, "_FILES", 2)
    inputs = make_copies()
    second = copies.show_contradictions(inputs, Thumbnails(inputs, 32), 2)[1]
    assert len(second["files"]) == 2 and second["more"] == 1
