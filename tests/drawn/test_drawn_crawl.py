"""The drawn crawl: repeatable bytes, exact layouts, planted noise as asked for, no give-aways."""

import collections
import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from urnet_tf.drawn.crawl import draw_crawl
from urnet_tf.drawn.plan import NOISE_KINDS, class_sizes, plan_pictures
from urnet_tf.drawn.scenes import SCENE_CLASSES, draw_scene
from urnet_tf.errors import UsageError

SMALL = {"images": 120, "num_classes": 4, "image_size_px": 40, "val_per_class": 2, "test_per_class": 3}
RATES = {"confused": 0.13, "out_of_vocabulary": 0.13, "random": 0.06, "ambiguous": 0.04, "degraded": 0.08}


def contents(root):
    """Relative path to bytes of each file (links and directories to what they are)."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, os.fsencode(root))
            if os.path.islink(path):
                found[key] = os.readlink(path)
            elif os.path.isdir(path):
                found[key] = None
            else:
                with open(path, "rb") as file:
                    found[key] = file.read()
    return found


def picture_bytes(root):
    return {content for name, content in contents(root).items() if name.endswith(b".jpg") and content}


def read_rows(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def lines(path):
    return path.read_bytes().decode("utf-8", "surrogateescape").splitlines()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    root = tmp_path_factory.mktemp("web") / "crawl"
    return root, draw_crawl(root, workers=1, **SMALL)


def plan(images=4000, **changes):
    partners = [i ^ 1 for i in range(len(SCENE_CLASSES))]
    options = {"imbalance": 8.0, "rates": RATES, "val_per_class": 2, "test_per_class": 3, "seed": 5}
    options |= {"sources": ("google", "flickr"), "images": images} | changes
    return plan_pictures(SCENE_CLASSES, partners, **options)


def test_bytes_do_not_depend_on_the_number_of_processes(web, tmp_path):
    root, _ = web
    draw_crawl(tmp_path / "again", workers=2, **SMALL)
    assert contents(tmp_path / "again") == contents(root)
    assert (tmp_path / "again_truth.csv").read_bytes() == root.with_name("crawl_truth.csv").read_bytes()


def test_another_seed_gives_other_pictures(web, tmp_path):
    draw_crawl(tmp_path / "other", workers=1, seed=1, **SMALL)
    hostile_constants = 3  # the HTML page, the 20000 x 20000 PNG and the link show nothing of the crawl
    assert len(picture_bytes(web[0]) & picture_bytes(tmp_path / "other")) <= hostile_constants


def test_webvision_lists_agree_with_each_other_and_the_disk(web):
    root, summary = web
    synsets = lines(root / "info" / "synsets.txt")
    assert [s.split(" ", 1)[1].split(",")[0] for s in synsets] == list(summary.class_names)
    mapping = dict(map(str.split, lines(root / "info" / "queries_synsets_map.txt")))
    every = []
    for source in ("google", "flickr"):
        files = lines(root / "info" / f"train_filelist_{source}.txt")
        metas = lines(root / "info" / f"train_meta_list_{source}.txt")
        every += files
        assert len(files) == len(metas)
        assert len(lines(root / "info" / f"queries_{source}.txt")) == len(mapping)
        for file, meta in zip(files, metas, strict=True):
            path, label = file.split(" ")
            meta_path, row = meta.split(" ")
            assert os.path.lexists(os.fsencode(root / path)) and path.endswith(".jpg")
            assert int(mapping[str(int(path.split("/")[1][1:]))]) == int(label) + 1
            record = json.loads((root / "meta" / meta_path).read_text())[int(row) - 1]
            assert os.path.basename(path) == f"{record['id']}.jpg" or "hostile" in path
            assert ("rank" in record) == (source == "google") and ("tags" in record) == (source == "flickr")
    assert lines(root / "info" / "train_filelist_all.txt") == every
    assert len(every) == SMALL["images"] + 12
    assert len(lines(root / "info" / "val_filelist.txt")) == 8 == len(os.listdir(root / "val_images_256"))
    assert len(lines(root / "info" / "test_filelist.txt")) == 12 == len(os.listdir(root / "test_images_256"))
    assert all(" " not in line for line in lines(root / "info" / "test_filelist.txt"))


def test_ranks_rise_inside_a_query(web):
    for path in (web[0] / "meta" / "google").iterdir():
        ranks = [int(record["rank"]) for record in json.loads(path.read_text())]
        assert ranks == sorted(set(ranks)) and ranks[0] >= 1


def test_truth_lies_beside_the_crawl_and_covers_it(web):
    root, summary = web
    rows = read_rows(summary.truth_path)
    assert summary.truth_path == root.with_name("crawl_truth.csv")
    assert all(os.path.lexists(os.fsencode(root / row["path"])) for row in rows)
    assert len(rows) == SMALL["images"] + 12 + 8 + 12
    words = (*NOISE_KINDS, "true_label", "truth")
    for name, content in contents(root).items():
        assert not any(word.encode() in name for word in words)
        if name.endswith((b".txt", b".json")):
            assert not any(word.encode() in content for word in words), name


def test_truth_counts_are_those_asked_for(web):
    _, summary = web
    rows = read_rows(summary.truth_path)
    kinds = collections.Counter(r["kind"] for r in rows if not r["path"].startswith(("val", "test")))
    assert kinds == summary.kinds
    for kind, rate in RATES.items():
        assert kinds[kind] == round(rate * SMALL["images"])
    assert {r["true_label"] for r in rows if r["kind"] == "out_of_vocabulary"} == {"-1"}
    assert all((r["label"] != r["true_label"]) == (r["kind"] in ("confused", "random"))
               for r in rows if r["kind"] in ("clean", "degraded", "ambiguous", "confused", "random")
               and not r["path"].startswith("test"))  # fmt: skip
    assert {r["kind"] for r in rows if r["path"].startswith(("val", "test"))} == {"clean"}


def test_sizes_fall_geometrically():
    assert class_sizes(70, 3, 4.0).tolist() == [40, 20, 10]
    sizes = class_sizes(1600, 16, 8.0)
    assert sizes.sum() == 1600 and 7.5 < sizes[0] / sizes[-1] < 8.5


def test_noise_lies_in_late_ranks_and_in_the_second_source_and_in_the_partner():
    pictures = [p for p in plan() if p.split == "train"]
    noisy = {s: np.mean([p.kind != "clean" for p in pictures if p.source == s]) for s in ("google", "flickr")}
    assert noisy["google"] < 0.75 * noisy["flickr"]
    early = np.mean([p.kind != "clean" for p in pictures if p.rank <= 10])
    late = np.mean([p.kind != "clean" for p in pictures if p.rank > 40])
    assert early < 0.75 * late
    swaps = [p.true_label == p.label ^ 1 for p in pictures if p.kind == "confused"]
    assert 0.7 < np.mean(swaps) < 0.95


def test_titles_inform_but_cannot_be_trusted():
    pictures = [p for p in plan() if p.split == "train"]

    def names_given(p):
        scene = SCENE_CLASSES[p.label]
        return any(word in p.title for word in (*scene.words, *scene.queries))

    clean = np.mean([names_given(p) for p in pictures if p.kind == "clean"])
    wrong = ("out_of_vocabulary", "confused", "random")
    foreign = np.mean([names_given(p) for p in pictures if p.kind in wrong])
    assert 0.6 < clean < 0.9 and 0.15 < foreign < 0.5
    assert any(p.title.startswith("DSC_") for p in pictures)


def test_some_files_are_equal_under_two_labels_and_in_training_and_test(web):
    root, summary = web
    by_bytes = collections.defaultdict(list)
    for row in read_rows(summary.truth_path):
        if row["kind"] != "hostile":
            by_bytes[(root / row["path"]).read_bytes()].append(row)
    groups = [group for group in by_bytes.values() if len(group) > 1]
    labels = [{r["label"] for r in group if not r["path"].startswith("test")} for group in groups]
    assert any(len(label) > 1 for label in labels)
    tested = [any(r["path"].startswith("test") for r in group) for group in groups]
    assert 1 <= sum(tested) <= 2
    assert all(len({r["true_label"] for r in group}) == 1 for group in groups)


@pytest.mark.parametrize("layout", ["folder", "list"])
def test_other_layouts_hold_the_same_pictures(web, tmp_path, layout):
    summary = draw_crawl(tmp_path / "crawl", layout=layout, workers=1, **SMALL)
    rows, same = read_rows(summary.truth_path), read_rows(web[1].truth_path)
    assert sorted(r["true_label"] for r in rows) == sorted(r["true_label"] for r in same)
    assert picture_bytes(web[0]) == picture_bytes(tmp_path / "crawl")
    if layout == "list":
        listed = read_rows(summary.path)
        assert [r["path"] for r in listed] == [r["path"] for r in rows]
        assert [summary.class_names[int(r["label"])] for r in rows] == [r["label"] for r in listed]
        assert {r["split"] for r in listed} == {"train", "val", "test"}
    else:
        for row in rows:
            parts = row["path"].split("/")
            assert parts[1] == summary.class_names[int(row["label"])]
            assert (len(parts) == 4) == (parts[0] == "train")


def test_sizes_and_shapes_vary(web):
    sizes = {Image.open(path).size for path in (web[0] / "val_images_256").iterdir()}
    assert len(sizes) > 4
    assert all(30 <= side <= 50 for size in sizes for side in size)


def test_color_does_not_identify_a_class():
    def colors(j, count, start):
        rngs = (np.random.default_rng([start, j, i]) for i in range(count))
        return np.array(
            [np.asarray(draw_scene(SCENE_CLASSES[j], g, (32, 32))).mean(axis=(0, 1)) for g in rngs]
        )

    centers = np.stack([colors(j, 25, 0).mean(axis=0) for j in range(len(SCENE_CLASSES))])
    hits = []
    for j in range(len(SCENE_CLASSES)):
        distance = ((colors(j, 20, 1)[:, None] - centers) ** 2).sum(axis=-1)
        hits += (distance.argmin(axis=1) == j).tolist()
    assert np.mean(hits) < 2 / len(SCENE_CLASSES)  # chance is 1 / 16; 320 draws


def test_classes_have_names_and_queries_of_their_own():
    words = [word for scene in SCENE_CLASSES for word in scene.words]
    assert len(set(words)) == len(words) and len(SCENE_CLASSES) == 16
    assert all(len(scene.words) > 1 and len(scene.queries) > 1 for scene in SCENE_CLASSES)
    assert len({scene.synset for scene in SCENE_CLASSES}) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 17}, "num_classes from 2 to 16; received 17"),
        ({"image_size_px": 8}, "image_size_px"),
        ({"imbalance": 0.5}, "imbalance"),
        ({"images": 20, "num_classes": 16}, "smallest class"),
        ({"confused": 1.5}, "share of confused"),
        ({"confused": 0.5, "random_label": 0.5}, "sum to at most 0.95"),
        ({"test_per_class": -1}, "test_per_class"),
        ({"layout": "tar"}, "webvision, folder, list; received 'tar'"),
        ({"sources": ("bing",)}, "google, flickr"),
        ({"sources": "google"}, "sources"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        draw_crawl(tmp_path / "crawl", **change)
    assert not os.listdir(tmp_path)


def test_an_existing_directory_is_left_alone(web):
    with pytest.raises(UsageError, match="exists already"):
        draw_crawl(web[0], **SMALL)


def test_an_odd_number_of_classes_and_no_noise(tmp_path):
    rates = dict.fromkeys(("confused", "out_of_vocabulary", "random_label", "ambiguous", "degraded"), 0.0)
    summary = draw_crawl(
        tmp_path / "crawl", images=15, num_classes=3, image_size_px=32, imbalance=1, val_per_class=0,
        test_per_class=0, hostile=False, workers=1, layout="list", sources=("bing",), **rates,
    )  # fmt: skip
    assert summary.kinds == {"clean": 15} and not summary.hostile
    assert (summary.train_images, summary.val_images, summary.test_images) == (15, 0, 0)
