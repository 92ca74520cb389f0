"""Which texts may become names and paths, and how values are quoted."""

import pathlib

import pytest

from urnet_tf import store, text_rules
from urnet_tf.crawl.readers import detect_kind
from urnet_tf.errors import UsageError
from urnet_tf.export import tf_serving
from urnet_tf.text_rules import FILE_NAME, LINE, PATH, bare, check_text, one_line, quote, refuse_address


@pytest.mark.parametrize("name", ["urnet", "a", "v1.2_final-3", "Käfer", "x" * 100, "models"], ids=bare)
def test_plain_names_are_taken(name):
    check_text(name, FILE_NAME, "export.name")


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden", "a/b", "/etc", "../..", "a\\b", "a b", "a\0", "a\n", "-\x1b", "x" * 101,
        "ä" * 51, "models.config", "MODELS.config", "done.json", "key.txt", "units_check", "Units_x", "a:b",
        "*", "~", "a\u2028b", "a\ud800", "\u202eabc",
    ],
    ids=quote,
)  # fmt: skip
def test_what_could_leave_its_directory_is_no_name(name):
    with pytest.raises(UsageError, match="for export.name; received") as caught:
        check_text(name, FILE_NAME, "export.name")
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_the_files_of_the_program_itself_are_known():
    assert {
        tf_serving.CONFIG,
        tf_serving.BATCHING,
        tf_serving.MONITORING,
        store.MARKER,
        store.workdir._KEY_FILE,
    } == set(text_rules._OWN_NAMES)


@pytest.mark.parametrize("path", ["a", "/a b/ä/c'd", "../x", "a/" * 2047, "x" * 255, "ä" * 127], ids=quote)
def test_paths_that_a_file_system_takes(path):
    check_text(path, PATH, "ingest.path")


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "a/" * 2048, "x" * 256, "a/" + "ä" * 128], ids=quote)
def test_paths_that_none_takes(path):
    with pytest.raises(UsageError, match="for ingest.path; received"):
        check_text(path, PATH, "ingest.path")


def test_lines():
    check_text("Was zählt: „alles“ / 100 %", LINE, "report.title")
    for text in ("", "a\tb", "a\x85b", "a\u2029b"):
        with pytest.raises(UsageError, match="report.title"):
            check_text(text, LINE, "report.title")


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ("a\nb", r"'a\nb'"),
        (float("nan"), "nan"),
        (10**5000, "a value of type int that is too long to show"),
        ({"a": [1 << 20_000]}, "a value of type dict that is too long to show"),
        (nested(100_000), "a value of type list that is too long to show"),
    ],
    ids=["number", "break", "nan", "digits", "digits inside", "levels"],
)
def test_quotes(value, shown):
    assert quote(value) == shown


def test_long_values_lose_their_middle():
    shown = quote("ab" + "x" * 100_000 + "yz")
    assert shown.startswith("'abx") and shown.endswith("xyz'")
    assert "(100,006 characters)" in shown and len(shown) <= 80
    assert quote("x" * 78) == repr("x" * 78) and bare("a\tb") == r"a\tb"


def test_what_steers_a_reader_is_left_out():
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
    assert one_line(f"a{turning}b\0c\x1b[31md\x7f\x9be\ud800f\ufeff") == "abc[31mdef"
    assert one_line("a\nb\tc\r\nd\u2028e\x85f") == "a b c  d e f"
    for text in ("", "Käfer 魚 😀", "45\N{NO-BREAK SPACE}%", "two  blanks"):
        assert one_line(text) == text


@pytest.mark.parametrize(
    "path", ["gs://bucket/run", "s3://b", "https://host/x", pathlib.Path("gs://bucket/run")]
)
def test_addresses_are_no_paths(path):
    for open_it in (store.Workdir, detect_kind):
        with pytest.raises(UsageError, match=r"on a disk of this machine; received the address .*bucket"):
            open_it(str(path) if open_it is detect_kind else path)


def test_paths_with_a_colon_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a:b", "/gs://b", "C:/runs", "a:b", "./gs:/b", ""):
        refuse_address(path, "a folder", "")
    (tmp_path / "gs:" / "b").mkdir(parents=True)
    assert store.Workdir("gs:/b").root == pathlib.Path("gs:/b")  # it is there, as an earlier version made it
