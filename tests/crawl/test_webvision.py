"""WebVision trees of both layouts, with the traps that the real ones hold."""

import errno
import json
import os
import time

import pytest

from urnet_tf.crawl import search_metadata
from urnet_tf.crawl.readers import WEBVISION, detect_kind, fingerprint_files
from urnet_tf.crawl.webvision import read_webvision
from urnet_tf.errors import RunError, UsageError

SYNSETS = "n01 tench, Tinca tinca\nn02 great white shark, man-eater\nn03 hen\n"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def version_1(root):
    """1.0: four digits, synset ids from 1, a queries file and lists for each source."""
    write(
        root,
        {
            "info/synsets.txt": SYNSETS,
            "info/queries_google.txt": (
                "2 white+shark\n1 tench\n3 café hen\n4 carcharodon +carcharias\n9 hen house"
            ),
            "info/queries_flickr.txt": "1 tench\n2 white shark\n3 hens\n4 carcharodon",
            "info/queries_synsets_map.txt": "3 3\n4 2\n1 1\n2 2\n9 3\n",
            "info/train_filelist_google.txt": (
                "google/q0001/aa.jpg 0\ngoogle/q0001/bb.png 0\ngoogle/q0001/cc.jpg 0\ngoogle/q0004/dd.jpg 1\n"
                "google/q0002/ee.jpg 1\ngoogle/q0003/my hen.jpg 2\nnonsense\n"
            ),
            "info/train_meta_list_google.txt": (
                "google/q0001.json 2\ngoogle/q0001.json 1\ngoogle/q0001.json 9\ngoogle/q0004.json 1\n"
                "google/q0002.json 1\ngoogle/q0003.json 1\ngoogle/q0001.json 1\n"
            ),
            "info/train_filelist_flickr.txt": (
                "flickr/q0001/ff.jpg 0\nflickr/q0003/gg.jpg 2\nflickr/q0001/hh.jpg 0\n"
            ),
            "info/train_meta_list_flickr.txt": (
                "flickr/q0001.json 1\nflickr/q0003.json 1\nflickr/q0001.json 2"
            ),
            "info/val_filelist.txt": "val1.jpg 2\nval2.jpg 0\n",
            "info/test_filelist.txt": "test1.jpg\ntest2.jpg\n",
            "meta/google/q0001.json": [
                {"id": "bb", "title": "A bb", "description": None, "rank": "17"},
                {"id": "aa", "title": "half \ud83d of a face", "rank": "3", "url": "x"},
            ],
            "meta/google/q0004.json": [{"id": "zz", "title": "row says so", "rank": "none"}],
            "meta/google/q0002.json": "{broken",
            "meta/flickr/q0001.json": [
                {"id": "hh", "tags": ["two words", "b"]}, {"id": "ff", "tags": "plain"}
            ],
            "google/q0001/aa.jpg": "", "google/q0001/bb.jpg": "", "val_images_256/val1.jpg": "",
            "test_images_256/test1.jpg": "",
        },
    )  # fmt: skip
    return str(root)


def version_2(root):
    """2.0: five digits, synset ids from 0, one queries file, other folder names."""
    write(
        root,
        {
            "info/synsets.txt": SYNSETS,
            "info/queries.txt": "1 tench+fish\n2 shark\n3 hen\n",
            "info/queries_synsets_map.txt": "1 0\n2 1\n3 2\n",
            "info/train_filelist_all.txt": (
                "google_images_resized/q00001/a.jpg 0\nflickr_images_resized/q00002/b.jpg 1\n"
                "google_images_resized/q00003/c.jpg 2\n"
            ),
            "info/train_meta_list_all.txt": (
                "google/q00001.json 1\nflickr/q00002.json 1\ngoogle/q00003.json 1\n"
            ),
            "info/val_filelist.txt": "val1.jpg 2\n",
            "google/q00001.json": [{"id": "a", "title": "T", "rank": 5}],
            "val_images_resized/val1.jpg": "",
        },
    )
    return str(root)


def by_path(crawl, *columns):
    rows = {row["path"]: tuple(row[c] for c in columns) for row in crawl.rows.to_pylist()}
    return {path: values if len(values) > 1 else values[0] for path, values in rows.items()}


def test_version_1(tmp_path):
    path = version_1(tmp_path)
    assert detect_kind(path) == "webvision"
    crawl = read_webvision(path)
    assert by_path(crawl, "split", "label", "source", "rank", "query") == {
        "google/q0001/aa.jpg": ("train", 0, "google", 3, "tench"),
        "google/q0001/bb.jpg": ("train", 0, "google", 17, "tench"),  # listed as .png
        "google/q0001/cc.jpg": ("train", 0, "google", 3, "tench"),  # no record: third in the list
        "google/q0004/dd.jpg": ("train", 1, "google", 1, "carcharodon carcharias"),
        "google/q0002/ee.jpg": ("train", 1, "google", 1, "white shark"),
        "google/q0003/my hen.jpg": ("train", 2, "google", 1, "café hen"),
        "flickr/q0001/ff.jpg": ("train", 0, "flickr", 1, "tench"),
        "flickr/q0003/gg.jpg": ("train", 2, "flickr", 1, "hens"),
        "flickr/q0001/hh.jpg": ("train", 0, "flickr", 2, "tench"),
        "val_images_256/val1.jpg": ("val", 2, "", 0, ""),
        "val_images_256/val2.jpg": ("val", 0, "", 0, ""),
        "test_images_256/test1.jpg": ("test", -1, "", 0, ""),
        "test_images_256/test2.jpg": ("test", -1, "", 0, ""),
    }
    texts = by_path(crawl, "title", "tags")
    assert texts["google/q0001/aa.jpg"] == ("half ? of a face", "")
    assert texts["google/q0004/dd.jpg"] == ("row says so", "")  # the id differs: the row decides
    assert texts["flickr/q0001/ff.jpg"] == ("", "plain")  # the row names another id that is there
    assert texts["flickr/q0001/hh.jpg"] == ("", "two words, b")
    assert [(r["status"], r["reason"]) for r in crawl.rejected.to_pylist()] == [
        ("bad_row", "line 7 of info/train_filelist_google.txt: expected a path and a label")
    ]
    assert crawl.classes[1] == {
        "label": 1, "id": "n02", "name": "great white shark", "words": ["great white shark", "man-eater"],
        "queries": ["white shark", "carcharodon", "carcharodon carcharias"],
    }  # fmt: skip
    assert "hen house" in crawl.classes[2]["queries"]  # known from the map alone
    assert any("3 of 6 metadata files" in note for note in crawl.notes)


def test_long_texts_are_cut_and_counted(tmp_path):
    path = version_2(tmp_path)
    records = [{"id": "a", "title": "T" * 5000, "tags": ["é"] * 2000}]
    (tmp_path / "google/q00001.json").write_text(json.dumps(records))
    crawl = read_webvision(path)
    assert crawl.rows["title"].to_pylist().count("T" * 4000) == 1
    note = "texts longer than 4,000 characters are cut there: 1 of the column title, 1 of the column tags"
    assert note in crawl.notes and note not in read_webvision(path, metadata=False).notes


def test_version_2(tmp_path):
    path = version_2(tmp_path)
    crawl = read_webvision(path)
    assert by_path(crawl, "split", "label", "source", "rank", "query", "title") == {
        "google_images_resized/q00001/a.jpg": ("train", 0, "google", 5, "tench fish", "T"),
        "flickr_images_resized/q00002/b.jpg": ("train", 1, "flickr", 1, "shark", ""),
        "google_images_resized/q00003/c.jpg": ("train", 2, "google", 1, "hen", ""),
        "val_images_resized/val1.jpg": ("val", 2, "", 0, "", ""),
    }
    assert [c["queries"] for c in crawl.classes] == [["tench fish"], ["shark"], ["hen"]]
    plain = read_webvision(path, metadata=False)
    assert by_path(plain, "split", "label", "source", "rank", "query", "title") == {
        name: (*row[:3], row[3] and 1, row[4], "") for name, row in by_path(
            crawl, "split", "label", "source", "rank", "query", "title").items()
    }  # fmt: skip
    only = read_webvision(path, sources=["flickr"], first_classes=2)
    assert by_path(only, "label") == {"flickr_images_resized/q00002/b.jpg": 1}
    assert len(only.classes) == 2


@pytest.mark.parametrize("base", [0, 1])
def test_the_file_list_decides_where_synset_ids_start(tmp_path, base):
    path = version_2(tmp_path)
    write(tmp_path, {"info/queries_synsets_map.txt": f"2 {1 + base}\n"})  # the range fits both
    crawl = read_webvision(path)
    assert [c["queries"] for c in crawl.classes] == [["tench fish"], ["shark"], ["hen"]]
    assert crawl.notes == read_webvision(path).notes
    assert not any("another class" in note for note in crawl.notes)


def test_a_map_that_contradicts_the_lists_is_noted(tmp_path):
    path = version_2(tmp_path)
    write(tmp_path, {"info/queries_synsets_map.txt": "1 0\n2 1\n3 0\n"})
    assert any(
        "another class than the file lists for 1 queries" in note for note in read_webvision(path).notes
    )


def test_only_the_sources_and_classes_asked_for(tmp_path):
    crawl = read_webvision(version_1(tmp_path), sources=("google",), first_classes=2)
    paths = by_path(crawl, "label")
    assert {p for p in paths if p.startswith("flickr")} == set()
    assert set(paths.values()) == {0, 1, -1}
    assert len(crawl.classes) == 2


@pytest.mark.parametrize(
    "name",
    [
        "synsets.txt", "queries_synsets_map.txt", "train_meta_list_google.txt", "train_filelist_google.txt",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(tmp_path, name):
    path = version_1(tmp_path)
    os.remove(tmp_path / "info" / name)
    with pytest.raises(UsageError, match=f"info/{name}"):
        read_webvision(path, sources=["google"])


def test_missing_queries_are_named(tmp_path):
    path = version_2(tmp_path)
    os.remove(tmp_path / "info/queries.txt")
    with pytest.raises(UsageError, match="info/queries.txt or info/queries_google.txt"):
        read_webvision(path)


@pytest.mark.parametrize("text", ["google/q00001.json 1\n", "google/q00001.json 1\n" * 4])
def test_lists_of_different_lengths(tmp_path, text):
    path = version_2(tmp_path)
    write(tmp_path, {"info/train_meta_list_all.txt": text})
    with pytest.raises(UsageError, match="as many lines in info/train_meta_list_all.txt"):
        read_webvision(path)


@pytest.mark.parametrize("name", ["train_filelist_all.txt", "val_filelist.txt"])
def test_a_label_outside_of_the_classes(tmp_path, name):
    path = version_2(tmp_path)
    write(tmp_path, {f"info/{name}": "google_images_resized/q00001/a.jpg 3\n"})
    with pytest.raises(UsageError, match=f"label 3 in line 1 of info/{name}"):
        read_webvision(path)


def test_validation_images_that_were_not_downloaded(tmp_path):
    path = version_1(tmp_path)
    os.rename(tmp_path / "val_images_256", tmp_path / "other")
    crawl = read_webvision(path)
    assert "val" not in crawl.rows["split"].to_pylist()
    assert any("val_filelist.txt" in note for note in crawl.notes)


def test_white_space_marks_and_blank_lines(tmp_path):
    path = version_2(tmp_path)
    lists = {
        "train_filelist_all.txt": (
            "google_images_resized/q00001/a.jpg\t0  \r\nflickr_images_resized/q00002/b.jpg   1\n\n"
        ),
        "train_meta_list_all.txt": "\ufeffgoogle/q00001.json\t1\nflickr/q00002.json 1\n",
    }
    write(tmp_path, {f"info/{name}": text for name, text in lists.items()})
    found = by_path(read_webvision(path), "label", "title")
    assert found["google_images_resized/q00001/a.jpg"] == (0, "T")
    assert found["flickr_images_resized/q00002/b.jpg"] == (1, "")


def test_a_blank_line_keeps_its_place(tmp_path):
    """Line n of the metadata list belongs to line n of the file list, as a number in a message does."""
    path = version_2(tmp_path)
    images = ("google_images_resized/q00001/a.jpg 0", "", "google_images_resized/q00003/a.jpg 2")
    metas = ("google/q00001.json 1", "lost.json 1", "google/q00003.json 1")
    write(
        tmp_path,
        {
            "info/train_filelist_all.txt": "\n".join(images),
            "info/train_meta_list_all.txt": "\n".join(metas),
            "google/q00003.json": [{"id": "a", "title": "third", "rank": 1}],
        },
    )
    crawl = read_webvision(path)
    assert by_path(crawl, "title")["google_images_resized/q00003/a.jpg"] == "third"
    (row,) = crawl.rejected.to_pylist()
    assert row["status"] == "bad_row" and "line 2 of info/train_filelist_all.txt" in row["reason"]


@pytest.mark.parametrize(("synsets", "queries"), [("1 2 3", [["seven"], ["eight"], ["nine"]]),
                                                  ("1 2 2", [[], ["seven"], ["eight", "nine"]]),
                                                  ("0 1 2", [["seven"], ["eight"], ["nine"]])])  # fmt: skip
def test_the_range_of_synset_ids_decides_where_the_lists_know_no_query(tmp_path, synsets, queries):
    path = version_2(tmp_path)
    pairs = zip((7, 8, 9), synsets.split(), strict=True)
    write(
        tmp_path,
        {
            "info/queries.txt": "7 seven\n8 eight\n9 nine\n",
            "info/queries_synsets_map.txt": "".join(f"{query} {synset}\n" for query, synset in pairs),
        },
    )
    assert [entry["queries"] for entry in read_webvision(path).classes] == queries


def test_webtiny(webtiny):
    crawl = read_webvision(str(webtiny))
    splits = crawl.rows["split"].to_pylist()
    assert [splits.count(s) for s in ("train", "val", "test")] == [7436, 2950, 6490]
    assert len(crawl.classes) == 59
    assert not len(crawl.rejected)
    assert crawl.notes == ()
    assert max(len(c["queries"]) for c in crawl.classes) > 1
    assert min(len(c["queries"]) for c in crawl.classes) == 1
    assert sum(title != "" for title in crawl.rows["title"].to_pylist()) == 7103
    assert all(os.path.exists(webtiny / path) for path in crawl.rows["path"].to_pylist()[::50])


def test_null_bytes_in_lists_are_rejected_rows(tmp_path):
    version_1(tmp_path)
    for name, lines in {
        "train_filelist_google.txt": (
            "google/q\0001/aa.jpg 0\ngoogle/q0001/b\0b.png 0\ngoogle/q0001/cc.jpg 0\n"
        ),
        "train_meta_list_google.txt": "google/q\0001.json 2\n\0 1\ngoogle/q0001.json\0 1\n",
        "val_filelist.txt": "val\0.jpg 2\nval2.jpg 0\n",
    }.items():
        (tmp_path / "info" / name).write_text(lines)
    crawl = read_webvision(str(tmp_path))
    rejected = {row["path"]: row["status"] for row in crawl.rejected.to_pylist()}
    assert rejected == dict.fromkeys(
        ["google/q\0001/aa.jpg", "google/q0001/b\0b.png", "val_images_256/val\0.jpg"], "bad_name"
    )
    assert "google/q0001/cc.jpg" in crawl.rows["path"].to_pylist()


@pytest.mark.parametrize("content", ['[{"id": "aa", "ti', "[" * 100_000, "[" + "9" * 5000 + "]", "\0", ""])
def test_damaged_metadata_leaves_texts_empty_and_is_told(tmp_path, content):
    version_1(tmp_path)
    (tmp_path / "meta/google/q0001.json").write_text(content)
    crawl = read_webvision(str(tmp_path))
    assert any("metadata files are missing or broken" in note for note in crawl.notes)
    titles = {row["path"]: row["title"] for row in crawl.rows.to_pylist()}
    assert titles["google/q0001/aa.jpg"] == ""


def test_a_disk_that_fails_under_metadata_stops_the_run(tmp_path, monkeypatch):
    version_1(tmp_path)

    def fails(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(search_metadata, "_read_json", fails)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(RunError, match="Cannot read .*json: Stale file handle"):
        read_webvision(str(tmp_path))


def test_the_fingerprint_follows_listed_images_and_their_metadata(tmp_path):
    path = version_1(tmp_path)

    def found():
        return fingerprint_files(path, WEBVISION)

    states = [found()]
    assert found() == states[0]
    (tmp_path / "google/q0001/not_listed.jpg").write_text("")
    assert found() == states[0]
    for name, content in (
        ("google/q0001/aa.jpg", "changed"), ("google/q0001/cc.jpg", "added"), ("val_images_256/val2.jpg", ""),
        ("test_images_256/test1.jpg", "changed"), ("meta/flickr/q0001.json", "[]"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        states.append(found())
    (tmp_path / "google/q0001/bb.jpg").unlink()
    states.append(found())
    assert len(set(states)) == 7
    before = fingerprint_files(path, WEBVISION, sources=("flickr",))
    (tmp_path / "google/q0001/aa.jpg").write_text("changed again")
    assert fingerprint_files(path, WEBVISION, sources=("flickr",)) == before, "nobody reads it"


def test_classes_that_share_a_word_get_names_of_their_own(tmp_path):
    root = version_1(tmp_path)
    synsets = "n1 crane\nn2 Crane, lifting device\nn3 maillot, tank suit\n"
    (tmp_path / "info" / "synsets.txt").write_text(synsets)
    crawl = read_webvision(root)
    assert [entry["name"] for entry in crawl.classes] == ["crane (n1)", "Crane (lifting device)", "maillot"]
    assert [entry["id"] for entry in crawl.classes] == ["n1", "n2", "n3"]
    assert [entry["words"][0] for entry in crawl.classes] == ["crane", "Crane", "maillot"]  # for page texts
    note = next(note for note in crawl.notes if "share their name" in note)
    assert note.startswith("2 classes share their name with another; they are called ")


def test_a_word_of_two_classes_does_not_tell_them_apart(tmp_path):
    root = version_1(tmp_path)
    synsets = "n1 maillot, tank suit\nn2 maillot, tank suit, swimsuit\nn3 hen\n"
    (tmp_path / "info" / "synsets.txt").write_text(synsets)
    names = [entry["name"] for entry in read_webvision(root).classes]
    assert names == ["maillot (n1)", "maillot (swimsuit)", "hen"]
