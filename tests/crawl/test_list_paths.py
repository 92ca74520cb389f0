"""Paths of lists that lead nowhere as they are written: what is mended, and told."""

import os
import unicodedata

import pytest
from urnet_fixtures.crawls import plant, write_list

from urnet_tf.crawl.list_paths import suggest_root
from urnet_tf.crawl.list_reader import listed_files, read_list


def read(path, rows):
    crawl = read_list(path)
    assert len(crawl.rows) + len(crawl.rejected) == rows
    return crawl


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("img\\{}", "slashes for backslashes"),
        ("C:\\Users\\me\\crawl\\img\\{}", "without 'C:/Users/me/crawl/' in front"),
        ("/home/other/crawl/img/{}", "without '/home/other/crawl/' in front"),
        ("crawl/img/{}", "without 'crawl/' in front"),
        ("file:///home/other/img/{}", "without '/home/other/' in front"),
        ("/img/{}", "without '/' in front"),
        ("IMG/{}", "other Unicode form or case"),
        ("img/{}", "other Unicode form or case"),
    ],
)
def test_paths_that_lead_nowhere_are_mended_and_told(tmp_path, written, words):
    names = ["café 1.jpg", "b.JPG", "c.jpg"]
    plant(tmp_path, *("img/" + unicodedata.normalize("NFD", name) for name in names))
    text = "path,label\n" + "".join(f"{written.format(name)},a\n" for name in names)
    path = write_list(tmp_path, text)
    crawl = read(path, 3)
    assert all(os.path.exists(os.path.join(crawl.root, name)) for name in crawl.rows["path"].to_pylist())
    assert len(crawl.notes) == 1 and words in crawl.notes[0]
    assert listed_files(path)[1] == crawl.rows["path"].to_pylist()


def test_paths_without_a_suffix_and_wrong_ones(tmp_path):
    plant(tmp_path, "train/ab.jpg", "train/cd.jpg")
    path = write_list(tmp_path, "path,label\ntrain/ab,a\ntrain/cd,b\ntrain/no,b\n")
    assert read(path, 3).rows["path"].to_pylist() == ["train/ab.jpg", "train/cd.jpg", "train/no"]
    assert "2 of 3" in read(path, 3).notes[0]
    path = write_list(tmp_path, "path,label\nab.jpg,a\ncd.jpg,b\n")
    crawl = read(path, 2)
    assert not crawl.notes and suggest_root(crawl.root, ["ab.jpg"]) == str(tmp_path / "train")
    assert suggest_root(crawl.root, ["zz.jpg"]) is None


def test_files_that_differ_in_case_only_are_not_mixed_up(tmp_path):
    plant(tmp_path, "A.jpg", "a.jpg", "b.jpg")
    crawl = read(write_list(tmp_path, "path,label\nA.jpg,x\na.jpg,y\nB.jpg,y\nA.JPG,x\n"), 4)
    assert crawl.rows["path"].to_pylist() == ["A.jpg", "a.jpg", "b.jpg", "A.JPG"]


def test_percent_signs_in_paths(tmp_path):
    plant(tmp_path, "a b/1.jpg", "c%d/2.jpg")
    crawl = read(write_list(tmp_path, "path,label\na%20b/1.jpg,x\nc%d/2.jpg,y\n"), 2)
    assert crawl.rows["path"].to_pylist() == ["a b/1.jpg", "c%d/2.jpg"]
    assert "%20 and the like decoded" in crawl.notes[0]
