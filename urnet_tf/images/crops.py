"""How many views of an image multi-crop, multi-scale testing has; plans need to know, without TensorFlow."""

from collections.abc import Sequence

from urnet_tf.errors import UsageError

PADDING = 128  # gray, which networks that subtract a mean see as nothing

CROPS = {"1": 1, "5": 5, "10": 10, "grid": 9}  # a grid of 3 x 3, and once the whole image, squeezed


def num_views(crops: str, scales: Sequence[float]) -> int:
    """How many views `decode.views` gives.

    Raises:
      UsageError: unknown crops, no scales, or one that is not positive.
    """
    if crops not in CROPS:
        raise UsageError(f"Expected crops to be one of {', '.join(CROPS)}; received {crops!r}.")
    if not scales or min(scales) <= 0:
        raise UsageError(f"Expected scales above 0; received {list(scales)}.")
    return CROPS[crops] * len(scales) + (crops == "grid")
