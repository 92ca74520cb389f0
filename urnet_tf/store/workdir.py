"""The work directory: stages that are complete or not there, markers that notice damage, resumable units.

    <stage>/                     complete: its marker `done.json` lists every file with size and hash
    <stage>.partial/             being filled, or left by a killed run
    <stage>.previous/            results under another key that took long to make; likewise
    <stage>.partial.previous/    for what a killed run left; both until a whole run is complete

A stage fills `<stage>.partial/`, everything in it is flushed to the disk, its marker is written last and the
directory gets its final name: so a directory with its final name is complete, after a kill and, on the file
systems that `files` names, after a power cut. A stage that was killed finds its own units again as long as
its key (configuration and inputs) is the same.
"""

import concurrent.futures
import contextlib
import fnmatch
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from urnet_tf.store.files import (
    fingerprint,
    hash_file,
    remove,
    sync_file,
    sync_tree,
    write_json,
    write_text,
)
from urnet_tf.store.markers import MARKER, DamagedResult, read_marker
from urnet_tf.store.mirror import find_mirror
from urnet_tf.text_rules import refuse_address

KEPT_SECONDS = 120.0  # results that took longer are kept when others replace them
_KEY_FILE = "key.txt"
# What is no part of the results: logs, which hold dates, the units of loops, which go when all is done, and
# what is made ahead for a later stage, which looks itself whether it is sound, and goes when that is done.
AHEAD = "ahead"
_UNLISTED = ("tensorboard/", "units_", f"{AHEAD}/")


class Workdir:
    """A run's directory with one sub-directory a stage.

    It may be the cache of a directory in a bucket, see `mirror`: then files come when they are asked for.

    Args:
      root: the directory; need not exist yet.
      hashes: whether files are hashed before they are used; False looks at sizes alone.

    Raises:
      UsageError: the root is an address, like gs://bucket/run.
    """

    def __init__(self, root: str | os.PathLike, hashes: bool = True):
        refuse_address(root, "a work directory", "Give a folder, and copy it to the bucket afterwards.")
        self.root = pathlib.Path(root)
        self._mirror = find_mirror(self.root)
        self.hashes = hashes
        # (stage, file) → what the file's status was when its contents were last looked at.
        self._verified: dict[tuple[str, str], object] = {}

    def path(self, stage: str) -> pathlib.Path:
        """The directory of a complete stage; what is read from it goes through `checked`."""
        return self.root / stage

    def marker(self, stage: str) -> dict | None:
        """The completion marker of a stage; None where there is none or where it was changed."""
        return read_marker(self.root / stage)

    def completed(self, stage: str) -> dict:
        """The completion marker of a stage that is complete.

        Raises:
          DamagedResult: there is none, or it was changed.
        """
        marker = self.marker(stage)
        if marker is None:
            raise DamagedResult(self.root, stage, f"{MARKER} is missing or was changed")
        return marker

    def checked(self, stage: str, *parts: str) -> pathlib.Path:
        """The path of a file, or of a directory with all its files, that is as the stage wrote it.

        A file's contents are looked at once in a process and whenever its time changes. What the marker
        does not list is not looked at.

        Raises:
          DamagedResult: a file is missing, of another size, or has other contents.
        """
        wanted = "/".join(parts)
        listed = self.completed(stage)["files"]
        names = [n for n in listed if not wanted or n == wanted or n.startswith(wanted + "/")]
        self._check(stage, {name: listed[name] for name in names})
        return self.root.joinpath(stage, *parts)

    def _check(self, stage: str, entries: Mapping[str, dict]) -> None:
        """Raises DamagedResult where a file is not as it was written, nor in the bucket behind."""
        problem = next(self._problems(stage, entries, self.hashes), None)
        if problem is not None and self._mirror is not None:
            lacking = dict(self._problems(stage, entries, self.hashes))
            reasons = self._mirror.fetch(stage, {name: entries[name] for name in lacking})
            found = self._problems(stage, entries, self.hashes)
            problem = next(((n, f"{n} {reasons[n]}" if n in reasons else text) for n, text in found), None)
        if problem is not None:
            raise DamagedResult(self.root, stage, problem[1])

    def bring(self, *patterns: str) -> None:
        """Has files of complete stages here that lie in a bucket, for what reads them without `checked`.

        Args:
          patterns: of `fnmatch`, on "<stage>/<file>"; a directory that is no cache has them all.

        Raises:
          DamagedResult: as `checked`.
        """
        if self._mirror is None:
            return
        for stage in sorted({pattern.partition("/")[0] for pattern in patterns}):
            listed = (self.marker(stage) or {"files": {}})["files"].items()
            wanted = [
                (n, e) for n, e in listed if any(fnmatch.fnmatchcase(f"{stage}/{n}", p) for p in patterns)
            ]
            self._check(stage, dict(wanted))

    def publish(self, stage: str) -> None:
        """Sends a complete stage to the bucket that this directory is the cache of, if it is one."""
        if self._mirror is not None:
            self._mirror.publish(stage)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other machines from writing to the bucket behind this directory, if there is one."""
        return contextlib.nullcontext() if self._mirror is None else self._mirror.held()

    @property
    def address(self) -> str | None:
        """Of the bucket that this directory is the cache of; None where it is none."""
        return None if self._mirror is None else self._mirror.bucket.shown

    def find_damage(self, stage: str, full: bool = False) -> list[str]:
        """What is wrong with the files of a complete stage, a clause each that names the file.

        Args:
          full: hash every file; else only those whose time is not that of their writing, which costs next
            to nothing where nothing was touched.
        """
        listed = self.completed(stage)["files"]
        if not full:
            touched = {
                n for n in listed if self.hashes and _mtime(self.root / stage / n) != listed[n]["mtime_ns"]
            }
            untouched = {name: entry for name, entry in listed.items() if name not in touched}
            found = dict(self._problems(stage, untouched, hashes=False))
            found |= self._problems(stage, {n: listed[n] for n in touched}, hashes=True)
            if found and self._mirror is not None:  # what the bucket has comes when it is read
                for name in self._mirror.holding(stage, {name: listed[name] for name in found}):
                    del found[name]
            return list(found.values())
        if self._mirror is not None:
            return list(self._mirror.verify(stage, listed))
        self._verified.clear()
        return [problem for _, problem in self._problems(stage, listed, hashes=True)]

    def require_sound(self, stages: Iterable[str]) -> None:
        """Checks those of the stages that are complete as `find_damage` does.

        Raises:
          DamagedResult: a file is not as it was written.
        """
        for stage in stages:
            if self.marker(stage) is not None:
                for problem in self.find_damage(stage):
                    raise DamagedResult(self.root, stage, problem)

    def _problems(self, stage: str, listed: Mapping[str, dict], hashes: bool) -> Iterator[tuple[str, str]]:
        """Names and clauses. All sizes first, which is fast; then contents, by several threads."""
        sound = []
        for name, entry in sorted(listed.items()):
            try:
                status = os.stat(self.root / stage / name)
            except OSError as error:
                missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
                yield name, f"{name} is missing" if missing else f"{name} cannot be read ({error.strerror})"
                continue
            if status.st_size != entry["bytes"]:
                yield name, f"{name} has {status.st_size:,} bytes instead of {entry['bytes']:,}"
                continue
            if self._verified.get((stage, name)) != _state(status):
                sound.append((name, status))
        if not hashes or not sound:
            return
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            paths = [self.root / stage / name for name, _ in sound]
            for (name, status), found in zip(sound, pool.map(_hash_or_reason, paths), strict=True):
                if found != listed[name]["hash"]:
                    reason = found if found.startswith("(") else "(its contents were changed)"
                    yield name, f"{name} is not as it was written {reason}"
                else:
                    self._verified[stage, name] = _state(status)

    def open_partial(self, stage: str, key: str, made_from: str = "") -> pathlib.Path:
        """The directory that a stage fills; what is there under another key is kept beside.

        Args:
          key: without white space.
          made_from: of what the stage reads, which may be made again with other results under one key: what
            was begun with these is not continued.
        """
        partial, kept = self.partial(stage), self._kept_partial(stage)
        name, key = key, f"{key} {made_from}".strip()
        if partial.exists() and _read_key(partial) != key and _name(_read_key(partial)) == name:
            remove(partial, self.root)
        if _read_key(kept) != key and _name(_read_key(kept)) == name:
            remove(kept, self.root)
        if partial.exists() and _read_key(partial) != key:
            aside = self.root / f"{stage}.partial.old"
            remove(aside, self.root)
            os.replace(partial, aside)
            if _read_key(kept) == key:
                os.replace(kept, partial)
            remove(kept, self.root)
            os.replace(aside, kept)
        elif not partial.exists() and _read_key(kept) == key:
            os.replace(kept, partial)
        for litter in list(partial.rglob(".*.tmp")):  # of `atomic_path` in a killed process
            remove(litter, partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_text(partial / _KEY_FILE, key)
        return partial

    def holds_partial(self, stage: str, key: str) -> bool:
        """Whether a killed run of this stage under the same key can be continued."""
        return key in (_name(_read_key(self.partial(stage))), _name(_read_key(self._kept_partial(stage))))

    def free_bytes(self) -> int:
        """Of the disk that holds the directory, or will hold it."""
        place = self.root.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def partial_bytes(self, stage: str) -> int:
        """What a killed run of the stage left, in bytes."""
        return sum(path.lstat().st_size for path in self.partial(stage).rglob("*") if path.is_file())

    def finish(self, stage: str, marker: Mapping) -> None:
        """Flushes the partial directory, writes the marker into it and gives it its final name."""
        partial = self.partial(stage)
        sync_tree(partial)
        self.write_marker(partial, marker)
        self._give_final_name(stage)

    def write_marker(self, directory: pathlib.Path, marker: Mapping) -> None:
        """Writes the marker of what lies in a directory: `marker` with `files`, `results` and `digest`.

        `files`: relative path → bytes, mtime_ns and hash; `results`: a hash of all contents; `digest`: of the
        marker itself.
        """
        names = sorted(
            os.path.relpath(os.path.join(parent, name), directory)
            for parent, _, found in os.walk(directory)
            for name in found
        )
        names = [n for n in names if n not in (MARKER, _KEY_FILE) and not n.startswith(_UNLISTED)]
        stage = directory.name.removesuffix(".partial")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = list(pool.map(hash_file, (directory / name for name in names)))
        files = {}
        for name, digest in zip(names, hashes, strict=True):
            status = os.stat(directory / name)
            files[name] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "hash": digest}
            self._verified[stage, name] = _state(status)
        results = fingerprint({name: entry["hash"] for name, entry in files.items()})
        marker = {**marker, "results": results, "files": files}
        write_json(directory / MARKER, {**marker, "digest": fingerprint(marker)})

    def recover(self, stage: str) -> bool:
        """Goes on with a `finish` or `restore` that was killed; whether a stage got its final name."""
        final, old = self.root / stage, self.root / f"{stage}.old"
        found = (self.partial(stage) / MARKER).exists()
        if found:
            self._give_final_name(stage)
        elif final.exists():
            remove(old, self.root)
        elif old.exists():  # a killed `restore`
            os.replace(old, final)
        return found

    def kept_partial(self, stage: str) -> pathlib.Path | None:
        """What a killed run left under another key; None where there is nothing."""
        kept = self._kept_partial(stage)
        return kept if kept.is_dir() else None

    def drop_ahead(self, stage: str) -> None:
        """Removes what a complete stage made ahead for another one, which has used it.

        A stage that is a link to elsewhere, as where runs share it, stays as it is.
        """
        if not (self.root / stage).is_symlink():
            remove(self.root / stage / AHEAD, self.root)

    def previous_marker(self, stage: str) -> dict | None:
        """The marker of the results that were kept when others replaced them."""
        return read_marker(self._previous(stage))

    def restore(self, stage: str) -> None:
        """Exchanges a stage's results with the previous ones."""
        final, old = self.root / stage, self.root / f"{stage}.old"
        remove(old, self.root)
        if final.exists():
            os.replace(final, old)
        os.replace(self._previous(stage), final)
        if old.exists():
            os.replace(old, self._previous(stage))
        sync_file(self.root)

    def invalidate(self, stage: str) -> None:
        """Takes the marker of a damaged stage away, so that it is made again, also after a kill."""
        if self._mirror is not None:
            self._mirror.forget(stage)
        remove(self.root / stage / MARKER, self.root)

    def drop_previous(self, stages: Iterable[str]) -> None:
        """Removes what was kept of the runs before, when a whole run is complete."""
        for stage in stages:
            for directory in (self._previous(stage), self._kept_partial(stage)):
                remove(directory, self.root)

    def _give_final_name(self, stage: str) -> None:
        partial, final = self.partial(stage), self.root / stage
        old, previous = self.root / f"{stage}.old", self._previous(stage)
        if final.exists():
            before, now = read_marker(final) or {}, read_marker(partial)
            took_long = before.get("seconds", 0) > KEPT_SECONDS and self._is_whole(final, before)
            aside = previous if took_long and now and before.get("key") != now.get("key") else old
            remove(aside, self.root)
            os.replace(final, aside)
        os.replace(partial, final)
        sync_file(self.root)
        remove(old, self.root)
        for units in final.glob("units_*"):
            remove(units, final)

    def _is_whole(self, final: pathlib.Path, marker: Mapping[str, Any]) -> bool:
        """Whether all files are here, and not only in a bucket."""
        return self._mirror is None or all((final / name).is_file() for name in marker["files"])

    def partial(self, stage: str) -> pathlib.Path:
        """The directory that a stage fills while it runs."""
        return self.root / f"{stage}.partial"

    def _kept_partial(self, stage: str) -> pathlib.Path:
        return self.root / f"{stage}.partial.previous"

    def _previous(self, stage: str) -> pathlib.Path:
        return self.root / f"{stage}.previous"


def _read_key(directory: pathlib.Path) -> str | None:
    try:
        return (directory / _KEY_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _name(key: str | None) -> str | None:
    """The key without what its stage was made from."""
    return key.partition(" ")[0] if key is not None else None


def _hash_or_reason(path: pathlib.Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        return f"({error.strerror})"


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _mtime(path: pathlib.Path) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
