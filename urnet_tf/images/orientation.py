"""The EXIF orientation of a file: how its picture is to be turned to stand upright. Standard library only.

Where it lies: the first Exif segment of a JPEG file before its picture data, however late; the chunk eXIf of
a PNG; the chunk EXIF of an extended WebP. XMP is not asked, as browsers do not ask it. `orientation_graph`
says the same by TensorFlow operations, for files that are decoded inside of a served graph.
"""

from urnet_tf.images import headers

PNG, RIFF, JPEG = b"\x89PNG\r\n\x1a\n", b"RIFF", b"\xff\xd8"
EXIF = b"Exif\0\0"
MAX_EXIF_BYTES = 1 << 16  # what is looked at; a JPEG segment cannot be longer
WEBP_EXIF_FLAG = 8
_ORIENTATION, _SHORT = 0x0112, 3


def exif_orientation(data: bytes) -> int:
    """The orientation 1 to 8 of a JPEG, PNG or WebP file; 1 where there is none, or it is malformed.

    Of other formats it is 1: GIF and BMP have none, and Pillow turns those that only it reads.
    """
    if data.startswith(JPEG):
        exif = _of_jpeg(data)
    elif data.startswith(PNG):
        exif = _of_png(data)
    elif data.startswith(RIFF):
        exif = _of_webp(data)
    else:
        return 1
    return _parse(exif.removeprefix(EXIF)[:MAX_EXIF_BYTES])


def _of_jpeg(data: bytes) -> bytes:
    for segment in headers.jpeg_segments(data):
        if segment.marker == 0xE1 and data.startswith(EXIF, segment.start + 4):
            start = segment.start + 4 + len(EXIF)
            return data[start : start + len(EXIF) + MAX_EXIF_BYTES]
    return b""


def _of_png(data: bytes) -> bytes:
    place = len(PNG)
    while place + 8 <= len(data) and data[place + 4 : place + 8] != b"IEND":
        length = int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] == b"eXIf":
            return data[place + 8 : place + 8 + length]
        place += 12 + length
    return b""


def _of_webp(data: bytes) -> bytes:
    if data[12:16] != b"VP8X" or not int.from_bytes(data[20:21]) & WEBP_EXIF_FLAG:
        return b""
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"EXIF":
            return data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
    return b""


def _parse(tiff: bytes) -> int:
    """The orientation that the first directory of an Exif block tells."""
    order = "little" if tiff[:1] == b"I" else "big"

    def number(place: int, size: int) -> int:  # behind the end there are zeros
        return int.from_bytes(tiff[place : place + size].ljust(size, b"\0"), order)  # type: ignore[arg-type]

    directory = number(4, 4)
    entries = range(directory + 2, min(directory + 2 + 12 * number(directory, 2), len(tiff)), 12)
    found = [number(e + 8, 2) for e in entries if number(e, 2) == _ORIENTATION and number(e + 2, 2) == _SHORT]
    value = max(found, default=1)
    return value if 1 <= value <= 8 else 1
