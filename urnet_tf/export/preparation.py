"""How encoded images become what a network sees: written into every export, obeyed by every reader of one.

It is the preparation of training (`images.decode`), so that served numbers are those that were measured.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from urnet_tf.images.crops import num_views
from urnet_tf.schema import PADDED, CropFraction

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The settings of the preparation.

    Raises:
      UsageError: unknown crops, no scales, or one that is not positive.
      ValueError: sizes or a crop that no image can have.
    """

    image_size_px: int
    crop_fraction: CropFraction = 0.875  # central part of the short side, or the whole image
    short_side_px: int | None = None  # larger images are first reduced to this, as packing does; None = not
    max_pixels: int = 50_000_000  # what an image's header may promise
    crops: str = "1"  # views of an image whose probabilities are averaged: see `decode.views`
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        sizes = (self.image_size_px, self.max_pixels, 1 if self.short_side_px is None else self.short_side_px)
        if not all(isinstance(size, int) and 0 < size < 2**31 for size in sizes):
            raise ValueError("sizes must be whole numbers above 0")
        if self.crop_fraction not in (None, PADDED) and not 0 < self.crop_fraction <= 1:
            raise ValueError("crop_fraction must be above 0 and at most 1")
        num_views(self.crops, self.scales)

    @property
    def views(self) -> int:
        """How many views of an image the network sees."""
        return num_views(self.crops, self.scales)

    def to_dict(self) -> dict:
        """Plain JSON."""
        return dataclasses.asdict(self) | {"scales": list(self.scales)}

    @classmethod
    def from_dict(cls, plain: Mapping) -> "Preparation":
        """The inverse of `to_dict`; keys of later versions are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in names})

    def decode(self, image_bytes: "list[bytes] | np.ndarray | tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        """The plain view of each image, by a TensorFlow graph function.

        Args:
          image_bytes: string [n].

        Returns:
          images float32 [n, S, S, 3], RGB, 0..255, zeros where the file is bad, and valid bool [n].
        """
        images, valid = dataclasses.replace(self, crops="1", scales=(1.0,)).decode_views(image_bytes)
        return images[:, 0], valid

    def decode_views(
        self, image_bytes: "list[bytes] | np.ndarray | tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        """All views of each image, float32 [n, V, S, S, 3], and valid bool [n]; see `decode`."""
        from urnet_tf.images import decode

        show = decode.build_batch_decoder(
            self.image_size_px, self.crops, self.scales, self.crop_fraction, self.max_pixels,
            self.short_side_px,
        )  # fmt: skip
        return show(image_bytes)
