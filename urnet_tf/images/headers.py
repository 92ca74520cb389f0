"""Image headers: how large a picture is, and what a file is that is not read. NumPy and TensorFlow stay out.

Input: the bytes of a file. Only the first lines of each format are read, so a file that promises a billion
pixels costs nothing; damage further inside is found when the image is decoded.

Pillow would answer on sound files, too. Of damaged ones it reads others than the decoder does, a first
frame widens its GIFs, and it opens a file in ten times the time. The graph that decodes (`image_formats`)
has to check headers by itself, as TF Serving runs it; a test holds both to the same answers.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # tables and a reserved marker among those of frame headers


class Refused(Exception):
    """A file that is not a readable one, with a status of `schema.STATUS` and a reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Segment(NamedTuple):
    """A piece of a JPEG file from its marker on; `end` is where the next one should start."""

    marker: int
    start: int
    end: int


class Frame(NamedTuple):
    """The frame header of a JPEG file."""

    bits: int
    height: int
    width: int
    channels: int


def read_size(data: bytes) -> tuple[int, int]:
    """The width and height in pixels that the header of a PNG, JPEG, GIF, BMP or WebP file tells.

    Raises:
      Refused: another kind of file, a kind of these that is not read, or a damaged header.
    """
    for prefix, reader in _READERS:
        if data.startswith(prefix):
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise Refused("decode_error", "the image header is damaged or cut off") from None
    raise Refused(*_other_kind(data))


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG file in order, to the start of its picture data or as far as they are whole.

    Whatever stands between segments is passed over, as decoders do.
    """
    place = 2
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no segment follows
            place += 2
            continue
        if marker == _END_OF_IMAGE:
            return
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield Segment(marker, place, place + 2 + length)
        if marker == START_OF_SCAN:
            return
        place += 2 + max(length, 2)


def is_frame(segment: Segment) -> bool:
    """Whether a segment is a frame header, which tells the size."""
    return 0xC0 <= segment.marker <= 0xCF and segment.marker not in _NOT_FRAMES


def read_frame(data: bytes, segment: Segment) -> Frame:
    """What a frame header tells; 0 channels where the file ends behind the size.

    Raises:
      struct.error: the file ends before.
    """
    channels = data[segment.start + 9 : segment.start + 10]
    bits, height, width = struct.unpack_from(">BHH", data, segment.start + 4)
    return Frame(bits, height, width, int.from_bytes(channels))


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for segment in jpeg_segments(data):
        if is_frame(segment):
            frame = read_frame(data, segment)
            if frame.bits != 8:
                raise Refused("unsupported", f"a JPEG of {frame.bits} bits a sample")
            if segment.marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
                raise Refused("unsupported", "a lossless or hierarchical JPEG")
            return frame.width, frame.height
    raise IndexError  # picture data, or the end, before any size


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise IndexError
    return struct.unpack_from(">II", data, 16)


def _gif_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, 6)


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return struct.unpack_from("<HH", data, 18)
    if not 16 <= header <= 256:
        raise IndexError
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height: top row first


def _riff_size(data: bytes) -> tuple[int, int]:
    if data[8:12] != b"WEBP":
        raise Refused("not_an_image", "a RIFF file (sound or video), not an image")
    chunk = data[12:16]
    if chunk == b"VP8X":
        if data[20] & 2:
            raise Refused("unsupported", "an animated WebP")
        if len(data) < 30:
            raise IndexError
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        if data[20] != 0x2F:
            raise IndexError
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise IndexError


_READERS = (
    (b"\xff\xd8\xff", _jpeg_size),
    (b"\x89PNG\r\n\x1a\n", _png_size),
    (b"GIF87a", _gif_size),
    (b"GIF89a", _gif_size),
    (b"BM", _bmp_size),
    (b"RIFF", _riff_size),
)
_UNSUPPORTED = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\x01\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
)
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
    b"hevc": "HEIC", b"hevx": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF",
}  # fmt: skip


def _other_kind(data: bytes) -> tuple[str, str]:
    """Status and reason for bytes that are no image of a supported format."""
    for prefix, name in _UNSUPPORTED:
        if data.startswith(prefix):
            return "unsupported", f"the file is {name}, which is not read"
    if data[4:8] == b"ftyp":
        brand = _BRANDS.get(data[8:12])
        return ("unsupported", f"the file is {brand}, which is not read") if brand else (
            "not_an_image", "the file is a video, not an image"
        )  # fmt: skip
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title", b"<meta")):
        return "not_an_image", "the file is an HTML page, not an image"
    if b"<svg" in head and head.startswith((b"<", b"<?xml")):
        return "unsupported", "the file is SVG, which is not read"
    if b"<html" in head:
        return "not_an_image", "the file is an HTML page, not an image"
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "not_an_image", "the file is text, not an image"
    return "not_an_image", f"no known image format begins with the bytes {data[:4].hex(' ')}"
