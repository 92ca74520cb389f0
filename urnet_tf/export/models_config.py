"""The list of models that TensorFlow Serving reads, `models.config`: written, added to, and edited in place.

What somebody wrote there is theirs: an edit changes the spans that it is about and no other character, keeps
comments, and is read back before it is written. Where that does not work the file is left alone, and the
caller gets the text to put there by hand.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from urnet_tf.errors import UsageError
from urnet_tf.export.tf_serving import (
    CONFIG,
    IN_CONTAINER,
    find_versions,
    format_models_config,
    parse_models_config,
)
from urnet_tf.store import write_text
from urnet_tf.text_rules import bare

_POLICY, _LABELS = "model_version_policy", "version_labels"


class Served(NamedTuple):
    """Which versions of a model a list wants to be served, and their labels.

    Attributes:
      versions: ascending; of those that are there.
      pinned: whether the list names them; else it takes what is the highest, or all.
      labels: label → version.
    """

    versions: list[int]
    pinned: bool
    labels: dict[str, int]


def write_models_config(
    directory: str | os.PathLike,
    names: Iterable[str] | None = None,
    *,
    base_path: str | os.PathLike = IN_CONTAINER,
    versions: Sequence[int] = (),
    labels: Mapping[str, int] | None = None,
) -> pathlib.Path:
    """Writes a new list of models, which `tensorflow_model_server --model_config_file=` reads.

    Args:
      directory: where the file goes.
      names: of the models; None = all models of the directory.
      base_path: where the server sees the directory of exports.
      versions: the only ones to serve; none = always the highest.
      labels: of versions.

    Returns:
      the file's path.
    """
    directory = pathlib.Path(directory)
    if names is None:
        names = sorted(p.name for p in directory.iterdir() if find_versions(p))
    config = parse_models_config("")
    for name in names:
        _add_entry(config, name, base_path, versions, labels)
    write_text(directory / CONFIG, format_models_config(config))
    return directory / CONFIG


def read_models_config(path: str | os.PathLike) -> Any:
    """A list of models that somebody may have written by hand, as a `ModelServerConfig`.

    Raises:
      UsageError: it cannot be read, or is no list that a model can be added to.
    """
    try:
        return parse_models_config(pathlib.Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:  # of the decoding or the parsing
        reason = bare(" ".join(str(error).split()), 150)
        raise UsageError(
            f"Expected a list of models for TF Serving in {path}, which is left as it is; {reason}. Correct "
            "it or move it away."
        ) from None


def add_model(path: str | os.PathLike, name: str, *, base_path: str | os.PathLike = IN_CONTAINER) -> bool:
    """Adds a model to a list of models where it is not in it; nothing else of the file changes.

    Args:
      path: the file; made when missing. A link is followed.
      name: of the model.
      base_path: where the server sees the directory of exports.

    Returns:
      whether a model was added.

    Raises:
      UsageError: as for `read_models_config`, or it cannot be added to.
    """
    path = pathlib.Path(os.path.realpath(path))
    before = read_text(path)
    try:
        after = with_model(before, name, base_path=base_path)
    except CannotEdit:
        raise UsageError(f"Cannot add {name} to {path}, which is left as it is; add it by hand.") from None
    if after == before:
        return False
    write_text(path, after)
    return True


def read_text(path: str | os.PathLike) -> str:
    """The text of a list of models; "" where there is no file.

    Raises:
      UsageError: as for `read_models_config`.
    """
    if not os.path.lexists(path):
        return ""
    read_models_config(path)
    return pathlib.Path(path).read_bytes().decode("utf-8")


def find_served(text: str, name: str, there: Sequence[int]) -> Served | None:
    """What a list says of a model; None where it is not in it.

    Args:
      there: the versions on disk.
    """
    entry = _entry_of(parse_models_config(text), name)
    if entry is None:
        return None
    policy, labels = entry.model_version_policy, dict(entry.version_labels)
    if policy.HasField("specific"):
        return Served(sorted(set(policy.specific.versions) & set(there)), True, labels)
    if policy.HasField("all"):
        return Served(sorted(there), False, labels)
    count = policy.latest.num_versions or 1
    return Served(sorted(there)[-count:], False, labels)


def with_model(
    text: str,
    name: str,
    versions: Sequence[int] = (),
    labels: Mapping[str, int] | None = None,
    *,
    base_path: str | os.PathLike = IN_CONTAINER,
) -> str:
    """A list of models with one more, where it is not in it.

    Args:
      versions: to serve; none = always the highest.

    Raises:
      CannotEdit: the text has a form that cannot be added to.
    """
    before = parse_models_config(text)
    if _entry_of(before, name) is not None:
        return text
    added = parse_models_config("")
    _add_entry(added, name, base_path, versions, labels)
    wanted = _copy(before)
    _add_entry(wanted, name, base_path, versions, labels)
    body = format_models_config(added)
    if before.HasField("model_config_list"):
        end = _last_brace(text)
        entry = "\n".join(body.splitlines()[1:-1])  # without the braces of the list
        head = text[:end]
        line_break = "" if head.rstrip(" \t").endswith("\n") else "\n"
        text = f"{head}{line_break}{entry}\n{text[end:]}"
    else:
        text = text + "\n" * (bool(text) and not text.endswith("\n")) + body
    return _checked(text, wanted)


def with_versions(text: str, name: str, versions: Sequence[int], labels: Mapping[str, int]) -> str:
    """A list of models in which one of them has other versions, and labels set or moved.

    Args:
      versions: the only ones to serve.
      labels: to set; other labels of the model stay.

    Raises:
      CannotEdit: the model is not in it, or stands there in a form that is not understood, or with comments
        where the versions are.
    """
    before = parse_models_config(text)
    wanted = _copy(before)
    entry = _entry_of(wanted, name)
    if entry is None:
        raise CannotEdit("the model is not in it")
    entry.ClearField(_POLICY)
    entry.model_version_policy.specific.versions.extend(versions)
    entry.version_labels.update(labels)
    found = [span for span in _find_entries(text) if _text_of(text, span.fields.get("name", [])) == name]
    if len(found) != 1:
        raise CannotEdit("its entry is written in a way that is not understood")
    return _checked(_edit(text, found[0], versions, labels), wanted)


def snippet(name: str, versions: Sequence[int], labels: Mapping[str, int]) -> str:
    """The lines of an entry that say which versions are served, to be put there by hand."""
    return "\n".join([f"  {_policy_text(versions)}", *(f"  {_label_text(*item)}" for item in labels.items())])


class CannotEdit(Exception):
    """A text is not changed; the message says why."""


class _Entry(NamedTuple):
    """Where an entry stands in a text: `{` to `}`, and its fields by name, each from its name to its end."""

    start: int
    end: int
    fields: dict[str, list[tuple[int, int]]]


_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>\[\]:;,]|[^\s{}<>\[\]:;,"'#]+""")
_OPENING, _CLOSING = "{<", "}>"


def _find_entries(text: str) -> list[_Entry]:
    """The entries `model_config_list { config { ... } }` of a text that parses, in its usual form."""
    entries: list[_Entry] = []
    path: list[tuple[str, int]] = []  # names of the blocks that are open, and where their names begin
    field: tuple[str, int] | None = None  # the latest name that may be one of a field
    value_follows = False
    for token in (token for token in _TOKEN.finditer(text) if token[0][0] not in "#;,"):
        sign = token[0]
        inside = [name for name, _ in path]
        if sign == ":":
            value_follows = True
        elif sign in _OPENING:
            path.append(field or ("", token.start()))
            if [name for name, _ in path] == ["model_config_list", "config"]:
                entries.append(_Entry(token.start(), -1, {}))
            field, value_follows = None, False
        elif sign in _CLOSING and path:
            name, start = path.pop()
            if inside == ["model_config_list", "config"]:
                entries[-1] = entries[-1]._replace(end=token.start())
            elif inside[:-1] == ["model_config_list", "config"]:
                entries[-1].fields.setdefault(name, []).append((start, token.end()))
        elif value_follows:
            if field and inside == ["model_config_list", "config"]:
                entries[-1].fields.setdefault(field[0], []).append((field[1], token.end()))
            value_follows = False
        else:
            field = (sign, token.start())
    return entries


def _edit(text: str, entry: _Entry, versions: Sequence[int], labels: Mapping[str, int]) -> str:
    changes = [(start, end, _policy_text(versions)) for start, end in entry.fields.get(_POLICY, [])]
    added = [] if changes else [_policy_text(versions)]
    standing = {}
    for start, end in entry.fields.get(_LABELS, []):
        if key := re.search(r"""key\s*:\s*(".*?"|'.*?')""", text[start:end]):
            standing[key[1][1:-1]] = (start, end)
    for label, version in labels.items():
        if label in standing:
            changes.append((*standing[label], _label_text(label, version)))
        else:
            added.append(_label_text(label, version))
    for start, end, _ in changes:
        if "#" in text[start:end]:
            raise CannotEdit("there is a comment where its versions are")
    if added:
        head = text[: entry.end]
        line = head.rpartition("\n")[2]
        own_line = not line.strip()  # the closing brace stands alone
        margin = (line if own_line else "  ") + "  "
        lines = "".join(f"{margin}{field}\n" for field in added)
        place = entry.end - len(line) if own_line else entry.end
        changes.append((place, place, lines if own_line else f"\n{lines}"))
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _policy_text(versions: Sequence[int]) -> str:
    return f"{_POLICY} {{ specific {{ {' '.join(f'versions: {v}' for v in versions)} }} }}"


def _label_text(label: str, version: int) -> str:
    return f'{_LABELS} {{ key: "{label}" value: {version} }}'


def _text_of(text: str, spans: list[tuple[int, int]]) -> str | None:
    """The value of a field that holds a text, where it is a plain one."""
    if len(spans) != 1:
        return None
    value = text[slice(*spans[0])].partition(":")[2].strip()
    return value[1:-1] if value[:1] in ("'", '"') and "\\" not in value else None


def _checked(text: str, wanted: Any) -> str:
    """`text` if it means what is wanted."""
    try:
        found = parse_models_config(text)
    except ValueError:
        found = None
    if found != wanted:
        raise CannotEdit("it is written in a way that is not understood")
    return text


def _copy(config: Any) -> Any:
    copied = type(config)()
    copied.CopyFrom(config)
    return copied


def _entry_of(config: Any, name: str) -> Any:
    return next((entry for entry in config.model_config_list.config if entry.name == name), None)


def _add_entry(
    config: Any,
    name: str,
    base_path: str | os.PathLike,
    versions: Sequence[int] = (),
    labels: Mapping[str, int] | None = None,
) -> None:
    entry = config.model_config_list.config.add(
        name=name,
        base_path=os.fspath(pathlib.PurePosixPath(base_path, name)),
        model_platform="tensorflow",
    )
    if versions:
        entry.model_version_policy.specific.versions.extend(versions)
    else:
        entry.model_version_policy.latest.num_versions = 1
    entry.version_labels.update(labels or {})


def _last_brace(text: str) -> int:
    """Where the list of models ends, in a text with nothing behind it but comments."""
    return [token.start() for token in _TOKEN.finditer(text) if token[0] in _CLOSING][-1]
