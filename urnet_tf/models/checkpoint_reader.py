"""Reads PyTorch checkpoints with numpy alone, and copies them into Keras models.

A `.pth` file is a pickle, and a pickle may run any code. The unpickler here refuses every name but
ordered dictionaries, tensor rebuilds and storage types, so nothing in the file can run. Both
formats are read: the old one (pickles and raw storages in a row) and the zip of PyTorch 1.6+.
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
from collections.abc import Callable, Mapping

import numpy as np

from urnet_tf.errors import UsageError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclasses.dataclass(frozen=True)
class _TensorView:
    """A tensor whose storage is read later."""

    storage: str
    offset: int
    shape: tuple
    strides: tuple


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch state dictionary, by name.

    A state dictionary below the key `state_dict`, and the prefix `module.` of data-parallel
    training, are understood. Entries that are no tensors are left out.

    Raises:
      UsageError: the file is missing, damaged, no checkpoint, or asks to run code.
    """
    try:
        with open(path, "rb") as file:
            archive = zipfile.is_zipfile(file)
            file.seek(0)
            state, storages = (_read_zip if archive else _read_legacy)(file)
        for wrapper in ("state_dict", "model"):
            if isinstance(state.get(wrapper), Mapping):
                state = state[wrapper]
        tensors = {
            str(name).removeprefix("module."): _materialise(view, storages)
            for name, view in state.items()
            if isinstance(view, _TensorView)
        }
    except OSError as error:
        raise UsageError(f"Cannot read the checkpoint {path}: {error.strerror or error}.") from None
    except Exception as error:  # a hostile or damaged file can fail in any way; all are bad input
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is not a readable PyTorch state dictionary: {reason[:200]}.") from error
    if not tensors:
        raise UsageError(f"{path} holds no tensors; expected a PyTorch state dictionary (.pth).")
    return tensors


def looks_like_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a file begins like a PyTorch checkpoint; reads a few bytes of it."""
    if zipfile.is_zipfile(path):
        return True
    with open(path, "rb") as file:
        try:
            return _RestrictedUnpickler(io.BytesIO(file.read(64)), {}).load() == _LEGACY_MAGIC
        except Exception:  # bytes that are no pickle can fail in any way
            return False


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows ordered dictionaries, tensor rebuilds and storage names; refuses all else."""

    def __init__(self, file, sizes: dict):
        super().__init__(file)
        self._sizes = sizes  # storage key → (dtype, number of elements), filled while loading

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return functools.partial(_rebuild_tensor)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return functools.partial(_rebuild_parameter)
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")

    def persistent_load(self, identity):
        kind, storage_type, key, _, count = identity[:5]
        if kind != "storage" or storage_type not in _STORAGE_DTYPES or not isinstance(count, int):
            raise pickle.UnpicklingError("unknown kind of storage")
        self._sizes[str(key)] = np.dtype(_STORAGE_DTYPES[storage_type]), count
        return str(key)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _TensorView(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


def _read_zip(file):
    sizes, storages = {}, {}
    with zipfile.ZipFile(file) as archive:
        index = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if index is None:
            raise ValueError("a zip file without data.pkl")
        state = _RestrictedUnpickler(io.BytesIO(archive.read(index)), sizes).load()
        for key, (dtype, count) in sizes.items():
            member = archive.getinfo(f"{index.removesuffix('data.pkl')}data/{key}")
            if count < 0 or member.file_size != count * dtype.itemsize:
                raise ValueError(f"storage {key} has another size than announced")
            storages[key] = np.frombuffer(archive.read(member), dtype)
    return state, storages


def _read_legacy(file):
    sizes, storages = {}, {}

    def load():
        return _RestrictedUnpickler(file, sizes).load()

    if load() != _LEGACY_MAGIC:
        raise ValueError("no PyTorch file")
    load()  # protocol version
    load()  # system information
    state = load()
    for key in load():
        dtype, count = sizes[str(key)]
        (stored,) = struct.unpack("<q", file.read(8))
        data = file.read(count * dtype.itemsize) if stored == count >= 0 else b""
        if len(data) != count * dtype.itemsize:
            raise ValueError("it ends early")
        storages[str(key)] = np.frombuffer(data, dtype)
    return state, storages


def _materialise(view, storages):
    storage = storages[view.storage]
    numbers = (view.offset, *view.shape, *view.strides)
    if len(view.shape) != len(view.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor with an impossible shape")
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    count = math.prod(view.shape)
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor that reaches past its storage")
    strides = [stride * storage.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()


def copy_into(
    model,
    tensors: Mapping[str, np.ndarray],
    *,
    name_of: Callable[[str], str],
    ignored_prefixes: tuple[str, ...],
    source: str,
) -> int:
    """Copies PyTorch tensors into the layers of a Keras model; every one of both sides must be used.

    Args:
      model: convolutions, depthwise convolutions, grouped ones and batch normalisations.
      tensors: as `read_checkpoint` returns them.
      name_of: the checkpoint's name of a Keras layer, without `.weight`.
      ignored_prefixes: tensors that the model does not want, such as the ImageNet classifier.
      source: named in errors.

    Returns:
      The number of tensors copied.

    Raises:
      UsageError: a tensor is missing, left over, or of another shape.
    """
    wanted = {}  # checkpoint name → (variable, axes that turn PyTorch's layout into Keras')
    for layer in model.layers:
        name = name_of(layer.name)
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            parts = ("weight", "bias", "running_mean", "running_var")
            variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
            for part, variable in zip(parts, variables, strict=True):
                wanted[f"{name}.{part}"] = variable, (0,)
        elif kind in ("Conv2D", "GroupedConv2D"):
            wanted[f"{name}.weight"] = layer.kernel, (2, 3, 1, 0)  # OIHW → HWIO
        elif kind == "DepthwiseConv2D":
            wanted[f"{name}.weight"] = layer.kernel, (2, 3, 0, 1)  # C1HW → HWC1
    missing = sorted(wanted.keys() - tensors.keys())
    left = sorted(
        name
        for name in tensors.keys() - wanted.keys()
        if not name.startswith(ignored_prefixes) and not name.endswith("num_batches_tracked")
    )
    if missing or left:
        raise UsageError(
            f"{source} does not fit {model.name}: {len(wanted) - len(missing)} tensors match, "
            f"{len(missing)} are missing{_first(missing)}, {len(left)} are left over{_first(left)}; "
            "check the depth and the variant."
        )
    for name, (variable, axes) in wanted.items():
        tensor = tensors[name]
        shape = tuple(tensor.shape[axis] for axis in axes) if tensor.ndim == len(axes) else tensor.shape
        if shape != tuple(variable.shape):
            raise UsageError(
                f"{source}: {name} has the shape {tensor.shape}, {model.name} expects "
                f"{tuple(variable.shape)} (in Keras' order); check the cardinality, the width and the stem."
            )
        variable.assign(tensor.transpose(axes).astype("float32"))
    return len(wanted)


def _first(names):
    return f" ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})" if names else ""
