"""Lays the tensors of a checkpoint beside the variables of a Keras model, then copies them.

Nothing is copied before all of it is known to fit.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.errors import UsageError

if TYPE_CHECKING:
    import keras

_COLUMNS = ("match", "missing", "left over", "unfit")
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class WeightMatch:
    """Names of tensors, as the checkpoint has them."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]  # wanted, not in the checkpoint
    left_over: tuple[str, ...]  # in the checkpoint, not wanted
    unfit: Mapping[str, str]  # on both sides, of another shape or type: name → in which way
    left_out: tuple[str, ...]  # not wanted on purpose: the old classifier

    @property
    def complete(self) -> bool:
        """Whether both sides use each other up."""
        return not (self.missing or self.left_over or self.unfit)

    def summary(self) -> str:
        """One line of counts."""
        parts = [f"{len(self.matched)} tensors match"]
        if not self.complete:
            parts += [f"{len(self.missing)} are missing", f"{len(self.left_over)} are left over"]
            parts.append(f"{len(self.unfit)} have another shape or type")
        if self.left_out:
            parts.append(f"{len(self.left_out)} are not used ({_first(self.left_out)})")
        return ", ".join(parts)

    def table(self) -> str:
        """A row of counts for each group of layers, with the first names of what does not fit."""
        cells: dict[str, dict[str, list[str]]] = collections.defaultdict(
            lambda: {column: [] for column in _COLUMNS}
        )
        unfit = [f"{name} {how}" for name, how in self.unfit.items()]
        for column, names in zip(_COLUMNS, (self.matched, self.missing, self.left_over, unfit), strict=True):
            for name in names:
                cells[re.split("[./-]", name)[0]][column].append(name)
        width = max(len("layers"), *map(len, cells))
        lines = [f"{'layers':<{width}}" + "".join(f"{column:>11}" for column in _COLUMNS)]
        for group, row in sorted(cells.items()):
            counts = "".join(f"{len(row[column]):>11}" for column in _COLUMNS)
            names = "; ".join(f"{column}: {_first(row[column])}" for column in _COLUMNS[1:] if row[column])
            lines.append(f"{group:<{width}}{counts}  {names}".rstrip())
        return "\n".join(lines)


def pytorch_slots(model: "keras.Model", name_of: Callable[[str], str]) -> dict[str, tuple]:
    """Where the tensors of a PyTorch checkpoint go: name → (variable, axes that give Keras' layout).

    Args:
      model: convolutions, depthwise convolutions, grouped ones and batch normalizations.
      name_of: the checkpoint's name of a Keras layer, without `.weight`.
    """
    slots: dict[str, tuple] = {}
    for layer in model.layers:
        name = name_of(layer.name)
        if hasattr(layer, "moving_variance"):
            parts = ("weight", "bias", "running_mean", "running_var")
            variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
            for part, variable in zip(parts, variables, strict=True):
                slots[f"{name}.{part}"] = variable, (0,)
        elif layer.weights:
            depthwise = "Depthwise" in type(layer).__name__
            slots[f"{name}.weight"] = layer.kernel, (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)  # from OIHW
            if layer.bias is not None:
                slots[f"{name}.bias"] = layer.bias, (0,)
    return slots


def keras_slots(model: "keras.Model") -> dict[str, tuple]:
    """Where the arrays of Keras weights go, as `pytorch_slots`: `layer1-0-bn1/2` is a layer's third."""
    return {
        f"{layer.name}/{index}": (variable, tuple(range(len(variable.shape))))
        for layer in model.layers
        for index, variable in enumerate(layer.trainable_weights + layer.non_trainable_weights)
    }


def copy_into(
    slots: Mapping[str, tuple],
    tensors: Mapping[str, np.ndarray],
    *,
    ignored_prefixes: tuple[str, ...] = (),
    mismatch: str = "The checkpoint does not fit",
    hint: str = "",
) -> WeightMatch:
    """Copies tensors into the variables of a model; every one of both sides must be used.

    Args:
      slots: where they go, see `pytorch_slots`.
      tensors: as `read_checkpoint` returns them.
      ignored_prefixes: tensors that the model does not want, such as the ImageNet classifier.
      mismatch: begins the error.
      hint: ends the error.

    Raises:
      UsageError: a tensor is missing, left over, of another shape or no floating-point number; the
        model is unchanged then.
    """
    match = _match(slots, tensors, ignored_prefixes)
    if not match.complete:
        raise UsageError(f"{mismatch}: {match.summary()}.\n{match.table()}\n{hint}".rstrip())
    for name, (variable, axes) in slots.items():
        variable.assign(tensors[name].transpose(axes).astype("float32"))
    return match


def _match(
    slots: Mapping[str, tuple], tensors: Mapping[str, np.ndarray], ignored_prefixes: tuple[str, ...]
) -> WeightMatch:
    matched, missing, unfit = [], [], {}
    for name, (variable, axes) in slots.items():
        expected = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        if name not in tensors:
            missing.append(name)
        elif tensors[name].shape != expected:
            unfit[name] = f"has the shape {tensors[name].shape}, expected {expected}"
        elif tensors[name].dtype.kind != "f":
            unfit[name] = f"has the type {tensors[name].dtype}, expected floating-point numbers"
        else:
            matched.append(name)
    others = [
        name for name in tensors if name not in slots and not name.endswith("num_batches_tracked")
    ]  # a counter of PyTorch's, without use
    return WeightMatch(
        matched=tuple(matched),
        missing=tuple(missing),
        left_over=tuple(sorted(name for name in others if not name.startswith(ignored_prefixes))),
        unfit=unfit,
        left_out=tuple(sorted(name for name in others if name.startswith(ignored_prefixes))),
    )


def _first(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
