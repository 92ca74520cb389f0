"""Class folders and lists."""

import errno
import os
import subprocess
import time

import pytest
from urnet_fixtures.crawls import listed, plant, write_list

from urnet_tf.crawl import table as crawls
from urnet_tf.crawl.folders import read_folder
from urnet_tf.crawl.list_reader import read_list
from urnet_tf.crawl.readers import (
    FOLDER,
    LIST,
    detect_kind,
    fingerprint_files,
    read_evaluation,
)
from urnet_tf.crawl.trees import Tree, walk
from urnet_tf.errors import RunError, UsageError


def test_folder_ranks_are_the_natural_order_inside_class_and_source(tmp_path):
    plant(tmp_path, "cat/10.jpg", "cat/9.jpg", "cat/google/2.jpg", "cat/google/1.jpg", "big_dog/a.jpg")
    crawl = read_folder(Tree(str(tmp_path)), rank="name")
    assert listed(crawl, "label", "source", "rank", "path") == [
        (0, "", 1, "big_dog/a.jpg"),
        (1, "", 1, "cat/9.jpg"),
        (1, "", 2, "cat/10.jpg"),
        (1, "google", 1, "cat/google/1.jpg"),
        (1, "google", 2, "cat/google/2.jpg"),
    ]
    assert crawl.rows["query"].to_pylist()[0] == "big dog"
    assert crawl.classes[0] == {
        "label": 0, "id": "big_dog", "name": "big_dog", "words": ["big dog"], "queries": ["big dog"]
    }  # fmt: skip


def test_folder_ignores_hidden_and_side_files_and_lists_the_rest(tmp_path):
    plant(
        tmp_path, "a/.x.jpg", ".git/x.jpg", "a/Thumbs.db", "a/x.json", "readme.md", "a/page.html", "a/noname"
    )
    assert listed(read_folder(Tree(str(tmp_path))), "path") == [("a/noname",), ("a/page.html",)]


def test_hostile_folder_entries_become_rows(tmp_path):
    plant(
        tmp_path, "a/1.jpg", b"a/\xff.jpg", b"\xfe/1.jpg", "a/x.jpg/inner.jpg", "loose.jpg", "a/s/deep/1.jpg"
    )
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "s" / "deep" / "up").symlink_to(tmp_path / "a")
    crawl = read_folder(Tree(str(tmp_path)))
    assert sorted(listed(crawl, "path")) == [("a/1.jpg",), ("a/loop.jpg",), ("a/s/deep/1.jpg",)]
    rejected = {row["path"]: (row["status"], row["label"]) for row in crawl.rejected.to_pylist()}
    assert rejected == {
        "a/\\xff.jpg": ("bad_name", 0),
        "\\xfe": ("bad_name", -1),
        "a/x.jpg": ("not_a_file", 0),
        "loose.jpg": ("bad_row", -1),
        "a/again": ("symlink_loop", 0),
        "a/s/deep/up": ("not_a_file", 0),
    }


def test_folder_with_given_splits(tmp_path):
    plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "valid/b/v.jpg", "test/t.jpg", "test/u.jpg")
    crawl = read_folder(Tree(str(tmp_path)))
    assert [c["name"] for c in crawl.classes] == ["a", "b"]
    assert sorted(listed(crawl, "split", "label", "query", "path")) == [
        ("test", -1, "", "test/t.jpg"),
        ("test", -1, "", "test/u.jpg"),
        ("train", 0, "a", "train/a/1.jpg"),
        ("train", 1, "b", "train/b/1.jpg"),
        ("val", 1, "", "valid/b/v.jpg"),
    ]


def test_a_class_named_train_is_a_class(tmp_path):
    plant(tmp_path, "train/1.jpg", "plane/1.jpg", "ship/google/1.jpg")
    assert [c["name"] for c in read_folder(Tree(str(tmp_path))).classes] == ["plane", "ship", "train"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x.jpg"], "class folders .* received only files"),
        ([".hidden"], "received an empty folder"),
        (["train/a/1.jpg", "val/c/1.jpg"], "'c'"),
        (["train/a/1.jpg", "val/a/1.jpg", "extra/1.jpg"], "extra"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path, names, words):
    plant(tmp_path, *names)
    with pytest.raises(UsageError, match=words):
        read_folder(Tree(str(tmp_path)))


def test_detect_kind(tmp_path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg", "b/.hidden", "notes.doc")
    assert detect_kind(str(tmp_path)) == "folder"
    assert detect_kind(write_list(tmp_path, "path,label\na,b\nc,d")) == "list"
    for bad in ("absent", "notes.doc"):
        with pytest.raises(UsageError):
            detect_kind(str(tmp_path / bad))


def test_folder_fingerprint_follows_content(tmp_path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg")
    before = fingerprint_files(str(tmp_path), FOLDER)
    assert before.startswith("2 files #") and fingerprint_files(str(tmp_path), FOLDER) == before
    plant(tmp_path, "a/2.jpg", data=b"longer")
    assert fingerprint_files(str(tmp_path), FOLDER) != before


def test_the_fingerprint_of_a_list_follows_the_listed_files(tmp_path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg", "other.jpg")
    path = tmp_path / "list.csv"
    path.write_text("path,label\na/1.jpg,cat\na/2.jpg,dog\nmissing.jpg,dog\n")
    before = fingerprint_files(str(path), LIST)
    assert before.startswith("3 files #")
    plant(tmp_path, "other.jpg", data=b"not listed")
    assert fingerprint_files(str(path), LIST) == before
    plant(tmp_path, "missing.jpg")
    added = fingerprint_files(str(path), LIST)
    os.utime(tmp_path / "a" / "1.jpg", ns=(1, 1))
    assert len({before, added, fingerprint_files(str(path), LIST)}) == 3


def test_walk_is_sorted(tmp_path):
    plant(tmp_path, "b/1.jpg", "a/10.jpg", "a/2.jpg", "a/02.jpg")
    assert [path for path, _ in walk(str(tmp_path))] == ["a/02.jpg", "a/2.jpg", "a/10.jpg", "b/1.jpg"]


def test_what_stands_where_a_file_should_be(tmp_path):
    path = write_list(tmp_path, "path,label\na.jpg,x\n")
    (tmp_path / "classes.txt").mkdir()
    with pytest.raises(UsageError, match="one class name a line in .*classes.txt.*a directory"):
        read_list(path)
    (tmp_path / "classes.txt").rmdir()
    os.mkfifo(tmp_path / "classes.txt")  # opened like a file it would wait for ever
    with pytest.raises(UsageError, match="a pipe, socket or device"):
        read_list(path)
    os.symlink("/dev/zero", tmp_path / "endless.csv")
    with pytest.raises(UsageError, match="Expected a folder, a WebVision tree, an archive"):
        detect_kind(str(tmp_path / "endless.csv"))


def test_a_name_of_the_crawl_that_is_not_utf8_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    plant(path, "a/1.jpg")
    with pytest.raises(UsageError, match=r"in UTF-8 for the images; received .*caf\\xe9"):
        detect_kind(path)


def test_folders_1500_levels_deep(tmp_path):
    plant(tmp_path, "a/1.jpg")
    above = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(os.open("x.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=above))
    os.close(above)
    try:
        deepest = "a/" + "d/" * 1500 + "x.jpg"
        assert list(walk(str(tmp_path))) == [("a/1.jpg", None), (deepest, None)]
        assert listed(read_folder(Tree(str(tmp_path))), "path") == [("a/1.jpg",), (deepest,)]
    finally:  # what clears up behind pytest recurses
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def test_folders_deeper_than_a_path_can_be_are_a_row(tmp_path):
    part = "n" * 200
    above = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(part, dir_fd=above)
        above = os.open(part, os.O_RDONLY, dir_fd=above)
    ((path, status),) = list(walk(str(tmp_path)))
    assert status == "unreadable" and 15 < path.count("/") < 25


def test_a_disk_that_fails_while_folders_are_listed_stops_the_run(tmp_path, monkeypatch):
    plant(tmp_path, "a/1.jpg", "b/1.jpg")
    scan, calls = os.scandir, []

    def fails(path):
        calls.append(path)
        if str(path).endswith("/b"):
            raise OSError(errno.EIO, "Input/output error")
        return scan(path)

    monkeypatch.setattr(os, "scandir", fails)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(RunError, match="Cannot read .*/b: Input/output error"):
        list(walk(str(tmp_path)))
    assert sum(path.endswith("/b") for path in calls) == 4


def test_evaluation_images_from_elsewhere(tmp_path):
    plant(tmp_path / "crawl", "a/1.jpg", "b/1.jpg", "val/x.jpg")
    plant(tmp_path / "else", "b/v.jpg")
    classes = read_folder(Tree(str(tmp_path / "crawl"))).classes[:2]
    root = str(tmp_path / "crawl")
    rows = read_evaluation(str(tmp_path / "else"), "val", classes, root).rows
    assert rows.to_pylist()[0] | {"rank": 1} == {
        "split": "val", "label": 1, "source": "", "rank": 1, "query": "", "title": "", "description": "",
        "tags": "", "path": str(tmp_path / "else" / "b" / "v.jpg"),
    }  # fmt: skip
    rows = read_evaluation(str(tmp_path / "crawl" / "val"), "test", classes, root).rows
    assert rows["path"].to_pylist() == ["val/x.jpg"]
    path = write_list(tmp_path, "path,label\ncrawl/a/1.jpg,a\nx.jpg,1\n")
    with pytest.raises(UsageError, match="'1' in line 3"):
        read_evaluation(path, "val", classes, root)
    plant(tmp_path / "strange", "zebra/v.jpg")
    with pytest.raises(UsageError, match="zebra"):
        read_evaluation(str(tmp_path / "strange"), "val", classes, root)
    plant(tmp_path / "flat", "v.jpg")
    with pytest.raises(UsageError, match="Expected val images"):
        read_evaluation(str(tmp_path / "flat"), "val", classes, root)


def test_filters(tmp_path):
    text = "path,label,source,rank,split\n"
    text += "".join(
        f"{s}{r}.jpg,{c},{s},{r},\n" for c in "xy" for s in ("google", "flickr") for r in (1, 2, 3)
    )
    crawl = read_list(write_list(tmp_path, text + "v.jpg,y,,9,val\n"))
    assert len(crawls.keep_sources(crawl, ["google"]).rows) == 7
    assert len(crawls.keep_first_classes(crawl, 1).rows) == 6
    cut = crawls.cut_ranks(crawl, {"flickr": 2})
    assert len(cut.rows) == 11
    assert cut.rejected["status"].to_pylist() == ["rank_cut"] * 2
    assert cut.rejected["reason"][0].as_py().endswith("(flickr: 2 a query)")
    with pytest.raises(UsageError, match="bing"):
        crawls.keep_sources(crawl, ["bing"])
    with pytest.raises(UsageError, match="bing"):
        crawls.cut_ranks(crawl, {"bing": 2})


def test_the_top_results_of_a_class_come_in_turn_from_its_queries(tmp_path):
    rows = [
        ("a1", "x", "flickr", "red fox", 4), ("a2", "x", "flickr", "red fox", 1),
        ("a3", "x", "flickr", "red fox", 2), ("b1", "x", "flickr", "vulpes", 7),
        ("b2", "x", "flickr", "vulpes", 3), ("c1", "y", "flickr", "owl", 9),
        ("g1", "x", "google", "red fox", 50),
    ]  # fmt: skip
    text = "path,label,source,query,rank,split\n"
    text += "".join(",".join(map(str, row)) + ",\n" for row in rows)
    crawl = read_list(write_list(tmp_path, text + "v,y,flickr,,9,val\n"))

    def kept(limit, per):
        return crawls.cut_ranks(crawl, {"flickr": limit}, per).rows["path"].to_pylist()

    # Places in x: a2 (best of red fox), b2 (best of vulpes), a3, b1, a1; ranks themselves do not matter.
    assert kept(2, "class") == ["a2", "b2", "c1", "g1", "v"]
    assert kept(3, "class") == ["a2", "a3", "b2", "c1", "g1", "v"]
    assert kept(4, "class") == ["a2", "a3", "b1", "b2", "c1", "g1", "v"]
    assert kept(2, "query") == ["a2", "a3", "g1", "v"]
    cut = crawls.cut_ranks(crawl, {"flickr": 4}, "class")
    assert cut.rejected["reason"][0].as_py().endswith("(flickr: 4 a class)")
