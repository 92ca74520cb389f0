"""Looks at files without decoding them: is it there, is it an image, how large, which bytes.

Input: paths and limits. Output: a `ProbeResult` each. Nothing raises for a bad file: it gets a status of
`urnet_tf.schema.STATUS` and a reason.

A disk or network that fails says nothing about an image: after a few tries that raises.
"""

import collections
import errno
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from urnet_tf.errors import RunError
from urnet_tf.images.containers import find_container, read_member
from urnet_tf.images.headers import Refused, check_pixels, guessed, read_size
from urnet_tf.schema import STATUS

if TYPE_CHECKING:
    import pyarrow as pa

PROBE_COLUMNS = {
    "status": "string",  # "" = usable
    "reason": "string",
    "width_px": "int32",
    "height_px": "int32",
    "content_hash": "string",  # "" where it could not be read
    "num_bytes": "int64",
    "guessed": "string",  # see `headers.guessed`
}
_REASON_LENGTH = 160

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
    """The result of a look at one file; `status` None = usable."""

    status: str | None
    reason: str = ""
    width: int = 0
    height: int = 0
    content_hash: str = ""
    num_bytes: int = 0
    guessed: str = ""


def map_in_threads(
    function: Callable[[_Given], _Found], values: Iterable[_Given], workers: int, at_once: int = 1
) -> Generator[_Found]:
    """`function` of each value in the order of `values`, computed by several threads.

    Args:
      at_once: values that a thread takes at a time.
    """

    def some_results(some: list[_Given]) -> list[_Found]:
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
      max_pixels, min_side_px: see `probe_bytes`.

    Raises:
      OSError: the disk or network fails, several times in a row; `filename` is the path.
    """
    found = try_to_read(path, max_bytes)
    return probe_bytes(found, max_pixels, min_side_px) if isinstance(found, bytes) else found


def try_to_read(path: str, max_bytes: int) -> bytes | ProbeResult:
    """The bytes of a file, or why it cannot be read; raises as `probe_file`."""
    try:
        return read_file(path, max_bytes)
    except Refused as refused:
        return ProbeResult(refused.status, refused.reason)
    except OSError as error:
        if is_environment_fault(error):
            raise
        return ProbeResult(os_status(error), os_reason(error))


def probe_bytes(data: bytes, max_pixels: int, min_side_px: int, content: str = "") -> ProbeResult:
    """What the header of an image file tells.

    Args:
      data: the bytes of the file.
      max_pixels: images whose header promises more are refused.
      min_side_px: images with a shorter side are refused.
      content: the `content_hash` of the data, where it is known.
    """
    known = content or content_hash(data), len(data)
    try:
        width, height = read_size(data)
        if min(width, height) < min_side_px:
            raise Refused(
                "too_small", f"{width} x {height} pixels; the shortest side allowed is {min_side_px}"
            )
        check_pixels(width, height, max_pixels)
    except Refused as refused:
        return ProbeResult(refused.status, refused.reason, 0, 0, *known)
    return ProbeResult(None, "", width, height, *known, guessed(data))


def describe_refusal(refused: Refused) -> str:
    """Why a file cannot be decoded: a sentence that begins with that of its status, not too long."""
    return _sentence(f"{STATUS[refused.status]}: {_sentence(refused.reason)}")


def _sentence(message: str) -> str:
    """The first line of a library's message, not too long."""
    lines = message.strip().splitlines()
    line = lines[0].strip().rstrip(".") if lines else "the image cannot be decoded"
    return (line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 3] + "...") + "."


def describe_guesses(probes: "pa.Table") -> list[str]:
    """How many files were read by a rule that they do not state themselves: "2 files: TIFF, which ..."."""
    import pyarrow.compute as pc

    counted = [row for row in pc.value_counts(probes["guessed"]).to_pylist() if row["values"]]
    return [f"{row['counts']:,} file{'s'[: row['counts'] > 1]}: {row['values']}" for row in counted]


def content_hash(data: bytes) -> str:
    """What tells the bytes of a file from others: blake2b-128, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_image(path: str, max_bytes: int) -> str:
    """`content_hash` of an image where it lies, or the status of a file that cannot be read.

    Raises:
      OSError: the disk or network fails.
    """
    try:
        return content_hash(read_file(path, max_bytes))
    except Refused as refused:
        return refused.status
    except OSError as error:
        if is_environment_fault(error):
            raise
        return os_status(error)


def identify_file(path: str) -> str:
    """What changes when a file changes: its size, time and inode, or those of the archive that it lies in.

    Returns:
      "size:time:inode"; "" for what is no file, or where nothing can be told.
    """
    try:
        try:
            status = os.stat(path)
        except NotADirectoryError:
            inside = find_container(path)
            if inside is None:
                return ""
            status = os.stat(inside[0])
    except (OSError, ValueError):
        return ""
    is_file = stat.S_ISREG(status.st_mode)
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}" if is_file else ""


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

    The path may lead into an archive or a table of images, see `containers`.

    Raises:
      Refused: no regular file, empty, longer than `max_bytes`, or its name cannot be a file's.
      OSError: it cannot be read; `filename` is the path.
    """
    if "\0" in path:
        raise Refused("bad_name", "the file name holds a null byte")
    try:
        try:
            return retried(lambda: _read(path, max_bytes))
        except NotADirectoryError:
            inside = find_container(path)
            if inside is None:
                raise
            return retried(lambda: read_member(*inside, max_bytes))
    except OSError as error:
        error.filename = path  # failed reads do not name it
        raise


def _read(path: str, max_bytes: int) -> bytes:
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


def _check_regular(status: os.stat_result, max_bytes: int) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise Refused("not_a_file", "a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not_a_file", "a pipe, socket or device, not a file")
    if status.st_size == 0:
        raise Refused("empty", "the file has no bytes")
    if status.st_size > max_bytes:
        raise Refused("too_many_bytes", f"{status.st_size} bytes; {max_bytes} are allowed")
    return status.st_size
