"""Encoded bytes to RGB pixels, as TensorFlow graph functions of core operations; use it through `decode`.

What is refused here, and not by a decoder, raises `RefusedImage` with its status when the code runs eagerly.
In a graph it is an `InvalidArgumentError` of the same words.

Hostile files are met here: the header's pixel count is checked before anything is decoded, animated
WebP is refused (TensorFlow 2.20 writes past its buffer), and of a GIF only the first frame is handed to
the decoder (which would otherwise hold all of them).
"""

import tensorflow as tf

MAX_PIXELS = 50_000_000
_EXIF_SEARCH_BYTES = 65536  # cameras put the Exif segment first; a segment is shorter than this


class RefusedImage(tf.errors.InvalidArgumentError):
    """An image that is not decoded, with a status of `schema.STATUS`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(None, None, message)
        self.status = status


@tf.autograph.experimental.do_not_convert  # see `decode`
def decode_rgb(image_bytes: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes PNG, JPEG, GIF (first frame), BMP or still WebP the way a viewer shows it.

    The EXIF orientation of JPEG files is applied, transparent images are put on white, gray, palette and CMYK
    become RGB, 16 bits become 8.

    Args:
      image_bytes: scalar string.
      max_pixels: what the header may promise at most.

    Returns:
      uint8 [h, w, 3].

    Raises:
      tf.errors.InvalidArgumentError: the image is damaged, too large or of a kind that is not read.
    """
    image = tf.cond(
        tf.strings.substr(image_bytes, 0, tf.minimum(3, tf.strings.length(image_bytes))) == b"\xff\xd8\xff",
        lambda: _decode_jpeg(image_bytes, max_pixels),
        lambda: _decode_other(image_bytes, max_pixels),
    )
    return tf.ensure_shape(image, [None, None, 3])


def exif_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation 1-8 of a JPEG file; 1 when it is absent or malformed. Returns a scalar int32."""

    def two_bytes(position: int) -> tf.Tensor:
        size = tf.strings.length(image_bytes)
        return tf.strings.substr(image_bytes, tf.minimum(position, size), tf.minimum(2, size))

    def search() -> tf.Tensor:
        head = tf.strings.substr(
            image_bytes, 0, tf.minimum(_EXIF_SEARCH_BYTES, tf.strings.length(image_bytes))
        )
        found = tf.strings.regex_full_match(head, r"\C*Exif\x00\x00\C*")  # \C is any byte
        return tf.cond(found, lambda: _parse_exif(head), lambda: tf.constant(1))

    # Packed files have a JFIF segment of 16 bytes and then, at once, the tables: nothing to search.
    return tf.cond(two_bytes(20) == b"\xff\xdb", lambda: tf.constant(1), search)


def _parse_exif(head: tf.Tensor) -> tf.Tensor:
    data = tf.io.decode_raw(head, tf.uint8)
    size = tf.size(data)
    data = tf.concat([data, tf.zeros([16], tf.uint8)], 0)
    is_start = tf.ones([size], tf.bool)  # FF E1, two bytes of length, "Exif", 0, 0
    for offset, value in ((0, 0xFF), (1, 0xE1), (4, 0x45), (5, 0x78), (6, 0x69), (7, 0x66), (8, 0), (9, 0)):
        is_start &= data[offset : size + offset] == value
    starts = tf.where(is_start)[:1, 0]

    def parse() -> tf.Tensor:
        tiff = starts[0] + 10
        last = tf.cast(size, tf.int64) + 15

        def u8(offset: tf.Tensor) -> tf.Tensor:  # any offset: behind the end there are zeros
            return tf.cast(tf.gather(data, tf.clip_by_value(offset, 0, last)), tf.int64)

        little = u8(tiff) == 0x49

        def u16(offset: tf.Tensor) -> tf.Tensor:
            one, other = u8(offset), u8(offset + 1)
            return tf.where(little, one + 256 * other, 256 * one + other)

        def u32(offset: tf.Tensor) -> tf.Tensor:
            one, other = u16(offset), u16(offset + 2)
            return tf.where(little, one + 65536 * other, 65536 * one + other)

        directory = tiff + u32(tiff + 4)
        entries = directory + 2 + 12 * tf.range(u16(directory))
        is_orientation = (u16(entries) == 0x0112) & (u16(entries + 2) == 3)
        value = tf.reduce_max(tf.concat([[1], tf.where(is_orientation, u16(entries + 8), 1)], 0))
        return tf.cast(tf.where(value <= 8, value, 1), tf.int32)

    return tf.cond(tf.size(starts) > 0, parse, lambda: tf.constant(1))


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


def _decode_jpeg(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    shape = tf.cast(tf.image.extract_jpeg_shape(image_bytes), tf.int64)
    image_bytes = _checked_size(image_bytes, shape[0] * shape[1], max_pixels)
    # channels=3 makes RGB of gray and of CMYK, Adobe's inverted kind too.
    image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return _oriented(image, exif_orientation(image_bytes))


def _oriented(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        mirrored = [(image, [1]), (image, [0, 1]), (image, [0])]
        transposed = tf.transpose(image, [1, 0, 2])
        mirrored += [(transposed, axes) for axes in ([], [1], [0, 1], [0])]
        return tf.switch_case(orientation - 2, [lambda i=i, a=a: tf.reverse(i, a) for i, a in mirrored])

    return tf.cond(orientation > 1, turned, lambda: image)


def _decode_png(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    image_bytes = _checked_size(image_bytes, _big(header, 16, 4) * _big(header, 20, 4), max_pixels)
    return tf.cond(
        header[24] < 8,  # bits; the decoder adds a fourth channel wrongly to fewer than eight
        lambda: _as_rgb(tf.io.decode_png(image_bytes, channels=0)),
        # Four channels in any case: only then is the transparent color of a palette or of gray honored.
        lambda: _on_white(tf.io.decode_png(image_bytes, channels=4)),
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
    extended, lossless = header[15] == ord("X"), header[15] == ord("L")
    animated = extended & (header[20] // 2 % 2 == 1)
    message = "Animated WebP files are not read."
    image_bytes = refuse_unless(tf.logical_not(animated), image_bytes, "unsupported", message)
    bits = _little(header, 21, 4)
    pixels = tf.where(
        extended,
        (_little(header, 24, 3) + 1) * (_little(header, 27, 3) + 1),
        tf.where(
            lossless,
            (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1),
            (_little(header, 26, 2) % 2**14) * (_little(header, 28, 2) % 2**14),
        ),
    )
    image_bytes = _checked_size(image_bytes, pixels, max_pixels)
    image = tf.io.decode_image(image_bytes, channels=0, expand_animations=False)
    return _as_rgb(tf.reshape(image, tf.shape(image)[-3:]))


def _decode_gif(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    canvas = _little(header, 6, 2) * _little(header, 8, 2)
    image_bytes = _checked_size(image_bytes, canvas, max_pixels)
    first, pixels = _first_gif_frame(image_bytes, header)
    first = _checked_size(first, pixels, max_pixels)
    image = tf.io.decode_image(first, channels=3, expand_animations=False)
    return tf.reshape(image, tf.shape(image)[-3:])


def _first_gif_frame(image_bytes: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The file up to its first frame, and that frame's pixel count (0 when it has no frame)."""
    size = tf.strings.length(image_bytes)
    data = tf.pad(tf.io.decode_raw(image_bytes, tf.uint8), [[0, 16]])
    at_block, in_extension, in_frame, done = range(4)

    def u8(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(position, size)], tf.int32)

    def colors(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def block(position: tf.Tensor, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        kind = u8(position)
        is_frame = kind == 0x2C
        sides = tf.cast(data[tf.minimum(position, size) :][:10], tf.int64)
        frame_pixels = (sides[5] + 256 * sides[6]) * (sides[7] + 256 * sides[8])
        phase = tf.where(is_frame, in_frame, tf.where(kind == 0x21, in_extension, done))
        step = tf.where(is_frame, 11 + colors(u8(position + 9)), 2)
        return position + tf.where(phase == done, 0, step), phase, tf.where(is_frame, frame_pixels, pixels)

    def piece(
        position: tf.Tensor, phase: tf.Tensor, pixels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        length = u8(position)
        after = tf.where(phase == in_frame, done, at_block)
        return position + length + 1, tf.where(length == 0, after, phase), pixels

    def advance(
        position: tf.Tensor, phase: tf.Tensor, pixels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return tf.cond(
            phase == at_block, lambda: block(position, pixels), lambda: piece(position, phase, pixels)
        )

    start = 13 + colors(tf.cast(header[10], tf.int32))
    end, _, pixels = tf.while_loop(
        lambda position, phase, pixels: (phase != done) & (position < size),
        advance,
        (start, tf.constant(at_block), tf.constant(0, tf.int64)),
    )
    return tf.strings.substr(image_bytes, 0, tf.minimum(end, size)) + b";", pixels


def _decode_bmp(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    info_size, bits, compression = _little(header, 14, 4), _little(header, 28, 2), _little(header, 30, 4)
    known = (info_size >= 40) & (
        (((bits == 8) | (bits == 24)) & (compression == 0))
        | ((bits == 32) & ((compression == 0) | (compression == 3)))
    )
    image_bytes = refuse_unless(known, image_bytes, "unsupported", "This variant of BMP is not read.")
    height = _little(header, 22, 4)
    height = tf.minimum(height, 2**32 - height)  # negative: rows from top to bottom
    image_bytes = _checked_size(image_bytes, _little(header, 18, 4) * height, max_pixels)
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
