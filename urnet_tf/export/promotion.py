"""Copies an export where servers look for models: `saved_models/<name>/<version>/`.

A version is copied whole and appears in one piece. It is never changed; where its number is taken,
the copy gets the next one, in its files, too. What others wrote into `models.config` stays as it is.
"""

import os
import pathlib
import shutil
from typing import Any

from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.export import tf_serving
from urnet_tf.export.model_card import build_model_card
from urnet_tf.store import atomic_path, read_json, write_json, write_text
from urnet_tf.text_rules import FILE_NAME, check_text


def next_version(directory: str | os.PathLike, first: int = 1) -> int:
    """The smallest whole number, at least `first`, above all versions in a model's directory."""
    directory = pathlib.Path(directory)
    taken = [int(p.name) for p in directory.glob("*") if p.name.isdecimal()] if directory.is_dir() else []
    return max([first, *(v + 1 for v in taken)])


def promote(version_dir: str | os.PathLike, directory: str | os.PathLike) -> pathlib.Path:
    """Copies one version of an export.

    Args:
      version_dir: `<name>/<version>` of an export, with its `export.json`.
      directory: the directory of promoted models; made when missing.

    Returns:
      the copy.

    Raises:
      UsageError: there is no export, it is there already, the directory cannot be written, or its
        `models.config` is no list that a model can be added to (then nothing is copied).
    """
    source, directory = pathlib.Path(version_dir), pathlib.Path(directory)
    if not (source / "export.json").is_file():
        raise UsageError(f"Expected an export with export.json in {source}; found none.")
    metadata = _read_metadata(source / "export.json")
    check_text(str(metadata["name"]), FILE_NAME, f"the name in {source / 'export.json'}")
    models = directory / tf_serving.CONFIG
    if os.path.lexists(models):
        tf_serving.read_models_config(models)  # so that a bad one is reported before anything is copied
    target = directory / metadata["name"]
    for other in target.glob("*/export.json"):
        same = _read_metadata(other)
        if same | {"version": None} == metadata | {"version": None}:
            raise UsageError(f"This export is there already, as {other.parent}.")
    version = next_version(target, metadata["version"])
    try:
        target.mkdir(parents=True, exist_ok=True)
        with atomic_path(target / str(version)) as temporary:
            shutil.copytree(source, temporary)
            if version != metadata["version"]:
                _renumber(temporary, metadata, version)
        if not tf_serving.add_model(models, metadata["name"]):
            _warn_of_pins(models, metadata["name"], version)
    except OSError as error:
        raise UsageError(f"Cannot write to {target}: {error.strerror or error}.") from None
    return target / str(version)


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


def _warn_of_pins(models: pathlib.Path, name: str, version: int) -> None:
    entries = tf_serving.read_models_config(models).model_config_list.config
    policy = next(entry for entry in entries if entry.name == name).model_version_policy
    if policy.HasField("specific") and version not in policy.specific.versions:
        pinned = ", ".join(map(str, policy.specific.versions))
        logging.warning(
            "%s pins %s to version %s; version %d is not served yet.", models, name, pinned, version
        )


def _renumber(path: pathlib.Path, metadata: dict[str, Any], version: int) -> None:
    metadata = metadata | {"version": version}
    labels = (path / "labels.txt").read_text(encoding="utf-8").splitlines()
    write_json(path / "export.json", metadata)
    write_text(path / "README.md", build_model_card(metadata, labels))
    inside = path / "assets" / "model.json"
    if inside.is_file():
        write_json(inside, read_json(inside) | {"version": version})
