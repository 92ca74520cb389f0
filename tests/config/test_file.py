"""Files and overrides that could hang, crash or be guessed at: refused in one short line with the fault."""

import os
import time

import pytest

from urnet_tf.config import file as config_file, load_config
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

DIGITS = "1" * 10_000


def refuse(call, *arguments):
    """The message of a refusal, which is one line of less than 400 characters."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 400 and message.isprintable(), message
    return message


def laughs(levels, width, opening="[", closing="]"):
    """Each level holds the one before it `width` times."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        inside = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {opening}{inside}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("base: 5", "Expected a file name for base"),
        ("base: [a.yaml]", "Expected a file name for base"),
        ('base: "a\\0b.yaml"', "without control characters"),
        ("base: nowhere.yaml", "No such file"),
        ("[" * 5000, "more than 20 levels"),
        ("{a: " * 5000, "more than 20 levels"),
        ("- " * 5000, "more than 20 levels"),
        (f"seed: {DIGITS}", "cannot be read"),
        (f"seed: 0x{DIGITS}", "between 0 and 2,147,483,647 for seed"),
        (f"train: {{fit: {{epochs: 0x{DIGITS}}}}}", "between 0.0 and 100,000 for train.fit.epochs"),
        ("seed: " + ":".join(["1"] * 3000), "between 0 and"),
        ("train: {fit: {epochs: " + "1:" * 3000 + "1.5}}", "cannot be read"),
        ("seed: 0b_", "cannot be read"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice"),
        ("train:\n  fit: {epochs: 1}\n  fit: {epochs: 2}", "the key 'fit' is given twice"),
        ("5: 1", "expected a text as key, received 5 (put it into quotes)"),
        ("yes: 1", "received yes"),
        ("null: 1", "received null"),
        ("[a]: 1", "received sequence"),
        ("{a: 1}: 1", "received mapping"),
        ("seed: !!bool x", "tags like 'tag:yaml.org,2002:bool' are not used"),
        ("seed: !!python/object/apply:os.system [ls]", "are not used here"),
        ("seed: !" + "x" * 100_000, "are not used here"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        (laughs(9, 9), "more than 20,000 values"),
        (laughs(30, 1), "or 20 levels"),
        ("<<: 5", "is not valid YAML"),
        ("a: *nobody" + "x" * 100_000, "undefined alias"),
        ("a: 1\n--- \nb: 1", "is not valid YAML"),
        ("a: \0", "is not valid YAML"),
        ("a: \x1b[31m", "is not valid YAML"),
        ("x" * 300_000, "Expected a configuration of at most 262,144 bytes"),
        ("x" * 100_000, "Expected a mapping of sections"),
        ("x" * 100_000 + ": 1", "is not valid YAML"),
        ("? " + "x" * 100_000 + "\n: 1", "Unknown configuration key xxx"),
        ("seed: " + "x" * 100_000, "Expected a whole number for seed; received 'xxx"),
        ("seed: [" + "1, " * 5000 + "]", "Expected a whole number for seed; received [1, 1"),
    ],
    ids=quote,
)  # fmt: skip
def test_odd_files_are_refused_at_once(tmp_path, text, fault):
    path = tmp_path / "odd.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    assert fault in refuse(load_config, str(path))
    assert time.process_time() - start < 5


def test_only_ordinary_readable_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin.yaml").write_bytes(b"export: {name: K\xe4fer}")
    for path, fault in [
        ("/dev/zero", "no ordinary file"),
        (tmp_path / "fifo", "no ordinary file"),
        (tmp_path, "no ordinary file"),
        (tmp_path / "latin.yaml", "not UTF-8"),
        ("nowhere.yaml", "Cannot read the configuration nowhere.yaml: No such file"),
        ("a\0b", "without control characters"),
        ("", "not empty"),
        ("a" * 300, "255 in each part"),
        ("a/" * 4000, "at most 4,095 bytes"),
        ("a/" * 1000, "Cannot read the configuration a/a"),
    ]:
        assert fault in refuse(load_config, str(path))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seed", "Expected --set section.key=value; received 'seed'"),
        ("=1", "Expected --set section.key=value"),
        ("x" * 100_000, "Expected --set section.key=value"),
        ("x" * 100_000 + "=1", "Unknown configuration key xxx"),
        ("seed=" + "[" * 5000, "more than 20 levels"),
        ("seed=" + DIGITS, "cannot be read"),
        ("seed=" + "x" * 300_000, "Expected at most 262,144 characters"),
        ("seed={a: 1, a: 2}", "given twice"),
        ("a." * 5000 + "b=1", "Unknown configuration key a"),
        (".=1", "Unknown configuration key"),
        ("train..fit=1", "Unknown configuration key train."),
        ("se\ned=1", "Unknown configuration key se\\ned"),
        ("export.name='a\\nb'\n\n", "for export.name"),
        ("ingest.max_rank={" + "x" * 1000 + ": many}", "Expected at most 200 characters for a key of"),
        ("ingest.max_rank={a: 1, [b]: 2}", "received sequence"),
    ],
    ids=quote,
)
def test_odd_overrides_are_refused(text, fault):
    assert fault in refuse(load_config, None, [text])


def test_a_value_is_no_section():
    assert "'seed' is a value, not a section" in refuse(config_file.override, {"seed": 1}, ["seed.x=1"])


def test_what_yaml_offers_for_writing_less_still_works(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "baseline: {fit: &fit {epochs: 2, batch_images: 10}}\n"
        "train:\n  fit: {<<: *fit, epochs: 3}\n"
        "reweight: {refit: *fit}\n"
        "extract:\n"
        "ingest: {path: 2024-01-01, max_rank: {'5': 3}}\n",
    )
    config = load_config(str(tmp_path / "a.yaml"), ["extract.top_k=2", "export={name: x}", "export.top_k=3"])
    fits = config.baseline.fit, config.train.fit, config.reweight.refit
    assert [fit.epochs for fit in fits] == [2, 3, 2] and {fit.batch_images for fit in fits} == {10}
    assert (config.extract.top_k, config.export.name, config.export.top_k) == (2, "x", 3)
    assert config.ingest.path == "2024-01-01" and config.ingest.max_rank == {"5": 3}


def test_a_bare_name_is_a_file_or_a_packaged_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = config_file.packaged()
    assert {"quickstart", "webvision", "mini_webvision"} <= set(packaged)
    assert config_file.find("quickstart") == str(packaged["quickstart"])
    assert load_config("mini_webvision").model.resnext_depth == 101  # of its base, beside it
    assert config_file.find("quickstart.yaml") == "quickstart.yaml"
    assert "quickstart, webtiny" in refuse(load_config, "quickstrat")
    (tmp_path / "quickstart").write_text("seed: 3\n")
    assert load_config("quickstart").seed == 3
