"""Writes the twelve kinds of files that break image readers, each with what has to happen to it.

All are named `.jpg`, as a crawl names them. Four that look odd are good pictures and must be read.
"""

import dataclasses
import io
import os
import pathlib
import struct
import zlib
from typing import Any

from PIL import Image

USABLE = "usable"
_BOMB_SIDE_PX = 20_000


@dataclasses.dataclass(frozen=True)
class HostileFile:
    """One file: its name (surrogates for bytes that are not UTF-8), its fate, and why."""

    name: str
    expectation: str  # "usable", or the status of `schema.STATUS` under which it is put aside
    explanation: str


def write_hostile_files(
    directory: str | os.PathLike, picture: Image.Image | None = None
) -> list[HostileFile]:
    """Writes the files into an existing directory.

    Args:
      directory: where to.
      picture: what the readable ones show, RGB and at least 16 px a side; None = a color ramp.
    """
    directory = pathlib.Path(directory)
    picture = picture if picture is not None else _ramp()
    written = []

    def add(name: str, content: bytes, expectation: str, explanation: str) -> None:
        (directory / name).write_bytes(content)
        written.append(HostileFile(name, expectation, explanation))

    jpeg = _encoded(picture, "JPEG", quality=90)
    add("hostile_empty.jpg", b"", "empty", "no bytes")
    scan = jpeg.index(b"\xff\xda")
    half = jpeg[: (scan + len(jpeg)) // 2]
    add("hostile_truncated.jpg", half, "decode_error", "a download that broke off half way")
    add("hostile_png.jpg", _encoded(picture, "PNG"), USABLE, "a PNG under a wrong extension")
    page = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
    add("hostile_html.jpg", page, "not_an_image", "an error page saved as a picture")
    bomb = _one_bit_png(_BOMB_SIDE_PX)
    add("hostile_bomb.jpg", bomb, "too_many_pixels", "a few kilobytes that decode to 400 million pixels")
    frames = [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    animated = _encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100, quality=80)
    add("hostile_animated.jpg", animated, "unsupported", "an animated WebP")
    add("hostile_cmyk.jpg", _encoded(picture.convert("CMYK"), "JPEG"), USABLE, "a JPEG in printing colors")
    deep = picture.convert("L").convert("I").point(lambda level: level * 257).convert("I;16")
    add("hostile_16bit.jpg", _encoded(deep, "PNG"), USABLE, "a gray PNG of 16 bits a pixel")
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    add(
        "hostile_rotated.jpg",
        _encoded(turned, "JPEG", exif=exif),
        USABLE,
        "upright only with its EXIF rotation",
    )
    os.symlink("hostile_loop.jpg", directory / "hostile_loop.jpg")
    written.append(HostileFile("hostile_loop.jpg", "symlink_loop", "a symbolic link to itself"))
    name = os.fsdecode(b"hostile_caf\xe9.jpg")
    add(name, jpeg, "bad_name", "a good picture with a Latin-1 name")
    os.mkdir(directory / "hostile_directory.jpg")
    written.append(HostileFile("hostile_directory.jpg", "not_a_file", "a directory named like a picture"))
    return written


def _ramp() -> Image.Image:
    down = Image.linear_gradient("L")
    red, blue = down.resize((96, 72)), down.transpose(Image.Transpose.ROTATE_90).resize((96, 72))
    return Image.merge("RGB", (red, red.transpose(Image.Transpose.ROTATE_180), blue))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _one_bit_png(side: int) -> bytes:
    """A black square PNG, built row by row: an `Image` of it would take 400 MB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, data, b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
