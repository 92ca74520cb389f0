"""What stays of a crawl, by hand."""

import numpy as np
import pyarrow as pa
import pytest

from urnet_tf.cleaning.decisions import Images, decide
from urnet_tf.crawl import corrections

NAN = float("nan")


def images_of(*rows):
    """Of (split, label, P(right)[, picture[, given label[, judged]]]); paths are numbers."""
    rows = [(*row, f"p{place}", row[1], False)[: 6] if len(row) == 3 else (*row, row[1], False)[:6]
            for place, row in enumerate(rows)]  # fmt: skip
    count = len(rows)
    columns = {
        "path": [f"{place}.jpg" for place in range(count)], "content_hash": [f"h{p}" for p in range(count)],
        "picture": [row[3] for row in rows], "split": [row[0] for row in rows],
        "width_px": [10 + place for place in range(count)], "height_px": [10] * count,
    }  # fmt: skip
    return Images(
        pa.table(columns), np.array([row[1] for row in rows]), np.array([row[4] for row in rows]),
        np.array([row[2] for row in rows], float), np.zeros(count, int), np.array([row[5] for row in rows]),
        ("cat", "dog", "fox"),
    )  # fmt: skip


def said(*rows):
    """Of (hash or path, verdict, old label[, new label])."""
    stamped = [
        {"content_hash": image if image.startswith("h") else "", "path": image, "verdict": verdict,
         "old_label": old, "new_label": "".join(new), "queue": "", "who": "",
         "when": f"2024-01-01T00:00:0{i}.000Z"}
        for i, (image, verdict, old, *new) in enumerate(rows)
    ]  # fmt: skip
    return corrections.current(pa.Table.from_pylist(stamped, corrections.SCHEMA)).table


def test_the_probability_decides_where_nobody_judged():
    images = images_of(
        ("train", 0, 0.9), ("train", 1, 0.3), ("train", 1, 0.5), ("val", 1, NAN), ("test", -1, NAN)
    )
    found = decide(images, None, threshold=0.5)
    assert found.fate.tolist() == ["kept", "doubtful", "kept", "kept", "no_label"]
    assert found.reason[1] == (
        "its label is right with a probability of 0.30, below 0.5; models call it 'cat'"
    )
    assert found.count() == {"kept": 3, "doubtful": 1, "no_label": 1}
    assert decide(images, None, threshold=None).fate.tolist() == ["kept"] * 4 + ["no_label"]


def test_what_people_said_comes_first():
    images = images_of(
        ("train", 0, 0.1), ("train", 0, 0.9), ("train", 0, 0.9), ("train", 0, 0.1), ("val", 0, NAN)
    )
    found = decide(
        images,
        said(("h0", "right", "cat"), ("1.jpg", "wrong_class", "cat", "fox"), ("h2", "none_of_these", "cat"),
             ("h3", "unsure", "cat"), ("h4", "wrong_class", "cat", "fox")),
        threshold=0.5,
    )  # fmt: skip
    assert found.fate.tolist() == ["kept", "relabeled", "none_of_these", "doubtful", "relabeled"]
    assert found.labels.tolist()[:2] == [0, 2] and found.labels[4] == 2
    assert found.reason[1] == "people judged it to be 'fox'"


def test_classes_that_a_run_does_not_have():
    images = images_of(("train", 0, 0.9), ("train", 0, 0.2))
    found = decide(images, said(("h0", "wrong_class", "cat", "wolf"), ("h1", "right", "wolf")), threshold=0.5)
    assert found.fate.tolist() == ["none_of_these", "doubtful"]


def test_what_the_run_has_obeyed_needs_no_log():
    images = images_of(
        ("train", 2, 1.0, "a", 0, True), ("train", 0, 1.0, "b", 0, True), ("judged", -1, NAN, "c", 0, True),
        ("judged", 0, NAN, "d", 0, True),
    )  # fmt: skip
    found = decide(images, None, threshold=0.5)
    assert found.fate.tolist() == ["relabeled", "kept", "none_of_these", "kept"]
    assert found.split.tolist() == ["train", "train", "test", "test"]
    undone = decide(images, said(("h0", "right", "cat")), threshold=0.5)
    assert undone.labels[0] == 0 and undone.fate[0] == "kept", "a later word than the run's"


@pytest.mark.parametrize("deduplicate", [True, False])
def test_of_copies_the_most_trusted_stays(deduplicate):
    images = images_of(
        ("train", 0, 0.8, "a"), ("train", 0, 0.9, "a"), ("train", 1, 0.1, "a"),
        ("train", 0, 0.6, "b"), ("train", 1, 0.7, "b"), ("train", 0, 0.9, ""), ("train", 0, 0.9, ""),
        ("train", 0, 0.7, "c"), ("train", 0, 0.7, "c"), ("train", 0, 0.7, "d"), ("val", 0, NAN, "d"),
    )  # fmt: skip
    found = decide(images, said(("h3", "right", "cat")), threshold=0.5, deduplicate=deduplicate)
    if not deduplicate:
        assert found.fate.tolist().count("copy") == 0
        return
    assert found.fate.tolist() == [
        "copy", "kept", "doubtful", "kept", "copy", "kept", "kept", "copy", "kept", "copy", "kept",
    ]  # fmt: skip
    assert found.reason[0] == "a copy of 1.jpg, which is kept"


def test_held_images_of_a_class_that_is_not_trained_go():
    images = images_of(("train", 0, 0.9), ("train", 1, 0.2), ("val", 1, NAN), ("val", 0, NAN))
    found = decide(images, None, threshold=0.5)
    assert found.fate.tolist() == ["kept", "doubtful", "no_training", "kept"]
