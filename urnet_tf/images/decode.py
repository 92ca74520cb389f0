"""Encoded images to what a network sees, as TensorFlow graph functions: one code for training,
evaluation and the served graph.

Only core TensorFlow operations, so that TF Serving can run them. What cannot be read raises
`tf.errors.InvalidArgumentError`; the first line of its message is for a person.
`build_batch_decoder` turns it into a flag.

There is no Python control flow to rewrite in here, but AutoGraph takes most of the seconds of tracing to look
for it: the functions that others trace are kept from it.

Images: uint8 or float32 [H, W, 3], RGB, 0-255.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from urnet_tf.images.crops import PADDING, num_views
from urnet_tf.images.image_formats import (  # a part of this module
    MAX_PIXELS as MAX_PIXELS,
    RefusedImage as RefusedImage,
    decode_rgb as decode_rgb,
    exif_orientation as exif_orientation,
    promised_pixels as promised_pixels,
    refuse_unless as refuse_unless,
)
from urnet_tf.images.picture import is_slight
from urnet_tf.schema import PADDED, CropFraction

_PIXELS_AT_ONCE = 50_000_000  # of files that are decoded at a time; each takes up to 16 bytes
_DECODERS = 64  # at most; more than there are processors do no harm
_AREA_FACTOR = 4.0  # from here on a cheap box filter reduces most of the way


def resize_short_side(image: tf.Tensor, short_side_px: int) -> tf.Tensor:
    """Reduces an image to a short side of `short_side_px`, keeping its shape; never enlarges.

    As `picture.reduce_short_side` does with arrays, by the same filters.

    Args:
      image: uint8 [h, w, 3].

    Returns:
      uint8 [h', w', 3].
    """
    size = tf.shape(image)[:2]
    short = tf.reduce_min(size)

    def reduced() -> tf.Tensor:
        factor = tf.cast(short_side_px, tf.float32) / tf.cast(short, tf.float32)
        new = tf.maximum(short_side_px, tf.cast(tf.round(tf.cast(size, tf.float32) * factor), tf.int32))
        small = tf.cond(
            is_slight(short, short_side_px),
            lambda: tf.image.resize(image, new),
            lambda: tf.image.resize(image, new, method="area"),
        )
        return tf.saturate_cast(tf.round(small), tf.uint8)

    return tf.cond(short > short_side_px, reduced, lambda: image)


def central_part(image: tf.Tensor, fraction: CropFraction) -> tf.Tensor:
    """The central square whose side is `fraction` of the short side; all of the image where it is no number.

    Returns:
      [s, s, 3], or [h, w, 3], of the image's dtype.
    """
    if fraction is None or fraction == PADDED:
        return image
    height, width = tf.unstack(_part_size(image, fraction))
    top, left = tf.unstack((tf.shape(image)[:2] - [height, width]) // 2)
    return image[top : top + height, left : left + width]


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resizes with an antialiased bilinear filter; large reductions start with a box filter.

    Returns:
      float32 [height, width, 3], 0-255.
    """
    size, new = tf.shape(image)[:2], tf.stack([height, width])

    def changed() -> tf.Tensor:
        factor = tf.reduce_min(tf.cast(size, tf.float32) / tf.cast(new, tf.float32))
        return tf.cond(
            factor >= _AREA_FACTOR,
            lambda: _antialiased(tf.image.resize(image, 2 * new, method="area"), new),
            lambda: _antialiased(image, new),
        )

    resized = tf.cond(tf.reduce_all(size == new), lambda: tf.cast(image, tf.float32), changed)
    resized.set_shape([_static(height), _static(width), 3])
    return resized


@tf.autograph.experimental.do_not_convert
def central_view(image: tf.Tensor, image_size_px: int, crop_fraction: CropFraction) -> tf.Tensor:
    """The central part as a network sees it, stretched or padded where it is no square.

    Args:
      image: uint8 [h, w, 3].

    Returns:
      float32 [S, S, 3], 0-255.
    """
    return _squared(central_part(image, crop_fraction), image_size_px, crop_fraction)


def _squared(part: tf.Tensor, image_size_px: int, crop_fraction: CropFraction) -> tf.Tensor:
    """[h, w, 3] to float32 [S, S, 3]."""
    if crop_fraction != PADDED:
        return resize(part, image_size_px, image_size_px)
    size = tf.shape(part)[:2]
    factor = tf.cast(image_size_px, tf.float32) / tf.cast(tf.reduce_max(size), tf.float32)
    new = tf.maximum(1, tf.cast(tf.round(tf.cast(size, tf.float32) * factor), tf.int32))
    before = (image_size_px - new) // 2
    around = tf.concat([tf.stack([before, image_size_px - new - before], axis=1), [[0, 0]]], axis=0)
    square = tf.pad(resize(part, new[0], new[1]), around, constant_values=float(PADDING))
    return tf.ensure_shape(square, [image_size_px, image_size_px, 3])


def stored_rgb(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes an image of an image store: a JPEG file without EXIF rotation, as packing makes them all.

    The pixels are those of `decode_rgb`, whose graph for every format and rotation takes a second to build.

    Returns:
      uint8 [h, w, 3].
    """
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


@functools.lru_cache(maxsize=8)
def build_batch_decoder(
    image_size_px: int,
    crops: str,
    scales: tuple[float, ...],
    crop_fraction: CropFraction,
    max_pixels: int = MAX_PIXELS,
    short_side_px: int | None = None,
) -> Callable:
    """Decodes many files and shows their `views`, as one graph; a bad file never harms the others.

    The graph takes a second to build, so all calls in a process share it.

    Args:
      short_side_px: larger images are first reduced to this short side, as packing does with those of
        the image store; None = not.

    Returns:
      a function image_bytes string [n] → views float32 [n, V, S, S, 3], zeros where the file is bad, and
      valid bool [n].
    """
    shape = (num_views(crops, scales), image_size_px, image_size_px, 3)

    @tf.autograph.experimental.do_not_convert
    def show(encoded: tf.Tensor) -> tf.Tensor:
        image = decode_rgb(encoded, max_pixels, short_side_px)
        if short_side_px is not None:
            image = resize_short_side(image, short_side_px)
        return views(image, image_size_px, crops, scales, crop_fraction)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def graph(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _each(image_bytes, show, shape)

    return lambda image_bytes: graph(tf.convert_to_tensor(image_bytes, tf.string))


@tf.autograph.experimental.do_not_convert
def _each(image_bytes: tf.Tensor, show: Callable, shape: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """`show` of every file: float32 [n, *shape], zeros where it fails, and valid bool [n]."""
    count = tf.size(image_bytes, out_type=tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
    parallel = _parallel_decoders(image_bytes, count)
    dataset = dataset.map(lambda index, encoded: (index, show(encoded)), num_parallel_calls=parallel)
    # One more that is always good keeps the batch from being empty.
    last = tf.data.Dataset.from_tensors((count, tf.zeros(shape)))
    indices, images = dataset.ignore_errors().concatenate(last).batch(count + 1).get_single_element()
    indices, images = indices[:-1], images[:-1]
    valid = tf.scatter_nd(indices[:, None], tf.ones_like(indices, tf.int32), count[None]) > 0
    images = tf.cond(
        tf.reduce_all(valid),
        lambda: images,
        lambda: tf.scatter_nd(indices[:, None], images, tf.concat([count[None], shape], 0)),
    )
    return tf.ensure_shape(images, [None, *shape]), valid


@tf.autograph.experimental.do_not_convert
def _parallel_decoders(image_bytes: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """How many files may be decoded at a time, so that no request takes more memory than its pixels may."""

    def by_the_largest() -> tf.Tensor:
        sizes = tf.data.Dataset.from_tensor_slices(image_bytes).map(promised_pixels).ignore_errors()
        largest = sizes.reduce(tf.constant(1, tf.int64), tf.maximum)
        return tf.clip_by_value(_PIXELS_AT_ONCE // largest, 1, _DECODERS)

    return tf.cond(count > 1, by_the_largest, lambda: tf.constant(1, tf.int64))


@tf.autograph.experimental.do_not_convert
def views(
    image: tf.Tensor, image_size_px: int, crops: str, scales: Sequence[float], crop_fraction: CropFraction
) -> tf.Tensor:
    """Square views of one image for multi-crop, multi-scale testing.

    Args:
      image: uint8 [h, w, 3].
      crops: "1" center; "5" center and corners; "10" these and their mirror images; "grid" 3 x 3
        places, and at the end the whole image squeezed to a square, or padded.
      scales: at scale s a square of `crop_fraction / s` of the short side (at most all of it) fills
        the view. "1" at scale 1.0 is `central_view`.
      crop_fraction: None or PADDED = at scale s a part of the image's shape, 1 / s of each side, is shown.

    Returns:
      float32 [V, S, S, 3], 0-255; V = `num_views(crops, scales)`; scale by scale.
    """
    num_views(crops, scales)  # checks the arguments
    places = {
        "1": [(1, 1)],
        "grid": [(row, column) for row in range(3) for column in range(3)],
    }.get(crops, [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)])
    result = []
    for scale in scales:
        part = None if crop_fraction is None or crop_fraction == PADDED else crop_fraction / scale
        size = _part_size(image, part, scale)
        room = tf.shape(image)[:2] - size
        squares = []
        for row, column in places:
            top, left = room[0] * row // 2, room[1] * column // 2
            part = image[top : top + size[0], left : left + size[1]]
            squares.append(_squared(part, image_size_px, crop_fraction))
        if crops == "10":
            squares += [tf.reverse(square, [1]) for square in squares]
        result += squares
    if crops == "grid":
        result.append(_squared(image, image_size_px, crop_fraction))
    return tf.stack(result)


def _antialiased(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`tf.image.resize(image, size, antialias=True)`, to the last bit, in a third of its time.

    TensorFlow computes whole rows at once along the height, but single pixels along the width. So here
    the width is made the height, and a row of pixels one pixel of many channels.
    """

    def along_height(pixels: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        height = tf.shape(pixels)[0]
        scale = tf.cast(length, tf.float32) / tf.cast(height, tf.float32)
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(pixels, [1, height, 1, -1]),
            size=[length, 1],
            scale=[scale, 1.0],
            translation=[0.0, 0.0],
            kernel_type="triangle",
            antialias=True,
        )
        return tf.reshape(rows, [length, -1, 3])

    turned = tf.transpose(along_height(image, size[0]), [1, 0, 2])
    return tf.transpose(along_height(turned, size[1]), [1, 0, 2])


def _part_size(image: tf.Tensor, fraction: float | None, scale: float = 1.0) -> tf.Tensor:
    """Height and width, int32 [2]: `fraction` of the short side, or, without it, 1 / scale of each side."""
    size = tf.shape(image)[:2]
    whole = size if fraction is None else tf.repeat(tf.reduce_min(size), 2)
    share = 1 / scale if fraction is None else fraction
    part = tf.cast(tf.round(share * tf.cast(whole, tf.float32)), tf.int32)
    return tf.clip_by_value(part, 1, whole)


def _static(value: int | tf.Tensor) -> int | None:
    return None if tf.is_tensor(value) else value
