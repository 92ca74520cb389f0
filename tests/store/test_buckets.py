"""Object stores without a network: addresses, names, attempts, and errors as one sentence."""

import os
import pathlib
import time

import pytest
from pyarrow import fs

from urnet_tf.errors import RunError, UsageError
from urnet_tf.store import buckets, hash_file, transfers
from urnet_tf.store.buckets import Bucket, Object, is_address, is_plain, show_address


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(buckets, "_FIRST_WAIT_S", 0.0)


class FailingSystem(fs._MockFileSystem):
    """Fails with what `errors` holds, one a call, and then works."""

    def __init__(self, errors):
        super().__init__()
        self.errors, self.calls = errors, 0

    def get_file_info(self, what):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().get_file_info(what)


def failing(*errors):
    """A bucket of a store that fails first, and the store."""
    bucket, system = Bucket("s3://bucket/run"), FailingSystem(list(errors))
    bucket._opened = system, "bucket/run"
    return bucket, system


# ------------------------------------------------------------------- addresses and names


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("s3://b/r", True), ("gs://b", True), ("abfs://c@a/x", True), ("S3://b", True), ("file:///x", True),
     ("https://h/x", False), ("runs/s3:", False), ("s3:/b", False), ("", False),
     (pathlib.Path("s3://b"), False)],
)  # fmt: skip
def test_addresses_are_told_from_paths(text, is_one):
    assert is_address(text) == is_one


def test_options_are_not_shown_and_keys_are_refused():
    assert show_address("s3://b/run/?region=x&scheme=http") == "s3://b/run"
    for address in ("s3://key:secret@bucket/run", "gs://someone@bucket"):
        with pytest.raises(UsageError, match="an address without keys") as caught:
            Bucket(address)
        assert "secret" not in str(caught.value)
    assert Bucket("gs://anonymous@bucket/run") and Bucket("abfs://container@account/run")
    with pytest.raises(UsageError, match="an address with a bucket.*received s3:"):
        Bucket("s3://")


def test_each_address_has_a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv(buckets.CACHE_VARIABLE, str(tmp_path))
    places = [buckets.cache_of(a, w) for a in ("s3://b/run", "s3://c/run") for w in ("run", "data")]
    assert len(set(places)) == 4 and all(place.parent == tmp_path for place in places)
    assert buckets.cache_of("s3://b/run/", "run") == places[0]
    monkeypatch.delenv(buckets.CACHE_VARIABLE)
    assert buckets.cache_of("s3://b", "run").parent == pathlib.Path.home() / ".cache" / "urnet_tf"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "a/", "", ".", "a\0b", "~x", "x" * 256])
def test_names_that_lead_elsewhere_are_no_paths(name):
    assert not is_plain(name)


def test_plain_names_are_paths():
    assert all(map(is_plain, ["a", "a/b.jpg", "..a/b..", "Käfer/魚 1.jpg"]))


# --------------------------------------------------------------------------- transfers


def test_objects_go_there_and_back(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/bucket/run")
    assert bucket.list() == {} and bucket.read("a") is None and bucket.look_up("a") is None
    (tmp_path / "x").write_bytes(os.urandom(1000))
    bucket.upload(tmp_path / "x", "a/b")
    bucket.write("c", b"12")
    assert {name: one.bytes for name, one in bucket.list().items()} == {"a/b": 1000, "c": 2}
    assert bucket.hash("a/b") == hash_file(tmp_path / "x")
    assert bucket.download("a/b", tmp_path / "deep" / "y", wanted=hash_file(tmp_path / "x"))
    assert (tmp_path / "deep" / "y").read_bytes() == (tmp_path / "x").read_bytes()
    bucket.delete("c")
    bucket.delete("c")
    assert set(bucket.list()) == {"a/b"}
    with pytest.raises(FileNotFoundError):
        bucket.download("c", tmp_path / "z")


def test_names_that_are_not_utf8_are_left_out(tmp_path, caplog):
    bucket = Bucket(f"file://{tmp_path}/bucket")
    bucket.write("a", b"1")
    (tmp_path / "bucket" / os.fsdecode(b"caf\xe9")).write_bytes(b"2")
    assert set(bucket.list()) == {"a"} and "1 files are left out, whose names are not UTF-8" in caplog.text


def test_other_contents_replace_nothing(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/bucket")
    bucket.write("a", b"12")
    (tmp_path / "y").write_text("before")
    assert not bucket.download("a", tmp_path / "y", wanted="0" * 32)
    assert (tmp_path / "y").read_text() == "before" and sorted(os.listdir(tmp_path)) == ["bucket", "y"]


def test_the_first_error_of_a_transfer_is_told(tmp_path):
    def move(name):
        raise UsageError(f"no {name}")

    with pytest.raises(UsageError, match="no a"):
        transfers.transfer("files", [("a", 1)], move)


def test_what_was_moved_is_in_the_log(caplog):
    with caplog.at_level("INFO"):
        transfers.transfer("pack: to s3://b", [("a", 2_000_000), ("b", 500_000)], lambda name: None)
    assert caplog.messages[-1] == "pack: to s3://b: 2 files, 2.5 MB."


# ------------------------------------------------------------------------------ errors


def test_what_fails_for_a_moment_is_tried_again():
    slow = OSError("AWS Error SLOW_DOWN during ListObjectsV2 operation: Please reduce your request rate.")
    bucket, system = failing(slow, OSError("AWS Error NETWORK_CONNECTION: curlCode: 28"))
    assert bucket.list() == {} and system.calls == 3


def test_what_goes_on_failing_is_one_sentence():
    bucket, system = failing(*[OSError("AWS Error NETWORK_CONNECTION: curlCode: 6")] * 9)
    with pytest.raises(
        RunError, match=r"^s3://bucket/run cannot be listed: .* 5 attempts .*curlCode: 6.*goes on"
    ):
        bucket.list()
    assert system.calls == 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: gone",
            "Expected a bucket 'bucket' for s3://",
        ),
        ("When resolving region: Bucket 'bucket' not found", "Expected a bucket 'bucket' for s3://"),
        (
            "AWS Error ACCESS_DENIED during ListObjectsV2 operation: Access Denied",
            "cannot be listed, since that is not",
        ),
        ("AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2", "takes no credentials of this process"),
        ("google::cloud::Status(UNAUTHENTICATED: no token)", "takes no credentials of this process"),
        ("AWS Error UNKNOWN (HTTP status 403) during ListObjectsV2", "not allowed to this process"),
    ],
)
def test_what_trying_again_does_not_mend_is_told_at_once(text, sentence):
    bucket, system = failing(*[OSError(text)] * 9)
    with pytest.raises(UsageError, match=sentence) as caught:
        bucket.list()
    assert system.calls == 1 and "\n" not in str(caught.value)


def test_a_full_disk_is_no_fault_of_the_store(tmp_path, monkeypatch):
    bucket = Bucket(f"file://{tmp_path}/bucket")
    bucket.write("a", b"12")

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("urnet_tf.store.files.sync_file", full)
    start = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        bucket.download("a", tmp_path / "y")
    assert time.monotonic() - start < 1


def test_a_scheme_that_is_not_known_or_an_odd_option(tmp_path):
    with pytest.raises(UsageError, match="Cannot open s3://bucket/run"):
        Bucket("s3://bucket/run?no_such_option=1").list()


def test_times_of_objects_are_those_of_the_listing(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/bucket")
    bucket.write("a", b"12")
    os.utime(tmp_path / "bucket" / "a", ns=(5_000_000_000, 5_000_000_001))
    assert bucket.list() == {"a": Object(2, 5_000_000_001)} == {"a": bucket.look_up("a")}
