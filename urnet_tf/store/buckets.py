"""Object stores: a prefix of a bucket as a flat set of named objects, with retries and errors in sentences.

Input: an address as `pyarrow.fs` reads it, s3://bucket/prefix, gs://… or abfs://… (file:///folder works
like a bucket, too). Names of objects are relative to the prefix. Nothing here knows what a work directory is.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from absl import logging

from urnet_tf.errors import RunError, UsageError
from urnet_tf.store.files import atomic_path
from urnet_tf.text_rules import first_line, quote

CACHE_VARIABLE = "URNET_CACHE"
_DEFAULT_CACHE = "~/.cache/urnet_tf"
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "file")
_ADDRESS = re.compile(rf"({'|'.join(_SCHEMES)})://", re.IGNORECASE)
_BLOCK = 8 << 20
_ATTEMPTS = 5
_FIRST_WAIT_S = (
    0.5  # doubled each time, and up to as much again, so that many clients do not come back at once
)
_GCS_PATIENCE_S = 60  # its library would try for a quarter of an hour

# What stores say of themselves, in capitals → what is wrong. The rest may be over in a moment.
_NO_BUCKET = ("NO_SUCH_BUCKET", "NOSUCHBUCKET", "BUCKET DOES NOT EXIST", "CONTAINER DOES NOT EXIST",
              "CONTAINERNOTFOUND", "INVALIDBUCKETNAME")  # fmt: skip
_NO_RIGHT = ("ACCESS_DENIED", "ACCESSDENIED", "FORBIDDEN", "PERMISSION_DENIED", "PERMISSION DENIED",
             "HTTP STATUS 403", "AUTHORIZATIONFAILURE", "AUTHORIZATIONPERMISSIONMISMATCH")  # fmt: skip
_NO_CREDENTIALS = (
    "CREDENTIAL", "INVALID_ACCESS_KEY_ID", "INVALIDACCESSKEYID", "EXPIRED", "SIGNATURE_DOES_NOT_MATCH",
    "SIGNATUREDOESNOTMATCH", "UNRECOGNIZED_CLIENT", "INVALID_CLIENT_TOKEN", "UNAUTHENTICATED",
    "MISSING_AUTHENTICATION", "HTTP STATUS 401", "INVALID_SIGNATURE",
)  # fmt: skip

_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True)
class Object:
    """What a listing says of an object."""

    bytes: int
    modified_ns: int


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a place in an object store.

    >>> is_address("s3://bucket/run"), is_address("runs/s3"), is_address("https://host/run")
    (True, False, False)
    """
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def show_address(address: str) -> str:
    """An address for messages: without the options behind "?"."""
    return address.partition("?")[0].rstrip("/")


def cache_of(address: str, what: str) -> pathlib.Path:
    """The local folder that stands for an address; need not exist.

    It lies in $URNET_CACHE, or ~/.cache/urnet_tf.

    Args:
      what: of the folder's name: "run" or "data".
    """
    cache = os.path.expanduser(os.environ.get(CACHE_VARIABLE) or _DEFAULT_CACHE)
    digest = hashlib.blake2b(address.rstrip("/").encode(), digest_size=6).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_-]", "_", show_address(address).rpartition("/")[2])[:40]
    return pathlib.Path(os.path.abspath(cache), f"{what}-{name}-{digest}")


def is_plain(name: str) -> bool:
    """Whether the name of an object can be a path below a folder, and leads nowhere else."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 for part in parts) and not (
        "\0" in name or name.startswith("~") or len(os.fsencode(name)) > 4000
    )


class Bucket:
    """The objects below an address.

    Args:
      address: s3://bucket/prefix, for example.

    Raises:
      UsageError: it has no bucket, or holds a key.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.shown = show_address(address)
        place = self.shown.partition("://")[2]
        if "@" in place.partition("/")[0] and not (
            place.startswith("anonymous@") or self.shown.startswith("abfs")
        ):
            raise UsageError(
                "Expected an address without keys, which would stand in the files of the run; give keys as "
                "the tools of the store do, like AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if not place.strip("/"):
            raise UsageError(
                f"Expected an address with a bucket, like s3://bucket/run; received {self.shown}."
            )

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system of pyarrow, and the prefix in it."""
        import pyarrow as pa
        from pyarrow import fs

        address = self.address
        if address.lower().startswith(("gs:", "gcs:")) and "retry_limit_seconds" not in address:
            address += f"{'&' if '?' in address else '?'}retry_limit_seconds={_GCS_PATIENCE_S}"

        def open_it() -> tuple[Any, str]:
            try:
                return fs.FileSystem.from_uri(address)
            except pa.ArrowInvalid as error:  # of the address; the store may be asked for its region, too
                raise UsageError(f"Cannot open {self.shown}: {first_line(error)}.") from None

        system, prefix = self._attempt("opened", open_it)
        return system, prefix.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def list(self, below: str = "") -> dict[str, Object]:
        """Name → object, of all objects; {} where there are none.

        Raises:
          UsageError: there is no such bucket, or no right to list it.
          RunError: the store does not answer.
        """
        from pyarrow import fs

        system, prefix = self._opened
        selector = fs.FileSelector(self._path(below), recursive=True)
        try:
            found = self._attempt("listed", lambda: system.get_file_info(selector))
        except (FileNotFoundError, NotADirectoryError):  # the latter of file:// alone
            return {}
        objects, odd = {}, 0
        for info in found:
            if info.type == fs.FileType.File:
                try:
                    objects[info.path[len(prefix) + 1 :]] = Object(info.size, info.mtime_ns or 0)
                except UnicodeDecodeError:  # of file:// alone
                    odd += 1
        if odd:
            logging.warning("%s: %d files are left out, whose names are not UTF-8.", self.shown, odd)
        return objects

    def look_up(self, name: str) -> Object | None:
        """What the store knows of one object; None where there is none; raises as `list`."""
        from pyarrow import fs

        info = self._attempt("read", lambda: self._opened[0].get_file_info(self._path(name)))
        return Object(info.size, info.mtime_ns or 0) if info.type == fs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """The contents of a small object; None where there is none; raises as `list`."""
        try:
            return self._attempt("read", lambda: b"".join(self._blocks(name)))
        except FileNotFoundError:
            return None

    def hash(self, name: str) -> str:
        """As `store.hash_file`; FileNotFoundError where there is no such object; else raises as `list`."""

        def digest() -> str:
            found = hashlib.blake2b(digest_size=16)
            for block in self._blocks(name):
                found.update(block)
            return found.hexdigest()

        return self._attempt("read", digest)

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object; raises as `list`."""
        self._attempt("written to", lambda: self._write_blocks(name, iter([data])))

    def download(self, name: str, path: pathlib.Path, *, wanted: str | None = None) -> bool:
        """Writes an object's contents to a file, whole or not at all.

        Args:
          wanted: what `store.hash_file` must find of it; None = anything.

        Returns:
          whether the contents were those that are wanted; else nothing was written.

        Raises:
          FileNotFoundError: there is no such object.
          UsageError: there is no right to read it.
          RunError: the store does not answer.
          OSError: the disk is full.
        """

        def attempt() -> bool:
            digest = hashlib.blake2b(digest_size=16)
            try:
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    for block in self._blocks(name):
                        digest.update(block)
                        file.write(block)
                    if wanted is not None and digest.hexdigest() != wanted:
                        raise _OtherContents
            except _OtherContents:
                return False
            return True

        path.parent.mkdir(parents=True, exist_ok=True)
        return self._attempt("read", attempt)

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Writes a file's contents to an object; raises as `list`."""

        def attempt() -> None:
            with open(path, "rb") as file:
                self._write_blocks(name, iter(functools.partial(file.read, _BLOCK), b""))
            found, size = self.look_up(name), path.stat().st_size
            if found is None or found.bytes != size:
                raise _Incomplete(f"{name} has {found.bytes if found else 0:,} of {size:,} bytes")

        self._attempt("written to", attempt)

    def delete(self, name: str) -> None:
        """Removes an object, if there is one; raises as `list`."""
        try:
            self._attempt("written to", lambda: self._opened[0].delete_file(self._path(name)))
        except FileNotFoundError:
            pass

    def _blocks(self, name: str) -> Iterator[bytes]:
        import pyarrow as pa

        try:
            with self._opened[0].open_input_stream(self._path(name)) as stream:
                while block := stream.read(_BLOCK):
                    yield block
        except (pa.ArrowException, OSError) as error:
            raise _StoreFailure(error) from error

    def _write_blocks(self, name: str, blocks: Iterator[bytes]) -> None:
        system, path = self._opened[0], self._path(name)
        if system.type_name not in ("local", "mock"):
            with system.open_output_stream(path) as stream:
                for block in blocks:
                    stream.write(block)
            return
        # Object stores have no folders, and show an object when it is complete.
        system.create_dir(path.rpartition("/")[0], recursive=True)
        with system.open_output_stream(f"{path}.urnet_tmp") as stream:
            for block in blocks:
                stream.write(block)
        system.move(f"{path}.urnet_tmp", path)

    def _attempt(self, verb: str, call: Callable[[], _Found]) -> _Found:
        """What a call returns, which is tried again where the store fails as if for a moment.

        Args:
          verb: what was to be done, as in "cannot be read".
        """
        import pyarrow as pa

        for attempt in range(_ATTEMPTS):
            try:
                return call()
            except _StoreFailure as failed:
                failure = failed.error
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise  # of our own disk: pyarrow names no files
                failure = error
            sentence = _explain(self.shown, verb, failure)
            if sentence is not None:
                raise UsageError(sentence) from None
            if isinstance(failure, (FileNotFoundError, NotADirectoryError)):
                raise failure
            if attempt < _ATTEMPTS - 1:
                wait = _FIRST_WAIT_S * 2**attempt * (1 + random.random())
                logging.info("%s: %s; trying again in %.1f s.", self.shown, first_line(failure, 200), wait)
                time.sleep(wait)
        raise RunError(
            f"{self.shown} cannot be {verb}: the store did not answer as it should in {_ATTEMPTS} attempts "
            f"({first_line(failure, 200)}). See whether the network and the store are up, and in the right "
            "region; then run the same command again, which goes on from here."
        ) from None


class _Incomplete(OSError):
    """An object is shorter than what was written to it."""


class _OtherContents(Exception):
    """An object does not hold what it should."""


class _StoreFailure(Exception):
    """What reading an object raised, told apart from what the disk raises that it is written to.

    Attributes:
      error: of pyarrow.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _explain(shown: str, verb: str, error: Exception) -> str | None:
    """A sentence for what trying again does not mend; None for the rest."""
    text = str(error).upper()
    bucket = quote(shown.partition("://")[2].partition("/")[0])
    if any(word in text for word in _NO_BUCKET) or re.search("BUCKET '[^']*' NOT FOUND", text):
        return (
            f"Expected a bucket {bucket} for {shown}; the store knows none of that name. Make it, or mend "
            "the address."
        )
    if any(word in text for word in _NO_CREDENTIALS):
        return (
            f"{shown} cannot be {verb}, since the store takes no credentials of this process. Give valid "
            "ones as the tools of the store do, like AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            f"profile, or the role of the machine ({first_line(error, 160)})."
        )
    if any(word in text for word in _NO_RIGHT):
        return (
            f"{shown} cannot be {verb}, since that is not allowed to this process. Give credentials with "
            f"the right to list, read, write and delete objects there ({first_line(error, 160)})."
        )
    return None
