"""`orientation.exif_orientation` as a TensorFlow graph function of core operations, for TF Serving."""

from collections.abc import Callable

import tensorflow as tf

from urnet_tf.images.orientation import EXIF, JPEG, MAX_EXIF_BYTES, PNG, RIFF, WEBP_EXIF_FLAG

_STEPS = 20_000  # pieces of a file that are passed on the way; a file of more is hostile and stands as it is
_JUNK_BYTES = 4096  # passed at a time
_NONE = -1


def exif_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation 1-8 of a JPEG, PNG or WebP file; 1 where it is absent or malformed.

    Args:
      image_bytes: scalar string.

    Returns:
      scalar int32.
    """

    def found(mark: bytes, walk: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        # \C is any byte. Most files do not hold the mark at all, and a search is faster than a walk.
        mentioned = tf.strings.regex_full_match(image_bytes, rb"\C*" + mark + rb"\C*")
        return tf.cond(mentioned, lambda: _parse(image_bytes, walk(image_bytes)), lambda: tf.constant(1))

    def of_jpeg() -> tf.Tensor:
        # Packed files have a JFIF segment of 16 bytes and then, at once, the tables: nothing to search.
        packed = _bytes(image_bytes, 20, 2) == b"\xff\xdb"
        return tf.cond(packed, lambda: tf.constant(1), lambda: found(rb"Exif\x00\x00", _walk_jpeg))

    def starts(prefix: bytes) -> tf.Tensor:
        return _bytes(image_bytes, 0, len(prefix)) == prefix

    return tf.case(
        [
            (starts(JPEG), of_jpeg),
            (starts(PNG), lambda: found(b"eXIf", _walk_png)),
            (starts(RIFF), lambda: found(b"EXIF", _walk_webp)),
        ],
        default=lambda: tf.constant(1),
    )


def _bytes(string: tf.Tensor, start: tf.Tensor | int, count: int) -> tf.Tensor:
    """A part of a string, cut short at its end."""
    size = tf.strings.length(string)
    start = tf.clip_by_value(start, 0, size)
    return tf.strings.substr(string, start, tf.minimum(count, size - start))


def _integers(string: tf.Tensor, start: tf.Tensor, count: int) -> tf.Tensor:
    """The bytes of a part of a string as int32 [count], zeros behind its end."""
    data = tf.cast(tf.io.decode_raw(_bytes(string, start, count), tf.uint8), tf.int32)
    return tf.ensure_shape(tf.pad(data, [[0, count - tf.size(data)]]), [count])


def _walk(string: tf.Tensor, start: int, step: Callable) -> tf.Tensor:
    """Goes from piece to piece: `step(place)` gives the next place, where Exif begins, whether to stop."""
    size = tf.strings.length(string)

    def advance(place: tf.Tensor, found: tf.Tensor, done: tf.Tensor, count: tf.Tensor) -> tuple:
        following, found, done = step(place)
        following = tf.where(following > place, following, size)  # a length that overflows
        return following, found, done | (found != _NONE), count + 1

    _, found, _, _ = tf.while_loop(
        lambda place, found, done, count: (place < size) & ~done & (count < _STEPS),
        advance,
        (tf.constant(start), tf.constant(_NONE), tf.constant(False), tf.constant(0)),
    )
    return found


def _equals(data: tf.Tensor, values: bytes) -> tf.Tensor:
    return tf.reduce_all(data == tf.constant(list(values)))


def _walk_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    def step(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _integers(image_bytes, place, 10)
        marker, length = head[1], head[2] * 256 + head[3]

        def behind_junk() -> tf.Tensor:
            junk = _integers(image_bytes, place, _JUNK_BYTES)
            return place + tf.cast(tf.concat([tf.where(junk == 0xFF)[:1, 0], [_JUNK_BYTES]], 0)[0], tf.int32)

        alone = (marker <= 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))  # no segment follows
        following = tf.cond(
            head[0] != 0xFF,
            behind_junk,
            lambda: place + tf.where(marker == 0xFF, 1, tf.where(alone, 2, 2 + tf.maximum(length, 2))),
        )
        is_marker = head[0] == 0xFF
        is_exif = is_marker & (marker == 0xE1) & _equals(head[4:], EXIF)
        done = is_marker & ((marker == 0xD9) | (marker == 0xDA))
        return following, tf.where(is_exif, place + 4 + len(EXIF), _NONE), done

    return _walk(image_bytes, 2, step)


def _walk_png(image_bytes: tf.Tensor) -> tf.Tensor:
    def step(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _integers(image_bytes, place, 8)
        length = ((head[0] * 256 + head[1]) * 256 + head[2]) * 256 + head[3]
        is_exif = _equals(head[4:], b"eXIf")
        found = tf.where(is_exif, place + 8, _NONE)
        return place + 12 + length, found, _equals(head[4:], b"IEND")

    return _walk(image_bytes, len(PNG), step)


def _walk_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    def step(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _integers(image_bytes, place, 8)
        length = ((head[7] * 256 + head[6]) * 256 + head[5]) * 256 + head[4]
        found = tf.where(_equals(head[:4], b"EXIF"), place + 8, _NONE)
        return place + 8 + length + length % 2, found, tf.constant(False)

    head = _integers(image_bytes, tf.constant(12), 9)
    flagged = _equals(head[:4], b"VP8X") & (head[8] // WEBP_EXIF_FLAG % 2 == 1)
    return tf.cond(flagged, lambda: _walk(image_bytes, 12, step), lambda: tf.constant(_NONE))


def _parse(image_bytes: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The orientation that the first directory of an Exif block tells; 1 where there is no block."""

    def parse() -> tf.Tensor:
        again = _bytes(image_bytes, start, len(EXIF)) == EXIF  # some writers repeat it in PNG and WebP
        block = _bytes(image_bytes, start + tf.where(again, len(EXIF), 0), MAX_EXIF_BYTES)
        raw = tf.io.decode_raw(block, tf.uint8)
        last = tf.cast(tf.size(raw), tf.int64)
        data = tf.cast(tf.concat([raw, [0]], 0), tf.int64)

        def u8(place: tf.Tensor | int) -> tf.Tensor:  # any place: behind the end there are zeros
            place = tf.cast(place, tf.int64)
            return tf.gather(data, tf.clip_by_value(place, 0, last))

        little = u8(0) == ord("I")

        def u16(place: tf.Tensor | int) -> tf.Tensor:
            one, other = u8(place), u8(place + 1)
            return tf.where(little, one + 256 * other, 256 * one + other)

        low, high = u16(tf.where(little, 4, 6)), u16(tf.where(little, 6, 4))
        directory = low + 65536 * high
        entries = directory + 2 + 12 * tf.range(u16(directory))
        is_orientation = (u16(entries) == 0x0112) & (u16(entries + 2) == 3)
        value = tf.reduce_max(tf.concat([[1], tf.where(is_orientation, u16(entries + 8), 1)], 0))
        return tf.cast(tf.where(value <= 8, value, 1), tf.int32)

    return tf.cond(start == _NONE, lambda: tf.constant(1), parse)
