"""Order, splits, duplicates and the smallest crawl that can be trained on."""

import numpy as np
import pyarrow as pa
import pytest

from urnet_tf.crawl import instance_table
from urnet_tf.crawl.instance_table import build_instance_table, check_classes, draw_keys, draw_splits
from urnet_tf.crawl.table import ROW_SCHEMA, class_entry, running_number
from urnet_tf.errors import UsageError
from urnet_tf.images.probe import PROBE_COLUMNS

CLASSES = [class_entry(0, "cat"), class_entry(1, "dog")]


def digest(number):
    return f"{(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def tables(rows):
    """rows: (split, label, source, rank, path, content number or status)."""
    listed = [
        dict(split=s, label=y, source=o, rank=r, query="", title="", description="", tags="", path=p)
        for s, y, o, r, p, _ in rows
    ]
    probes = []
    for *_, content in rows:
        failed = isinstance(content, str)
        values = (content, "why", 0, 0, "", 0, "") if failed else ("", "", 64, 48, digest(content), 10, "")
        probes.append(dict(zip(PROBE_COLUMNS, values, strict=True)))
    schema = pa.schema([(name, pa.type_for_alias(dtype)) for name, dtype in PROBE_COLUMNS.items()])
    return pa.Table.from_pylist(listed, ROW_SCHEMA), pa.Table.from_pylist(probes, schema)


def test_order_quarantine_and_duplicates_by_hand():
    rows, probes = tables(
        [
            ("test", -1, "", 0, "t1", 90),
            ("val", 1, "", 0, "v1", 3),
            ("train", 1, "google", 1, "d1", 1),
            ("train", 0, "google", 2, "c2", 2),
            ("train", 0, "google", 1, "c1", 2),
            ("train", 0, "flickr", 9, "c9", 4),
            ("train", 0, "flickr", 3, "c3", 3),
            ("train", 0, "flickr", 4, "c4", "empty"),
            ("train", 1, "google", 1, "d0", 4),
            ("val", 0, "", 0, "v0", 91),
        ]
    )
    table = build_instance_table(rows, probes, seed=0, val_fraction=0.5)
    assert table.candidates["path"].to_pylist() == ["c9", "c1", "c2", "d0", "d1", "v0", "v1", "t1"]
    assert table.candidates["width_px"].to_pylist() == [64] * 8
    assert table.candidates["content_hash"][0].as_py() == digest(4)
    assert [(q["path"], q["status"], q["reason"]) for q in table.quarantine.to_pylist()] == [
        ("c4", "empty", "why"),
        ("c3", "duplicate_of_evaluation", "the same picture is a validation, test or judged image: v1"),
    ]
    assert [(d["kind"], d["split"], d["label"], d["path"]) for d in table.duplicates.to_pylist()] == [
        ("train_and_evaluation", "train", 0, "c3"),
        ("train_and_evaluation", "val", 1, "v1"),
        ("several_labels", "train", 0, "c9"),
        ("several_labels", "train", 1, "d0"),
        ("same_label", "train", 0, "c1"),
        ("same_label", "train", 0, "c2"),
    ]


def test_shares_drawn_of_a_class():
    # 20 images give 2 and 4; 5 give .5, which the limit .12 of the second class rounds down, and 1; 3 can
    # spare one, test comes first; 2 none.
    labels = np.repeat([0, 1, 2, 3], [20, 5, 3, 2])
    all_of_them = np.ones(30, bool)
    keys = np.random.default_rng(0).integers(0, 2**63, 30, dtype=np.uint64)
    drawn = draw_splits(labels, all_of_them, all_of_them, keys, val_fraction=0.1, test_fraction=0.2)
    shares = [np.bincount(drawn[labels == y], minlength=3).tolist() for y in range(4)]
    assert shares == [[14, 2, 4], [4, 0, 1], [2, 0, 1], [2, 0, 0]]
    smallest = np.sort(keys[:20])[:2]
    assert set(keys[:20][drawn[:20] == 1]) == set(smallest)


@pytest.mark.parametrize("size", [3, 4, 7])
def test_what_is_left_of_small_classes_is_spread_over_them(size):
    labels = np.repeat(np.arange(3000), size)
    all_of_them = np.ones(len(labels), bool)
    keys = np.arange(len(labels), dtype=np.uint64)
    drawn = draw_splits(labels, all_of_them, all_of_them, keys, val_fraction=0.1, test_fraction=0.0)
    held = np.bincount(labels, drawn == 1)
    assert held.max() == 1 and held.sum() == pytest.approx(300 * size, abs=3)
    assert np.bincount(np.arange(3000) // 100, held).min() > 8 * size  # in each hundred classes


def test_a_class_is_drawn_from_whatever_others_have():
    def held(*sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        all_of_them, keys = np.ones(len(labels), bool), np.arange(len(labels), dtype=np.uint64)
        drawn = draw_splits(labels, all_of_them, all_of_them, keys, val_fraction=0.3, test_fraction=0.1)
        return [np.bincount(drawn[labels == y], minlength=3).tolist() for y in range(len(sizes))]

    assert held(7, 9, 8)[1:] == held(41, 9, 8)[1:]


def test_the_draw_follows_seed_and_content_not_order():
    rows = [("train", y, "", r, f"{y}/{r}", 100 * y + r) for y in (0, 1) for r in range(40)]

    def drawn(rows, seed):
        table = build_instance_table(
            *tables(rows), seed=seed, val_fraction=0.25, test_fraction=0.1
        ).candidates
        return [(s, p) for s, p in zip(table["split"].to_pylist(), table["path"].to_pylist(), strict=True)]

    once = drawn(rows, 1)
    assert once == drawn(rows[::-1], 1)
    assert once != drawn(rows, 2)
    assert [s for s, _ in once].count("val") == 20
    assert [s for s, _ in once].count("test") == 8


def test_keys_are_spread_evenly():
    hashes = pa.chunked_array([[digest(n) for n in range(4000)]])
    keys = draw_keys(hashes, np.ones(4000, bool), seed=7).astype(np.float64) / 2**64
    assert np.abs(np.histogram(keys, 10, (0, 1))[0] - 400).max() < 80


def test_images_with_copies_are_never_drawn():
    rows = [("train", 0, "", r, f"{r}", r // 2) for r in range(20)]
    rows += [("train", 1, "", r, f"b{r}", 50 + r) for r in range(4)]
    table = build_instance_table(*tables(rows), seed=0, val_fraction=0.5)
    val = [
        p
        for p, s in zip(*(table.candidates[c].to_pylist() for c in ("path", "split")), strict=True)
        if s == "val"
    ]
    assert len(val) == 2 and all(p.startswith("b") for p in val)
    assert not len(table.quarantine)


def test_no_fraction_draws_nothing_and_too_much_is_refused():
    rows = [("train", 0, "", r, f"{r}", r) for r in range(9)]
    assert set(build_instance_table(*tables(rows), seed=0).candidates["split"].to_pylist()) == {"train"}
    with pytest.raises(UsageError, match="below 1"):
        build_instance_table(*tables(rows), seed=0, val_fraction=0.5, test_fraction=0.5)


def test_classes_without_enough_images_are_named():
    rows = [("train", 0, "", r, f"{r}", r) for r in range(3)] + [("train", 1, "", 1, "x", 9)]
    table = build_instance_table(
        *tables(rows + [("train", 1, "", 2, "y", "missing")]), seed=0, val_fraction=0.9
    )
    with pytest.raises(UsageError, match=r"'dog' \(one image\); .* rejected as: 1 missing"):
        check_classes(table.candidates, table.quarantine, CLASSES)
    with pytest.raises(UsageError, match=r"'owl' \(no images\)\.$"):
        table = build_instance_table(*tables(rows + [("train", 1, "", 2, "y", 10)]), seed=0)
        check_classes(table.candidates, table.quarantine, [*CLASSES, class_entry(2, "owl")])
    check_classes(table.candidates, table.quarantine, CLASSES)
    with pytest.raises(UsageError, match="at least 2 classes; received 1"):
        check_classes(table.candidates, table.quarantine, CLASSES[:1])


def test_nothing_usable():
    table = build_instance_table(*tables([("train", 0, "", 1, "a", "empty")]), seed=0, val_fraction=0.1)
    assert (len(table.candidates), len(table.quarantine), len(table.duplicates)) == (0, 1, 0)
    with pytest.raises(UsageError, match="no images"):
        check_classes(table.candidates, table.quarantine, CLASSES)


def test_running_number():
    assert running_number(np.array([5, 5, 2, 5, 2]), np.array([1, 1, 1, 3, 1])).tolist() == [1, 2, 1, 1, 2]
    assert running_number(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("given", ["val", "test"])
def test_nothing_is_drawn_for_a_set_that_is_given(given):
    rows, probes = tables(
        [*(("train", label, "", n, f"{label}{n}", 10 * label + n) for label in (0, 1) for n in range(10)),
         (given, 0, "", 0, "own", 99)]
    )  # fmt: skip
    table = build_instance_table(rows, probes, seed=0, val_fraction=0.2, test_fraction=0.2)
    splits = table.candidates["split"].to_pylist()
    other = {"val": "test", "test": "val"}[given]
    assert (splits.count(given), splits.count(other), splits.count("train")) == (1, 4, 16)


def with_pictures(rows, pictures):
    listed, probes = tables(rows)
    shown = [content if content == "" else digest(p) for content, p in
             zip(probes["content_hash"].to_pylist(), pictures, strict=True)]  # fmt: skip
    return listed, probes.append_column("picture", pa.array(shown))


def test_near_copies_of_held_images_leave_training():
    rows = [
        ("val", 0, "", 0, "v", 1), ("train", 0, "", 1, "a", 1), ("train", 1, "", 2, "b", 2),
        ("train", 0, "", 3, "c", 3), ("train", 0, "", 4, "d", 4), ("train", 1, "", 5, "e", 5),
        ("train", 1, "", 6, "f", 5), ("train", 0, "", 7, "g", "empty"),
    ]  # fmt: skip
    table = build_instance_table(*with_pictures(rows, [1, 1, 1, 3, 3, 3, 3, 9]), seed=0)
    assert table.candidates["path"].to_pylist() == ["c", "d", "e", "f", "v"]
    assert table.candidates["picture"].to_pylist() == [digest(3)] * 4 + [digest(1)]
    assert [(q["path"], q["status"], q["reason"]) for q in table.quarantine.to_pylist()] == [
        ("g", "empty", "why"),
        ("a", "duplicate_of_evaluation", "the same picture is a validation, test or judged image: v"),
        ("b", "near_copy_of_evaluation",
         "a near copy, of other bytes, is a validation, test or judged image: v"),
    ]  # fmt: skip
    assert [(d["kind"], d["path"]) for d in table.duplicates.to_pylist()] == [
        ("train_and_evaluation", "a"), ("train_and_evaluation", "v"),
        ("same_label", "e"), ("same_label", "f"),
        *(("near_train_and_evaluation", path) for path in "abv"),
        *(("near_several_labels", path) for path in "cdef"),
    ]  # fmt: skip


def test_near_copies_of_held_images_are_not_shared_out():
    rows = [("val", 0, "", 0, "v", 99), *(("train", 0, "", r, f"{r}", r) for r in range(20))]
    listed = with_pictures(rows, [99, *(99 if r < 10 else r for r in range(20))])
    table = build_instance_table(*listed, seed=0, test_fraction=0.3)
    splits = table.candidates["split"].to_pylist()  # three tenths of the ten that are left, not of twenty
    assert [splits.count(name) for name in ("train", "val", "test")] == [7, 1, 3]


def random_crawl(seed, held=False):
    """Rows and pictures: copies inside of classes and across, some of equal bytes."""
    generator = np.random.default_rng(seed)
    count = 160
    contents = generator.integers(0, 500, count)
    pictures = np.cumsum(generator.random(500) < 0.3)[contents]
    labels = np.where(generator.random(count) < 0.9, pictures % 3, generator.integers(0, 3, count))
    splits = np.where(generator.random(count) < 0.2 * held, "val", "train")
    rows = [(str(s), int(y), "", r, f"{r}", int(c)) for r, (s, y, c) in
            enumerate(zip(splits, labels, contents, strict=True))]  # fmt: skip
    return rows, pictures.tolist()


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_no_picture_is_in_training_and_held(seed, held):
    rows, pictures = random_crawl(seed, held)
    table = build_instance_table(
        *with_pictures(rows, pictures), seed=seed, val_fraction=0.2, test_fraction=0.1
    )
    candidates = table.candidates.to_pylist()
    assert len(candidates) + len(table.quarantine) == len(rows)
    places = {name: {row["picture"] for row in candidates if row["split"] == name} for name in
              ("train", "val", "test")}  # fmt: skip
    assert not places["train"] & (places["val"] | places["test"])
    assert not places["val"] & places["test"]
    if held:
        return
    assert not len(table.quarantine)  # drawing loses nothing
    for label in range(3):
        mine = [row["split"] for row in candidates if row["label"] == label]
        assert (
            abs(mine.count("val") - 0.2 * len(mine)) <= 4 and abs(mine.count("test") - 0.1 * len(mine)) <= 4
        )
    again = np.random.default_rng(seed).permutation(len(rows))
    shuffled = with_pictures([rows[i] for i in again], [pictures[i] for i in again])
    other = build_instance_table(*shuffled, seed=seed, val_fraction=0.2, test_fraction=0.1)
    assert {(r["path"], r["split"]) for r in other.candidates.to_pylist()} == {
        (r["path"], r["split"]) for r in candidates
    }


def test_pictures_under_several_labels_are_never_drawn():
    rows = [("train", r % 2, "", r, f"{r}", r) for r in range(40)]
    table = build_instance_table(*with_pictures(rows, [r // 2 for r in range(40)]), seed=0, val_fraction=0.5)
    assert set(table.candidates["split"].to_pylist()) == {"train"}


def test_whole_pictures_are_drawn_until_there_is_no_room_by_hand():
    classes, sizes = np.array([0, 0, 0, 0, 1, 1]), np.array([2, 5, 1, 1, 3, 1])
    # Class 0 with room for 4: 2 fit, 5 do not, 1 and 1 do. Class 1 with room for 2: 3 do not, 1 does.
    assert instance_table._fill(classes, sizes, np.array([4, 2])).tolist() == [1, 0, 1, 1, 0, 1]
    assert instance_table._fill(classes, sizes, np.array([0, 9])).tolist() == [0, 0, 0, 0, 1, 1]
    assert instance_table._fill(classes[:0], sizes[:0], np.array([4, 2])).tolist() == []
