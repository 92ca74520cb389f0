"""Lists as text and Parquet, right and damaged."""

import pathlib
import random

import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures.crawls import listed, write_list

from urnet_tf.crawl.list_reader import ListOptions, read_list
from urnet_tf.errors import UsageError

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
        ("train", 0, "google", 0, "big cat", "a/2.jpg"),
        ("train", 1, "", 2, "dog", "b/1.jpg"),
        ("val", 1, "", 0, "", "v.jpg"),
        ("test", -1, "", 0, "", "t.jpg"),
    ]
    assert crawl.rows["title"][0].as_py() == 'A "cat", sitting\ndown'
    assert [c["queries"] for c in crawl.classes] == [["big cat"], ["dog"]]
    assert crawl.root == str(tmp_path)


def test_bad_rows_tell_their_line(tmp_path):
    text = (
        "path,label,rank,split\na.jpg,x,1,\n,x,1,\nb.jpg,,1,\nc.jpg,x,first,\nd.jpg,x,-3,\n"
        "e.jpg,x,1,,extra\n\nf.jpg,y,1,fold 3\ng.jpg,y\n"
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
    text = b"path,label,title\n" + b"\xff.jpg,a,\nb.jpg,a,caf\xe9\nd.jpg,\xe9,\n" + "c.jpg,a,café\n".encode()
    (tmp_path / "l.csv").write_bytes(text)
    crawl = read_list(str(tmp_path / "l.csv"))
    assert listed(crawl, "path", "title") == [("b.jpg", ""), ("c.jpg", "café")]
    assert [(r["path"], r["status"]) for r in crawl.rejected.to_pylist()] == [
        ("\\xff.jpg", "bad_name"),
        ("d.jpg", "bad_row"),
    ]
    assert crawl.notes == ("1 texts of l.csv are not valid UTF-8 and are left out",)


def test_an_unclosed_quote_costs_few_rows(tmp_path):
    rows = "".join(f"{number}.jpg,x\n" for number in range(30_000))
    crawl = read_list(write_list(tmp_path, "path,label\na.jpg,x\n" + '"b.jpg,x\n' + rows))
    assert len(crawl.rows) == 30_002
    assert crawl.rows["path"][1].as_py() == '"b.jpg'
    assert "(lines 3)" in crawl.notes[0]


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
        ("path,label,split\na,0,train\nb,1,val\n", None, "'1' in line 3"),
        ("path,label,split\na,cat,train\nb,dog,val\n", None, "'dog' in line 3"),
        ("thing,label\na,0\n", None, "'path' .* received the columns thing, label.* `columns="),
        ("a.jpg,cat\nb.jpg,dog\n", None, "names of columns in the first line .* write a header"),
        ("url,label\nhttp://x/a.jpg,cat\n", None, "received URLs .* download"),
        ("path,label\nhttp://x/a.jpg,cat\n", None, "received addresses like 'http://x/a.jpg'"),
        ("path,label, Path \na,cat,b\n", None, "Expected one column 'path' .* 'path' and 'Path'"),
        ("filename,image,label\na,b,cat\n", None, "received 'filename' and 'image'; say which"),
        ("", None, "columns none"),
        (
            "path,label\na.jpg,crane\n",
            "crane\nfox\ncrane",
            "classes.txt has two classes called 'crane'. Use their",
        ),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path, text, classes, words):
    if classes:
        (tmp_path / "classes.txt").write_text(classes)
    with pytest.raises(UsageError, match=words):
        read_list(write_list(tmp_path, text))


def test_classes_of_one_name_are_known_by_their_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("crane\nfox\ncrane\n")
    crawl = read_list(write_list(tmp_path, "path,label\na.jpg,0\nb.jpg,2\nc.jpg,1\n"))
    assert listed(crawl, "path", "label") == [("a.jpg", 0), ("b.jpg", 2), ("c.jpg", 1)]
    told = [(entry["id"], entry["name"], entry["words"]) for entry in crawl.classes]
    assert told == [("0", "crane (0)", ["crane"]), ("fox", "fox", ["fox"]), ("2", "crane (2)", ["crane"])]
    assert "2 classes share their name with another; they are called 'crane (0)', 'crane (2)'" in crawl.notes
    words = write_list(tmp_path, "path,label\na.jpg,crane (2)\nb.jpg,fox\n")
    assert listed(read_list(words), "path", "label") == [("a.jpg", 2), ("b.jpg", 1)]


def test_a_list_with_semicolons_a_mark_and_windows_lines(tmp_path):
    path = write_list(tmp_path, "path;label\r\na,1.jpg;cat\r\nb.jpg;dog\r\n", encoding="utf-8-sig")
    assert listed(read_list(path), "path", "label") == [("a,1.jpg", 0), ("b.jpg", 1)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf16_is_read_by_its_mark(tmp_path, encoding):
    crawl = read_list(write_list(tmp_path, "\ufeffpath,label\r\na.jpg,café\r\n", encoding=encoding))
    assert listed(crawl, "path") == [("a.jpg",)] and crawl.classes[0]["name"] == "café"
    assert "is read as UTF-16" in crawl.notes[0]


@pytest.mark.parametrize(
    ("names", "rank", "expected"),
    [
        ("badger elk fox", "auto", [0, 0, 0]),  # an alphabet is no rank
        ("badger elk fox", "name", [1, 2, 3]),
        ("0003 0001 0002", "auto", [3, 1, 2]),  # not the order of rows
        ("0003 0001 0002", "none", [0, 0, 0]),
        ("Image_10 Image_9 Image_1", "auto", [3, 2, 1]),
    ],
)
def test_ranks_of_a_list_without_them(tmp_path, names, rank, expected):
    rows = "".join(f"{label}/{name}.jpg,{label}\n" for label in "ab" for name in names.split())
    path = write_list(tmp_path, "path,label\n" + rows)
    crawl = read_list(path, options=ListOptions(rank=rank))
    assert crawl.rows["rank"].to_pylist() == 2 * expected
    assert [("`rank=none`" in note) for note in crawl.notes] == [True] * (rank == "auto" and any(expected))


def test_given_ranks_count_before_names_and_can_be_ignored(tmp_path):
    path = write_list(tmp_path, "path,label,rank\n0001.jpg,a,7\n0002.jpg,a,\n")
    assert read_list(path).rows["rank"].to_pylist() == [7, 0]
    assert read_list(path, options=ListOptions(rank="none")).rows["rank"].to_pylist() == [0, 0]


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
    crawl = read_list(path, options=ListOptions(image_root="/images"))
    assert listed(crawl, "path", "label", "rank", "tags") == [
        ("a.jpg", 1, 3, "red, cat"),
        ("b.jpg", 0, 0, ""),
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
    assert listed(crawl, "path", "label", "title") == [("a.jpg", 0, "")]
    assert [(row["path"], row["status"], row["reason"]) for row in crawl.rejected.to_pylist()] == [
        ("b\\xff.jpg", "bad_name", "row 2 of l.parquet: the path is not valid UTF-8"),
        ("c.jpg", "bad_row", "row 3 of l.parquet: the label is not valid UTF-8"),
    ]
    assert crawl.notes == ("1 texts of l.parquet are not valid UTF-8 and are left out",)


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
        try:
            read_list(path)
        except UsageError as error:
            assert "\n" not in str(error) and len(str(error)) < 400 + len(path)
            refused += 1
    assert refused > 100


def test_two_parquet_columns_of_one_name(tmp_path):
    table = pa.table([["a"], ["b"], ["x"]], names=["path", "path", "label"])
    pa.parquet.write_table(table, tmp_path / "l.parquet")
    with pytest.raises(UsageError, match="Expected one column 'path' .* 'path' and 'path'"):
        read_list(str(tmp_path / "l.parquet"))
