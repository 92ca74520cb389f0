"""Encoded bytes to RGB pixels, as TensorFlow graph functions of core operations; use it through `decode`.

What is refused here, and not by a decoder, raises `RefusedImage` with its status when the code runs eagerly.
In a graph it is an `InvalidArgumentError` of the same words.

Hostile files are met here: the header's pixel count is checked before anything is decoded, animated
WebP is refused (TensorFlow 2.20 writes past its buffer), and of a GIF only the first frame is handed to
the decoder (which would otherwise hold all of them).
"""

import tensorflow as tf

from urnet_tf.images.orientation_graph import exif_orientation as exif_orientation

MAX_PIXELS = 50_000_000
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # version 100, no flags, CMYK as it is
_IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class RefusedImage(tf.errors.InvalidArgumentError):
    """An image that is not decoded, with a status of `schema.STATUS`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(None, None, message)
        self.status = status


@tf.autograph.experimental.do_not_convert  # see `decode`
def decode_rgb(
    image_bytes: tf.Tensor, max_pixels: int = MAX_PIXELS, short_side_px: int | None = None
) -> tf.Tensor:
    """Decodes PNG, JPEG, GIF (first frame), BMP or still WebP the way a viewer shows it.

    The EXIF orientation is applied, transparent images are put on white, gray, palette and CMYK become RGB,
    16 bits become 8. `picture.read_picture` gives the same pixels, and reads more formats.

    Args:
      image_bytes: scalar string.
      max_pixels: what the header may promise at most.
      short_side_px: a JPEG file whose short side stays at least as long is decoded at a half, a quarter or an
        eighth of its size; None = at its size.

    Returns:
      uint8 [h, w, 3].

    Raises:
      tf.errors.InvalidArgumentError: the image is damaged, too large or of a kind that is not read.
    """
    image = tf.cond(
        tf.strings.substr(image_bytes, 0, tf.minimum(3, tf.strings.length(image_bytes))) == b"\xff\xd8\xff",
        lambda: _decode_jpeg(image_bytes, max_pixels, short_side_px),
        lambda: _decode_other(image_bytes, max_pixels),
    )
    return tf.ensure_shape(_oriented(image, exif_orientation(image_bytes)), [None, None, 3])


def _integers(string: tf.Tensor, size: int) -> tf.Tensor:
    """The bytes of a string as int64 [size], zeros behind its end."""
    data = tf.cast(tf.io.decode_raw(string, tf.uint8), tf.int64)
    return tf.pad(data, [[0, tf.maximum(0, size - tf.size(data))]])[:size]


def _little(header: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    return tf.add_n([header[offset + i] * 256**i for i in range(count)])


def _big(header: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    return tf.add_n([header[offset + i] * 256 ** (count - 1 - i) for i in range(count)])


def refuse_unless(condition: tf.Tensor, value: tf.Tensor, status: str, message: str) -> tf.Tensor:
    """`value`, a tensor, if the scalar `condition` holds.

    Raises:
      RefusedImage: it does not, and the code runs eagerly.
      tf.errors.InvalidArgumentError: it does not, in a graph.
    """
    if tf.executing_eagerly():
        if not condition:
            raise RefusedImage(status, message)
        return value
    with tf.control_dependencies([tf.debugging.assert_equal(condition, True, message=message)]):
        return tf.identity(value)


def _checked_size(image_bytes: tf.Tensor, pixels: tf.Tensor, max_pixels: int) -> tf.Tensor:
    message = f"The header promises more than {max_pixels} pixels."
    return refuse_unless((0 <= pixels) & (pixels <= max_pixels), image_bytes, "too_many_pixels", message)


def _refuse_format(image_bytes: tf.Tensor) -> tf.Tensor:
    never = tf.strings.length(image_bytes) < 0  # a constant would fail when the graph is built
    message = "The bytes are not PNG, JPEG, GIF, BMP or WebP."
    data = refuse_unless(never, image_bytes, "not_an_image", message)
    return tf.zeros([tf.strings.length(data), 1, 3], tf.uint8)


def _decode_other(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    header = _integers(tf.strings.substr(image_bytes, 0, tf.minimum(64, tf.strings.length(image_bytes))), 64)

    def starts(*values: int | bytes) -> tf.Tensor:
        return tf.reduce_all(header[: len(values)] == tf.constant(values, tf.int64))

    return tf.case(
        [
            (starts(0x89, *b"PNG"), lambda: _decode_png(image_bytes, header, max_pixels)),
            (starts(*b"RIFF"), lambda: _decode_webp(image_bytes, header, max_pixels)),
            (starts(*b"GIF8"), lambda: _decode_gif(image_bytes, header, max_pixels)),
            (starts(*b"BM"), lambda: _decode_bmp(image_bytes, header, max_pixels)),
        ],
        default=lambda: _refuse_format(image_bytes),
    )


@tf.autograph.experimental.do_not_convert
def promised_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """How many pixels the header of an image promises, int64: 0 where it is of no kind that is read.

    That of a GIF's canvas, out of which a frame may reach; decoding looks closer.

    Raises:
      tf.errors.InvalidArgumentError: a damaged JPEG file.
    """
    header = _integers(tf.strings.substr(image_bytes, 0, tf.minimum(64, tf.strings.length(image_bytes))), 64)

    def starts(*values: int) -> tf.Tensor:
        return tf.reduce_all(header[: len(values)] == tf.constant(values, tf.int64))

    def jpeg() -> tf.Tensor:
        return tf.cast(tf.reduce_prod(tf.image.extract_jpeg_shape(image_bytes)[:2]), tf.int64)

    def others() -> tf.Tensor:
        sizes = {
            b"\x89PNG": _png_pixels(header), b"RIFF": _webp_pixels(header), b"BM": _bmp_pixels(header),
            b"GIF8": _little(header, 6, 2) * _little(header, 8, 2),
        }  # fmt: skip
        return tf.add_n([tf.where(starts(*name), size, 0) for name, size in sizes.items()])

    return tf.cond(starts(0xFF, 0xD8, 0xFF), jpeg, others)


def _png_pixels(header: tf.Tensor) -> tf.Tensor:
    return _big(header, 16, 4) * _big(header, 20, 4)


def _webp_pixels(header: tf.Tensor) -> tf.Tensor:
    extended, lossless, bits = header[15] == ord("X"), header[15] == ord("L"), _little(header, 21, 4)
    return tf.where(
        extended,
        (_little(header, 24, 3) + 1) * (_little(header, 27, 3) + 1),
        tf.where(
            lossless,
            (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1),
            (_little(header, 26, 2) % 2**14) * (_little(header, 28, 2) % 2**14),
        ),
    )


def _bmp_pixels(header: tf.Tensor) -> tf.Tensor:
    height = _little(header, 22, 4)  # as two's complement; negative: rows from top to bottom
    return _little(header, 18, 4) * tf.minimum(height, 2**32 - height)


def _decode_jpeg(image_bytes: tf.Tensor, max_pixels: int, short_side_px: int | None) -> tf.Tensor:
    shape = tf.cast(tf.image.extract_jpeg_shape(image_bytes), tf.int64)
    image_bytes = _checked_size(image_bytes, shape[0] * shape[1], max_pixels)
    # CMYK is Adobe's inverted kind, marked or not, for Pillow and photo programs; the decoder asks the mark.
    unmarked = (shape[2] == 4) & ~tf.strings.regex_full_match(image_bytes, rb"\C*\xff\xee\x00\x0eAdobe\C*")
    encoded = tf.cond(
        unmarked,
        lambda: tf.strings.join(
            [b"\xff\xd8", _ADOBE, tf.strings.substr(image_bytes, 2, tf.strings.length(image_bytes) - 2)]
        ),
        lambda: image_bytes,
    )

    def decoded(ratio: int) -> tf.Tensor:  # channels=3 makes RGB of gray and of CMYK
        return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    if short_side_px is None:
        image = decoded(1)
    else:
        short = tf.reduce_min(shape[:2])
        image = tf.case(
            [
                ((short + ratio - 1) // ratio >= short_side_px, lambda ratio=ratio: decoded(ratio))
                for ratio in (8, 4, 2)
            ],
            default=lambda: decoded(1),
        )
    return image


def _oriented(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        mirrored = [(image, [1]), (image, [0, 1]), (image, [0])]
        transposed = tf.transpose(image, [1, 0, 2])
        mirrored += [(transposed, axes) for axes in ([], [1], [0, 1], [0])]
        return tf.switch_case(orientation - 2, [lambda i=i, a=a: tf.reverse(i, a) for i, a in mirrored])

    return tf.cond(orientation > 1, turned, lambda: image)


def _decode_png(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    image_bytes = _checked_size(image_bytes, _png_pixels(header), max_pixels)
    encoded = (
        image_bytes + _IEND
    )  # a file without its last chunk is whole for Pillow; what follows it is nothing
    return tf.cond(
        header[24] < 8,  # bits; the decoder adds a fourth channel wrongly to fewer than eight
        lambda: _as_rgb(tf.io.decode_png(encoded, channels=0)),
        # Four channels in any case: only then is the transparent color of a palette or of gray honored.
        lambda: _on_white(tf.io.decode_png(encoded, channels=4)),
    )


def _as_rgb(image: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 1, 3 or 4] -> uint8 [h, w, 3]."""
    channels = tf.shape(image)[2]
    return tf.case(
        [(channels == 4, lambda: _on_white(image)), (channels == 1, lambda: tf.tile(image, [1, 1, 3]))],
        default=lambda: image,
    )


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 4] -> uint8 [h, w, 3]; in 16-bit integers, since a float copy may be 600 MB."""

    def blended() -> tf.Tensor:
        wide = tf.cast(image, tf.uint16)
        color, alpha = wide[..., :3], wide[..., 3:]
        return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_all(image[..., 3] == 255), lambda: image[..., :3], blended)


def _decode_webp(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    animated = (header[15] == ord("X")) & (header[20] // 2 % 2 == 1)
    message = "Animated WebP files are not read."
    image_bytes = refuse_unless(tf.logical_not(animated), image_bytes, "unsupported", message)
    image_bytes = _checked_size(image_bytes, _webp_pixels(header), max_pixels)
    image = tf.io.decode_image(image_bytes, channels=0, expand_animations=False)
    return _as_rgb(tf.reshape(image, tf.shape(image)[-3:]))


def _decode_gif(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    start, end, transparent = _first_gif_frame(image_bytes, header)
    frame = _integers(_part(image_bytes, start, start + 10), 10)
    left, top, width, height = (_little(frame, place, 2) for place in (1, 3, 5, 7))
    # A frame may reach out of its canvas, which then is larger, as it is for Pillow.
    columns, rows = (
        tf.maximum(_little(header, 6, 2), left + width),
        tf.maximum(_little(header, 8, 2), top + height),
    )
    image_bytes = _checked_size(image_bytes, columns * rows, max_pixels)
    local = frame[9] >= 128
    flags = tf.where(local, frame[9], header[10])
    palette = tf.where(local, start + 10, 13)
    colors = tf.cast(2 * 2 ** (flags % 8), tf.int32)
    # What is transparent is white: its color is made so, and the extensions that tell of it are left out.
    white = (transparent >= 0) & (transparent < colors) & (flags >= 128)
    hole = tf.where(white, palette + 3 * transparent, 0)

    def whitened(begin: tf.Tensor | int, stop: tf.Tensor | int) -> tf.Tensor:
        inside = white & (begin <= hole) & (hole < stop)
        parts = [_part(image_bytes, begin, hole), b"\xff\xff\xff", _part(image_bytes, hole + 3, stop)]
        return tf.cond(inside, lambda: tf.strings.join(parts), lambda: _part(image_bytes, begin, stop))

    # The decoder knows no place of a frame, and would cut it off at its own width.
    at_0_0 = [_part(image_bytes, start, start + 1), b"\0\0\0\0", whitened(start + 5, end)]
    first = tf.strings.join([whitened(0, 13 + _gif_colors(header[10])), *at_0_0, b";"])
    image = tf.io.decode_image(first, channels=3, expand_animations=False)
    # Where the frame is not, Pillow shows what is transparent or else the first color.
    outside = tf.cast(_integers(_part(image_bytes, palette, palette + 3), 3), tf.uint8)
    outside = tf.where(transparent >= 0, tf.constant(255, tf.uint8), outside)
    return _placed(tf.reshape(image, tf.shape(image)[-3:]), top, left, rows, columns, outside)


def _placed(
    image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, color: tf.Tensor
) -> tf.Tensor:
    """An image at a place of a larger one of one color."""
    size = tf.shape(image, out_type=tf.int64)
    room = [[top, rows - size[0] - top], [left, columns - size[1] - left], [0, 0]]

    def placed() -> tf.Tensor:
        inside = tf.pad(tf.ones_like(image[..., :1], tf.bool), room)
        return tf.where(inside, tf.pad(image, room), color)

    return tf.cond(tf.reduce_any(tf.stack(room) > 0), placed, lambda: image)


def _part(string: tf.Tensor, start: tf.Tensor | int, end: tf.Tensor | int) -> tf.Tensor:
    """The bytes of a string from `start` to `end`, as far as it has them."""
    size = tf.strings.length(string)
    start = tf.clip_by_value(start, 0, size)
    return tf.strings.substr(string, start, tf.clip_by_value(end, start, size) - start)


def _gif_colors(flags: tf.Tensor) -> tf.Tensor:
    """The bytes of a palette, int32, by the flags that announce it."""
    flags = tf.cast(flags, tf.int32)
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _first_gif_frame(image_bytes: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where the first frame begins and ends, and the index of its transparent color (-1: none); int32.

    Without a frame it begins at the end of the file.
    """
    size = tf.strings.length(image_bytes)
    data = tf.pad(tf.io.decode_raw(image_bytes, tf.uint8), [[0, 16]])
    at_block, in_extension, in_frame, done = range(4)
    Place = tuple[
        tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor
    ]  # in the file, phase, the frame, its transparency

    def u8(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(position, size)], tf.int32)

    def block(position: tf.Tensor, frame: tf.Tensor, transparent: tf.Tensor) -> Place:
        kind = u8(position)
        is_frame, is_extension = kind == 0x2C, kind == 0x21
        phase = tf.where(is_frame, in_frame, tf.where(is_extension, in_extension, done))
        step = tf.where(is_frame, 11 + _gif_colors(u8(position + 9)), 2)
        has_transparency = is_extension & (u8(position + 1) == 0xF9) & (u8(position + 3) % 2 == 1)
        return (
            position + tf.where(phase == done, 0, step),
            phase,
            tf.where(is_frame, position, frame),
            tf.where(has_transparency, u8(position + 6), transparent),
        )

    def piece(position: tf.Tensor, phase: tf.Tensor, frame: tf.Tensor, transparent: tf.Tensor) -> Place:
        length = u8(position)
        after = tf.where(phase == in_frame, done, at_block)
        return position + length + 1, tf.where(length == 0, after, phase), frame, transparent

    def advance(position: tf.Tensor, phase: tf.Tensor, frame: tf.Tensor, transparent: tf.Tensor) -> Place:
        return tf.cond(
            phase == at_block,
            lambda: block(position, frame, transparent),
            lambda: piece(position, phase, frame, transparent),
        )

    end, _, frame, transparent = tf.while_loop(
        lambda position, phase, frame, transparent: (phase != done) & (position < size),
        advance,
        (13 + _gif_colors(header[10]), tf.constant(at_block), size, tf.constant(-1)),
    )
    return frame, tf.minimum(end, size), transparent


def _decode_bmp(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    info_size, bits, compression = _little(header, 14, 4), _little(header, 28, 2), _little(header, 30, 4)
    known = (info_size >= 40) & (
        (((bits == 8) | (bits == 24)) & (compression == 0))
        | ((bits == 32) & ((compression == 0) | (compression == 3)))
    )
    image_bytes = refuse_unless(known, image_bytes, "unsupported", "This variant of BMP is not read.")
    image_bytes = _checked_size(image_bytes, _bmp_pixels(header), max_pixels)
    image = tf.io.decode_bmp(image_bytes)

    def from_palette() -> tf.Tensor:  # the decoder gives the index
        start = tf.minimum(tf.cast(14 + info_size, tf.int32), tf.strings.length(image_bytes))
        palette = tf.strings.substr(
            image_bytes, start, tf.minimum(1024, tf.strings.length(image_bytes) - start)
        )
        blue_green_red = tf.reshape(_integers(palette, 1024), [256, 4])[:, :3]
        return tf.gather(tf.cast(blue_green_red[:, ::-1], tf.uint8), tf.cast(image[..., 0], tf.int32))

    # The fourth byte of a pixel is padding in most files, so it is no transparency.
    return tf.cond(bits == 8, from_palette, lambda: image[..., :3])
