"""Trees of folders as people have them, with the right reading of each."""

import numpy as np
import pytest
from urnet_fixtures.crawls import listed, plant

from urnet_tf.config import from_dict
from urnet_tf.crawl import class_choice
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.file_ranks import FileRanks
from urnet_tf.crawl.folders import read_folder
from urnet_tf.crawl.split_words import split_of, splits_of
from urnet_tf.crawl.trees import Tree, names_image
from urnet_tf.errors import UsageError
from urnet_tf.schema import STATUS
from urnet_tf.stages import ingest


def pair(*places, names="ab", suffix=".jpg"):
    """Two classes in each place."""
    return [f"{place}{name}/x{n}{suffix}" for place in places for name in names for n in "12"]


SPLIT_NAMES = [
    ("Train", "Test"), ("training", "testing"), ("training_set", "test_set"), ("train", "dev"),
    ("TRAIN", "VAL"), ("seg_train", "seg_test"), ("train", "valid"), ("train", "validation"),
    ("TrainSet", "TestSet"),
    ("train2017", "val2017"), ("1_train", "2_test"), ("dogs-train", "dogs-test"), ("trainset", "valset"),
    ("Training Images", "Validation Images"), ("imgs_train", "imgs_eval"), ("entrenamiento", "prueba"),
    ("Train_Data", "Test_Data"), ("训练集", "测试集"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "other"), SPLIT_NAMES)
def test_names_of_split_folders(tmp_path, train, other):
    plant(tmp_path, *pair(f"{train}/", f"{other}/"))
    crawl = read_folder(Tree(tmp_path))
    assert [entry["name"] for entry in crawl.classes] == ["a", "b"]
    split = "val" if any(word in other.lower() for word in ("val", "dev", "eval")) else "test"
    assert sorted(crawl.rows["split"].to_pylist()) == sorted(["train"] * 4 + [split] * 4)
    assert (not crawl.notes) == ({train, other} <= {"train", "val", "test"})


# name → (files, classes, training rows, rows of other splits, rows set aside, words of the notes)
TREES = {
    "plain": (pair(""), "a b", 4, 0, 0, []),
    "sources": (pair("a/", "b/", names=["google", "flickr"]), "a b", 8, 0, 0, []),
    "one level too many": (pair("images/"), "a b", 4, 0, 0, ["looked for in 'images'"]),
    "three levels too many": (pair("x/y/z/"), "a b", 4, 0, 0, ["'x/y/z'"]),
    "splits one level down": (pair("data/train/", "data/val/"), "a b", 4, 4, 0, ["'data'"]),
    "splits twice": (
        [*pair("seg_train/seg_train/", "seg_test/seg_test/"), "seg_pred/seg_pred/1.jpg"], "a b", 4, 4, 1,
        ["'seg_pred' beside them are left out"]),
    "models beside images": ([*pair("images/"), "models/x.pth"], "a b", 4, 0, 0, ["'images'"]),
    "models beside classes": ([*pair(""), "models/x.pth"], "a b", 4, 0, 0, ["'models' are taken for no cl"]),
    "pictures in runs": ([*pair(""), "runs/exp/plot.png", "runs/x.py"], "a b", 4, 0, 1, ["'runs'"]),
    "models beside splits": ([*pair("train/", "val/"), "models/x.pth"], "a b", 4, 4, 0, ["'models' beside"]),
    "folders of systems": (
        [*pair(""), "__MACOSX/a/._1.jpg", "__MACOSX/x.jpg", "@eaDir/x.jpg", "a/@eaDir/x1.jpg",
         "__pycache__/x.pyc", ".ipynb_checkpoints/x.jpg", "a/.ipynb_checkpoints/x.jpg"], "a b", 4, 0, 0, []),
    "own work directory": (
        [*pair(""), "run/.lock", "run/config.yaml", "run/report/x.jpg", "c/w/.lock", "c/w/ingest/x.jpg",
         "c/w/x.jpg", "c/1.jpg"], "a b c", 5, 0, 0, []),
    "loose images": ([*pair(""), "loose.jpg"], "a b", 4, 0, 1, []),
    "loose images above": ([*pair("images/"), "loose.jpg", "LICENSE.rst"], "a b", 4, 0, 1, ["'images'"]),
    "a class named data": ([*pair("", names=["a", "data"])], "a data", 4, 0, 0, []),
    "only names of no class": ([*pair("", names=["images", "data"])], "data images", 4, 0, 0, []),
    "a class named train": (["train/1.jpg", "plane/1.jpg"], "plane train", 2, 0, 0, []),
    "digits": (pair("", names=["0", "1", "10"]), "0 1 10", 6, 0, 0, []),
    "years": (pair("", names=["1999", "2005"]), "1999 2005", 4, 0, 0, []),
    "decomposed": (
        [*pair("train/", names=["caf\u00e9", "th\u00e9"]), *pair("val/", names=["cafe\u0301", "the\u0301"])],
        "caf\u00e9 th\u00e9", 4, 4, 0, ["written in several ways"]),
    "an empty class": ([*pair(""), "c/.keep"], "a b c", 4, 0, 0, []),
    "odd names of images": (["a/x.jpg?w=640", "a/5f3a9c", "b/X.JPG", "b/y.jpg_large"], "a b", 4, 0, 0, []),
    "only one class": (["a/1.jpg", "a/2.jpg"], "a", 2, 0, 0, []),
    "models in splits": ([*pair("train/", "val/"), "train/models/x.pth", "val/models/y.png"], "a b", 4, 4, 1,
                         ["'models' are taken for no cl"]),
    "images in splits": (pair("train/images/", "val/images/"), "a b", 4, 4, 0, []),
    "two levels of classes": ([*pair("animals/"), *pair("plants/", names="cd")], "animals plants", 8, 0, 0,
                              ["'animals', 'plants' holds folders of its own ('a', 'b', 'c')"]),
    "classes above splits": (
        pair("a/", "b/", names=["Train", "valid", "test"]), "a b", 4, 8, 0,
        ["read as splits: 'Train', 'test', 'valid'"]),
    "classes above splits and sources": (
        pair("a/train/", "b/train/", "a/val/", names=["google", "bing"]), "a b", 8, 4, 0, ["'train', 'val'"]),
    "a class with a source named train": (
        pair("a/", "b/", names=["train", "plane"]), "a b", 8, 0, 0, ["'plane' (4), 'train' (4)"]),
    "thumbnails in classes": ([*pair(""), *pair("a/", names=["thumbnails"])], "a b", 6, 0, 0,
                             ["'thumbnails' (2)"]),
    "flat test images": ([*pair("train/"), "test/1.jpg", "test/2.jpg"], "a b", 4, 2, 0, []),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees(tmp_path, name):
    files, classes, trained, others, aside, notes = TREES[name]
    plant(tmp_path, *files)
    crawl = read_folder(Tree(tmp_path))
    assert [entry["name"] for entry in crawl.classes] == classes.split()
    splits = crawl.rows["split"].to_pylist()
    assert (splits.count("train"), len(splits) - splits.count("train")) == (trained, others)
    assert len(crawl.rejected) == aside and set(crawl.rejected["status"].to_pylist()) <= set(STATUS)
    assert (not crawl.notes) == (not notes)
    assert all(any(words in note for note in crawl.notes) for words in notes), crawl.notes
    assert all((tmp_path / path).exists() for path in crawl.rows["path"].to_pylist())


REFUSALS = {
    "sources that are classes": (
        pair("fold1/", "fold2/"),
        "'fold1', 'fold2', which look like splits, each with .*'a'",
    ),
    "one word and another": (pair("train_v1/", "rest/"), "'rest', 'train_v1', which look like splits"),
    "flat splits": (
        ["train/cat.0.jpg", "train/dog.0.jpg", "test/1.jpg"],
        "a folder for each class in .*'test', 'tra",
    ),
    "a split beside its classes": (
        [*pair(""), "test/a/1.jpg"],
        "received 'test' beside them, which looks",
    ),
    "an older split": (
        [*pair("train/"), "Train_old/a/1.jpg"],
        "'Train_old', 'train', which look",
    ),
    "detection": (
        ["train/images/1.jpg", "train/labels/1.txt", "val/images/2.jpg"],
        "folder 'images' alone",
    ),
    "flat images": (["JPEGImages/1.jpg", "Annotations/1.xml"], "the folder 'JPEGImages' alone"),
    "an archive alone": (["crawl.zip", "readme.md"], "only files, one of them an archive: give .*crawl.zip"),
    "no training": (pair("val/", "test/"), "Expected a folder of training images"),
    "two validation sets": (pair("train/", "val/", "valid/"), "one folder of each split .* 'val', 'valid'"),
    "splits and classes": ([*pair("train/", "val/"), "extra/1.jpg"], "received both: .* and 'extra'"),
    "an unknown class": ([*pair("train/"), "val/c/1.jpg"], "'c', which has no training images"),
    "a list beside images": (
        ["train/1.jpg", "train/2.jpg", "labels.csv"],
        "'train' alone, beside 'labels.csv': give",
    ),
    "held images without classes": (
        [*pair("train/"), "val/images/1.jpg"],
        "'images', which has .* a list of their own \\(`val_path`\\)",
    ),
    "case": (["Red Fox/1.jpg", "red fox/1.jpg"], "'Red Fox' and 'red fox'; make them one with `merge="),
    "case of splits": (
        ["train/Cat/1.jpg", "val/cat/1.jpg"],
        "'cat', which has no training images; if 'Cat' .*`merge={cat: Cat}`",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path, name):
    files, words = REFUSALS[name]
    plant(tmp_path, *files)
    with pytest.raises(UsageError, match=words):
        read_folder(Tree(tmp_path))


def test_words_of_splits():
    texts = ("Train", "valid", "DEV", "test set", "fold 1", "contest", "train test")
    assert [split_of(text) for text in texts] == [
        "train", "val", "val", "test", None, None, None
    ]  # fmt: skip
    assert splits_of(["train station", "crash test", "bus"]) == {}
    assert splits_of(["cats_train", "dogs_test"]) == {}


def test_merged_chosen_and_excluded_classes(tmp_path):
    plant(
        tmp_path,
        *pair("train/", names=["puma", "cougar", "owl", "data"]),
        *pair("val/", names=["puma", "owl"]),
    )

    def read(**settings):
        crawl = ingest.read_crawl(from_dict({"ingest": {"path": str(tmp_path), **settings}}))
        assert len(crawl.rows) + len(crawl.rejected) == 12
        return [entry["name"] for entry in crawl.classes], listed(crawl, "label", "split"), crawl

    names, rows, crawl = read(merge={"puma": "cougar"})
    assert names == ["cougar", "owl"] and "'data' are taken for no classes" in " ".join(crawl.notes)
    assert sorted(rows).count((0, "train")) == 4 and sorted(rows).count((0, "val")) == 2
    names, rows, crawl = read(exclude=["owl"], merge={"puma": "cougar"})
    assert names == ["cougar"] and len(rows) == 6
    assert set(crawl.rejected["status"].to_pylist()) == {"excluded_class", "no_class"}
    assert any("('owl')" in reason for reason in crawl.rejected["reason"].to_pylist())
    assert set(crawl.rejected["label"].to_pylist()) == {-1}
    assert read(classes=["owl", "puma"])[0] == ["owl", "puma"]
    assert read(classes=["owl", "data"])[0] == ["data", "owl"]
    for settings, words in (
        ({"classes": ["owll"]}, "`?ingest.classes`?; received 'owll'; did you mean 'owl'"),
        ({"exclude": ["zebra"]}, "ingest.exclude; received 'zebra'; there are 'cougar'"),
        (
            {"merge": {"pumma": "cougar"}},
            "ingest.merge; received 'pumma', which is none; did you mean 'puma'",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            read(**settings)


def test_a_name_that_differs_in_case_is_kept_apart_or_merged(tmp_path):
    plant(tmp_path, *pair("", names=["A", "a", "b"]))
    assert [e["name"] for e in read_folder(Tree(tmp_path), ClassNames({"a": "a"})).classes] == ["A", "a", "b"]
    assert [e["name"] for e in read_folder(Tree(tmp_path), ClassNames({"a": "A"})).classes] == ["A", "b"]


def test_merging_classes_with_ids():
    import pyarrow as pa

    from urnet_tf.crawl.table import REJECTED_SCHEMA, ROW_SCHEMA, Crawl, class_entry

    entries = [class_entry(n, name, f"n0{n}") for n, name in enumerate(("puma", "owl", "cougar"))]
    rows = [("train", n % 3, "", 1, "", "", "", "", f"{n}.jpg") for n in range(6)]
    table = pa.table(dict(zip(ROW_SCHEMA.names, zip(*rows, strict=True), strict=True)), schema=ROW_SCHEMA)
    crawl = Crawl("/", entries, table, REJECTED_SCHEMA.empty_table())
    merged = class_choice.merge_classes(crawl, {"n00": "cougar"})
    assert [entry["id"] for entry in merged.classes] == ["n01", "n02"]
    assert merged.rows["label"].to_pylist() == [1, 0, 1, 1, 0, 1]
    with pytest.raises(UsageError, match="a circle"):
        class_choice.merge_classes(crawl, {"puma": "owl", "owl": "puma"})


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (["0001.jpg", "0002.jpg", "0004.png"], "name"),
        (["1. red fox.jpg", "2. a fox.png", "10. fox.jpg"], "name"),
        (["Image_1.jpg", "Image_12.jpg"], "name"),
        (["fox_000.jpg", "fox_001.jpg", "fox_003.jpg"], "name"),
        (["0.jpg", "1.jpg", "2.jpg"], "none"),
        (["IMG_4051.jpg", "IMG_4052.jpg"], "none"),
        (["n01440764_10026.jpg", "n01440764_10027.jpg"], "none"),
        (["ab12.jpg", "cd34.jpg"], "none"),
        (["fox_001.jpg", "cat_002.jpg"], "none"),
        (["1024.jpg", "0003.jpg", "2048.jpg"], "none"),
        ([], "none"),
    ],
)
def test_which_names_are_ranks(names, how):
    ranks = FileRanks()
    for name in names:
        ranks.add("a", name)
    assert ranks.decide() == how


def test_ranks_of_names(tmp_path):
    plant(tmp_path, "a/0001.jpg", "a/0003.jpg", "b/bing/0001.jpg")
    crawl = read_folder(Tree(tmp_path))
    assert crawl.rows["rank"].to_pylist() == [1, 2, 1]
    assert "(0001.jpg)" in crawl.notes[0] and "`rank=none`" in crawl.notes[0]
    crawl = read_folder(Tree(tmp_path), rank="none")
    assert crawl.rows["rank"].to_pylist() == [0, 0, 0] and not crawl.notes
    plant(tmp_path, "c/x.jpg")
    assert read_folder(Tree(tmp_path)).rows["rank"].to_pylist() == [0] * 4
    assert read_folder(Tree(tmp_path), rank="name").rows["rank"].to_pylist() == [1, 2, 1, 1]


def test_no_image_of_a_tree_is_lost_without_a_word(tmp_path):
    """Whatever the folders are called: each image is a row or a rejected row, once, or all is refused."""
    words = "cat dog owl train Test val images models fold1 @eaDir café Cat 1".split()
    names = ["1.jpg", "2.PNG", "x.pth", "y", "z.txt", "0001.jpg"]
    ends = {"read": 0, "refused": 0}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        root = tmp_path / str(seed)
        for _ in range(rng.integers(1, 16)):
            folders = [str(rng.choice(words)) for _ in range(rng.integers(0, 4))]
            plant(root, "/".join([*folders, str(rng.choice(names))]))
        tree = Tree(root)
        try:
            crawl = read_folder(tree)
        except UsageError as error:
            assert str(error).count(". ") == 0 and len(str(error)) < 400 + len(str(root))
            ends["refused"] += 1
            continue
        ends["read"] += 1
        told = crawl.rows["path"].to_pylist() + crawl.rejected["path"].to_pylist()
        assert len(told) == len(set(told)), seed
        images = {path for path, _ in tree.walk() if names_image(path)}
        assert images <= set(told), seed
        for row in crawl.rows.to_pylist():
            assert crawl.classes[row["label"]]["name"] in row["path"].split("/") or row["label"] == -1
    assert min(ends.values()) > 20, ends
