"""Class folders and lists."""

import errno
import os
import pathlib
import random
import subprocess
import time

import pyarrow as pa
import pyarrow.parquet
import pytest

from urnet_tf.crawl import table as crawls
from urnet_tf.crawl.list_reader import read_list
from urnet_tf.crawl.readers import (
    FOLDER,
    LIST,
    count_classes,
    count_rows,
    detect_kind,
    fingerprint_files,
    read_evaluation,
    read_folder,
    walk,
)
from urnet_tf.errors import RunError, UsageError


def plant(root, *names, data=b"x"):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def listed(crawl, *columns):
    return [tuple(row[c] for c in columns) for row in crawl.rows.to_pylist()]


def write_list(tmp_path, text, name="list.csv", **options):
    (tmp_path / name).write_text(text, newline="", **options)
    return str(tmp_path / name)


def test_folder_ranks_are_the_natural_order_inside_class_and_source(tmp_path):
    plant(tmp_path, "cat/10.jpg", "cat/9.jpg", "cat/google/2.jpg", "cat/google/1.jpg", "big_dog/a.jpg")
    crawl = read_folder(str(tmp_path))
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
    assert listed(read_folder(str(tmp_path)), "path") == [("a/noname",), ("a/page.html",)]


def test_hostile_folder_entries_become_rows(tmp_path):
    plant(
        tmp_path, "a/1.jpg", b"a/\xff.jpg", b"\xfe/1.jpg", "a/x.jpg/inner.jpg", "loose.jpg", "a/s/deep/1.jpg"
    )
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "s" / "deep" / "up").symlink_to(tmp_path / "a")
    crawl = read_folder(str(tmp_path))
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
    crawl = read_folder(str(tmp_path))
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
    assert [c["name"] for c in read_folder(str(tmp_path)).classes] == ["plane", "ship", "train"]


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
        read_folder(str(tmp_path))


def test_detect_kind_and_count(tmp_path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg", "b/.hidden", "notes.doc")
    assert detect_kind(str(tmp_path)) == "folder"
    assert count_rows(str(tmp_path / "a")) == 2
    path = write_list(tmp_path, "path,label\na,b\nc,d")
    assert (detect_kind(path), count_rows(path)) == ("list", 2)
    assert count_classes(path) is None
    assert count_classes(str(tmp_path)) == 2 and count_classes(str(tmp_path), first_classes=1) == 1
    plant(tmp_path, "split/train/a/1.jpg", "split/train/b/1.jpg", "split/val/a/1.jpg")
    assert count_classes(str(tmp_path / "split")) == 2
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


FULL = """\
path,label,source,rank,query,title,description,tags,split
a/1.jpg,cat,google,7,big cat,"A ""cat"", sitting
down",,t1,
a/2.jpg, cat ,google,,big cat,,,,train
b/1.jpg,dog,,2.0,,,,,
v.jpg,dog,,,,,,,val
t.jpg,,,,,,,,test
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_list_of_names(tmp_path, encoding):
    crawl = read_list(write_list(tmp_path, FULL, encoding=encoding))
    assert listed(crawl, "split", "label", "source", "rank", "query", "path") == [
        ("train", 0, "google", 7, "big cat", "a/1.jpg"),
        ("train", 0, "google", 2, "big cat", "a/2.jpg"),
        ("train", 1, "", 2, "dog", "b/1.jpg"),
        ("val", 1, "", 1, "", "v.jpg"),
        ("test", -1, "", 1, "", "t.jpg"),
    ]
    assert crawl.rows["title"][0].as_py() == 'A "cat", sitting\ndown'
    assert [c["queries"] for c in crawl.classes] == [["big cat"], ["dog"]]
    assert crawl.root == str(tmp_path)


def test_bad_rows_tell_their_line(tmp_path):
    text = (
        "path,label,rank,split\na.jpg,x,1,\n,x,1,\nb.jpg,,1,\nc.jpg,x,first,\nd.jpg,x,-3,\n"
        "e.jpg,x,1,,extra\n\nf.jpg,y,1,dev\ng.jpg,y\n"
    )
    crawl = read_list(write_list(tmp_path, text))
    assert listed(crawl, "path") == [("a.jpg",), ("g.jpg",)]
    reasons = {r["path"]: r["reason"] for r in crawl.rejected.to_pylist()}
    assert set(crawl.rejected["status"].to_pylist()) == {"bad_row"}
    assert reasons[""] == "line 3 of list.csv: the path is missing"
    assert "line 4" in reasons["b.jpg"] and "label is missing" in reasons["b.jpg"]
    assert "line 5" in reasons["c.jpg"] and "rank" in reasons["c.jpg"]
    assert "rank" in reasons["d.jpg"]
    assert "line 7" in reasons["e.jpg"] and "5 fields" in reasons["e.jpg"]
    assert "line 9" in reasons["f.jpg"] and "split" in reasons["f.jpg"]


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"path,label,title\n\xff.jpg,a,\nb.jpg,a,caf\xe9\n")
    crawl = read_list(str(tmp_path / "l.csv"))
    assert listed(crawl, "path", "title") == [("b.jpg", "caf?")]
    assert [(r["path"], r["status"]) for r in crawl.rejected.to_pylist()] == [("\\xff.jpg", "bad_name")]


def test_an_unclosed_quote_costs_few_rows(tmp_path):
    text = "path,label\na.jpg,x\n" + '"b.jpg,x\n' + "c.jpg,x\n" * 30_000
    crawl = read_list(write_list(tmp_path, text))
    assert len(crawl.rows) > 10_000
    assert "line 3" in crawl.rejected["reason"][0].as_py()


def test_numbered_labels(tmp_path):
    crawl = read_list(write_list(tmp_path, "path,label\na.jpg,1\nb.jpg,0\n"))
    assert crawl.rows["label"].to_pylist() == [1, 0]
    assert crawl.classes[1] == {"label": 1, "id": "1", "name": "1", "words": [], "queries": []}
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    crawl = read_list(str(tmp_path / "list.csv"))
    assert [c["name"] for c in crawl.classes] == ["cat", "dog", "owl"]
    assert crawl.rows["query"].to_pylist() == ["dog", "cat"]


@pytest.mark.parametrize(
    ("text", "classes", "words"),
    [
        ("path,label\na,0\nb,5\n", "cat\ndog\n", "'5' in line 3 .* outside of the 2 classes"),
        ("path,label\na,cat\nb,cow\n", "cat\ndog\n", "'cow' in line 3"),
        ("path,label\na,0\nb,7\n", None, "label 1"),
        ("path,label\na,0\nb,-2\n", None, "label -2"),
        ("path,label,split\na,0,train\nb,1,val\n", None, "'1' in line 3"),
        ("path,label,split\na,cat,train\nb,dog,val\n", None, "'dog' in line 3"),
        ("file,label\na,0\n", None, "'path' .* received the columns file, label"),
        ("", None, "columns none"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path, text, classes, words):
    if classes:
        (tmp_path / "classes.txt").write_text(classes)
    with pytest.raises(UsageError, match=words):
        read_list(write_list(tmp_path, text))


def test_a_list_with_semicolons_a_mark_and_windows_lines(tmp_path):
    path = write_list(tmp_path, "path;label\r\na,1.jpg;cat\r\nb.jpg;dog\r\n", encoding="utf-8-sig")
    assert listed(read_list(path), "path", "label") == [("a,1.jpg", 0), ("b.jpg", 1)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf16_is_refused_by_name(tmp_path, encoding):
    path = write_list(tmp_path, "\ufeffpath,label\r\na.jpg,cat\r\n", encoding=encoding)
    with pytest.raises(UsageError, match="received UTF-16"):
        read_list(path)


def test_parquet_list(tmp_path):
    table = pa.table(
        {
            "Path": ["a.jpg", "b.jpg", None, "c.jpg"],
            "label": pa.array([1, 0, 1, 1], pa.int64()),
            "rank": [3.0, None, 1.0, 2.5],
            "tags": [["red", "cat"], None, [], []],
            "other": [1, 2, 3, 4],
        }
    )
    pa.parquet.write_table(table, tmp_path / "list.parquet")
    path = str(tmp_path / "list.parquet")
    assert count_rows(path) == 4
    crawl = read_list(path, image_root="/images")
    assert listed(crawl, "path", "label", "rank", "tags") == [
        ("a.jpg", 1, 3, "red, cat"),
        ("b.jpg", 0, 1, ""),
    ]
    assert [r["reason"] for r in crawl.rejected.to_pylist()] == [
        "row 3 of list.parquet: the path is missing",
        "row 4 of list.parquet: the rank is not a whole number from 0",
    ]
    assert crawl.root == "/images"


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "l.parquet").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="Cannot read the list"):
        read_list(str(tmp_path / "l.parquet"))


def not_utf8(*values):
    """A text column that claims to be UTF-8."""
    encoded = pa.array([v if isinstance(v, bytes) else v.encode() for v in values], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(encoded), encoded.buffers())


def test_parquet_text_that_is_not_utf8(tmp_path):
    columns = {
        "path": not_utf8("a.jpg", b"b\xff.jpg", "c.jpg"),
        "label": not_utf8("x", "x", b"\xe9"),
        "title": not_utf8(b"caf\xe9", "", "good"),
    }
    path = str(tmp_path / "l.parquet")
    pa.parquet.write_table(pa.table(columns), path)
    crawl = read_list(path)
    assert listed(crawl, "path", "label", "title") == [("a.jpg", 1, "caf\\xe9"), ("c.jpg", 0, "good")]
    (row,) = crawl.rejected.to_pylist()
    assert (row["path"], row["status"]) == ("b\\xff.jpg", "bad_name")
    assert row["reason"] == "row 2 of l.parquet: the path is not valid UTF-8"


def test_every_damaged_parquet_file_ends_in_one_sentence(tmp_path):
    good, path = tmp_path / "good.parquet", str(tmp_path / "l.parquet")
    table = pa.table({"path": ["a.jpg", "b.jpg"], "label": ["x", "y"], "tags": [["t"], None]})
    pa.parquet.write_table(table, good)
    data, draw, refused = good.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.choice([1, 2, 5])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        pathlib.Path(path).write_bytes(damaged[: draw.choice([len(data), draw.randrange(len(data))])])
        for read in (read_list, count_rows):
            try:
                read(path)
            except UsageError as error:
                assert "\n" not in str(error) and len(str(error)) < 400 + len(path)
                refused += 1
    assert refused > 100


def test_two_parquet_columns_of_one_name(tmp_path):
    table = pa.table([["a"], ["b"], ["x"]], names=["path", "path", "label"])
    pa.parquet.write_table(table, tmp_path / "l.parquet")
    with pytest.raises(UsageError, match="Multiple matches|duplicate field names"):
        read_list(str(tmp_path / "l.parquet"))


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
    with pytest.raises(UsageError, match="Expected a folder, a WebVision tree or a list"):
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
        assert listed(read_folder(str(tmp_path)), "path") == [("a/1.jpg",), (deepest,)]
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
    classes = read_folder(str(tmp_path / "crawl")).classes[:2]
    root = str(tmp_path / "crawl")
    rows, _ = read_evaluation(str(tmp_path / "else"), "val", classes, root)
    assert rows.to_pylist()[0] | {"rank": 1} == {
        "split": "val", "label": 1, "source": "", "rank": 1, "query": "", "title": "", "description": "",
        "tags": "", "path": str(tmp_path / "else" / "b" / "v.jpg"),
    }  # fmt: skip
    rows, _ = read_evaluation(str(tmp_path / "crawl" / "val"), "test", classes, root)
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
