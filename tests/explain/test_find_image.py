"""Which image is meant: by every way in which people write where it is."""

import os

import pytest
from urnet_fixtures.runs import make_workdir

from urnet_tf import store
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.errors import UsageError
from urnet_tf.explain.find_image import Origin, find_image


@pytest.fixture
def root(tmp_path):
    """A run on `tmp_path/photos`, where the files of its rows lie."""
    workdir, crawl = tmp_path / "run", tmp_path / "photos"
    workdir.mkdir()
    make_workdir(workdir)
    metadata = {"root": str(crawl)}
    store.Workdir(workdir).write_marker(workdir / "ingest", {"metadata": metadata, "settings": {}})
    for name in ("flickr/cat/a.jpg", "google/cat/12.jpg", "google/dog/12.jpg", "google/cat/bad.jpg"):
        (crawl / name).parent.mkdir(parents=True, exist_ok=True)
        (crawl / name).write_bytes(b"")
    return workdir


def paths(root, image, origin=None):
    found = find_image(root, image, origin)
    return [row["path"] for row in (*found.rows, *found.set_aside)]


def test_as_people_write_it(root, tmp_path, monkeypatch):
    """As the crawl lists it, from where they are, from the root of the disk, an end of it, the id."""
    monkeypatch.chdir(tmp_path)
    for image in (
        "flickr/cat/a.jpg", "./flickr/cat/a.jpg", "photos/flickr/cat/a.jpg", "./photos/x/../flickr/cat/a.jpg",
        str(tmp_path / "photos/flickr/cat/a.jpg"), "cat/a.jpg", "a.jpg", "0", " a.jpg ",
    ):  # fmt: skip
        assert paths(root, image) == ["flickr/cat/a.jpg"], image
    monkeypatch.chdir(tmp_path / "photos" / "google" / "dog")
    assert paths(root, "../../flickr/cat/a.jpg") == ["flickr/cat/a.jpg"]


def test_a_file_that_is_there_is_meant_and_no_other_of_that_name(root, tmp_path, monkeypatch):
    assert paths(root, "12.jpg") == ["google/cat/12.jpg", "google/dog/12.jpg"]
    monkeypatch.chdir(tmp_path / "photos" / "google" / "dog")
    assert paths(root, "12.jpg") == ["google/dog/12.jpg"]


def test_through_a_link_and_in_a_folder_that_was_moved(root, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert paths(root, "link/google/dog/12.jpg") == ["google/dog/12.jpg"]
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert paths(root, "elsewhere/google/dog/12.jpg") == ["google/dog/12.jpg"]
    assert paths(root, "/mnt/old/google/dog/12.jpg") == ["google/dog/12.jpg"]


def test_a_file_that_was_set_aside(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "photos")
    assert paths(root, "google/cat/bad.jpg") == ["google/cat/bad.jpg"]
    assert find_image(root, "bad.jpg").set_aside[0]["status"] == "decode_error"


def test_by_an_address_that_the_list_tells(root, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("path,label,url\nphotos/google/dog/12.jpg,dog,http://x.org/d?id=12\n")
    origin = Origin(os.fspath(listed), "list", ListOptions())
    assert paths(root, "http://x.org/d?id=12", origin) == ["google/dog/12.jpg"]
    for other in ("http://x.org/d", "https://x.org/d?id=12"):
        with pytest.raises(UsageError, match="known to come from http"):
            find_image(root, other, origin)
    with pytest.raises(UsageError, match="known to come from"):
        find_image(root, "http://x.org/d?id=12")


def test_an_unknown_work_directory_or_image(root, tmp_path):
    for image, message in ((" ", "empty"), ("77", "from 0 to 4"), ("nothing.png", "No image of this run")):
        with pytest.raises(UsageError, match=message):
            find_image(root, image)
    with pytest.raises(UsageError, match="urnet run"):
        find_image(tmp_path / "none", "a.jpg")
