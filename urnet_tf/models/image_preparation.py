"""A layer that prepares decoded pictures of any size for a network, as training did.

So that files which other libraries read take pictures as they are: `onnx_with_preparation` and
`keras_with_preparation` of an export.
"""

from typing import Any

import keras
from keras import ops

from urnet_tf.images.crops import PADDING
from urnet_tf.schema import PADDED, CropFraction

_AREA_FACTOR = 4.0  # as in images.decode: from here on a box filter reduces most of the way


@keras.saving.register_keras_serializable(package="urnet_tf")
class ImagePreparation(keras.layers.Layer):
    """uint8 [n, h, w, 3], RGB, upright and opaque, of any height and width → float32 [n, S, S, 3], 0..255.

    What `images.decode` does with decoded images: the same filters, as products with matrices, which every
    runtime has, so results agree but for rounding.
    """

    def __init__(
        self,
        image_size_px: int,
        crop_fraction: CropFraction = 0.875,
        short_side_px: int | None = None,
        **settings: Any,
    ) -> None:
        """Takes what `export.preparation.Preparation` has of these names."""
        super().__init__(**({"trainable": False} | settings))
        self.image_size_px, self.crop_fraction = image_size_px, crop_fraction
        self.short_side_px = short_side_px

    def call(self, images: Any) -> Any:
        """See the class."""
        x = ops.cast(images, "float32")
        if self.short_side_px is not None:
            x = self._reduced(x)
        height, width = (ops.cast(n, "float32") for n in ops.shape(x)[1:3])
        if self.crop_fraction == PADDED:
            return self._padded(x, height, width)
        if self.crop_fraction is not None:
            short = ops.minimum(height, width)
            side = ops.clip(ops.round(self.crop_fraction * short), 1.0, short)
            top, left = (ops.floor((n - side) / 2) for n in (height, width))
            (t, b), (a, z) = ((ops.cast(n, "int32") for n in (s, s + side)) for s in (top, left))
            x, height, width = x[:, t:b, a:z], side, side
        size = float(self.image_size_px)
        factor = ops.minimum(height, width) / size
        return _resized(x, *(_filter(n, size, factor) for n in (height, width)))

    def _padded(self, x: Any, height: Any, width: Any) -> Any:
        """The whole picture in the middle of a square of gray."""
        size, sides = float(self.image_size_px), (height, width)
        share = size / ops.maximum(height, width)
        new = [ops.maximum(ops.round(n * share), 1.0) for n in sides]
        factor = ops.minimum(height / new[0], width / new[1])
        # Filters of S rows, of which those outside of the picture are zeros.
        places = [_places(m, size) for m in new]
        filters = [
            ops.matmul(place, _filter(n, m, factor)) for place, n, m in zip(places, sides, new, strict=True)
        ]
        rows, columns = (ops.sum(place, axis=1) for place in places)
        gray = PADDING * (1.0 - rows[:, None] * columns[None, :])
        return _resized(x, *filters) + gray[None, :, :, None]

    def _reduced(self, x: Any) -> Any:
        """Pictures with a short side of at most `short_side_px`, in whole numbers, as packing stores them."""
        sides = [ops.cast(n, "float32") for n in ops.shape(x)[1:3]]
        short, new_short = ops.minimum(*sides), float(self.short_side_px or 0)

        def reduced() -> Any:
            new = [ops.maximum(ops.round(n * (new_short / short)), new_short) for n in sides]

            def by(weights: Any) -> Any:
                return _resized(x, *(weights(n, m) for n, m in zip(sides, new, strict=True)))

            slight = 2 * short <= 3 * new_short
            small = ops.cond(slight, lambda: by(lambda n, m: _triangles(n, m, False)), lambda: by(_boxes))
            return ops.clip(ops.round(small), 0.0, 255.0)

        return ops.cond(short > new_short, reduced, lambda: x)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """[n, S, S, 3]."""
        return (input_shape[0], self.image_size_px, self.image_size_px, 3)

    def get_config(self) -> dict[str, Any]:
        """The settings, for `.keras` files."""
        return super().get_config() | {
            "image_size_px": self.image_size_px,
            "crop_fraction": self.crop_fraction,
            "short_side_px": self.short_side_px,
        }


def _filter(length: Any, size: Any, factor: Any) -> Any:
    """The antialiased bilinear filter from a side to `size`, [size, length]; large ones start with a box."""

    def boxes_first() -> Any:
        return ops.matmul(_triangles(2 * size, size), _boxes(length, 2 * size))

    return ops.cond(factor >= _AREA_FACTOR, boxes_first, lambda: _triangles(length, size))


def _places(length: Any, size: float) -> Any:
    """Where each of `length` pixels is in the middle of `size`, [size, length], of zeros and ones."""
    before = ops.floor((size - length) / 2)
    return ops.cast(ops.equal(_count(size)[:, None] - before, _count(length)[None, :]), "float32")


def _resized(x: Any, rows: Any, columns: Any) -> Any:
    """[n, h, w, 3] by the filters [h', h] and [w', w]: [n, h', w', 3]."""

    def along_height(weights: Any, pixels: Any) -> Any:
        n, h, w, _ = ops.shape(pixels)
        mixed = ops.matmul(weights, ops.reshape(pixels, [n, h, w * 3]))
        return ops.reshape(mixed, [n, -1, w, 3])

    turned = ops.transpose(along_height(rows, x), [0, 2, 1, 3])
    return ops.transpose(along_height(columns, turned), [0, 2, 1, 3])


def _triangles(length: Any, size: Any, antialias: bool = True) -> Any:
    """Bilinear interpolation of `size` places from `length` pixels, [size, length]."""
    scale = length / size
    reach = ops.maximum(scale, 1.0) if antialias else 1.0
    places = (_count(size) + 0.5) * scale
    weights = ops.maximum(1.0 - ops.abs(_count(length) + 0.5 - places[:, None]) / reach, 0.0)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _boxes(length: Any, size: Any) -> Any:
    """The mean of the pixels that each of `size` equal parts covers, [size, length]."""
    scale = length / size
    starts, pixels = (_count(size) * scale)[:, None], _count(length)
    covered = ops.minimum(pixels + 1, starts + scale) - ops.maximum(pixels, starts)
    return ops.maximum(covered, 0.0) / scale


def _count(number: Any) -> Any:
    """float32 0, 1 ... number - 1."""
    return ops.cast(ops.arange(ops.cast(number, "int32")), "float32")
