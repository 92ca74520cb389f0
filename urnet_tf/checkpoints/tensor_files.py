"""Reads files of tensors without PyTorch: its pickles, in a zip or in a row, safetensors, Keras weights.

A pickle may run any code. The unpickler here knows ordered dictionaries, tensors and storages; the
names of a few harmless objects that training scripts store beside the weights become inert
placeholders; any other name is refused. So nothing in a file can run, and no more memory is taken
than the file is long.

Every reader takes an open file and gives the stored object, in which tensors are `StoredTensor`,
and a function that reads one of them. Tensors that are not needed are never read.

  zip          PyTorch 1.6 and later: data.pkl, and a member of raw numbers for each storage
  legacy       older PyTorch: five pickles, then the storages
  safetensors  a JSON header, then raw numbers
  Keras        HDF5, a group for each layer

All raise an exception of any type for a damaged or hostile file.
"""

import collections
import dataclasses
import functools
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import safetensors

from urnet_tf.text_rules import bare

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_BFLOAT16 = "bfloat16"  # the upper half of a float32; numpy has no such type
_STORAGE_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SAFETENSORS_TYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": _BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
# What torchvision's and timm's training scripts store beside the weights. None of it is built.
_INERT = {
    "argparse": ("Namespace",),
    "collections": ("Counter", "defaultdict"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "torch": ("Size", "device", "dtype", "float16", "bfloat16", "float32", "float64"),
    "numpy": ("dtype",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "_codecs": ("encode",),
    "builtins": ("set",),
    "__builtin__": ("set",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its storage; offset and strides count elements."""

    storage: str
    offset: int
    shape: tuple
    strides: tuple


ReadTensor = Callable[[StoredTensor], np.ndarray]


def read_torch_zip(file: IO[bytes]) -> tuple[object, ReadTensor]:
    """Reads the zip of PyTorch 1.6 and later; the file must stay open while tensors are read."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    index = next((name for name in names if name.endswith("data.pkl")), None)
    if index is None:
        hint = "; it is a Keras model: give the file of save_weights" if "model.weights.h5" in names else ""
        raise ValueError(f"a zip file without data.pkl{hint}")
    folder = index.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and _read_member(archive, f"{folder}byteorder", 16) != b"little":
        raise ValueError("its numbers are big-endian")
    limit = _file_bytes(file)
    unpickler = TensorUnpickler(io.BytesIO(_read_member(archive, index, limit)), limit)
    state = unpickler.load()

    @functools.cache
    def read_storage(key: str) -> np.ndarray:
        kind, count = unpickler.storages[key]
        return _decode(_read_member(archive, f"{folder}data/{key}", limit), kind, count)

    return state, lambda tensor: _view(tensor, read_storage(tensor.storage))


def read_torch_legacy(file: IO[bytes]) -> tuple[object, ReadTensor]:
    """Reads the format before PyTorch 1.6; the file must stay open while tensors are read."""
    limit = _file_bytes(file)
    unpickler = TensorUnpickler(file, limit)
    if unpickler.load() != LEGACY_MAGIC:
        raise ValueError("no PyTorch file")
    unpickler.load()  # protocol version
    unpickler.load()  # system information
    state = unpickler.load()
    keys = [str(key) for key in unpickler.load()]
    places, place = {}, file.tell()
    for key in keys:
        kind, count = unpickler.storages[key]
        file.seek(place)
        (stored,) = struct.unpack("<q", file.read(8))
        size = count * _element_bytes(kind)
        if stored != count or place + 8 + size > limit:
            raise ValueError("it ends early")
        places[key] = place + 8, size
        place += 8 + size

    @functools.cache
    def read_storage(key: str) -> np.ndarray:
        start, size = places[key]
        file.seek(start)
        return _decode(file.read(size), *unpickler.storages[key])

    return state, lambda tensor: _view(tensor, read_storage(tensor.storage))


def read_safetensors(file: IO[bytes]) -> tuple[dict[str, StoredTensor], ReadTensor]:
    """Reads a safetensors file; the package checks the header against the length of the file."""
    stored = dict(safetensors.deserialize(file.read()))
    state = {}
    for name, entry in stored.items():
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise ValueError(f"{name} has the type {entry['dtype']}; known: {', '.join(_SAFETENSORS_TYPES)}")
        shape = tuple(entry["shape"])
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        state[name] = StoredTensor(name, 0, shape, strides)

    def read(tensor: StoredTensor) -> np.ndarray:
        entry = stored[tensor.storage]
        count = math.prod(tensor.shape)
        return _view(tensor, _decode(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]], count))

    return state, read


def read_keras_weights(file: IO[bytes]) -> tuple[dict[str, StoredTensor], ReadTensor]:
    """Reads the `.weights.h5` of Keras 3: the arrays of the layer `bn1` are `bn1/0`, `bn1/1`, ….

    The file names groups after classes and counts them; the layers' own names are attributes.
    """
    import h5py  # here, since plans are drawn with this module

    arrays = {}

    def collect(path: str, group: Any) -> None:
        if isinstance(group, h5py.Group) and path.endswith("vars") and len(group):
            if "name" not in group.attrs:
                raise ValueError(f"{path} does not name its layer; save the weights again with Keras 3.15")
            for index, dataset in group.items():
                if dataset.id.get_storage_size() < dataset.nbytes:  # compressed, or never written
                    raise ValueError(f"{path} announces more numbers than it holds")
                arrays[f"{group.attrs['name']}/{index}"] = dataset[()]

    with h5py.File(file, "r") as archive:
        archive.visititems(collect)
    state = {name: StoredTensor(name, 0, array.shape, ()) for name, array in arrays.items()}
    return state, lambda tensor: arrays[tensor.storage]


class TensorUnpickler(pickle._Unpickler):
    """Builds dictionaries of `StoredTensor` and placeholders; refuses every other name.

    The pure Python unpickler, because the compiled one reserves memory for any number of remembered
    objects that a file announces.

    Args:
      file: opened for reading bytes.
      limit: bytes that all storages together may announce.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[str, int]] = {}  # key → (type, number of elements)
        self._left = limit

    def find_class(self, module: str, name: str) -> Callable | str:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return functools.partial(_rebuild_tensor)  # a new object, which a file may spoil for itself only
        if module == "torch._utils" and name == "_rebuild_parameter":
            return functools.partial(_rebuild_parameter)
        if module in ("torch", "torch.storage") and name in _STORAGE_TYPES:
            return name
        if name in _INERT.get(module, ()):
            return type(name, (_Inert,), {})
        raise pickle.UnpicklingError(
            f"it asks for {bare(f'{module}.{name}')}, which is refused, since nothing in a checkpoint may "
            "run; save the weights alone, torch.save(model.state_dict(), path), and give that file"
        )

    def persistent_load(self, identity: Any) -> str:
        kind, storage_type, key, _, count, *view = identity
        known = kind == "storage" and storage_type in _STORAGE_TYPES and view in ([], [None])
        if not known or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("unknown kind of storage")
        key = str(key)
        if key not in self.storages:
            self.storages[key] = _STORAGE_TYPES[storage_type], count
            self._left -= count * _element_bytes(_STORAGE_TYPES[storage_type])
        elif self.storages[key] != (_STORAGE_TYPES[storage_type], count):
            raise pickle.UnpicklingError(f"storage {key} is announced twice")
        if self._left < 0:
            raise pickle.UnpicklingError("it announces more numbers than it holds")
        return key


class _Inert:
    """Stands for an object that is of no use here; takes whatever it is given and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def _rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> StoredTensor:
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """PyTorch never compresses, so a member is no longer than the file: a small file stays small."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > limit:
        raise ValueError(f"{name} is compressed, which PyTorch never does")
    return archive.read(member)


def _file_bytes(file: IO[bytes]) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def _element_bytes(kind: str) -> int:
    return 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize


def _decode(data: bytearray | bytes, kind: str, count: int) -> np.ndarray:
    if len(data) != count * _element_bytes(kind):
        raise ValueError(f"a storage of {len(data)} bytes has another size than announced")
    if kind == _BFLOAT16:
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, kind)


def _view(tensor: StoredTensor, storage: np.ndarray) -> np.ndarray:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    axes = len(tensor.shape)
    if axes > 32 or axes != len(tensor.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor with an impossible shape")
    ends = ((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    last = tensor.offset + sum(ends)
    count = math.prod(tensor.shape)
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor that reaches past its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    start = tensor.offset if count else 0
    return np.lib.stride_tricks.as_strided(storage[start:], tensor.shape, strides, writeable=False)
