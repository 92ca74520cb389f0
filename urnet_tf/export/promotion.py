"""Copies an export where servers look for models, `saved_models/<name>/<version>/`, and says what they serve.

A version is copied whole and appears in one piece. It is never changed; where its number is taken, the copy
gets the next one, in all of its files. What others wrote into `models.config` stays as it is, but for the
versions and labels of this model where that is asked for.
"""

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from urnet_tf.errors import UsageError
from urnet_tf.export import checksums, models_config, tf_serving
from urnet_tf.export.model_card import build_model_card
from urnet_tf.store import atomic_path, read_json, sync_tree, write_json, write_text
from urnet_tf.text_rules import FILE_NAME, check_text

STABLE = "stable"  # the label that the version served so far gets beside the first other one


class Change(NamedTuple):
    """What was done, or would be.

    Attributes:
      version: the directory of the version that it is about.
      remarks: sentences for the user.
    """

    version: pathlib.Path
    remarks: list[str]


def next_version(directory: str | os.PathLike, first: int = 1) -> int:
    """The smallest whole number, at least `first`, above all versions in a model's directory."""
    directory = pathlib.Path(directory)
    taken = [int(p.name) for p in directory.glob("*") if p.name.isdecimal()] if directory.is_dir() else []
    return max([first, *(v + 1 for v in taken)])


def promote(
    version_dir: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    pin: bool = False,
    label: str | None = None,
    dry_run: bool = False,
) -> Change:
    """Copies one version of an export; one that is there already can still be pinned or labeled.

    Args:
      version_dir: `<name>/<version>` of an export, with its `export.json`.
      directory: the directory of promoted models; made when missing.
      pin: whether `models.config` is to serve this version alone, and those that have labels, until it says
        otherwise; else what it says already holds, which for a new model is always the highest version.
      label: that this version gets, beside those that are served already.
      dry_run: changes nothing.

    Raises:
      UsageError: there is no export, it is not whole, it is there already and nothing else is asked for,
        the directory cannot be written, or its `models.config` is no list that a model can be added to (then
        nothing is copied).
    """
    source, directory = pathlib.Path(version_dir), pathlib.Path(directory)
    metadata = _read_source(source)
    if label is not None:
        check_text(label, FILE_NAME, "a label")
    name = metadata["name"]
    models, target = directory / tf_serving.CONFIG, directory / name
    before = models_config.read_text(models)  # so that a bad one is reported before anything is copied
    same = _find_same(target, metadata)
    if same is not None and not pin and label is None:
        raise UsageError(
            f"This export is there already, as {same}. --pin or --label serves it, where another is served; "
            "`urnet rollback` goes back to the version before."
        )
    version = next_version(target, metadata["version"]) if same is None else int(same.name)
    there = tf_serving.find_versions(target)
    text, remarks = _list_version(models, before, name, there, version, pin, label)
    copied = target / str(version)
    if same is not None:
        remarks.insert(0, "This export is there already; it is not copied again.")
    elif version != metadata["version"]:
        remarks.insert(
            0, f"The export's version {metadata['version']} is number {version} there, in all files."
        )
    if dry_run:
        return Change(copied, remarks)
    try:
        if same is None:
            _copy(source, copied, metadata)
        if text != before:
            write_text(os.path.realpath(models), text)
        tf_serving.write_server_files(directory)
    except OSError as error:
        raise UsageError(f"Cannot write to {target}: {error.strerror or error}.") from None
    return Change(copied, remarks)


def _copy(source: pathlib.Path, copied: pathlib.Path, metadata: dict[str, Any]) -> None:
    """Copies a version as a whole, under the number of the new directory."""
    copied.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(copied) as temporary:
        shutil.copytree(source, temporary)
        if int(copied.name) != metadata["version"]:
            _renumber(temporary, metadata, int(copied.name))
        sync_tree(temporary)


def roll_back(model_dir: str | os.PathLike, *, dry_run: bool = False) -> Change:
    """Lets servers go back to the version before the one that they serve; no version is removed.

    Args:
      model_dir: `saved_models/<name>`, beside whose parent's `models.config` the change is made.
      dry_run: changes nothing.

    Raises:
      UsageError: there is no version to go back to, or `models.config` cannot be read or edited.
    """
    target = pathlib.Path(model_dir).resolve()
    models, name = target.parent / tf_serving.CONFIG, target.name
    there = tf_serving.find_versions(target)
    if not there:
        raise UsageError(f"Expected a promoted model with versions at {model_dir}; there is none.")
    before = models_config.read_text(models)
    served = models_config.find_served(before, name, there)
    current = served.versions[-1] if served and served.versions else there[-1]
    whole = [v for v in there if v < current and not _find_damage(target / str(v))]
    if not whole:
        raise UsageError(f"Expected a whole version of {name} below {current} in {target}; there is none.")
    previous = whole[-1]
    labels = {label: previous for label, v in (served.labels if served else {}).items() if v > previous}
    kept = {v for v in (served.labels if served else {}).values() if v < previous}
    text, remarks = _with_versions(models, before, name, sorted({previous, *kept}), labels)
    remarks += [f"The label {label} means version {previous} now." for label in labels]
    remarks.append(f"Version {current} stays in {target}; `urnet promote --pin` of its run serves it again.")
    if not dry_run and text != before:
        try:
            write_text(os.path.realpath(models), text)
        except OSError as error:
            raise UsageError(f"Cannot write {models}: {error.strerror or error}.") from None
    return Change(target / str(previous), remarks)


def _read_source(source: pathlib.Path) -> dict[str, Any]:
    if not (source / checksums.EXPORT_JSON).is_file():
        raise UsageError(f"Expected an export with export.json in {source}; found none.")
    metadata = _read_metadata(source / checksums.EXPORT_JSON)
    check_text(str(metadata["name"]), FILE_NAME, f"the name in {source / checksums.EXPORT_JSON}")
    if damage := checksums.find_damage(source, metadata, contents=True):
        raise UsageError(f"Expected a whole export in {source}; {damage}. Copy or export it again.")
    return metadata


def _find_same(target: pathlib.Path, metadata: Mapping[str, Any]) -> pathlib.Path | None:
    """The version that is a copy of an export, and whole; UsageError where it is not."""
    own = {"version": None, checksums.KEY: None}  # what renumbering changes
    for other in target.glob(f"*/{checksums.EXPORT_JSON}"):
        if {**_read_metadata(other), **own} == {**metadata, **own}:
            if damage := _find_damage(other.parent):
                raise UsageError(
                    f"This export is there already, as {other.parent}, but not whole: {damage}. Remove that "
                    "directory, which no server can use, to copy it again."
                )
            return other.parent
    return None


def _list_version(
    models: pathlib.Path,
    before: str,
    name: str,
    there: Sequence[int],
    version: int,
    pin: bool,
    label: str | None,
) -> tuple[str, list[str]]:
    """The text of `models.config` with a new version, and what to say of it."""
    served = models_config.find_served(before, name, there)
    labels = dict(served.labels) if served else {}
    if not pin and label is None:
        if served is None:
            remarks = [f"{models} now lists {name}; its highest version is served."]
            return _with_model(models, before, name), remarks
        return before, [_describe_unchanged(models, served, name, version)]
    added = {}
    if label is not None:
        added[label] = version
        if not labels and served and served.versions and label != STABLE:
            added[STABLE] = served.versions[-1]
    standing = set() if pin or served is None else set(served.versions)
    versions = sorted({version, *standing, *(labels | added).values()})
    text, remarks = _with_versions(models, before, name, versions, added)
    remarks += [f"The label {key} means version {value}." for key, value in added.items()]
    if label is not None and len(versions) > 1:
        remarks.append(
            f"Requests that name no version or label get the highest that is served, {versions[-1]}; others "
            f"ask /v1/models/{name}/labels/{next(iter(sorted({**labels, **added})))}:predict."
        )
    return text, remarks


def _describe_unchanged(models: pathlib.Path, served: models_config.Served, name: str, version: int) -> str:
    if served.pinned:
        pinned = ", ".join(map(str, served.versions)) or "versions that are not there"
        return (
            f"{models} stays as it is: it pins {name} to version {pinned}, so version {version} is not "
            "served yet. --pin or --label changes that."
        )
    before = f" from version {served.versions[-1]}" if served.versions else ""
    return f"{models} stays as it is: a running TF Serving goes{before} to version {version} by itself."


def _with_model(models: pathlib.Path, before: str, name: str) -> str:
    try:
        return models_config.with_model(before, name)
    except models_config.CannotEdit:
        raise UsageError(f"Cannot add {name} to {models}, which is left as it is; add it by hand.") from None


def _with_versions(
    models: pathlib.Path, before: str, name: str, versions: Sequence[int], labels: Mapping[str, int]
) -> tuple[str, list[str]]:
    """The text with versions set, or the lines to set by hand."""
    which = "version" if len(versions) == 1 else "versions"
    says = f"{models} now serves {which} {', '.join(map(str, versions))} of {name}."
    try:
        added = models_config.with_model(before, name, versions, labels)
        if added != before:
            return added, [says]
        return models_config.with_versions(before, name, versions, labels), [says]
    except models_config.CannotEdit as error:
        lines = models_config.snippet(name, versions, labels)
        return before, [
            f"{models} is left as it is, since {error}. Put these lines into the entry of {name}, in place "
            f"of those that it has:\n{lines}"
        ]


def _find_damage(version: pathlib.Path) -> str | None:
    path = version / checksums.EXPORT_JSON
    return checksums.find_damage(version, _read_metadata(path), contents=True) if path.is_file() else None


def _read_metadata(path: pathlib.Path) -> dict[str, Any]:
    try:
        metadata = read_json(path)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict) or type(metadata.get("version")) is not int or "name" not in metadata:
        raise UsageError(
            f"Expected the metadata of an export in {path}; it is damaged. Export the model again."
        )
    return metadata


def _renumber(path: pathlib.Path, metadata: dict[str, Any], version: int) -> None:
    """Gives a copy another version in every file that holds it."""
    metadata = metadata | {"version": version}
    labels = (path / "labels.txt").read_text(encoding="utf-8").splitlines()
    inside = path / "assets" / "model.json"
    if inside.is_file():
        write_json(inside, read_json(inside) | {"version": version})
    for file in sorted(path.glob("*.tflite")):
        from urnet_tf.export import tflite_metadata

        tflite_metadata.set_version(file, metadata["name"], str(version))
    for file in sorted(path.glob("*.onnx")):
        from urnet_tf.export import onnx_file

        onnx_file.set_version(file, str(version))
    write_text(path / "README.md", build_model_card(metadata, labels))
    if checksums.KEY in metadata:
        metadata[checksums.KEY] = checksums.list_checksums(path)
    write_json(path / checksums.EXPORT_JSON, metadata)
