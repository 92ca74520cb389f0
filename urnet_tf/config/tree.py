"""Trees of settings: put over each other, built into checked dataclasses, and made plain again."""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

import yaml

from urnet_tf.errors import UsageError
from urnet_tf.text_rules import LINE, bare, check_text, quote

if TYPE_CHECKING:
    from urnet_tf.config.fields import Config

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_MOST_BITS = 1000  # what a float can hold
_KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


FREE_MAPPINGS = (
    "ingest.max_rank",
    "ingest.columns",
    "ingest.merge",
)  # dotted keys of values that are mappings, not sections


def merge(base: Mapping, over: Mapping, prefix: str = "") -> dict:
    """`base` with all that `over` sets, section by section; a mapping that is a value is replaced as a whole.

    `prefix` is the dotted key of the section, with a dot at its end.
    """
    merged = dict(base)
    for key, value in over.items():
        name = f"{prefix}{key}"
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value, f"{name}.") if both and name not in FREE_MAPPINGS else value
    return merged


def build(default: Any, tree: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass like `default`, and those inside, with what nested mappings set.

    Each value is checked against its field: the type, and in the metadata `choices`, or `minimum` and
    `maximum` of a number and `words` that may stand for one, or `form` (see `text_rules`) and `max_length`
    of a text. Lists and mappings have `min_count` and `max_count`, and `single` where one text may stand for
    a list of it; the rest is of their items, and texts as keys of mappings are short lines.
    `prefix` is what the messages put before a key.

    Raises:
      UsageError: an unknown key, a value of the wrong type or outside of its range.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise UsageError(f"Expected a section at {prefix[:-1]!r}; received {quote(tree)}.")
    fields = {f.name: f for f in dataclasses.fields(default)}
    hints = _type_hints(default.__class__)
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise UsageError(_unknown_key(bare(key), prefix, fields))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = build(getattr(default, key), value, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, hints[key], fields[key].metadata, f"{prefix}{key}")
    return dataclasses.replace(default, **values)


@functools.cache
def _type_hints(kind: type) -> dict[str, typing.Any]:
    return typing.get_type_hints(kind)


def value_type(hint: Any) -> tuple[type, bool]:
    """What a field's annotation stands for, and whether None may be given instead."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = typing.get_args(hint) if union else (hint,)
    return next(o for o in options if o is not type(None)), type(None) in options


def _unknown_key(key: str, prefix: str, fields: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {prefix}{near[0]}?"
    else:
        hint = f"known here: {', '.join(fields)}."
    return f"Unknown configuration key {prefix}{key}; {hint}"


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any], key: str) -> Any:
    kind, optional = value_type(hint)
    if (value is None and optional) or (isinstance(value, str) and value in metadata.get("words", ())):
        return value
    origin = typing.get_origin(kind)
    if origin is tuple:
        if metadata.get("single") and isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"Expected a list for {key}; received {quote(value)}.")
        _check_count(value, metadata, key)
        item = typing.get_args(kind)[0]
        return tuple(_checked_item(v, item, metadata, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"Expected a mapping for {key}, like {{flickr: 15}}; received {quote(value)}.")
        _check_count(value, metadata, key)
        item = typing.get_args(kind)[1]
        names = [_checked_item(k, str, _KEY_RULES, f"a key of {key}") for k in value]
        return {
            name: _checked_item(v, item, metadata, f"{key}.{bare(name)}")
            for name, v in zip(names, value.values(), strict=True)
        }
    return _checked_item(value, kind, metadata, key)


_KEY_RULES = {"form": LINE, "max_length": 200}


def _check_count(value: Sized, metadata: Mapping[str, Any], key: str) -> None:
    low, high = metadata.get("min_count", 0), metadata["max_count"]
    if not low <= len(value) <= high:
        raise UsageError(f"Expected {low} to {high} entries for {key}; received {len(value)}.")


def _checked_item(value: Any, kind: type, metadata: Mapping[str, Any], key: str) -> Any:
    value = _converted(value, kind, key, metadata.get("words", ()))
    choices = metadata.get("choices")
    if choices:
        if value not in choices:
            known = ", ".join(map(str, choices))
            raise UsageError(f"Expected one of {known} for {key}; received {quote(value)}.")
    elif kind is str:
        if len(value) > metadata["max_length"]:
            most = metadata["max_length"]
            raise UsageError(f"Expected at most {most} characters for {key}; received {quote(value)}.")
        check_text(value, metadata["form"], key)
    elif kind is not bool and not metadata["minimum"] <= value <= metadata["maximum"]:
        span = " or ".join(
            [f"{metadata['minimum']:,} and {metadata['maximum']:,}", *metadata.get("words", ())]
        )
        raise UsageError(f"Expected a number between {span} for {key}; received {quote(value)}.")
    return value


def _converted(value: Any, kind: type, key: str, words: Iterable[str] = ()) -> Any:
    """The value as its type: whole numbers may be written as 1e3 or 1000.0, names as 2015."""
    given = value
    if kind in (int, float) and isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3 (no dot) as a text
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if kind is float and value.bit_length() < _MOST_BITS:
            value = float(value)
        elif kind is float:
            value = math.inf if value > 0 else -math.inf
        elif kind is str and value.bit_length() < _MOST_BITS:
            value = str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = " or ".join([_KIND_NAMES[kind], *words])
        raise UsageError(f"Expected {expected} for {key}; received {quote(given)}.")
    return value


def to_dict(config: "Config") -> dict:
    """The nested plain dictionary of a Config or of one of its sections (lists for tuples)."""
    plain = dataclasses.asdict(config)
    return yaml.safe_load(yaml.safe_dump(plain_value(plain)))


def plain_value(value: Any) -> Any:
    """Tuples to lists and mappings to dictionaries, so that YAML and JSON can hold them."""
    if isinstance(value, Mapping):
        return {str(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(v) for v in value]
    return value


def select(config: "Config", key: str) -> Any:
    """The section or value under a dotted key, like `select(config, "train.fit")`."""
    for part in key.split("."):
        config = getattr(config, part)
    return config
