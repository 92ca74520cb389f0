"""Progress in a log: nothing of short loops, a line now and then of long ones."""

import pytest

from urnet_tf.store import progress as progress_lib
from urnet_tf.store.progress import progress


@pytest.fixture
def lines(monkeypatch):
    found, clock = [], iter(range(0, 10_000, 20))
    monkeypatch.setattr(progress_lib.sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress_lib.logging, "info", lambda text, *values: found.append(text % values))
    return found


def test_a_short_loop_is_silent(lines, capfd):
    assert list(progress(iter("a"), "reading", total=1)) == ["a"]
    assert not lines and capfd.readouterr() == ("", "")


def test_a_long_loop_says_how_far_it_is(lines, capfd):
    assert list(progress("abcde", "reading", unit="row")) == list("abcde")
    assert lines == ["reading: 2 of 5 row, about 60 s left", "reading: 4 of 5 row, about 20 s left"]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_loop_counts_what_was_done_before(lines):
    with progress(None, "reading", total=100, unit="file", initial=90) as bar:
        bar.update(2)
        bar.update(2)
    assert lines == ["reading: 94 of 100 file, about 60 s left"]


def test_without_a_total(lines):
    assert list(progress(iter("abc"), "reading", unit="chunk")) == list("abc")
    assert lines == ["reading: 2 chunk"]
