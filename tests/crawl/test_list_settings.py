"""Labels of a list, and what settings say of it: its columns, its encoding, classes that are one."""

import time

import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures.crawls import write_list

from urnet_tf.config import from_dict
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.list_reader import ListOptions, read_list
from urnet_tf.errors import UsageError


def read(path, rows=None, **options):
    crawl = read_list(str(path), options=ListOptions(**options))
    if rows is not None:
        assert len(crawl.rows) + len(crawl.rejected) == rows
    return crawl


def test_columns_that_the_user_names(tmp_path):
    text = "id,breed,label,caption\n1.jpg,pug,x,A dog\n2.jpg,lab,x,\n"
    path = write_list(tmp_path, text)
    crawl = read(path, 2, columns={"path": "id", "label": "Breed", "title": "caption"})
    assert [entry["name"] for entry in crawl.classes] == ["lab", "pug"]
    assert crawl.rows["title"].to_pylist() == ["A dog", ""]
    with pytest.raises(
        UsageError, match="column 'nothing' of `columns` for the label .* received the columns id, br"
    ):
        read(path, columns={"path": "id", "label": "nothing"})
    with pytest.raises(UsageError, match="keys of ingest.columns; received 'lable'"):
        from_dict({"ingest": {"columns": {"lable": "breed"}}})


def test_an_encoding_that_the_user_names(tmp_path):
    path = write_list(tmp_path, "path,label\n1.jpg,кошка\n2.jpg,жук\n", encoding="koi8-r")
    assert [entry["name"] for entry in read(path, 2, encoding="koi8-r").classes] == ["жук", "кошка"]
    with pytest.raises(UsageError, match="Expected an encoding like utf-8"):
        read(path, encoding="klingon")


def test_merged_classes(tmp_path):
    text = "path,label\n1.jpg,puma\n2.jpg,cougar\n3.jpg,A\n4.jpg,a\n"
    path = write_list(tmp_path, text)
    crawl = read_list(path, names=ClassNames({"puma": "cougar", "A": "A"}))
    assert [entry["name"] for entry in crawl.classes] == ["A", "a", "cougar"]
    assert crawl.rows["label"].to_pylist() == [2, 2, 0, 1]
    assert crawl.notes == ("merged classes: 'puma' into 'cougar'",)
    with pytest.raises(UsageError, match="received 'pumma', which is none; did you mean 'puma'"):
        read_list(path, names=ClassNames({"pumma": "cougar", "A": "A"}))


def test_parquet_labels(tmp_path):
    path = str(tmp_path / "l.parquet")
    names = [f"{n}.jpg" for n in range(5)]
    for labels, classes, rows in (
        (pa.array([0.0, 1.0, float("nan"), None, 2.0]), ["0", "1", "2"], 3),
        (pa.array(["a", "b", "nan", None, "a"]), ["a", "b"], 3),
        (pa.array([3, 4, 3, None, 4]), ["3", "4"], 4),
        (pa.array(["a", "b", "a", "b", "a"]).dictionary_encode(), ["a", "b"], 5),
    ):
        pa.parquet.write_table(pa.table({"path": names, "label": labels}), path)
        crawl = read(path, 5)
        assert [entry["name"] for entry in crawl.classes] == classes and len(crawl.rows) == rows
    pa.parquet.write_table(pa.table({"path": names, "label": [["a"], ["a", "b"], [], ["b"], ["a"]]}), path)
    assert len(read(path, 5).rows) == 0


def test_labels_that_a_classes_file_names(tmp_path):
    path = write_list(tmp_path, "path,label\n1.jpg,1\n2.jpg,0\n3.jpg,none\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\nnone\n")
    with pytest.raises(UsageError, match="'none' in line 4|'1' in line 2"):  # ids and names mixed
        read(path)
    path = write_list(tmp_path, "path,label\n1.jpg,dog\n2.jpg,cat\n3.jpg,none\n")
    assert read(path).rows["label"].to_pylist() == [1, 0, 2]
    path = write_list(tmp_path, "path,label\n1.jpg,1.0\n2.jpg,0.0\n3.jpg,2.0\n")
    assert read(path).rows["label"].to_pylist() == [1, 0, 2]
    (tmp_path / "classes.txt").write_text("2005\n1999\n")
    assert read(write_list(tmp_path, "path,label\n1.jpg,1999\n2.jpg,2005\n")).rows["label"].to_pylist() == [
        1,
        0,
    ]


@pytest.mark.parametrize("line", ['""\n', 'x"y\n', 'a,"\n', '"a","b\n'])
def test_quotes_in_every_line_take_no_long(tmp_path, line):
    """A list that was made to be read slowly: time grows with the number of lines, not with its square."""
    text = 'path,label,title\n1.jpg,b,"' + line * 20_000
    start = time.process_time()
    try:
        read(write_list(tmp_path, text))
    except UsageError as error:
        assert "list.csv" in str(error)
    assert time.process_time() - start < 5
