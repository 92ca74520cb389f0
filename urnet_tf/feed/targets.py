"""The one format of targets: K class ids over their K probabilities, packed, unpacked and checked here.

    y: float32 [..., 2, K]    class ids over probabilities; an id may occur more than once and adds
    y: float32 [..., 3, K]    the id of the instance as a third row, for losses that remember instances

Batches pack what they know of instances and bags, mixup joins the targets of two rows, losses and metrics
unpack. Float32 counts to 2**24, so class ids and instance ids stay below. Integer labels and one-hot
rows have no such axis, so neither can pass for a target.

Packing takes NumPy arrays; all that takes targets apart or joins them takes tensors of Keras' backend.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

LARGEST_COUNT = 2**24  # ids below it are exact in float32


def pack_targets(
    class_ids: np.ndarray, probs: np.ndarray, instance_ids: np.ndarray | None = None
) -> np.ndarray:
    """The targets that the losses of `urnet_tf.training.losses` take.

    Example:
      >>> import urnet_tf
      >>> urnet_tf.pack_targets([[2, 0], [1, 1]], [[0.9, 0.1], [1.0, 0.0]]).tolist()[0]
      [[2.0, 0.0], [0.8999999761581421, 0.10000000149011612]]

    Args:
      class_ids: int [..., K], below 2**24.
      probs: float [..., K].
      instance_ids: int [...], for a loss that remembers instances.

    Returns:
      float32 [..., 2, K], class ids over probabilities; with instance ids [..., 3, K].
    """
    rows = [class_ids, probs]
    if instance_ids is not None:
        rows.append(np.broadcast_to(np.asarray(instance_ids)[..., None], np.shape(class_ids)))
    return np.stack([np.asarray(row, np.float32) for row in rows], axis=-2)


def pack_bag_targets(class_ids: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Targets of bags: the mean of their instances' targets.

    Args:
      class_ids: int [B, N_b, K].
      probs: float [B, N_b, K].

    Returns:
      float32 [B, 2, N_b K]: all ids over their probabilities / N_b.
    """
    bags, bag_size, _ = np.shape(class_ids)
    return pack_targets(np.reshape(class_ids, (bags, -1)), np.reshape(probs, (bags, -1)) / bag_size)


def target_shape(leading: Sequence[int | None], entries: int, instance_ids: bool = False) -> tuple:
    """The shape of targets of K = `entries`, behind the axes `leading`."""
    return (*leading, 3 if instance_ids else 2, entries)


def unpack_targets(targets: "tf.Tensor", predictions: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
    """Splits targets float32 [..., 2, K] into ids int32 [..., K] and probabilities [..., K].

    A third row, the instance id, is left out.

    Args:
      targets: a tensor.
      predictions: [..., C], whose rank tells targets from labels and one-hot rows.

    Raises:
      UsageError: the targets have another shape.
    """
    from keras import ops

    shape = targets.shape
    if len(shape) != len(predictions.shape) + 1 or shape[-2] not in (2, 3, None):
        raise UsageError(
            "Expected targets [..., 2, K] of class ids and probabilities for predictions "
            f"{_format_shape(predictions.shape)}, as urnet_tf.feed.targets.pack_targets makes them; received "
            f"{_format_shape(shape)}, which looks like labels or one-hot rows."
        )
    return ops.cast(targets[..., 0, :], "int32"), targets[..., 1, :]


def unpack_instance_ids(targets: "tf.Tensor") -> "tf.Tensor":
    """The instance ids int32 [...] of targets float32 [..., 3, K].

    Raises:
      UsageError: the targets hold none.
    """
    from keras import ops

    if targets.shape[-2] != 3:
        raise UsageError(
            "Expected targets [..., 3, K] with the instance id at the end, as "
            f"urnet_tf.feed.targets.pack_targets makes them; received {_format_shape(targets.shape)}."
        )
    return ops.cast(targets[..., 2, 0], "int32")


def join_targets(
    one: "tf.Tensor", other: "tf.Tensor", one_share: "tf.Tensor", other_share: "tf.Tensor"
) -> "tf.Tensor":
    """The mixture of two targets of equal shapes: a tensor float32 [..., 2, 2K], without instance ids.

    Args:
      one, other: tensors float32 [..., 2, K].
      one_share, other_share: tensors float32 [...], which the probabilities are multiplied by.
    """
    from keras import ops

    shares = (one_share[..., None], other_share[..., None])
    ids = ops.concatenate([target[..., 0, :] for target in (one, other)], axis=-1)
    probs = ops.concatenate(
        [share * target[..., 1, :] for share, target in zip(shares, (one, other), strict=True)], axis=-1
    )
    return ops.stack([ids, probs], axis=-2)


def check_instance_count(count: int) -> None:
    """Refuses more instances than targets can tell apart.

    Raises:
      UsageError: above 2**24.
    """
    if count > LARGEST_COUNT:
        raise UsageError(
            f"Expected at most {LARGEST_COUNT:,} images for a loss that remembers them, as float32 counts no "
            f"further; received {count:,}."
        )


def _format_shape(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
