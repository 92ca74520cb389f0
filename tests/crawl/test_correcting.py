"""Judgements are obeyed: labels, splits and what leaves, by hand; and with any order of judgements."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from urnet_tf.crawl import corrections
from urnet_tf.crawl.correcting import obey, tell_counts
from urnet_tf.crawl.instance_table import build_instance_table
from urnet_tf.crawl.table import REJECTED_SCHEMA, ROW_SCHEMA, Crawl, class_entry
from urnet_tf.images.probe import PROBE_COLUMNS

CLASSES = [class_entry(label, name) for label, name in enumerate(("cat", "dog", "red fox"))]


def crawl_of(*rows):
    """A listing and its probes of (path, label, content[, split])."""
    listed = [
        (split or "train", label, "google", place + 1, "q", "", "", "", path)
        for place, (path, label, _, split) in enumerate((*row, None)[:4] for row in rows)
    ]
    columns = dict(zip(ROW_SCHEMA.names, zip(*listed, strict=True), strict=True))
    table = pa.table({n: pa.array(columns[n], ROW_SCHEMA.field(n).type) for n in ROW_SCHEMA.names})
    probes = {
        "status": ["empty" if row[2] is None else "" for row in rows],
        "reason": [""] * len(rows), "content_hash": [digest(row[2]) for row in rows],
    }  # fmt: skip
    probes = {
        name: pa.array(probes.get(name, ["" if kind == "string" else 1] * len(rows)), pa.type_for_alias(kind))
        for name, kind in PROBE_COLUMNS.items()
    }
    crawl = Crawl("/root", list(CLASSES), table, REJECTED_SCHEMA.empty_table())
    return crawl, pa.table(probes)


def digest(content):
    return "" if content is None else f"{content:032x}"


def judged(*rows):
    """Of (content or path, verdict, old label[, new label[, queue]])."""
    said = []
    for place, (image, verdict, old, *more) in enumerate(rows):
        new, queue = (*more, "", "doubtful")[:2] if more else ("", "doubtful")
        known = {"path": image} if isinstance(image, str) else {"content_hash": digest(image), "path": "?"}
        said.append(
            {"content_hash": "", "old_label": old, "verdict": verdict, "new_label": new, "queue": queue,
             "who": "ann", "when": f"2024-01-01T00:00:{place:02d}.000Z", **known}
        )  # fmt: skip
    return corrections.current(pa.Table.from_pylist(said, corrections.SCHEMA))


def rows_of(obeyed):
    rows = obeyed.crawl.rows.to_pylist()
    return {row["path"]: (row["split"], row["label"], row["judged"]) for row in rows}


def test_each_verdict_does_what_it_says():
    crawl, probes = crawl_of(*[(f"{i}.jpg", i % 2, i) for i in range(8)], ("broken.jpg", 0, None))
    obeyed = obey(crawl, probes, judged(
        (0, "right", "cat"), (1, "wrong_class", "dog", "red fox"), (2, "none_of_these", "cat"),
        (3, "unsure", "dog"), (99, "right", "cat"), ("4.jpg", "wrong_class", "cat", "dog"),
    ))  # fmt: skip
    assert rows_of(obeyed) == {
        "0.jpg": ("train", 0, "right"), "1.jpg": ("train", 2, "wrong_class"),
        "2.jpg": ("judged", -1, "none_of_these"), "3.jpg": ("train", 1, ""),
        "4.jpg": ("train", 1, "wrong_class"), "5.jpg": ("train", 1, ""), "6.jpg": ("train", 0, ""),
        "7.jpg": ("train", 1, ""), "broken.jpg": ("train", 0, ""),
    }  # fmt: skip
    rejected = [(row["path"], row["status"], row["label"]) for row in obeyed.crawl.rejected.to_pylist()]
    assert rejected == [("2.jpg", "judged_none_of_these", 0)]
    ranks = dict(
        zip(obeyed.crawl.rows["path"].to_pylist(), obeyed.crawl.rows["rank"].to_pylist(), strict=True)
    )
    assert ranks["0.jpg"] == 1 and ranks["1.jpg"] == 0, "the rank was that of another class"
    assert obeyed.counts["by_path"] == 1
    assert tell_counts(obeyed.counts) == (
        "6 judgements: 2 labels replaced, 1 removed as none of the classes, 1 confirmed, 1 unsure, "
        "1 of files that are not in this crawl"
    )
    fates = {row["path"]: (row["given_label"], row["label"], row["fate"]) for row in obeyed.table.to_pylist()}
    assert fates == {
        "0.jpg": ("cat", "cat", "confirmed"), "1.jpg": ("dog", "red fox", "replaced"),
        "2.jpg": ("cat", "", "outside"), "4.jpg": ("cat", "dog", "replaced"),
    }  # fmt: skip


def test_what_was_seen_holds_for_every_copy():
    crawl, probes = crawl_of(("a", 0, 1), ("b", 1, 1), ("c", 2, 2), ("d", 0, 2), ("e", 0, 3), ("f", 1, 4))
    obeyed = obey(crawl, probes, judged((1, "right", "cat"), (2, "none_of_these", "red fox")))
    assert rows_of(obeyed) == {
        "a": ("train", 0, "right"), "b": ("train", 0, "wrong_class"), "c": ("judged", -1, "none_of_these"),
        "e": ("train", 0, ""), "f": ("train", 1, ""),
    }  # fmt: skip
    assert [row["path"] for row in obeyed.crawl.rejected.to_pylist()] == ["c", "d"]
    assert len(obeyed.probes) == 5
    assert obeyed.counts["replaced"] == 1 and obeyed.counts["removed"] == 1, "an image counts once"


def test_the_random_sample_becomes_a_test_list():
    crawl, probes = crawl_of(
        *[(f"cat{i}", 0, i) for i in range(5)], ("dog0", 1, 10), ("dog1", 1, 11), ("copy", 1, 0),
        ("held", 0, 1, "val"),
    )  # fmt: skip
    obeyed = obey(crawl, probes, judged(
        (0, "wrong_class", "cat", "red fox", "random"), (1, "right", "cat", "", "random"),
        (2, "none_of_these", "cat", "", "random"), (3, "right", "cat", "", "random"),
        (10, "right", "dog", "", "random"), (4, "unsure", "cat", "", "random"),
    ))  # fmt: skip
    rows = rows_of(obeyed)
    # Nothing of "red fox" is left to train on, and of "dog" too little.
    assert rows["cat0"] == ("train", 2, "wrong_class") and rows["dog0"] == ("train", 1, "right")
    assert rows["cat1"] == ("train", 0, "right"), "it is a validation image already"
    assert rows["held"] == ("val", 0, "right")
    assert rows["cat2"] == ("judged", -1, "none_of_these")
    assert rows["cat3"] == ("judged", 0, "right")
    assert (obeyed.counts["random"], obeyed.counts["random_wrong"]) == (5, 2)
    assert obeyed.counts["test_images"] == 1
    table = build_instance_table(obeyed.crawl.rows, obeyed.probes, seed=0)
    splits = [(row["path"], row["split"]) for row in table.candidates.to_pylist()]
    assert splits[-2:] == [("cat2", "judged"), ("cat3", "judged")], "behind all others"
    assert "judged" in table.candidates.column_names


def test_copies_of_a_test_image_leave_training():
    crawl, probes = crawl_of(("a", 0, 1), ("copy", 1, 1), *[(f"x{i}", i % 2, 10 + i) for i in range(8)])
    obeyed = obey(crawl, probes, judged((1, "right", "cat", "", "random")))
    table = build_instance_table(obeyed.crawl.rows, obeyed.probes, seed=0)
    assert [row["path"] for row in table.candidates.to_pylist() if row["split"] == "judged"] == ["a"]
    assert [(row["path"], row["status"]) for row in table.quarantine.to_pylist()] == [
        ("copy", "duplicate_of_evaluation")
    ]


def test_classes_that_are_not_of_this_crawl_are_told():
    crawl, probes = crawl_of(("a", 0, 1), ("b", 0, 2), ("c", 1, 3), ("d", 1, 4))
    obeyed = obey(crawl, probes, judged(
        (1, "wrong_class", "cat", "unicorn"), (2, "right", "wolf"), (3, "wrong_class", "dog", " Red  fox"),
        (4, "wrong_class", "dog", "red  fox"),
    ))  # fmt: skip
    assert rows_of(obeyed) == {
        "a": ("judged", -1, "none_of_these"), "b": ("train", 0, ""), "c": ("judged", -1, "none_of_these"),
        "d": ("train", 2, "wrong_class"),
    }  # fmt: skip
    assert "'unicorn', which is no class here, by ann" in obeyed.crawl.rejected["reason"][0].as_py()
    assert any("'unicorn' (1), 'wolf' (1)" in note for note in obeyed.notes)
    assert obeyed.counts["without_effect"] == 1 and obeyed.counts["unknown_classes"] == 3


def test_a_file_listed_under_two_classes_is_listed_once():
    crawl, probes = crawl_of(("a", 0, 1), ("a", 1, 1), ("b", 0, 2), ("c", 1, 3))
    obeyed = obey(crawl, probes, judged((1, "right", "cat")))
    assert obeyed.crawl.rows["path"].to_pylist() == ["a", "b", "c"]
    assert obeyed.crawl.rejected["status"].to_pylist() == ["repeated_row"]


def test_unlabeled_images_stay_as_they_are():
    crawl, probes = crawl_of(("a", -1, 1, "test"), ("b", 0, 2), ("c", 0, 3))
    obeyed = obey(crawl, probes, judged((1, "wrong_class", "", "cat")))
    assert rows_of(obeyed)["a"] == ("test", -1, "")
    assert obeyed.counts["without_effect"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_and_counts_add_up(seed):
    draw = np.random.default_rng(seed)
    rows = [
        (f"{i}.jpg", int(draw.integers(3)), int(draw.integers(30)), draw.choice(["train", "val"]))
        for i in range(60)
    ]
    crawl, probes = crawl_of(*rows)
    names = [entry["name"] for entry in CLASSES]
    said = judged(*[
        (int(i), str(draw.choice(["right", "none_of_these", "unsure"])), str(draw.choice(names)), "",
         str(draw.choice(["random", "doubtful"])))
        for i in draw.permutation(40)[:25]
    ])  # fmt: skip
    obeyed = obey(crawl, probes, said)
    counts, paths = obeyed.counts, obeyed.crawl.rows["path"].to_pylist()
    kinds = ("replaced", "removed", "confirmed", "unsure", "not_in_crawl", "unusable", "without_effect")
    assert sum(counts[kind] for kind in kinds) == counts["judgements"] == 25
    left = set(obeyed.crawl.rejected["path"].to_pylist())
    assert set(paths) | left == {row[0] for row in rows} and len(paths) == len(obeyed.probes)
    said_of = {row["content_hash"]: row for row in said.table.to_pylist()}
    outside = 0
    hashes = obeyed.probes["content_hash"].to_pylist()
    for row, content in zip(obeyed.crawl.rows.to_pylist(), hashes, strict=True):
        said_here = said_of.get(content)
        if said_here is None or said_here["verdict"] == "unsure":
            assert row["judged"] == "" and row["split"] in ("train", "val")
        elif said_here["verdict"] == "right":
            assert names[row["label"]] == said_here["old_label"]
            assert row["split"] != "judged" or said_here["in_random_sample"]
        else:
            assert (row["split"], row["label"]) == ("judged", -1)
            outside += 1
    assert outside == len(
        set(hashes) & {h for h, row in said_of.items() if row["verdict"] == "none_of_these"}
    )
    assert len([k for k, group in itertools.groupby(sorted(hashes)) if list(group)]) == len(set(hashes))
