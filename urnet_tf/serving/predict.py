"""The command `urnet predict`: answers image files and whole trees of them with an exported model.

In: a model, paths of images and directories. Out: the best classes of each image as a table, CSV or
JSON lines. A file that cannot be used is a row with its reason. Images are streamed, so there may
be millions; while some are in the network the next ones are read and decoded.
"""

import collections
import contextlib
import fcntl
import itertools
import os
import pathlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.schema import STATUS
from urnet_tf.serving.answer_formats import Csv, JsonLines, Row, Table, cells
from urnet_tf.serving.model_files import find_model
from urnet_tf.store import fingerprint
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    from urnet_tf.serving.predictor import Classifier

FORMATS = ("table", "csv", "jsonl")
MAX_BYTES = 64 << 20  # a file
_DEFAULT_TOP_K = 5
_BATCH_FILES, _BATCH_BYTES = 32, 128 << 20
_BATCHES_AT_ONCE = 2  # one in the network, one being read and decoded
_SHOWN = 5  # failures shown on standard error


def predict(
    model: str | os.PathLike,
    inputs: Sequence[str],
    *,
    top_k: int | None = None,
    answer_format: str | None = None,
    out: str | os.PathLike | None = None,
) -> int:
    """Answers all images.

    Args:
      model: see `model_files.find_model`.
      inputs: image files, and directories, which are searched for images.
      top_k: classes an image; None = 5, or as many as the model gives.
      answer_format: one of FORMATS; None = table on a terminal, else by the suffix of `out`, else
        csv.
      out: file for the answers; None = standard output. It appears when all is done; until then
        `<out>.<key>.<random>.partial` grows, and the same call goes on behind its last complete row.
        No link is followed: not `out`, and nothing of another user or of two names is gone on with.

    Returns:
      how many images could not be answered.

    Raises:
      UsageError: no model, no images, or `out` cannot be written.
      OSError: a full disk, and the like; it names `out`, and what was written stays for the next call.
    """
    out = _check_out(out)
    answer_format = _choose_format(answer_format, out)
    file = find_model(model)
    total, longest_path = _count(inputs)
    logging.info("Model %s", file)

    from urnet_tf.serving.predictor import open_model_file

    classifier = open_model_file(file)
    if top_k is None:
        top_k = min(_DEFAULT_TOP_K, classifier.max_top_k)
    classifier.check_top_k(top_k)
    if answer_format == "table":
        width = shutil.get_terminal_size((100, 24)).columns
        written: Table | Csv | JsonLines = Table(classifier.labels, longest_path, width)
    elif answer_format == "csv":
        written = Csv(top_k, classifier.has_none_of_these, file.class_ids)
    else:
        written = JsonLines(file.class_ids)

    key = fingerprint(answer_format, top_k, *_identity(file.path))[:8]
    with CapturedLibraryOutput(), _named(out), _opened(out, key, written, inputs) as (stream, done, failed):
        if done:
            logging.info("Goes on after %d of %d images in %s", done, total, stream.name)
        rows = answer_files(classifier, itertools.islice(list_images(inputs), done, None), top_k)
        shown = 0
        with contextlib.closing(rows):  # after an error, too, no thread goes on reading
            for batch in _shown_progress(rows, total, done, stream):
                stream.write("".join(map(written.lines, batch)))
                stream.flush()  # an interrupted run keeps what was done
                for row in (row for row in batch if not row.answer.valid):
                    failed += 1
                    shown += 1
                    if shown <= _SHOWN and not stream.isatty():
                        logging.warning("Not used: %s: %s", row.path, row.reason)
    where = f" -> {out}" if out else ""
    logging.info("%d images answered, %d could not be used%s", total - failed, failed, where)
    return failed


def list_images(inputs: Iterable[str]) -> Iterator[str]:
    """Yields the given files, and in place of a directory the images below it in natural order.

    What ingest would take for images, whatever their names: all files but hidden ones and those of tables and
    texts. Directories that cannot be entered are yielded, so that they are reported.
    """
    from urnet_tf.crawl.trees import walk

    for given in inputs:
        if not os.path.isdir(given):
            yield given
            continue
        for relative, problem in walk(given):
            path = os.path.join(given, relative)
            if problem == "bad_name" and os.path.isdir(path):
                yield from list_images([path])
            else:
                yield path


def answer_files(classifier: "Classifier", paths: Iterable[str], top_k: int) -> Generator[list[Row]]:
    """Answers files in their order: yields a list of rows a batch."""

    def answer(batch: list[str]) -> list[Row]:
        answers = classifier.classify([_read(path) for path in batch], top_k)
        return [
            Row(_shown(path), a, "" if a.valid else _reason(classifier, path))
            for path, a in zip(batch, answers, strict=True)
        ]

    window: collections.deque[Future[list[Row]]] = collections.deque()
    pool = ThreadPoolExecutor(_BATCHES_AT_ONCE)
    try:
        for batch in _batches(paths):
            window.append(pool.submit(answer, batch))
            if len(window) > _BATCHES_AT_ONCE:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _count(inputs: Sequence[str]) -> tuple[int, int]:
    """How many images there are, and the cells of the longest path."""
    if not inputs:
        raise UsageError("Expected at least one IMAGE or DIR after `predict`.")
    total = longest = 0
    for path in list_images(inputs):
        total, longest = total + 1, max(longest, cells(_shown(path)))
    if not total:
        raise UsageError(
            f"Expected images in {', '.join(map(_shown, inputs[:3]))}; received no file, or only hidden "
            "files, tables and texts. Those can be given one by one."
        )
    return total, longest


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        try:
            num_bytes = min(os.stat(path).st_size, MAX_BYTES)
        except (OSError, ValueError):  # ValueError: a null byte in the name
            num_bytes = 0
        if batch and (len(batch) == _BATCH_FILES or size + num_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += num_bytes
    if batch:
        yield batch


def _read(path: str) -> bytes:
    """The bytes of a file; none where it cannot be read, which no model takes for an image."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return b""
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except (OSError, ValueError):
        return b""


def _reason(classifier: "Classifier", path: str) -> str:
    """Why an image could not be answered, for a person."""
    from urnet_tf.images.image_formats import MAX_PIXELS
    from urnet_tf.images.probe import os_reason, probe_file

    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        return "a directory that may not be entered"
    max_pixels = classifier.preparation.max_pixels if classifier.preparation else MAX_PIXELS
    try:
        found = probe_file(path, MAX_BYTES, max_pixels, min_side_px=1)
    except OSError as error:
        return os_reason(error)
    return found.reason or STATUS["decode_error"]


def _shown(path: str) -> str:
    from urnet_tf.crawl.table import printable

    return printable(path)


def _choose_format(answer_format: str | None, out: pathlib.Path | None) -> str:
    if answer_format is not None:
        return answer_format
    if out is not None:
        return "jsonl" if out.suffix.lower() in (".jsonl", ".json", ".ndjson") else "csv"
    return "table" if sys.stdout.isatty() else "csv"


def _check_out(out: str | os.PathLike | None) -> pathlib.Path | None:
    if out is None:
        return None
    out = pathlib.Path(out)
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"Expected a file in an existing directory for the answers; received {out}.")
    if out.is_symlink() and (out.is_file() or not out.exists()):  # but /dev/stdout may lead to a pipe
        raise UsageError(
            f"Expected a file and no link for the answers; {out} leads to {os.path.realpath(out)}: give that."
        )
    return out


def _identity(path: pathlib.Path) -> tuple[str, int, int]:
    """Plain values that change when another model lies at the path."""
    status = (path / "saved_model.pb" if path.is_dir() else path).stat()
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _named(out: pathlib.Path | None) -> Iterator[None]:
    """Gives errors that name no file, like that of a full disk, the name of the one being written."""
    try:
        yield
    except OSError as error:
        if out is None or error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(out)) from error


@contextlib.contextmanager
def _opened(
    out: pathlib.Path | None, key: str, written: Csv | JsonLines | Table, inputs: Sequence[str]
) -> Iterator[tuple[IO[str], int, int]]:
    """Yields the text stream to write to, how many images it holds already and how many of them failed."""
    if out is None or (out.exists() and not out.is_file()):  # a pipe or a device cannot be gone on with
        with (
            contextlib.nullcontext(sys.stdout) if out is None else open(out, "w", encoding="utf-8") as stream
        ):
            stream.write(written.header())
            yield stream, 0, 0
        return
    try:
        partial, descriptor = _open_partial(out, key)
    except OSError as error:
        raise UsageError(f"Cannot write the answers to {out}: {error.strerror}.") from None
    with open(descriptor, "a+b") as file:
        done, failed, end = _kept(file, written, inputs)
        file.truncate(end)
        with open(partial, "a", encoding="utf-8", newline="", opener=lambda *_: os.dup(descriptor)) as stream:
            stream.write("" if done else written.header())
            yield stream, done, failed
        os.fchmod(descriptor, 0o666 & ~_umask())
        os.replace(partial, out)


def _open_partial(out: pathlib.Path, key: str) -> tuple[pathlib.Path, int]:
    """The file of a stopped run of this question, else a new one of a name that nobody can foresee.

    Returns:
      its path, and its descriptor, which holds a lock: two runs never write to one file.
    """
    start = f"{out.name}.{key}."
    for name in sorted(os.listdir(out.parent)):
        if not (name.startswith(start) and name.endswith(".partial")):
            continue
        try:
            descriptor = os.open(out.parent / name, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # a link, or of somebody else
            continue
        status = os.fstat(descriptor)
        own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
        if own and _locks(descriptor):
            return out.parent / name, descriptor
        os.close(descriptor)
    descriptor, path = tempfile.mkstemp(".partial", start, out.parent)
    _locks(descriptor)
    return pathlib.Path(path), descriptor


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _kept(file: IO[bytes], written: Csv | JsonLines | Table, inputs: Sequence[str]) -> tuple[int, int, int]:
    """Of a killed run's file: how many rows are those of the first images, the failed ones, their end."""
    file.seek(0)
    done = failed = end = 0
    for (name, valid, row_end), path in zip(written.read(file), list_images(inputs)):  # noqa: B905
        if name != _shown(path):
            break
        done, failed, end = done + 1, failed + (not valid), row_end
    return done, failed, end


def _shown_progress(
    batches: Iterator[list[Row]], total: int, done: int, stream: IO[str]
) -> Iterator[list[Row]]:
    """Passes batches on and tells how far it is, unless the answers themselves tell on the terminal."""
    if stream.isatty():
        yield from batches
        return
    with progress(None, "predict", total, "images", initial=done) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
