"""Finds the model that a path means, with its labels, its preparation and its version.

A path is a model file (.keras, .tflite, .onnx), a version directory, a model directory with
numbered versions (the highest counts), a directory with one model directory, or the work directory
of a run. Labels and preparation come from inside a `.tflite` file where they are, else from
`labels.txt` and `export.json` beside the model. Nothing of it needs TensorFlow.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.export import checksums
from urnet_tf.export.formats import LABELS_FILE
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.tflite_metadata import Inside, read_metadata
from urnet_tf.store import MARKER, Workdir, read_json
from urnet_tf.text_rules import quote

KINDS = {"saved_model": "SavedModel", "keras": "Keras", "tflite": "TFLite", "onnx": "ONNX"}
_SUFFIXES = {".keras": "keras", ".tflite": "tflite", ".onnx": "onnx"}
_PREFERRED = ("*.keras", "*_float32.tflite", "*.onnx", "*.tflite")  # of a version without a SavedModel
_WANTED = "saved_model.pb, or a .keras, .tflite or .onnx file, or numbered versions of such"


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model on disk and what belongs to it."""

    path: pathlib.Path  # a file; the version directory of a SavedModel
    kind: str  # one of KINDS
    name: str
    version: int | None
    labels: tuple[str, ...]
    preparation: Preparation | None  # None: a SavedModel alone, which prepares images itself
    class_ids: tuple[str, ...] = ()  # in the order of the labels; () where the export does not tell

    @property
    def outer_preparation(self) -> Preparation:
        """How images are prepared before a model that does not do so itself; `find_model` has seen it."""
        if self.preparation is None:
            raise ValueError(f"Expected a model with its preparation; received {self}.")
        return self.preparation

    def __str__(self) -> str:
        version = "" if self.version is None else f", version {self.version}"
        return f"{self.name}{version} ({KINDS[self.kind]}): {self.path}"


def find_model(path: str | os.PathLike) -> ModelFile:
    """Finds the model file that a path means.

    Raises:
      UsageError: there is none, there are several, or its labels or preparation are missing.
      DamagedResult: it lies in the work directory of a run and is not as the run wrote it.
    """
    path = pathlib.Path(path)
    found = None
    try:
        if path.is_dir():
            found = _file_in(path)
        elif path.is_file():
            found = path.parent if path.name == "saved_model.pb" else path
        if found is not None:
            _check_damage(found)
            file = _describe(found)
            # A version may lack a SavedModel because it has none, or because it is not copied yet.
            parts = checksums.SAVED_MODEL_PARTS if path.is_dir() or file.kind == "saved_model" else ()
            if found.is_dir():
                check_whole(found, parts)
            else:
                check_whole(found.parent, (found.name, *parts))
            return file
    except OSError as error:
        raise UsageError(f"Cannot read the model {path}: {error.strerror or error}.") from None
    raise UsageError(f"Expected a model at {path}; there is no such file or directory.")


def check_whole(version: pathlib.Path, parts: Sequence[str] = (), *, contents: bool = False) -> None:
    """Compares the files of a version with what its `export.json` says, where it says so.

    Args:
      version: its directory.
      parts: files to look at; none = those of the SavedModel.
      contents: whether to read them; else their sizes are compared.

    Raises:
      UsageError: one is missing, cut off or changed; the message offers the last version that is whole.
    """
    damage = _find_damage(version, parts or checksums.SAVED_MODEL_PARTS, contents)
    if damage is not None:
        raise UsageError(_explain_damage(version.resolve(), damage))


def check_highest(directory: pathlib.Path) -> None:
    """Raises UsageError where the highest version of a model's directory holds no model."""
    highest = _numbered(directory)[-1]
    if not _file_of_version(highest):
        raise UsageError(_explain_damage(highest.resolve(), "saved_model.pb is missing"))


def _find_damage(version: pathlib.Path, parts: Sequence[str], contents: bool) -> str | None:
    metadata = _read_metadata(version, (checksums.EXPORT_JSON,))
    try:
        return checksums.find_damage(version, metadata, parts, contents=contents)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"Expected checksums in {version / checksums.EXPORT_JSON}; they are damaged."
        ) from None


def _explain_damage(version: pathlib.Path, damage: str) -> str:
    others = (
        [p for p in _numbered(version.parent) if p.name != version.name] if version.name.isdecimal() else []
    )
    whole = [p for p in others if _is_whole(p)]
    offer = f" The last whole version is {whole[-1].name}: --model {whole[-1]}" if whole else ""
    return f"Expected a whole model in {version}; {damage}. It may be half copied: copy it again.{offer}"


def _is_whole(version: pathlib.Path) -> bool:
    if not _file_of_version(version):
        return False
    try:
        return _find_damage(version, checksums.SAVED_MODEL_PARTS, True) is None
    except UsageError:
        return False


def _check_damage(path: pathlib.Path) -> None:
    """Compares a model that lies in a work directory with what its run says of it."""
    version = (path if path.is_dir() else path.parent).resolve()
    export = version.parent.parent
    if (export / MARKER).is_file() and export.name == "export":
        Workdir(export.parent).checked("export", version.parent.name, version.name)


def _file_in(directory: pathlib.Path) -> pathlib.Path:
    """The model in a directory of any level."""
    if found := _file_of_version(directory, loose=False):
        return found
    if versions := _versions(directory):
        if any(_numbered(directory)[-1].iterdir()):  # else a copy that has just begun
            check_highest(directory)
        return versions[-1]
    models = [p for p in sorted(directory.iterdir()) if p.is_dir() and _versions(p)]
    if len(models) > 1:
        names = ", ".join(p.name for p in models)
        raise UsageError(
            f"Expected one model in {directory}; it holds {names}. Say which: {directory / models[0].name}"
        )
    if models:
        return _file_in(models[0])
    if (directory / "export").is_dir():  # the work directory of a run
        return _file_in(directory / "export")
    if (directory / MARKER).is_file() and directory.name == "export":
        _check_skipped(directory)
    if found := _file_of_version(directory):
        return found
    hint = " This run has no export yet: `urnet run` makes it." if (directory / "pack").is_dir() else ""
    held = sorted(p.name for p in directory.iterdir())
    shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "") if held else "nothing"
    raise UsageError(f"Expected {_WANTED} in {directory}; it holds {shown}.{hint}")


def _check_skipped(directory: pathlib.Path) -> None:
    """A run may have had a reason for exporting nothing."""
    try:
        reason = read_json(directory / MARKER)["metadata"].get("skipped")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return  # what is damaged is reported as such
    if reason:
        raise UsageError(f"Expected a model of images in {directory}; there is none. {reason}")


def _versions(directory: pathlib.Path) -> list[pathlib.Path]:
    """The models of numbered sub-directories, in the order of their numbers."""
    found = map(_file_of_version, _numbered(directory))
    return [path for path in found if path]


def _numbered(directory: pathlib.Path) -> list[pathlib.Path]:
    """The sub-directories that stand for versions, in the order of their numbers."""
    numbered = [p for p in directory.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(numbered, key=lambda p: int(p.name))


def _file_of_version(directory: pathlib.Path, loose: bool = True) -> pathlib.Path | None:
    """The SavedModel of a version directory, else (`loose`) its best other file, else None."""
    if (directory / "saved_model.pb").is_file():
        return directory
    files = (p for pattern in _PREFERRED for p in sorted(directory.glob(pattern)) if p.is_file())
    return next(files, None) if loose else None


def _describe(path: pathlib.Path) -> ModelFile:
    kind = "saved_model" if path.is_dir() else _SUFFIXES.get(path.suffix.lower())
    if kind is None or (kind == "saved_model" and not (path / "saved_model.pb").is_file()):
        raise UsageError(f"Expected a model ({', '.join(_SUFFIXES)} or a SavedModel); received {path}.")
    directory = (path if path.is_dir() else path.parent).resolve()
    inside = read_metadata(path) if kind == "tflite" else Inside()
    preparation = inside.preparation
    metadata = _read_metadata(directory, ("export.json", "assets/model.json"))
    labels = inside.labels or _read_lines(directory, (f"assets/{LABELS_FILE}", LABELS_FILE))
    if not labels:
        raise UsageError(f"Expected the names of the classes in {directory / 'labels.txt'}; there are none.")
    if preparation is None:
        preparation = _read_preparation(directory, metadata)
    if preparation is None and kind != "saved_model":
        raise UsageError(
            f"Expected how images are prepared, in {directory / 'export.json'}; it is missing. Use the "
            "model inside its export, or copy that file, too."
        )
    version = metadata.get("version")
    if directory.name.isdecimal():
        version = int(directory.name) if version is None else version
        fallback = directory.parent.name
    else:
        fallback = directory.name if kind == "saved_model" else path.stem
    ids = inside.class_ids or metadata.get("class_ids")
    ids = tuple(map(str, ids)) if isinstance(ids, list) and len(ids) == len(labels) else ()
    return ModelFile(
        path, kind, str(metadata.get("name") or fallback), version, tuple(labels), preparation, ids
    )


def _read_metadata(directory: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        if (directory / name).is_file():
            try:
                metadata = read_json(directory / name)
            except (ValueError, RecursionError):
                metadata = None
            if not isinstance(metadata, dict):
                raise UsageError(f"Expected a JSON object in {directory / name}; it is damaged.")
            return metadata
    return {}


def _read_lines(directory: pathlib.Path, names: Sequence[str]) -> list[str] | None:
    for name in names:
        if (directory / name).is_file():
            try:
                return (directory / name).read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                raise UsageError(f"Expected UTF-8 text in {directory / name}.") from None
    return None


def _read_preparation(directory: pathlib.Path, metadata: dict[str, Any]) -> Preparation | None:
    if "preparation" not in metadata:
        return None
    try:
        return Preparation.from_dict(metadata["preparation"])
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise UsageError(
            f"Expected how images are prepared, in {directory / 'export.json'}; received "
            f"{quote(metadata['preparation'])}: {error}"
        ) from None
