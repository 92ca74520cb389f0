"""Where a review opens: queues, classes and images by what people have of them."""

import urllib.parse

import pytest
from urnet_fixtures.reviewed import HOSTILE, make_reviewed_run

from urnet_tf.errors import UsageError
from urnet_tf.review.journal import Journal
from urnet_tf.review.places import find_place
from urnet_tf.review.reviewed_run import open_run
from urnet_tf.review.session import Session


def open_session(root):
    run = open_run(root)
    return Session(run, Journal(run, who="tester"))


@pytest.fixture(scope="module")
def session(reviewed):
    return open_session(reviewed[0])


def test_queues_classes_and_groups(session):
    assert find_place(session, "queue/random") == "#/queue/random"
    assert find_place(session, "class/blue") == "#/class/blue"
    assert find_place(session, "group/blue") == "#/group/:2/0"
    assert find_place(session, "groups") == "#/groups/0"
    link = find_place(session, f"class/{HOSTILE[3]}")
    assert urllib.parse.unquote(link) == f"#/class/{HOSTILE[3]}" and link.isascii() and "'" not in link


def test_an_image_by_hash_id_path_or_a_piece_of_it(session):
    known = session.run.text("content_hash", 7)
    for text in (known, "7", "class 0/0007.jpg", "0007.jpg", f"image/{known}", "image/class 0/0007.jpg"):
        assert find_place(session, text) == f"#/image/{known}"


def test_what_is_not_there_is_one_sentence(session):
    for text, said in (
        ("queue/all", "valuable"),
        ("class/nothing", "'nothing'"),
        ("group/class:1", "'class:1'"),
        ("image/nothing.jpg", "No image of this run"),
        ("120", "id from 0 to 119"),
    ):
        with pytest.raises(UsageError, match=said):
            find_place(session, text)


def test_classes_with_numbers_for_names(tmp_path, mark_complete):
    make_reviewed_run(tmp_path / "run", mark_complete, per_class=4, names=["1", "2", "10"])
    session = open_session(tmp_path / "run")
    assert [session.label_of(name) for name in ("1", "2", "10", "0", ":0", ":1", ":2")] == [
        0, 1, 2, 0, 0, 1, 2,
    ]  # fmt: skip
    assert find_place(session, "group/2") == "#/group/:1/0"
    for name in (":3", ":", "3", ":1x"):
        with pytest.raises(LookupError):
            session.label_of(name)
