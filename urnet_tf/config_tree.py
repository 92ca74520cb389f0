"""Trees of settings: read from YAML, changed by dotted overrides, built into checked dataclasses."""

import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence

import yaml

from urnet_tf.errors import UsageError

_KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def read(path: pathlib.Path) -> dict:
    """A YAML file over the one that it names as its `base`, if any.

    Raises:
      UsageError: a file is missing or holds no mapping, or the base has a base itself.
    """
    tree = _read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    base_tree = _read_yaml(path.parent / base)
    if "base" in base_tree:
        raise UsageError(f"{path}: its base {base} has a base itself; only one level is allowed.")
    return merge(base_tree, tree)


def override(tree: dict, overrides: Sequence[str]) -> dict:
    """Puts `section.key=value` texts into a tree, values read as YAML; returns the tree.

    Raises:
      UsageError: a text is malformed, or its section is a value.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"Expected --set section.key=value; received {override!r}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"The value of --set {override!r} is not YAML: {_one_line(error)}") from None
        node, *parents = tree, *key.split(".")[:-1]
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {override}: {parent!r} is a value, not a section.")
        node[key.split(".")[-1]] = value
    return tree


def _read_yaml(path: pathlib.Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {_one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"Expected a mapping of sections in {path}; received {type(tree).__name__}.")
    return tree


def merge(base: Mapping, over: Mapping) -> dict:
    """`base` with all that `over` sets, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _one_line(error) -> str:
    return " ".join(str(error).split())


def build(default, tree, prefix: str = ""):
    """A dataclass like `default`, and those inside, with what nested mappings set.

    Fields may carry `choices`, `minimum` and `maximum` in their metadata. `prefix` is what the
    messages put before a key.

    Raises:
      UsageError: an unknown key, a value of the wrong type or outside of its range.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise UsageError(f"Expected a section at {prefix[:-1]!r}; received {tree!r}.")
    fields = {f.name: f for f in dataclasses.fields(default)}
    hints = typing.get_type_hints(type(default))
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise UsageError(_unknown_key(str(key), prefix, fields))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = build(getattr(default, key), value, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, hints[key], fields[key].metadata, f"{prefix}{key}")
    return dataclasses.replace(default, **values)


def _unknown_key(key, prefix, fields):
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {prefix}{near[0]}?"
    else:
        hint = f"known here: {', '.join(fields)}."
    return f"Unknown configuration key {prefix}{key}; {hint}"


def _checked(value, hint, metadata, key):
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = typing.get_args(hint) if union else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    value = _converted(value, kind, key)
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise UsageError(f"Expected one of {', '.join(map(str, choices))} for {key}; received {value!r}.")
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        span = f"at least {low}" if high is None else f"a number between {low} and {high}"
        raise UsageError(f"Expected {span} for {key}; received {value!r}.")
    return value


def _converted(value, kind, key):
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"Expected a list for {key}; received {value!r}.")
        item = typing.get_args(kind)[0]
        return tuple(_converted(v, item, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"Expected a mapping for {key}, like {{flickr: 15}}; received {value!r}.")
        item = typing.get_args(kind)[1]
        return {str(k): _converted(v, item, f"{key}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 (no dot) as a string
            value = float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"Expected {_KIND_NAMES[kind]} for {key}; received {value!r}.")
    return value
