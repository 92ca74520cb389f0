"""Which part of an image a network sees, and in how many views; plans need to know, without TensorFlow."""

from collections.abc import Sequence
from typing import Literal

from urnet_tf.errors import UsageError

PADDED: Literal["padded"] = "padded"
# The central square of this part of the short side; None = the whole image, stretched to a square;
# PADDED = the whole image in the middle of a square of PADDING.
CropFraction = float | Literal["padded"] | None
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
