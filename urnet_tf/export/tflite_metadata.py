"""TFLite model metadata: what a phone's task library must know, inside the `.tflite` file.

  in the model       a buffer TFLITE_METADATA: the input is an RGB image whose pixels need no
                     normalization, the output has one probability a class, named by labels.txt
  behind the model   a zip archive, not compressed, of
      labels.txt           one class name a line, in label order
      class_ids.txt        one id a line, which programs know the class by: a synset, a folder, a label
      preparation.json     `Preparation.to_dict()`, with the name and version of the model

The buffer follows the published metadata schema of TFLite (file identifier M001). Its own writer
cannot be installed beside TensorFlow, and the few tables are quickly written.
"""

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from urnet_tf.errors import UsageError
from urnet_tf.export.flatbuffer_model import pack_model, unpack_model
from urnet_tf.export.formats import CLASS_IDS_FILE, LABELS_FILE
from urnet_tf.export.preparation import Preparation
from urnet_tf.text_rules import reason_of

PREPARATION_FILE = "preparation.json"
_ENTRY = b"TFLITE_METADATA"  # the name by which readers find the buffer
_IDENTIFIER = b"M001"
_MAX_MEMBER_BYTES = 64 << 20
_MIN_PARSER_VERSION = "1.0.0"  # the first one has all that is used here

# Fields of the schema's tables, in its order, as far as they are written; a union has two.
_FIELDS = {
    "ModelMetadata": (
        "name", "description", "version", "subgraph_metadata", "author", "license", "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": (
        "name", "description", "input_tensor_metadata", "output_tensor_metadata", "associated_files",
    ),
    "TensorMetadata": (
        "name", "description", "dimension_names", "content", "process_units", "stats", "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties"),
    "ImageProperties": ("color_space",),
    "FeatureProperties": (),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
}  # fmt: skip
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # of the union ContentProperties
_NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
_RGB = 1  # ColorSpaceType
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2  # AssociatedFileType


class _Table(NamedTuple):
    """A table of the schema: strings, small numbers (int), lists of floats, tables, lists of tables."""

    kind: str
    fields: dict


class Inside(NamedTuple):
    """What a `.tflite` file says of its classes and its images, each None where it does not."""

    labels: list[str] | None = None
    preparation: Preparation | None = None
    class_ids: list[str] | None = None


def add_metadata(
    path: str | os.PathLike,
    name: str,
    labels: Sequence[str],
    preparation: Preparation | None = None,
    *,
    class_ids: Sequence[str] | None = None,
    version: str = "",
    description: str = "Image classifier",
) -> None:
    """Writes metadata and associated files into a `.tflite` classifier, in place of any that it has.

    Args:
      path: a model image [1, S, S, 3] → probabilities [1, C].
      name: of the model, for people.
      labels: C class names; line breaks in them become spaces.
      preparation: how encoded images become the input; None leaves its file out.
      class_ids: C ids; None = the names.

    Raises:
      UsageError: not a TFLite model, or its outputs are not as many as the labels or ids.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    model = unpack_model(content)
    classes = int(model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].shape[-1])
    if classes != len(labels):
        raise UsageError(f"Expected {classes} labels, as {path} has classes; received {len(labels)}.")
    class_ids = labels if class_ids is None else class_ids
    if classes != len(class_ids):
        raise UsageError(f"Expected {classes} ids, as {path} has classes; received {len(class_ids)}.")
    files = {LABELS_FILE: _lines(labels), CLASS_IDS_FILE: _lines(class_ids)}
    if preparation is not None:
        metadata = preparation.to_dict() | {"name": name, "version": version}
        files[PREPARATION_FILE] = json.dumps(metadata, indent=1, ensure_ascii=False) + "\n"
    _set_entry(model, _build_metadata(name, version, description, list(files)))
    path.write_bytes(_append_files(pack_model(model), files))


def _lines(texts: Sequence[str]) -> str:
    return "".join(" ".join(text.split()) + "\n" for text in texts)


def read_metadata(path: str | os.PathLike) -> Inside:
    """The labels, the preparation and the ids of classes inside a `.tflite` file.

    Raises:
      UsageError: what is there is damaged.
    """
    if not zipfile.is_zipfile(path):
        return Inside()
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            labels, ids = (
                _read_member(archive, name).decode("utf-8").splitlines() if name in names else None
                for name in (LABELS_FILE, CLASS_IDS_FILE)
            )
            preparation = None
            if PREPARATION_FILE in names:
                preparation = Preparation.from_dict(json.loads(_read_member(archive, PREPARATION_FILE)))
    except Exception as error:  # a damaged or hostile archive can fail in any way; all are bad input
        reason = reason_of(error)
        raise UsageError(
            f"The labels or the preparation inside {path} are damaged ({reason}). Export the model again."
        ) from error
    return Inside(labels, preparation, ids)


def set_version(path: str | os.PathLike, name: str, version: str) -> None:
    """Gives a `.tflite` classifier another version, in its metadata and in its preparation.

    Args:
      name: of the model.

    Raises:
      UsageError: not a TFLite model, or what is inside is damaged.
    """
    inside = read_metadata(path)
    if inside.labels is not None:  # else there is no version in it
        add_metadata(
            path, name, inside.labels, inside.preparation, class_ids=inside.class_ids, version=version
        )


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_MEMBER_BYTES:  # a few kilobytes may unpack to gigabytes
        raise ValueError(f"{name} is too large")
    return archive.read(name)


def _append_files(content: bytes, files: dict[str, str]) -> bytes:
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:  # readers map it into memory
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode("utf-8"))  # no date: equal bytes each time
    return whole.getvalue()


def _set_entry(model: Any, metadata: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    for standing in model.metadata or []:
        if standing.name == _ENTRY:  # no second buffer, in which the old one would live on
            model.buffers[standing.buffer].data = list(metadata)
            return
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(metadata)
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def _build_metadata(name: str, version: str, description: str, files: Sequence[str]) -> bytes:
    import flatbuffers

    labels = _Table(
        "AssociatedFile",
        {"name": LABELS_FILE, "description": "Names of the classes", "type": _TENSOR_AXIS_LABELS},
    )
    # Libraries name classes by the one file of the type above; they pass these on to whoever asks for them.
    told = {CLASS_IDS_FILE: "Ids of the classes", PREPARATION_FILE: "Preparation of images"}
    beside = [
        _Table("AssociatedFile", {"name": file, "description": told[file], "type": _DESCRIPTIONS})
        for file in files
        if file in told
    ]
    image = {
        "name": "image",
        "description": "The prepared image: RGB, 0 to 255",
        "content": _content(_IMAGE_PROPERTIES, _Table("ImageProperties", {"color_space": _RGB})),
        "process_units": [
            _Table(
                "ProcessUnit",
                {
                    "options_type": _NORMALIZATION_OPTIONS,
                    "options": _Table("NormalizationOptions", {"mean": [0.0], "std": [1.0]}),
                },
            )
        ],
        "stats": _Table("Stats", {"max": [255.0], "min": [0.0]}),
    }
    probabilities = {
        "name": "probabilities",
        "description": "A probability for each class",
        "content": _content(_FEATURE_PROPERTIES, _Table("FeatureProperties", {})),
        "stats": _Table("Stats", {"max": [1.0], "min": [0.0]}),
        "associated_files": [labels],
    }
    graph = {
        "input_tensor_metadata": [_Table("TensorMetadata", image)],
        "output_tensor_metadata": [_Table("TensorMetadata", probabilities)],
    }
    metadata = {
        "name": name,
        "description": description,
        "version": version,
        "subgraph_metadata": [_Table("SubGraphMetadata", graph)],
        "associated_files": beside,
        "min_parser_version": _MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_write(builder, _Table("ModelMetadata", metadata)), _IDENTIFIER)
    return bytes(builder.Output())


def _content(union_type: int, properties: _Table) -> _Table:
    return _Table("Content", {"content_properties_type": union_type, "content_properties": properties})


def _write(builder: Any, value: Any) -> int:
    """Writes a value that the builder refers to, what it holds first; returns where it is."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list):
        numbers = isinstance(value[0], float)
        items = value if numbers else [_write(builder, item) for item in value]
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependFloat32(item) if numbers else builder.PrependUOffsetTRelative(item)
        return builder.EndVector()
    slots = _FIELDS[value.kind]
    offsets = {k: _write(builder, v) for k, v in value.fields.items() if not isinstance(v, int)}
    builder.StartObject(len(slots))
    for field, v in value.fields.items():
        if field in offsets:
            builder.PrependUOffsetTRelativeSlot(slots.index(field), offsets[field], 0)
        else:
            builder.PrependInt8Slot(slots.index(field), v, 0)
    return builder.EndObject()
