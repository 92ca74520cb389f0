"""A work directory in a bucket: a local cache that commands work in, and an object for each file.

The bucket holds what a local work directory would: `<stage>/<file>`, with `<stage>/done.json` written last
and removed first, so that a stage there is complete or not there. The cache gets the markers at once, the
files when something reads them, and what a run has made is sent when its stage is complete.

    .bucket/address.json        in the cache: of which bucket it is the cache
    .bucket/state.json          in the cache: what of the bucket was seen last
    .bucket/sent-<stage>.jsonl  in the cache: what an upload has sent that was killed
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from urnet_tf.errors import RunError, UsageError
from urnet_tf.store.bucket_lock import BucketLock
from urnet_tf.store.buckets import Bucket, Object, cache_of, is_plain
from urnet_tf.store.files import hash_file, read_json, remove, write_json
from urnet_tf.store.markers import MARKER, whole_marker
from urnet_tf.store.transfers import check_room, transfer

FOLDER = ".bucket"
# What lies beside the stages and is kept: the settings, and what people judged.
CONFIG, JUDGEMENTS = "config.yaml", "corrections.parquet"
_MARKER_NAME = re.compile(r"([a-z][a-z0-9_]*)/done\.json")
_GONE = "is missing in the bucket"
_OTHER = "is not as it was written in the bucket"


def open_cache(address: str) -> pathlib.Path:
    """The local folder of a work directory in a bucket, which is made if it is not there."""
    bucket = Bucket(address)
    root = cache_of(address, "run")
    try:
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        if not (root / FOLDER / "address.json").exists():
            told = {"address": bucket.address, "owner": os.urandom(8).hex()}
            write_json(root / FOLDER / "address.json", told)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {root}, the cache of {bucket.shown}: {error.strerror}. Give another one "
            "(--cache DIR)."
        ) from None
    return root


def find_mirror(root: pathlib.Path) -> "Mirror | None":
    """What stands behind a work directory; None for one that is only local."""
    try:
        told = read_json(root / FOLDER / "address.json")
    except (OSError, ValueError):
        return None
    return Mirror(root, told["address"], told["owner"])


class Mirror:
    """The bucket behind a local work directory.

    Args:
      root: the cache.
      address: of the bucket.
      owner: tells this cache from others.
    """

    def __init__(self, root: pathlib.Path, address: str, owner: str) -> None:
        self.bucket = Bucket(address)
        self._root = root
        self._lock = BucketLock(self.bucket, owner)
        self._objects: dict[str, Object] | None = None
        self._remote: dict[str, tuple[Object, dict[str, Any]]] = {}  # stage → its marker there, with digest

    # --------------------------------------------------------------------- what is there

    def pull(self) -> set[str]:
        """Brings the markers of the bucket that are news; the stages that changed here by that.

        A stage that was made here and has not been sent yet stays, unless the bucket's changed meanwhile.

        Raises:
          UsageError: the bucket cannot be read.
          RunError: it does not answer.
        """
        self._objects = self.bucket.list()
        found = {match[1] for name in self._objects if (match := _MARKER_NAME.fullmatch(name))}
        changed = set()
        for stage in sorted(found | {key for key in self._state() if not key.startswith("/")}):
            remote, seen = self._remote_marker(stage), self._seen(stage)
            here = _read_marker(self._root / stage)
            digest = None if remote is None else remote["digest"]
            if digest is None or (here is not None and digest == here["digest"]):
                self._see(stage, digest)
            elif here is None or seen != digest:
                self._adopt(stage, here, remote or {})
                changed.add(stage)
        return changed

    def has_stages(self) -> bool:
        """Whether any stage is complete in the bucket."""
        return any(_MARKER_NAME.fullmatch(name) for name in self._list())

    def holding(self, stage: str, listed: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Which files of a stage, as it is here, lie in the bucket, by their sizes."""
        if not self._is_in_step(stage):
            return set()
        return {name for name, entry in listed.items() if self._size_of(f"{stage}/{name}") == entry["bytes"]}

    def fetch(self, stage: str, listed: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Brings files of a stage; those that could not be had as they were written, and why, a clause each.

        Args:
          listed: name → what the marker says of it.
        """
        if not self._is_in_step(stage):
            return {}
        problems = {name: _GONE for name in listed if f"{stage}/{name}" not in self._list()}
        wanted = [(name, entry["bytes"]) for name, entry in listed.items() if name not in problems]
        check_room(self._root, sum(size for _, size in wanted), f"files of {stage} from {self.bucket.shown}")

        def bring(name: str) -> None:
            entry, path = listed[name], self._root / stage / name
            try:
                sound = self.bucket.download(f"{stage}/{name}", path, wanted=entry["hash"])
            except FileNotFoundError:
                problems[name] = _GONE
                return
            if sound:
                os.utime(path, ns=(entry["mtime_ns"], entry["mtime_ns"]))
            else:
                problems[name] = _OTHER

        transfer(f"{stage}: from {self.bucket.shown}", wanted, bring)
        return problems

    def verify(self, stage: str, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Reads all files of a stage in the bucket; a clause for each that is not as it was written."""
        if not self._is_in_step(stage):
            yield "it is not in the bucket as it is here, which the next run mends"
            return
        for name, entry in sorted(listed.items()):
            try:
                if self.bucket.hash(f"{stage}/{name}") != entry["hash"]:
                    yield f"{name} {_OTHER}"
            except FileNotFoundError:
                yield f"{name} {_GONE}"

    # -------------------------------------------------------------------- what is written

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the bucket's lock, and sends settings and judgements at the end.

        Raises:
          UsageError: another machine works there, or did since the markers were read.
        """
        with self._lock.held():
            if changed := self.pull():
                raise UsageError(
                    f"Expected {self.bucket.shown} to stay as it was while the plan was made; another "
                    f"machine changed {', '.join(sorted(changed))}. Run the same command again."
                )
            try:
                yield
            except BaseException:
                with contextlib.suppress(UsageError, RunError):  # what ended the run is told
                    self.push_files()
                raise
            self.push_files()

    def publish(self, stage: str) -> None:
        """Sends a complete stage, its marker last; what is there already is not sent again.

        Raises:
          UsageError: the bucket cannot be written.
          RunError: it does not answer, or another machine has taken it over.
        """
        marker = _read_marker(self._root / stage)
        if marker is None:
            return
        listed, remote = marker["files"], self._remote_marker(stage)
        sent = _SentLog(self._root / FOLDER / f"sent-{stage}.jsonl")
        lacking = {n for n, e in listed.items() if self._size_of(f"{stage}/{n}") != e["bytes"]}
        known = {
            name: entry["hash"] for name, entry in (remote or {"files": {}})["files"].items()
        } | sent.read()
        is_same = remote is not None and remote["digest"] == marker["digest"]
        if not is_same or lacking:
            wanted = sorted(n for n in listed if n in lacking or known.get(n) != listed[n]["hash"])
            self._lock.check()
            if remote is not None:
                sent.add(known)
                self._forget_marker(stage)

            def send(name: str) -> None:
                path = self._root / stage / name
                self.bucket.upload(path, f"{stage}/{name}")
                sent.add({name: listed[name]["hash"]})
                self._note(f"{stage}/{name}", listed[name]["bytes"])

            transfer(f"{stage}: to {self.bucket.shown}", [(n, listed[n]["bytes"]) for n in wanted], send)
            self._lock.check()
            path = self._root / stage / MARKER
            self.bucket.upload(path, f"{stage}/{MARKER}")
            there = self.bucket.look_up(f"{stage}/{MARKER}")
            if there is not None:
                self._list()[f"{stage}/{MARKER}"] = there
                self._remote[stage] = (there, marker)
        self._see(stage, marker["digest"])
        for name in known.keys() - listed.keys():
            if is_plain(name) and f"{stage}/{name}" in self._list():
                self.bucket.delete(f"{stage}/{name}")
                del self._list()[f"{stage}/{name}"]
        sent.remove(self._root)
        if not is_same:
            self.push_files()

    def forget(self, stage: str) -> None:
        """Removes the marker of a damaged stage, and sends all of it when it is made again."""
        self._lock.check()
        self._forget_marker(stage)
        self._see(stage, None)
        _SentLog(self._root / FOLDER / f"sent-{stage}.jsonl").remove(self._root)

    # ------------------------------------------------------------------- beside the stages

    def pull_files(self, merge: Callable[[pathlib.Path, pathlib.Path], None]) -> None:
        """Brings settings and judgements where the bucket's are newer.

        Args:
          merge: adds the judgements of the second file to the first, where both have new ones.
        """
        for name in (CONFIG, JUDGEMENTS):
            path, there = self._root / name, self._list().get(name)
            if there is None or not self._is_news(name, there):
                continue
            if name == JUDGEMENTS and self._is_changed(name):
                beside = self._root / FOLDER / name
                self.bucket.download(name, beside)
                merge(path, beside)
                remove(beside, self._root)
                self._state_of(f"/{name}", {"there": dataclasses.asdict(there), "hash": ""})  # to be sent
                logging.info("Judgements that were made here and in %s are joined.", self.bucket.shown)
            else:
                self.bucket.download(name, path)
                self._state_of(f"/{name}", {"there": dataclasses.asdict(there), "hash": hash_file(path)})

    def push_files(self) -> None:
        """Sends settings and judgements that changed here, unless the bucket's did, too."""
        for name in (CONFIG, JUDGEMENTS):
            path = self._root / name
            if not path.exists() or not self._is_changed(name):
                continue
            there = self.bucket.look_up(name)
            if name == JUDGEMENTS and there is not None and self._is_news(name, there):
                logging.warning(
                    "Judgements were added to %s meanwhile; the next command with this --workdir joins them.",
                    self.bucket.shown,
                )  # fmt: skip
                continue
            digest = hash_file(path)
            self.bucket.upload(path, name)
            if (there := self.bucket.look_up(name)) is not None:
                self._state_of(f"/{name}", {"there": dataclasses.asdict(there), "hash": digest})

    def _is_news(self, name: str, there: Object) -> bool:
        return bool(self._state().get(f"/{name}", {}).get("there") != dataclasses.asdict(there))

    def _is_changed(self, name: str) -> bool:
        path = self._root / name
        return path.exists() and self._state().get(f"/{name}", {}).get("hash") != hash_file(path)

    # ------------------------------------------------------------------------- inner parts

    def _list(self) -> dict[str, Object]:
        if self._objects is None:
            self._objects = self.bucket.list()
        return self._objects

    def _size_of(self, name: str) -> int | None:
        found = self._list().get(name)
        return None if found is None else found.bytes

    def _note(self, name: str, size: int) -> None:
        self._list()[name] = Object(size, 0)

    def _remote_marker(self, stage: str) -> dict[str, Any] | None:
        """The bucket's marker of a stage, with its digest; None where there is none that is whole."""
        there = self._list().get(f"{stage}/{MARKER}")
        if there is None:
            return None
        read = self._remote.get(stage)
        if read is None or read[0] != there:
            try:
                found = _usable(json.loads(self.bucket.read(f"{stage}/{MARKER}") or b"null"))
            except ValueError:
                found = None
            if found is None:
                return None
            self._remote[stage] = read = (there, found)
        return read[1]

    def _forget_marker(self, stage: str) -> None:
        self.bucket.delete(f"{stage}/{MARKER}")
        self._list().pop(f"{stage}/{MARKER}", None)
        self._remote.pop(stage, None)

    def _is_in_step(self, stage: str) -> bool:
        """Whether the stage here is the one in the bucket."""
        here = _read_marker(self._root / stage)
        return here is not None and self._seen(stage) == here["digest"]

    def _adopt(self, stage: str, here: Mapping[str, Any] | None, remote: Mapping[str, Any]) -> None:
        """Takes over the bucket's marker. Files that it does not list go, others are checked when read."""
        folder = self._root / stage
        for name in (here or {"files": {}})["files"].keys() - remote["files"].keys():
            if is_plain(name):
                remove(folder / name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MARKER, remote)
        self._see(stage, remote["digest"])

    def _state(self) -> dict[str, Any]:
        try:
            return dict(read_json(self._root / FOLDER / "state.json"))
        except (OSError, ValueError):
            return {}

    def _seen(self, stage: str) -> str | None:
        found = self._state().get(stage)
        return found if isinstance(found, str) else None

    def _see(self, stage: str, digest: str | None) -> None:
        if self._seen(stage) != digest:
            self._state_of(stage, digest)

    def _state_of(self, key: str, value: Any) -> None:
        state = self._state() | {key: value}
        write_json(self._root / FOLDER / "state.json", {k: v for k, v in state.items() if v is not None})


class _SentLog:
    """What was sent of a stage whose marker is not in the bucket yet: name → hash, a line each."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def read(self) -> dict[str, str]:
        found: dict[str, str] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # cut off by a kill
                    found |= json.loads(line)
        return found

    def add(self, sent: Mapping[str, str]) -> None:
        with self._lock, open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(sent)) + "\n")

    def remove(self, root: pathlib.Path) -> None:
        remove(self._path, root)


def _read_marker(directory: pathlib.Path) -> dict[str, Any] | None:
    """The marker in a directory, with its digest; None where there is none that can be used."""
    try:
        return _usable(read_json(directory / MARKER))
    except (OSError, ValueError, RecursionError):
        return None


def _usable(marker: Any) -> dict[str, Any] | None:
    """A marker that is whole, and names only files of its stage."""
    found = whole_marker(marker)
    return found if found is not None and all(map(is_plain, found.get("files", ["/"]))) else None
