"""Image headers: the one place that says what a file is, how large its picture is, and whether it is read.

Input: the bytes of a file. Only the first lines of each common format are read, so a file that promises a
billion pixels costs nothing; damage further inside is found when the image is decoded. TIFF, JPEG 2000, AVIF
and HEIC are opened by Pillow, which does not decode them for that.

For the common formats Pillow would take ten times as long, and a first frame widens its GIFs. The graph that
decodes (`image_formats`) has to check headers by itself, as TF Serving runs it; a test holds both to the same
answers. NumPy and TensorFlow stay out.
"""

import importlib
import io
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from urnet_tf.extras import find_missing

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE_PX = 65_500  # that JPEG encoders write
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
    """The width and height in pixels that the header of an image file tells.

    Raises:
      Refused: another kind of file, an image of a kind that is not read, or a damaged header.
    """
    for prefix, _, reader in _COMMON:
        if data.startswith(prefix):
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise Refused("decode_error", "the image header is damaged or cut off") from None
    if pillow_format(data) is None:
        raise Refused(*_other_kind(data))
    with opened_by_pillow(data) as image:
        return image.size


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises Refused where a picture is too large, or too long to be stored."""
    if width * height > max_pixels:
        raise Refused(
            "too_many_pixels", f"the header promises {width} x {height} pixels; {max_pixels} are allowed"
        )
    if max(width, height) > LONGEST_SIDE_PX:
        raise Refused(
            "unsupported",
            f"{width} x {height} pixels; a side of at most {LONGEST_SIDE_PX} can be stored as JPEG",
        )


def pillow_format(data: bytes) -> str | None:
    """Which of the formats that only Pillow reads a file is: "TIFF", "JPEG 2000", "AVIF", "HEIC" or None."""
    for prefix, name in _BY_PILLOW:
        if data.startswith(prefix):
            return name
    if data[4:8] != b"ftyp":
        return None
    brands = data[8 : min(int.from_bytes(data[:4]), _MAX_BRANDS_BYTES)]
    return "AVIF" if b"avif" in brands else _BRANDS.get(brands[:4])


def opened_by_pillow(data: bytes) -> "Image.Image":
    """An image file opened by Pillow, its pixels not decoded yet.

    Raises:
      Refused: it is none that is read, is damaged, or needs a decoder that is not installed.
      MemoryError: it does not fit into memory.
    """
    from PIL import Image, UnidentifiedImageError

    kind = pillow_format(data)
    name = (
        _PILLOW_NAMES[kind]
        if kind
        else next((n for prefix, n, _ in _COMMON if data.startswith(prefix)), None)
    )
    if name is None:
        raise Refused(*_other_kind(data))
    _register(name)
    try:
        # Only the decoder of what the file is, so that no other is tried on hostile bytes.
        return Image.open(io.BytesIO(data), formats=(_PILLOW_FORMATS.get(name, name.upper()),))
    except UnidentifiedImageError:
        raise Refused("decode_error", "the image header is damaged or cut off") from None
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of headers raise whatever they stumble over
        raise Refused("decode_error", str(error) or type(error).__name__) from None


def _register(name: str) -> None:
    """Lets Pillow know a format, by the name of its module.

    Raises:
      Refused: its decoder is not installed.
    """
    from PIL import Image

    if name == "Heif":
        if find_missing("pillow_heif"):
            raise Refused("unsupported", "the file is HEIC, which is read with pip install 'urnet_tf[heif]'")
        import pillow_heif

        if "HEIF" not in Image.OPEN:
            pillow_heif.register_heif_opener(thumbnails=False)
    else:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    if _PILLOW_FORMATS.get(name, name.upper()) not in Image.OPEN:
        raise Refused("unsupported", f"Pillow was built here without a decoder of {name}")


def guessed(data: bytes) -> str:
    """What reading a file takes for granted that the file does not say, as a clause for the log; mostly "".

    Also said of what is read and packed, but cannot be sent to an exported SavedModel.
    """
    if data.startswith(b"\xff\xd8\xff"):
        frame, _ = jpeg_frame(data)
        is_plain = frame is None or frame.channels != 4
        return "" if is_plain or any(map(_is_adobe_mark(data), jpeg_segments(data))) else _UNMARKED_CMYK
    if data.startswith(b"\x89PNG"):
        return "" if b"IEND" in data[-_IEND_SEARCH_BYTES:] or b"IEND" in data else _NO_IEND
    if data.startswith(b"BM"):
        return "" if _is_served_bmp(data) else _NOT_SERVED.format("BMP of a rare variant")
    kind = pillow_format(data)
    return _NOT_SERVED.format(kind) if kind else ""


def _is_adobe_mark(data: bytes) -> Callable[[Segment], bool]:
    return lambda segment: segment.marker == 0xEE and data.startswith(b"Adobe", segment.start + 4)


def _is_served_bmp(data: bytes) -> bool:
    """Whether the served graph reads a BMP file."""
    header, bits, compression = (
        int.from_bytes(data[a:b], "little") for a, b in ((14, 18), (28, 30), (30, 34))
    )
    return header >= 40 and (bits, compression) in ((8, 0), (24, 0), (32, 0), (32, 3))


class _LastFile(threading.local):
    """The segments of the file that a thread has looked at last: many functions look at one in turn."""

    data: bytes | None = None
    segments: tuple[Segment, ...] = ()


_last = _LastFile()


def jpeg_segments(data: bytes) -> tuple[Segment, ...]:
    """The segments of a JPEG file in order, to the start of its picture data or as far as they are whole.

    Whatever stands between segments is passed over, as decoders do.
    """
    if _last.data is not data:
        _last.data, _last.segments = data, tuple(_find_segments(data))
    return _last.segments


def _find_segments(data: bytes) -> Iterator[Segment]:
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


def jpeg_frame(data: bytes) -> tuple[Frame | None, int]:
    """The frame header of a JPEG file, and where its picture data begins.

    None where it has no frame header before its picture data, or is no JPEG file.
    """
    frame, place = None, 0
    if data.startswith(b"\xff\xd8\xff"):
        for segment in jpeg_segments(data):
            place = segment.end
            if frame is None and is_frame(segment) and segment.start + 9 <= len(data):
                frame = read_frame(data, segment)
    return frame, place


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


_COMMON = (  # how a file begins, Pillow's name of the format, and the reader of its size
    (b"\xff\xd8\xff", "Jpeg", _jpeg_size),
    (b"\x89PNG\r\n\x1a\n", "Png", _png_size),
    (b"GIF87a", "Gif", _gif_size),
    (b"GIF89a", "Gif", _gif_size),
    (b"BM", "Bmp", _bmp_size),
    (b"RIFF", "WebP", _riff_size),
)
_BY_PILLOW = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
    b"hevc": "HEIC", b"hevx": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC",
}  # fmt: skip
_MAX_BRANDS_BYTES = 512  # files list a dozen
_PILLOW_FORMATS = {"Jpeg2K": "JPEG2000"}
_PILLOW_NAMES = {"TIFF": "Tiff", "JPEG 2000": "Jpeg2K", "AVIF": "Avif", "HEIC": "Heif"}
_UNSUPPORTED = (
    (b"\0\0\x01\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
)
_UNMARKED_CMYK = "JPEG in CMYK without Adobe's mark, taken for Adobe's kind, as Pillow and photo programs do"
_NO_IEND = "PNG without its last chunk, read as far as Pillow reads it"
_NOT_SERVED = "{}, which is packed like others, but which an exported SavedModel does not take"
_IEND_SEARCH_BYTES = 64  # most files end with it, which saves the search


def _other_kind(data: bytes) -> tuple[str, str]:
    """Status and reason for bytes that are no image of a supported format."""
    for prefix, name in _UNSUPPORTED:
        if data.startswith(prefix):
            return "unsupported", f"the file is {name}, which is not read"
    if data[4:8] == b"ftyp":
        return "not_an_image", "the file is a video, not an image"
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
