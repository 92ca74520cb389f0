"""Reads configurations: files in a careful subset of YAML, one level of `base:`, and dotted overrides.

The subset has mappings with text keys, each once, lists, texts, numbers, true, false and null. What a
file could use to make the program hang, crash or guess is refused by name: tags, keys that are given
twice, collections inside of themselves, aliases that multiply, endless files.
"""

import os
import pathlib
import re
import stat
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from urnet_tf.config.tree import merge
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import PATH, bare, check_text, cut, one_line, quote, show_path

_MOST_BYTES = 256 * 1024  # the longest configuration with every key has a few thousand
_MOST_VALUES = 20_000  # with those that aliases repeat
_DEEPEST = 20
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
# Where the configurations that come with the package are: packed in it, or beside it in a checkout.
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_PACKAGED = (_PACKAGE / "configs", _PACKAGE.parent / "experiments" / "configs")
_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


def packaged() -> dict[str, pathlib.Path]:
    """The configurations that come with the package, in the order of their names."""
    folder = next((folder for folder in _PACKAGED if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find(name: str | os.PathLike) -> str:
    """The path of a configuration: of a file, or, for a bare name that is no file's, of a packaged one.

    Raises:
      UsageError: the bare name is of neither.
    """
    text = os.fspath(name)
    if not _NAME.fullmatch(text) or os.path.isfile(text):
        return text
    known = packaged()
    if text not in known:
        raise UsageError(
            f"Expected a YAML file or the name of a packaged configuration ({', '.join(known)}) after "
            f"--config; received {quote(text)}."
        )
    return os.fspath(known[text])


def read(path: str | os.PathLike) -> dict:
    """A YAML file over the one that it names as its `base`, if any.

    Raises:
      UsageError: a file is missing, no ordinary file, too long, or holds no mapping of this subset; the
        base has a base itself.
    """
    tree = _read_file(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UsageError(f"Expected a file name for base in {show_path(path)}; received {quote(base)}.")
    base_tree = _read_file(os.path.join(os.path.dirname(path), base))
    if "base" in base_tree:
        raise UsageError(
            f"{show_path(path)}: its base {bare(base)} has a base itself; only one level is allowed."
        )
    return merge(base_tree, tree)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text; `source` names it in messages.

    Raises:
      UsageError: it is not in the subset.
    """
    if len(text) > _MOST_BYTES:
        raise UsageError(f"Expected at most {_MOST_BYTES:,} characters in {source}; received {len(text):,}.")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = cut(" ".join(one_line(str(error)).split()), 200)
        raise UsageError(f"{source} is not valid YAML: {problem}") from None


def override(tree: dict, overrides: Sequence[str]) -> dict:
    """Puts `section.key=value` texts into a tree, values read as YAML; returns the tree.

    Raises:
      UsageError: a text is malformed, or its section is a value.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"Expected --set section.key=value; received {quote(override)}.")
        value = parse(text, f"The value of --set {bare(key)}")
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            if node.get(parent) is None:  # a section may be left empty in a file
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise UsageError(f"--set {bare(override)}: {quote(parent)} is a value, not a section.")
        node[last] = value
    return tree


def _read_file(path: str | os.PathLike) -> dict[str, Any]:
    check_text(os.fspath(path), PATH, "the name of a configuration")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"Expected a file as configuration; {show_path(path)} is no ordinary file.")
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Cannot read the configuration {show_path(path)}: {error.strerror}.") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"Expected a configuration of at most {_MOST_BYTES:,} bytes; {show_path(path)} has more."
        )
    try:
        tree = parse(content.decode("utf-8"), show_path(path))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{show_path(path)} is not valid YAML: byte {error.start} is not UTF-8 ({error.reason})."
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"Expected a mapping of sections in {show_path(path)}; received {quote(tree)}.")
    return tree


class _Loader(yaml.SafeLoader):
    """Dates stay texts; each node is counted with all that is below it, aliases included."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != _TIMESTAMP]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open = 0  # collections around the node in hand
        self._extents: dict[int, tuple[int, int]] = {}  # id of a finished node: values in it, levels of it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!"):
            raise _error(f"tags like {quote(event.tag, 40)} are not used here", event)
        if self._open > _DEEPEST:
            raise _error(f"more than {_DEEPEST} levels", event)
        self._open += 1
        node = super().compose_node(parent, index)
        self._open -= 1
        if id(node) not in self._extents:
            if isinstance(event, yaml.AliasEvent):
                raise _error("a collection holds itself", event)
            self._extents[id(node)] = self._measure(node, event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in (_TEXT, _MERGE):
                received = f"{key.value} (put it into quotes)" if isinstance(key, yaml.ScalarNode) else key.id
                raise _error(f"expected a text as key, received {bare(received)}", key)
            if key.value in seen:
                raise _error(f"the key {quote(key.value)} is given twice", key)
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return self._construct_number(super().construct_yaml_int, node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return self._construct_number(super().construct_yaml_float, node)

    def _construct_number(self, construct: Callable, node: yaml.ScalarNode) -> Any:
        try:
            return construct(node)
        except (ValueError, OverflowError):  # too many digits
            raise _error(f"the number {bare(node.value, 40)} cannot be read", node) from None

    def _measure(self, node: Any, event: yaml.Event) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        counts, levels = zip((0, 0), *(self._extents[id(child)] for child in children), strict=True)
        count, level = 1 + sum(counts), 1 + max(levels)
        if count > _MOST_VALUES or level > _DEEPEST:
            raise _error(f"more than {_MOST_VALUES:,} values or {_DEEPEST} levels", event)
        return count, level


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _error(problem: str, place: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)
