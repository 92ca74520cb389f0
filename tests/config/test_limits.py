"""Odd values for every setting, made from its declaration: refused in one short line, or a plan is drawn."""

import collections
import dataclasses
import math
import typing
from collections.abc import Mapping

import pytest
from PIL import Image

from urnet_tf.config import Config, from_dict, load_config, tree as config_tree
from urnet_tf.errors import UsageError
from urnet_tf.flow import plan, plan_text
from urnet_tf.store import Workdir
from urnet_tf.text_rules import quote

HUGE = (10**30, -(10**30), 10**400, 1 << 40_000, 2**31, 2**63, 1e30, -1e30, 1e308, 5e-324)
NO_NUMBERS = (math.inf, -math.inf, math.nan, "nan", "inf", "1e999", "-1e3", "1e3", "0x10", "many", "")
TEXTS = (
    "a\0b", "\0", "a\nb", "\x1b[31m", "\u202ea", "\u2028", "\ud800", "x" * 300, "x" * 5000, "x" * 100_000,
    "ä" * 200, "a/" * 3000, "a/" * 2000, "..", "../..", ".", "~", "-", " ", "null", "models.config",
    "units_check", "/dev/zero", "/proc/self/mem", "/nowhere/at/all", "'\"", "%s{0}", "🙂",
)  # fmt: skip
OTHER = (
    None, True, False, 0, -1, 1, 2, 3.5, [], [[]], [None], [math.nan], [1e9], ["a\0b"], {}, {"a": 1},
    {"x" * 5000: -1}, {"a\0b": 1}, {5: None}, ["x" * 5000] * 10, [1.0] * 5000,
    dict.fromkeys(map(str, range(5000))), b"bytes", {1, 2}, object, 1j,
)  # fmt: skip


def leaves(section, prefix=""):
    """(dotted key, field, type, whether it may be None) of every setting."""
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, *config_tree.value_type(hints[field.name])


LEAVES = {key: rest for key, *rest in leaves(Config())}


def item_type(kind):
    origin = typing.get_origin(kind)
    return typing.get_args(kind)[1 if origin is Mapping else 0] if origin else kind


def odd_values(field, kind):
    """The general odd values, and those around the bounds of one field."""
    rules, item = field.metadata, item_type(kind)
    near = []
    if "minimum" in rules:
        for bound in (rules["minimum"], rules["maximum"]):
            near += [math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf)]
            near += [bound, -bound, float(bound), bound - 1, bound + 1, 2 * bound, bound / 2]
            near += [str(bound), f"{bound:e}"]
    for choice in rules.get("choices", ()):
        near += [choice, f"{choice} "]
    if "max_length" in rules:
        near += ["x" * rules["max_length"], "x" * (rules["max_length"] + 1), field.default]
    if "max_count" in rules:
        ordinary = (rules.get("choices") or [rules.get("maximum", "x")])[0]
        counts = (rules["min_count"] - 1, rules["min_count"], rules["max_count"], rules["max_count"] + 1)
        near = [[value] for value in near] + [{"x": value} for value in near]
        near += [[ordinary] * count for count in counts]
        near += [{f"x{i}": ordinary for i in range(count)} for count in counts]
    return [*near, *HUGE, *NO_NUMBERS, *TEXTS, *OTHER, item]


def set_leaf(tree, key, value):
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    path = tmp_path_factory.mktemp("configurations") / "inside" / "crawl"
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path / name / "1.png")
    return path


def outcome(tree, workdir):
    """ "plan", or how the settings are refused; fails the test where that is not one short line."""
    try:
        config = from_dict(tree)
        if workdir is not None:
            plan_text.format_plan(config, plan.make_plan(config, workdir), workdir)
    except UsageError as error:
        message = str(error)
        assert len(message) < 400 and message.isprintable(), message
        return "refused"
    return "plan"


def check(crawl, keys, planned):
    """Tries all odd values of some keys; `planned` decides by (key, number) whether a plan is drawn, too."""
    found = collections.defaultdict(collections.Counter)
    workdir = Workdir(crawl.parent / "work")
    for key in keys:
        field, kind, _ = LEAVES[key]
        for number, value in enumerate(odd_values(field, kind)):
            tree = {"ingest": {"path": str(crawl)}}
            set_leaf(tree, key, value)
            try:
                found[key][outcome(tree, workdir if planned(key, number) else None)] += 1
            except Exception as error:
                raise AssertionError(f"{key} = {quote(value)}: {quote(error, 400)}") from error
    return found


def test_odd_values_are_refused_in_one_line_or_give_a_plan(crawl, monkeypatch):
    monkeypatch.chdir(crawl)
    found = check(crawl, LEAVES, lambda key, number: (len(key) + number) % 40 == 0)
    assert sum(sum(counts.values()) for counts in found.values()) > 7000
    assert all(counts["plan"] and counts["refused"] for counts in found.values()), found


@pytest.mark.slow
def test_every_odd_value_that_is_taken_gives_a_plan(crawl, monkeypatch):
    monkeypatch.chdir(crawl)
    check(crawl, LEAVES, lambda key, number: True)


@pytest.mark.parametrize("key", LEAVES)
def test_every_setting_has_bounds(key):
    field, kind, _ = LEAVES[key]
    rules, item = field.metadata, item_type(kind)
    if item is not kind:
        assert 0 <= rules["min_count"] <= rules["max_count"] <= 10_000
    if item is bool or "choices" in rules:
        return
    if item is str:
        assert 0 < rules["max_length"] < 5000 and rules["form"]
    else:
        assert item in (int, float)
        assert math.isfinite(rules["minimum"]) and math.isfinite(rules["maximum"])
        assert rules["minimum"] < rules["maximum"] < 2**31


def test_every_default_is_within_its_bounds():
    assert from_dict({}) == Config()
    tree = {}
    for key in LEAVES:
        value = Config()
        for part in key.split("."):
            value = getattr(value, part)
        set_leaf(tree, key, value)
    assert from_dict(tree) == Config()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("train.fit.epochs=.inf", "a number between 0.0 and 100,000 for train.fit.epochs; received inf"),
        ("baseline.folds=1e30", "a number between 1 and 100 for baseline.folds; received 1"),
        ("evaluate.ece_bins=1e30", "for evaluate.ece_bins"),
        ("evaluate.scales=[.nan]", "between 0.1 and 10.0 for evaluate.scales[0]; received nan"),
        ("evaluate.scales=[1, 1e9]", "for evaluate.scales[1]; received 1000000000.0"),
        ("evaluate.scales=[]", "Expected 1 to 20 entries for evaluate.scales; received 0"),
        ("train.fit.ema=1", "for train.fit.ema; received 1.0"),
        ("train.fit.learning_rate=.inf", "for train.fit.learning_rate; received inf"),
        ("seed=0.5", "Expected a whole number for seed; received 0.5"),
        ("seed='a1'", "Expected a whole number for seed; received 'a1'"),
        ("export.name=/some/dir", "Expected a plain name of letters"),
        ("export.name=../..", "Expected a plain name of letters"),
        ("export.name=Models.config", "not one of the program's own"),
        ("ingest.max_rank={flickr: -1}", "for ingest.max_rank.flickr; received -1"),
        ("ingest.val_fraction=0.6 & ingest.test_fraction=0.4", "ingest.test_fraction below 1"),
        ("ingest.min_side_px=200 & ingest.max_pixels=39999", "Expected ingest.max_pixels to allow"),
        ("model.resnext_cardinality=91 & model.resnext_width_per_group=91", "at most 8192 channels"),
        ("reweight.refit.accumulate_steps=2", "reweight.refit.accumulate_steps to divide the 255 images"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(override, fault):
    with pytest.raises(UsageError) as caught:
        load_config(None, override.split(" & "))
    assert fault in str(caught.value)


def test_whole_numbers_may_be_written_as_such():
    config = load_config(
        None,
        ["ingest.max_bytes=1e8", "seed=7.0", "baseline.folds='3'", "train.fit.epochs=5", "export.name=2015"],
    )
    assert (config.ingest.max_bytes, config.seed, config.baseline.folds) == (100_000_000, 7, 3)
    assert all(type(value) is int for value in (config.ingest.max_bytes, config.seed, config.baseline.folds))
    assert type(config.train.fit.epochs) is float and config.export.name == "2015"
