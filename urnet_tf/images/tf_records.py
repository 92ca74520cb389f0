"""Reads TFRecord and ArrayRecord files of tf.train.Example at random, without TensorFlow.

TensorFlow and tensorflow-datasets read such a file from its beginning only. Where each record begins follows
from the lengths in front of them:

  uint64 length | uint32 checksum of the length | data | uint32 checksum of the data
"""

import contextlib
import errno
import functools
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from urnet_tf.images import image_store

_HEAD, _TAIL = 12, 4
_SAMPLE = 16  # records whose sizes are looked up


class RecordFile:
    """A file of records, by row.

    Args:
      path: a TFRecord file, or one whose name holds ".array_record".

    Raises:
      OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path, self._is_array = path, ".array_record" in os.path.basename(path)
        if not self._is_array:
            self._offsets = find_records(path)
            return
        os.stat(path)
        with _damage_told(path):
            self._reader = image_store.open_shard(path)
            if not self._reader.ok():
                self._reader.read([0])  # raises; without it the file would have no records

    def __len__(self) -> int:
        return int(self._reader.num_records()) if self._is_array else len(self._offsets)

    def mean_size(self) -> float:
        """About how many bytes a record has."""
        if not len(self):
            return 0.0
        rows = np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(int))
        return float(np.mean([len(self.read(row)) for row in rows]))

    def read(self, row: int) -> bytes:
        """The data of a record, 0 <= row < len."""
        if not self._is_array:
            return read_record(self._path, self._offsets[row])
        with _damage_told(self._path):
            return bytes(self._reader.read([row])[0])


@contextlib.contextmanager
def _damage_told(path: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the library
        raise OSError(errno.EINVAL, f"a damaged ArrayRecord file: {error}", path) from None


def find_records(path: str) -> np.ndarray:
    """Where the records of a file begin: int64 [N]. A record that the file cuts off is left out.

    Raises:
      OSError: the file cannot be read.
    """
    offsets, place, end = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while place + _HEAD + _TAIL <= end:
            file.seek(place)
            (length,) = struct.unpack("<Q", file.read(8))
            following = place + _HEAD + length + _TAIL
            if following > end:
                break
            offsets.append(place)
            place = following
    return np.array(offsets, np.int64)


def read_record(path: str, offset: int) -> bytes:
    """The data of the record that begins at a place of `find_records`."""
    with open(path, "rb") as file:
        file.seek(int(offset))
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(int(offset) + _HEAD)
        return file.read(length)


def parse_example(data: bytes) -> dict[str, list[Any]]:
    """Feature → its values (bytes, floats or whole numbers).

    Raises:
      KeyError: the data is no tf.train.Example.
    """
    from google.protobuf.message import DecodeError

    try:
        example = _example_class()().FromString(data)
    except DecodeError:
        raise KeyError("no tf.train.Example") from None
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


@functools.cache
def _example_class() -> Any:
    """The message tf.train.Example, as tensorflow/core/example/feature.proto describes it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="urnet_example.proto", package="urnet", syntax="proto3")
    kinds = (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    )
    for name, kind in kinds:
        file.message_type.add(name=name).field.add(
            name="value", number=1, type=kind, label=field.LABEL_REPEATED
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(kinds, 1):
        feature.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, type_name=f".urnet.{name}",
            label=field.LABEL_OPTIONAL, oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".urnet.Feature",
        label=field.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature", number=1, type=field.TYPE_MESSAGE, type_name=".urnet.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )  # fmt: skip
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features", number=1, type=field.TYPE_MESSAGE, type_name=".urnet.Features",
        label=field.LABEL_OPTIONAL,
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("urnet.Example"))
