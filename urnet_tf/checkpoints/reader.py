"""Reads checkpoints, those of PyTorch without PyTorch: one flat dictionary of numpy arrays.

The first bytes tell the format, never the name: `.pth`, `.pt`, `.bin` and `.safetensors` are used
for anything. `tensor_files` reads the formats and says why that is safe.
"""

import enum
import io
import os
import struct
from collections.abc import Mapping

import numpy as np
from absl import logging

from urnet_tf.checkpoints.tensor_files import (
    LEGACY_MAGIC,
    StoredTensor,
    TensorUnpickler,
    read_keras_weights,
    read_safetensors,
    read_torch_legacy,
    read_torch_zip,
)
from urnet_tf.errors import UsageError


class Format(enum.Enum):
    """How a file of weights is laid out."""

    KERAS = "file of Keras weights"
    SAFETENSORS = "safetensors file"
    TORCH_ZIP = "PyTorch state dictionary"
    TORCH_LEGACY = "PyTorch state dictionary of the old format"


_READERS = {
    Format.KERAS: read_keras_weights,
    Format.SAFETENSORS: read_safetensors,
    Format.TORCH_ZIP: read_torch_zip,
    Format.TORCH_LEGACY: read_torch_legacy,
}
# Where training scripts keep the weights, best first: averaged weights are those that were evaluated.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")  # of data-parallel and of compiled training


def file_format(path: str | os.PathLike) -> Format | None:
    """What a file is by its first bytes; None for none of the formats known here.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return Format.KERAS
    if start.startswith(b"PK\x03\x04"):
        return Format.TORCH_ZIP
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**40:
        return Format.SAFETENSORS
    try:
        magic = TensorUnpickler(io.BytesIO(start), 0).load()
    except Exception:  # bytes that are no pickle can fail in any way
        return None
    return Format.TORCH_LEGACY if magic == LEGACY_MAGIC else None


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, by name, as read-only arrays.

    bfloat16 becomes float32. Of the checkpoint of a training script the weights are taken, the
    averaged ones (EMA) where there are any; the prefixes of data-parallel and compiled training are
    removed. Entries that are no tensors are left out. Keras weights have names of the form
    `layer/index`.

    Args:
      path: a `.pth`, `.pt`, `.bin`, `.safetensors` or `.weights.h5` file.

    Raises:
      UsageError: the file is missing, damaged, no checkpoint, or asks to run code.
    """
    kind = None
    try:
        kind = file_format(path)
        if kind not in _READERS:
            raise ValueError("its first bytes are of no such file")
        with open(path, "rb") as file:
            state, read = _READERS[kind](file)
            tensors = {
                _bare(str(name)): read(entry)
                for name, entry in _unwrapped(state, path).items()
                if isinstance(entry, StoredTensor)
            }
    except OSError as error:
        raise UsageError(f"Cannot read the checkpoint {path}: {error.strerror or error}.") from None
    except Exception as error:  # a hostile or damaged file can fail in any way; all are bad input
        reason = " ".join(str(error).split()) or type(error).__name__
        what = (kind or Format.TORCH_ZIP).value
        raise UsageError(f"{path} is not a readable {what}: {reason[:300]}.") from error
    tensors.pop("n_averaged", None)  # a counter of torch.optim.swa_utils.AveragedModel
    if not tensors:
        raise UsageError(f"{path} holds no tensors; expected weights of PyTorch, safetensors or Keras.")
    return tensors


def _unwrapped(state: object, path: str | os.PathLike) -> Mapping:
    for _ in range(3):  # no script wraps deeper; a hostile file may be wrapped in itself
        if not isinstance(state, Mapping):
            raise ValueError("it holds no dictionary of tensors")
        wrapper = next((key for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if wrapper is None:
            break
        logging.info("%s: reading its entry %r", path, wrapper)
        state = state[wrapper]
    return state  # type: ignore[return-value]  # a mapping, as was looked at last


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
