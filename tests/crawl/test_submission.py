"""The submission file: one line an image, in list order."""

import numpy as np
import pytest

from urnet_tf.crawl import submission
from urnet_tf.errors import UsageError


def test_lines_hold_the_name_and_five_labels(tmp_path):
    top_ids = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]])
    submission.write_submission(tmp_path / "s.txt", ["a.jpg", "b.jpg"], top_ids)
    assert (tmp_path / "s.txt").read_text() == "a.jpg 5 4 3 2 1\nb.jpg 0 1 2 3 4\n"
    with pytest.raises(UsageError, match="for 1 names; received 2"):
        submission.write_submission(tmp_path / "s.txt", ["a.jpg"], np.zeros((2, 5)))


def test_unreadable_images_get_the_guess_at_their_place():
    names, rows = submission.with_unreadable(
        ["t/3.jpg", "t/1.jpg"], [1, 3], np.array([[1, 2], [3, 4]]), ["t/2.jpg"], [2], [9, 8]
    )
    assert names == ["3.jpg", "2.jpg", "1.jpg"]
    assert rows.tolist() == [[1, 2], [9, 8], [3, 4]]


def test_names_keep_their_folders_where_they_repeat():
    assert submission.short_names(["a/1.jpg", "b/2.jpg"]) == ["1.jpg", "2.jpg"]
    assert submission.short_names(["a/1.jpg", "b/1.jpg"]) == ["a/1.jpg", "b/1.jpg"]
