"""Exports a classifier in the formats that servers and phones read, each one checked against Keras.

In: a Keras model images float32 [B, S, S, 3] (RGB, 0..255) → logits, the class names, encoded
images to check on. Out, in a directory that TF Serving can watch:

    <name>/<version>/         written in one piece, never changed afterwards
        saved_model.pb, variables/, assets/, assets.extra/    see `saved_model`
        <name>.keras                                          image → logits
        <name>_<kind>.tflite                                  see `tflite`
        <name>.onnx                                           see `onnx_file`
        <name>_with_preparation.keras, .onnx                  pictures of any size → logits, probabilities
        labels.txt, class_ids.txt                             one class name, or id, a line, in label order
        export.json, README.md                                what it is, and what was measured
    models.config, batching.config, monitoring.config    for TF Serving

A file that lies further from Keras than the tolerance of its kind is refused: it is not kept, and
`export.json` says why. Exports are float32 or less, whatever precision the model was trained in.
"""

import datetime
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import __version__
from urnet_tf.errors import RunError, UsageError
from urnet_tf.export import checksums, models_config, tf_serving
from urnet_tf.export.arguments import check_arguments, make_directory
from urnet_tf.export.check import check_formats, open_formats
from urnet_tf.export.formats import (
    CLASS_IDS_FILE,
    DEFAULT_FORMATS,
    KERAS,
    KERAS_PICTURES,
    LABELS_FILE,
    ONNX,
    PRECISIONS,
    SAVED_MODEL,
    file_of,
)
from urnet_tf.export.model_card import build_model_card
from urnet_tf.export.none_of_these import NoneOfThese
from urnet_tf.export.parity import Tolerance, find_library_refusal, find_refusal
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.promotion import next_version
from urnet_tf.export.rewriting import (
    FEATURES,
    LOGITS,
    NONE_OF_THESE,
    float32_copy,
    with_keras_normalization,
    with_named_outputs,
    with_preparation,
)
from urnet_tf.store import atomic_path, remove, write_json, write_text

if TYPE_CHECKING:
    import keras


def export_classifier(
    model: "keras.Model",
    class_names: Sequence[str],
    directory: str | os.PathLike,
    name: str,
    check_images: Sequence[bytes],
    *,
    preparation: Preparation,
    class_ids: Sequence[str] | None = None,
    check_labels: np.ndarray | None = None,
    check_split: str = "",
    calibration_images: Sequence[bytes] = (),
    formats: Sequence[str] = DEFAULT_FORMATS,
    top_k: int = 5,
    tolerance: Tolerance | None = None,
    allow_drift: bool = False,
    none_of_these: NoneOfThese | None = None,
    first_version: int = 1,
    data: Mapping | None = None,
    settings: Mapping | None = None,
) -> dict:
    """Writes and checks the formats; see the top of this file.

    Example:
      >>> import io, keras, pathlib, tempfile
      >>> import urnet_tf
      >>> from PIL import Image
      >>> from urnet_tf.export.preparation import Preparation
      >>> image = keras.Input((8, 8, 3))
      >>> logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(image))
      >>> buffer = io.BytesIO()
      >>> Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
      >>> done = urnet_tf.export_classifier(
      ...     keras.Model(image, logits), ["cat", "dog"], pathlib.Path(tempfile.mkdtemp()), "pets",
      ...     [buffer.getvalue()], preparation=Preparation(8), formats=("keras",),
      ... )
      >>> done["formats"]["keras"]["kept"]
      True

    Args:
      model: Keras model images 0..255 → logits [B, C], or a dictionary, see
        `saved_model.write_saved_model`. Where it gives logits only and ends in a dense layer, that
        layer's input is served as `features`.
      class_names: C names in label order, which differ.
      directory: where the files go; made when missing.
      name: of the model.
      check_images: encoded images that training did not see; those that cannot be decoded are left
        out.
      preparation: how encoded images become what the network sees.
      class_ids: C ids for programs, like synsets; None = the names.
      check_labels: int [n] of the check images, -1 = not known; None = none is.
      check_split: what the check images are, for the reader of the model card.
      calibration_images: encoded images whose activations set the ranges of int8; 32-100 of the
        training images are enough.
      formats: of FORMATS.
      top_k: classes that the SavedModel serves; C where it is larger.
      tolerance: what a file may differ from Keras; None = the defaults.
      allow_drift: keeps files that differ more, and says so.
      none_of_these: a score for pictures of no class, which the SavedModel then gives; None = as the model.
      first_version: the version is the first free whole number from here.
      data: metadata of the training data, for export.json.
      settings: of the run, for export.json.

    Returns:
      what `export.json` holds; `formats` has an entry for every requested format, `kept` or
      `refused` with the reason.

    Raises:
      UsageError: the name, the class names, the formats or the check images cannot be used, the
        directory cannot be written.
      RunError: no file passed; nothing is left behind.
    """
    model = with_named_outputs(model)
    model = none_of_these.attach(model) if none_of_these else model
    check_arguments(
        model, class_names, class_ids, name, check_images, preparation, formats, calibration_images
    )
    directory = pathlib.Path(directory)
    make_directory(directory / name)
    labels = [" ".join(str(n).split()) for n in class_names]
    version = next_version(directory / name, first_version)
    metadata = {
        "name": name,
        "version": version,
        **_describe(model, preparation),
        **({"none_of_these": none_of_these.describe()} if none_of_these else {}),
        "top_k": min(top_k, len(labels)),
        "class_ids": [" ".join(str(identity).split()) for identity in class_ids or labels],
        "machine": describe_machine(),
        "versions": _versions(),
        "data": dict(data or {}),
        "settings": dict(settings or {}),
    }
    with atomic_path(directory / name / str(version)) as temporary:
        temporary.mkdir()
        write_text(temporary / LABELS_FILE, "\n".join(labels) + "\n")
        write_text(temporary / CLASS_IDS_FILE, "\n".join(metadata["class_ids"]) + "\n")
        writer = _Writer(model, labels, temporary, metadata, preparation, calibration_images)
        failures = _write_formats(writer, formats)
        paths = {kind: temporary / file_of(kind, name) for kind in formats if kind not in failures}
        opened, unusable = open_formats(paths, model, preparation)
        for kind in unusable:
            _remove(temporary, kind, paths.pop(kind).name)
        metadata |= check_formats(model, paths, opened, check_images, check_labels, preparation)
        metadata["check"]["split"] = check_split
        _judge(metadata, temporary, formats, failures | unusable, tolerance or Tolerance(), allow_drift)
        if metadata["formats"].get(SAVED_MODEL, {}).get("kept"):
            tf_serving.write_warm_up(temporary, name, [tf_serving.draw_photo()])  # of nobody's
        _write_metadata(temporary, metadata, labels)
    _write_server_files(directory, name)
    return metadata


class _Writer:
    """Writes the formats of one model."""

    def __init__(
        self,
        model: "keras.Model",
        labels: list[str],
        path: pathlib.Path,
        metadata: dict[str, Any],
        preparation: Preparation,
        calibration_images: Sequence[bytes],
    ) -> None:
        import keras

        self._model, self._labels, self._path, self._metadata = model, labels, path, metadata
        self._preparation, self._calibration_images = preparation, calibration_images
        self._classifier = keras.Model(model.input, model.output[LOGITS], name=model.name)

    def write(self, kind: str) -> None:
        """Writes one format.

        Raises:
          RunError: the model cannot be converted.
        """
        path = self._path / file_of(kind, self._metadata["name"])
        size = self._preparation.image_size_px
        if kind == SAVED_MODEL:
            from urnet_tf.export import saved_model

            kept = ("name", "version", "created", "classes", "class_ids", "preparation", "top_k", "versions")
            saved_model.write_saved_model(
                self._model, self._labels, self._path, self._preparation,
                class_ids=self._metadata["class_ids"], top_k=self._metadata["top_k"],
                metadata={key: self._metadata[key] for key in kept},
            )  # fmt: skip
        elif kind in (KERAS, KERAS_PICTURES):
            from urnet_tf.training.saving import save_model

            model = with_keras_normalization(float32_copy(self._classifier))
            save_model(with_preparation(model, self._preparation) if kind != KERAS else model, path)
        elif kind.startswith(ONNX):
            from urnet_tf.export import onnx_file

            onnx_file.write_onnx(
                self._classifier, path, size, self._labels, self._preparation,
                class_ids=self._metadata["class_ids"], name=self._metadata["name"],
                version=str(self._metadata["version"]), takes_pictures=kind != ONNX,
            )  # fmt: skip
        else:
            from urnet_tf.export import tflite

            tflite.write_tflite(
                self._classifier, path, image_size_px=size, kind=kind.removeprefix("tflite_"),
                calibration=self._read_calibration() if kind == "tflite_int8" else None,
                labels=self._labels, class_ids=self._metadata["class_ids"], preparation=self._preparation,
                name=self._metadata["name"], version=str(self._metadata["version"]),
            )  # fmt: skip

    def _read_calibration(self) -> np.ndarray:
        images, valid = self._preparation.decode(np.array(self._calibration_images, dtype=object))
        images = images.numpy()[valid.numpy()]
        if not len(images):
            raise UsageError("None of the calibration images can be decoded.")
        return images


def _write_formats(writer: _Writer, formats: Sequence[str]) -> dict[str, str]:
    """Writes formats; those that the model cannot be converted to, with the reason."""
    failures = {}
    for number, kind in enumerate(formats, 1):
        logging.info("export %d of %d: writing %s", number, len(formats), kind)
        try:
            writer.write(kind)
        except RunError as error:
            failures[kind] = str(error).rstrip(".")
    return failures


def _judge(
    metadata: dict[str, Any],
    path: pathlib.Path,
    formats: Sequence[str],
    failures: dict[str, str],
    tolerance: Tolerance,
    allow_drift: bool,
) -> None:
    """Fills `kept` and `refused` of the formats, and removes what may not stay."""
    entries = metadata["formats"]
    for kind, entry in entries.items():
        reason = find_refusal(
            PRECISIONS[kind], entry["parity"], entry["accuracy"], metadata["reference"], tolerance
        )
        reason = reason or find_library_refusal(entry.get("libraries"), tolerance)
        entry |= {"precision": PRECISIONS[kind], "kept": reason is None or allow_drift, "refused": reason}
        if reason:
            verdict = "kept, since drift is allowed" if allow_drift else "refused"
            logging.warning("%s is %s: %s.", kind, verdict, reason)
        if not entry["kept"]:
            _remove(path, kind, entry["file"])
    for kind, reason in failures.items():
        logging.warning("%s was not written: %s.", kind, reason)
        entries[kind] = {
            "file": None, "precision": PRECISIONS[kind], "kept": False, "refused": reason
        }  # fmt: skip
    metadata["formats"] = {kind: entries[kind] for kind in formats}
    if not any(entry["kept"] for entry in entries.values()):
        reasons = "\n".join(f"  {kind}: {entry['refused']}" for kind, entry in entries.items())
        raise RunError(
            f"No file of the export passed; nothing was kept. --allow_drift keeps them.\n{reasons}"
        )


def _remove(path: pathlib.Path, kind: str, file: str) -> None:
    remove(path / file, path)
    if kind == SAVED_MODEL:
        for folder in ("variables", "assets"):
            remove(path / folder, path)


def _write_metadata(path: pathlib.Path, metadata: dict[str, Any], labels: Sequence[str]) -> None:
    """Says what lies in a version, when all else does."""
    write_text(path / "README.md", build_model_card(metadata, labels))
    metadata[checksums.KEY] = checksums.list_checksums(path)
    write_json(path / checksums.EXPORT_JSON, metadata)


def _write_server_files(directory: pathlib.Path, name: str) -> None:
    """The files of TF Serving; what somebody wrote there stays."""
    try:
        models_config.add_model(directory / tf_serving.CONFIG, name)
    except UsageError as error:  # the export itself is whole
        logging.warning("%s", error)
    tf_serving.write_server_files(directory)


def _describe(model: "keras.Model", preparation: Preparation) -> dict[str, Any]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "classes": int(model.output[LOGITS].shape[-1]),
        "parameters": int(model.count_params()),
        "feature_dim": int(model.output[FEATURES].shape[-1]) if FEATURES in model.output else None,
        "none_of_these": NONE_OF_THESE in model.output,
        "preparation": preparation.to_dict(),
    }


def _versions() -> dict[str, str]:
    import importlib.metadata

    packages = ("tensorflow", "keras", "ai-edge-litert")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"urnet_tf": __version__, "python": platform.python_version(), **found}


def describe_machine() -> dict[str, Any]:
    """The processor's name and its cores, for figures that depend on them."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"processor": next(names, platform.machine()), "cores": os.cpu_count()}
