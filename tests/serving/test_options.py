"""The options of our own server: what is taken, and one sentence for what is not."""

import dataclasses
import json

import pytest

from urnet_tf.errors import UsageError
from urnet_tf.serving.options import ServerOptions, is_loopback, parse_options


def test_every_option_has_a_flag_that_takes_its_default():
    defaults = ServerOptions()
    words = []
    for field in dataclasses.fields(ServerOptions):
        value = getattr(defaults, field.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"--{field.name}={text}")
    assert parse_options(words) == defaults


def test_values_of_every_kind():
    found = parse_options(
        [
            "--max_body_mb=0.5",
            "--batch_sizes=1,4",
            "--access_log=FALSE",
            "--max_pixels=9",
            "--allow_origin=https://a",
        ]
    )
    assert found == ServerOptions(
        max_body_mb=0.5, batch_sizes=(1, 4), access_log=False, max_pixels=9, allow_origin="https://a"
    )
    assert ServerOptions.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--timeout=5", "Did you mean --timeout_s?"),
        ("--zzz=5", "There are: max_body_mb, "),
        ("timeout_s=5", "--name=value; received 'timeout_s=5'"),
        ("--timeout_s", "Expected --timeout_s=VALUE"),
        ("--timeout_s=soon", "Expected a value like 30.0 for --timeout_s; received 'soon'"),
        ("--timeout_s=0", "Expected --timeout_s above 0"),
        ("--timeout_s=nan", "Expected --timeout_s above 0"),
        ("--access_log=perhaps", "Expected a value like true for --access_log"),
        ("--batch_sizes=4,1", "ascending --batch_sizes"),
        ("--batch_sizes=0,1", "ascending --batch_sizes"),
        ("--batch_sizes=", "Expected a value like 1,2,4"),
        ("--max_pixels=0", "at least 1"),
        ("--queue_images=5", "of at least --max_images, 1024"),
        ("--tls_key=k.pem", "both --tls_certificate and --tls_key"),
    ],
)
def test_what_is_not_taken_is_one_sentence(word, message):
    with pytest.raises(UsageError) as caught:
        parse_options([word])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "short\n", "key with ümläuts and more\n", "\n0123456789abcdef\n"])
def test_a_key_is_long_and_plain(tmp_path, content):
    path = tmp_path / "key"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="at least 16 ASCII signs"):
        ServerOptions(api_key_file=str(path)).check_files()
    path.write_text("0123456789abcdef  \nmore\n")
    options = ServerOptions(api_key_file=str(path))
    options.check_files()
    assert options.read_api_key() == "0123456789abcdef"
    assert ServerOptions().read_api_key() is None


def test_files_must_be_there():
    with pytest.raises(UsageError, match="can be read for --api_key_file; received missing"):
        ServerOptions(api_key_file="missing").check_files()


def test_which_addresses_are_local():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.1", "server.example", "")))
