"""A crawl in a bucket: its files, brought into a local folder, and not again while they are alike.

Files get the times of their objects, so that a second machine finds the same crawl: same names, sizes, times.
"""

import fcntl
import functools
import os
import pathlib

from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.schema import LIST_SUFFIXES
from urnet_tf.store.buckets import Bucket, Object, cache_of, is_address, is_plain
from urnet_tf.store.files import remove
from urnet_tf.store.transfers import check_room, transfer

_FILE = ".file"  # the folder of an address that is one object


def place_of(path: str) -> str:
    """Where a crawl, or the folder that its paths start from, is on this machine.

    Nothing is brought: see `fetch_tree`. What is no address is that place itself.

    Args:
      path: an address as a user gives it, or one of `address_of`, which ends with a slash.
    """
    if not is_address(path):
        return path
    if path.endswith(f"/{_FILE}/"):
        return str(cache_of(path.removesuffix(f"/{_FILE}/"), "data") / _FILE)
    folder, name = cache_of(path, "data"), _last_of(path)
    if path.endswith("/"):
        return str(folder)
    if _is_list(path):  # its images lie beside it
        return str(cache_of(_parent(path), "data") / name)
    return str(folder / _FILE / name if (folder / _FILE).is_dir() else folder)


def address_of(place: str, path: str | None) -> str:
    """What a run notes of the folder in which the paths of its crawl start; `place_of` finds it anywhere.

    Args:
      place: that folder, on this machine.
      path: the crawl, as the user names it.
    """
    if path is None or not is_address(path):
        return place
    address = _parent(path) if _is_list(path) else path.rstrip("/")
    folder = cache_of(address, "data")
    found = {str(folder): f"{address}/", str(folder / _FILE): f"{address}/{_FILE}/"}
    return found.get(os.path.abspath(place), place)


@functools.cache
def fetch_tree(path: str) -> str:
    """As `place_of`, with all files there: what differs in size or time is brought, once in a process.

    Raises:
      UsageError: nothing lies there, or it cannot be read.
      RunError: the store does not answer, or the disk has too little room.
    """
    if not is_address(path):
        return path
    address = _parent(path) if _is_list(path) else path
    bucket, folder = Bucket(address), cache_of(address, "data")
    objects, place = bucket.list(), folder
    if not objects and _parent(path).partition("://")[2].strip("/"):
        bucket = Bucket(_parent(path))
        one = bucket.look_up(_last_of(path))
        objects, place = {} if one is None else {_last_of(path): one}, folder / _FILE
    if not objects:
        raise UsageError(f"Expected a crawl at {Bucket(path).shown}; there are no objects.")
    usable = {name: one for name, one in objects.items() if _is_usable(name, objects)}
    if len(usable) < len(objects):
        odd = next(name for name in objects if name not in usable)
        logging.warning(
            "%s: %d objects are left out, whose names cannot be paths of files, like %s.",
            bucket.shown, len(objects) - len(usable), ascii(odd),
        )  # fmt: skip
    _bring(bucket, usable, place)
    found = place_of(path)
    if not os.path.exists(found):
        raise UsageError(f"Expected a list at {Bucket(path).shown}; there is no such object.")
    return found


def _is_usable(name: str, objects: dict[str, Object]) -> bool:
    parts = name.split("/")
    return is_plain(name) and not any("/".join(parts[:n]) in objects for n in range(1, len(parts)))


def _bring(bucket: Bucket, objects: dict[str, Object], folder: pathlib.Path) -> None:
    """Makes a folder hold what the objects hold, and nothing else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}, the cache of {bucket.shown}: {error.strerror}. Give another one "
            "(--cache DIR)."
        ) from None
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run on this machine may bring the same crawl
        _update(bucket, objects, folder)


def _update(bucket: Bucket, objects: dict[str, Object], folder: pathlib.Path) -> None:
    there = dict(_files_in(folder))
    news = [(n, one.bytes) for n, one in sorted(objects.items()) if there.get(n) != one]
    logging.info(
        "%s: %s files, of which %s are here as they are there and %s come to %s.",
        bucket.shown, f"{len(objects):,}", f"{len(objects) - len(news):,}", f"{len(news):,}", folder,
    )  # fmt: skip
    for name in there.keys() - objects.keys():
        remove(folder / name, folder)
    check_room(folder, sum(size for _, size in news), f"the crawl at {bucket.shown}")

    def bring(name: str) -> None:
        path = folder / name
        try:
            bucket.download(name, path)
        except FileNotFoundError:
            return  # it went meanwhile
        os.utime(path, ns=(objects[name].modified_ns,) * 2)

    transfer(f"crawl: from {bucket.shown}", news, bring)


def _files_in(folder: pathlib.Path) -> list[tuple[str, Object]]:
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            found.append((os.path.relpath(path, folder), Object(status.st_size, status.st_mtime_ns)))
    return found


def _last_of(address: str) -> str:
    return address.partition("?")[0].rstrip("/").rpartition("/")[2]


def _is_list(address: str) -> bool:
    return _last_of(address).lower().endswith(LIST_SUFFIXES)


def _parent(address: str) -> str:
    """The address in which an object lies; the options behind "?" stay."""
    bare, mark, options = address.partition("?")
    return bare.rstrip("/").rpartition("/")[0] + mark + options
