"""Looks at files without decoding them: is it there, is it an image, how large, which bytes.

Input: paths and limits. Output: a `ProbeResult` each. Nothing raises for a bad file: it gets a
status of `urnet_tf.schema.STATUS` and a reason. Only headers are read here, by a few lines a
format, so a file that promises a billion pixels costs nothing; damage further inside is found
when the image is packed.

A disk or network that fails says nothing about an image: after a few tries that raises.
"""

import collections
import errno
import hashlib
import itertools
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from urnet_tf.errors import RunError

PROBE_COLUMNS = {
    "status": "string",  # "" = usable
    "reason": "string",
    "width_px": "int32",
    "height_px": "int32",
    "content_hash": "string",
    "num_bytes": "int64",
}
_FILES_PER_TASK = 32

_OS_STATUS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "symlink_loop",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",
    errno.ENAMETOOLONG: "unreadable",
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
    errno.EINVAL: "unreadable",
    errno.EILSEQ: "unreadable",  # a name that the file system cannot hold
    errno.EOVERFLOW: "unreadable",
}
_WAITS_S = (0.05, 0.25, 1.0)  # before the second, third and fourth try

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class ProbeResult(NamedTuple):
    """What a look at one file told; `status` None = usable."""

    status: str | None
    reason: str = ""
    width: int = 0
    height: int = 0
    content_hash: str = ""
    num_bytes: int = 0


class Refused(Exception):
    """A file that is not a readable one, with a status of `schema.STATUS` and a reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status, self.reason = status, reason


def probe_files(
    paths: Iterable[str], *, max_bytes: int, max_pixels: int, min_side_px: int, workers: int
) -> Iterator[ProbeResult]:
    """Probes files by several threads; results come in the order of `paths`.

    Raises:
      OSError: see `probe_file`.
    """
    return map_in_threads(
        lambda path: probe_file(path, max_bytes, max_pixels, min_side_px), paths, workers, _FILES_PER_TASK
    )


def map_in_threads(
    function: Callable[[_Given], _Found], values: Iterable[_Given], workers: int, at_once: int = 1
) -> Iterator[_Found]:
    """`function` of each value in the order of `values`, computed by several threads.

    Args:
      at_once: values that a thread takes at a time.
    """

    def some_results(some):
        return [function(value) for value in some]

    values = iter(values)
    tasks = iter(lambda: list(itertools.islice(values, at_once)), [])
    workers = max(1, workers)
    # Bounded, so that a slow file does not let finished ones pile up.
    window: collections.deque[Future[list[_Found]]] = collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for task in tasks:
            window.append(pool.submit(some_results, task))
            if len(window) >= 4 * workers:
                yield from window.popleft().result()
        while window:
            yield from window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def probe_file(path: str, max_bytes: int, max_pixels: int, min_side_px: int) -> ProbeResult:
    """Reads one file and its image header.

    Args:
      path: the file; links are followed.
      max_bytes: larger files are refused without being read.
      max_pixels: images whose header promises more are refused.
      min_side_px: images with a shorter side are refused.

    Raises:
      OSError: the disk or network fails, several times in a row; `filename` is the path.
    """
    try:
        data = read_file(path, max_bytes)
        width, height = _image_size(data)
        if min(width, height) < min_side_px:
            raise Refused(
                "too_small", f"{width} x {height} pixels; the shortest side allowed is {min_side_px}"
            )
        if width * height > max_pixels:
            raise Refused(
                "too_many_pixels", f"the header promises {width} x {height} pixels; {max_pixels} are allowed"
            )
    except Refused as refused:
        return ProbeResult(refused.status, refused.reason)
    except OSError as error:
        if is_environment_fault(error):
            raise
        return ProbeResult(os_status(error), os_reason(error))
    return ProbeResult(None, "", width, height, content_hash(data), len(data))


def content_hash(data: bytes) -> str:
    """What tells the bytes of a file from others: blake2b-128, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def is_environment_fault(error: OSError) -> bool:
    """Whether a failed call tells of the machine, its disks or its network, and not of the file.

    Too many open files, no memory, a stale or unreachable share, a disk that gives errors, and whatever
    else is not known to be a property of the file.
    """
    return error.errno is not None and error.errno not in _OS_STATUS


def retried(call: Callable[[], _Found]) -> _Found:
    """The result of `call`, which is tried again after a fault of the environment.

    Raises:
      OSError: what the last try raised; a fault of the file is raised at once.
    """
    for wait in _WAITS_S:
        try:
            return call()
        except OSError as error:
            if not is_environment_fault(error):
                raise
        time.sleep(wait)
    return call()


def retried_or_stop(path: str, call: Callable[[], _Found]) -> _Found:
    """`retried`, for the listing of a crawl: the run ends where the disk or network goes on failing.

    Raises:
      OSError: a fault of the file.
      RunError: a fault of the environment.
    """
    try:
        return retried(call)
    except OSError as error:
        if not is_environment_fault(error):
            raise
        error.filename = path
        raise environment_failure(error) from error


def environment_failure(error: OSError) -> RunError:
    """The end of a run for a fault of the environment while the crawl was read."""
    return RunError(
        f"Cannot read {error.filename}: {os_reason(error)}. The disk, the network or a limit of this machine "
        "fails, which says nothing about the images: none was left out for it. Mend that and run the same "
        "command again; it goes on from here."
    )


def os_status(error: OSError) -> str:
    """The status code of a failed system call."""
    return _OS_STATUS.get(error.errno or 0, "unreadable")


def os_reason(error: OSError) -> str:
    """The operating system's words for a failed call."""
    return error.strerror or str(error)


def read_file(path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file that is not empty; faults of the environment are tried again.

    Raises:
      Refused: no regular file, empty, longer than `max_bytes`, or its name cannot be a file's.
      OSError: it cannot be read; `filename` is the path.
    """
    if "\0" in path:
        raise Refused("bad_name", "the file name holds a null byte")
    try:
        return retried(lambda: _read(path, max_bytes))
    except OSError as error:
        error.filename = path  # failed reads do not name it
        raise


def _read(path, max_bytes):
    _check_regular(os.stat(path), max_bytes)
    # Should the file have become a pipe meanwhile, O_NONBLOCK keeps the opening from waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        size = _check_regular(os.fstat(descriptor), max_bytes)
        data = file.read(size)
        while len(data) < size:  # network file systems give short reads
            more = file.read(size - len(data))
            if not more:
                break
            data += more
    if not data:
        raise Refused("empty", "the file has no bytes")
    return data


def _check_regular(status, max_bytes):
    if stat.S_ISDIR(status.st_mode):
        raise Refused("not_a_file", "a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not_a_file", "a pipe, socket or device, not a file")
    if status.st_size == 0:
        raise Refused("empty", "the file has no bytes")
    if status.st_size > max_bytes:
        raise Refused("too_many_bytes", f"{status.st_size} bytes; {max_bytes} are allowed")
    return status.st_size


def _image_size(data):
    for prefix, reader in _READERS:
        if data.startswith(prefix):
            try:
                return reader(data)
            except (struct.error, IndexError):
                raise Refused("decode_error", "the image header is damaged or cut off") from None
    raise Refused(*_other_kind(data))


def _jpeg_size(data):
    place = 2
    while True:
        place = data.find(b"\xff", place)
        if place < 0:
            raise IndexError
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        place += 2
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no segment follows
            continue
        if marker in (0xD9, 0xDA):  # picture data or the end before any size
            raise IndexError
        (length,) = struct.unpack_from(">H", data, place)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack_from(">BHH", data, place + 2)
            if precision != 8:
                raise Refused("unsupported", f"a JPEG of {precision} bits a sample")
            if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
                raise Refused("unsupported", "a lossless or hierarchical JPEG")
            return width, height
        place += max(length, 2)


def _png_size(data):
    if data[12:16] != b"IHDR":
        raise IndexError
    return struct.unpack_from(">II", data, 16)


def _gif_size(data):
    return struct.unpack_from("<HH", data, 6)


def _bmp_size(data):
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return struct.unpack_from("<HH", data, 18)
    if not 16 <= header <= 256:
        raise IndexError
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height: top row first


def _riff_size(data):
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


def _other_kind(data):
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
