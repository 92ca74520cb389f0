"""What settings say of a list: its columns, its encoding, classes that are one."""

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
