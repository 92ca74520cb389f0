"""The judgements of one run: what holds of each image, what is added, and what is taken back.

The log on the disk (`crawl.corrections`) is the truth: it is read again whenever it has changed, so that
several programs and browsers may add to it. An image's `revision` is how many rows speak of it; who judges
says which revision was seen, and is told when it is not the last one.
"""

import collections
import dataclasses
import functools
import getpass
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from urnet_tf.crawl import corrections
from urnet_tf.crawl.class_names import plain_name
from urnet_tf.errors import UsageError
from urnet_tf.review.reviewed_run import ReviewedRun, key_bytes
from urnet_tf.schema import (
    NONE_OF_THESE,
    RIGHT,
    UNDONE,
    UNSURE,
    VERDICTS,
    WRONG_CLASS,
)

# What is known of an image's class, in `States.truth`; a class's label otherwise.
UNJUDGED, OF_NO_CLASS, NOT_SURE, OF_ANOTHER_CRAWL = -1, -2, -3, -4
GIVEN = "given"  # a judgement: every image has the class that it has been given


@dataclasses.dataclass(frozen=True)
class States:
    """What people said of N images; arrays of N rows.

    truth: int32, the class, or one of the constants above.
    sampled: bool, judged in the random sample.
    rows: how many rows the log has.
    order: int64 [n], the judged images, the latest first.
    elsewhere: judged images that are not among the training images of this run.
    conflicts: images of which people say different things.
    """

    truth: np.ndarray
    sampled: np.ndarray
    rows: int
    order: np.ndarray
    elsewhere: int
    conflicts: int

    @functools.cached_property
    def judged(self) -> np.ndarray:
        """bool [N]: something was said."""
        return self.truth != UNJUDGED

    @functools.cached_property
    def sure(self) -> np.ndarray:
        """bool [N]: and by somebody who was sure."""
        return self.judged & (self.truth != NOT_SURE)


class Stale(Exception):
    """An image was judged meanwhile.

    Attributes:
      rows: int, the images.
    """

    def __init__(self, rows: list[int]):
        super().__init__(f"{len(rows)} images were judged meanwhile")
        self.rows = rows


@dataclasses.dataclass
class Action:
    """Judgements that were given together: rows of the log with one time, by one person.

    images: keys of `corrections.key_of`, a row each.
    undone: whether they were taken back.
    """

    when: str
    who: str
    images: dict[str, dict[str, str]]
    undone: bool = False


class Journal:
    """The judgements of a run.

    Args:
      run: whose images are judged.
      path: of the log; None: the work directory's own.
      who: whose judgements are added; None: the user of this process.

    Raises:
      UsageError: the log cannot be read.
    """

    def __init__(self, run: ReviewedRun, path: str | os.PathLike | None = None, who: str | None = None):
        self.run = run
        self.path = pathlib.Path(path) if path else run.workdir.root / corrections.FILE_NAME
        self.who = who if who is not None else user_name()
        self._lock = threading.RLock()
        self._stamp: tuple[int, int, int] | None = None
        self._forget()
        self._read()

    def _forget(self) -> None:
        size = len(self.run)
        nothing = np.empty(0, np.int64)
        self._log = corrections.SCHEMA.empty_table()
        self._said: dict[str, list[dict[str, str]]] = {}  # image → its rows, in the order of times
        self._held: dict[str, dict[str, Any]] = {}  # image → what holds, the latest last
        self._places: dict[str, np.ndarray] = {}
        self._conflicts: set[str] = set()
        self._actions: dict[tuple[str, str], Action] = {}
        self._states = States(np.full(size, UNJUDGED, np.int32), np.zeros(size, bool), 0, nothing, 0, 0)

    @property
    def is_writable(self) -> bool:
        """Whether judgements can be kept."""
        folder = self.path.parent
        return os.access(folder, os.W_OK | os.X_OK) and (
            not self.path.exists() or (self.path.is_file() and os.access(self.path, os.R_OK))
        )

    def states(self) -> States:
        """What holds now; reads the log again if it has changed.

        Raises:
          UsageError: the log cannot be read any more.
        """
        with self._lock:
            self._read()
            return self._states

    def revision(self, row: int) -> int:
        """How many rows of the log speak of an image's file."""
        return len(self._said.get(self._key(row), ()))

    def judge(self, rows: Sequence[int], revisions: Sequence[int], truth: int | str, queue: str) -> Action:
        """Adds a judgement of some images; it is on the disk when this returns.

        Args:
          revisions: of the images, as the judge saw them.
          truth: the class of all of them, OF_NO_CLASS, NOT_SURE, or GIVEN.
          queue: where they were shown.

        Raises:
          Stale: somebody has judged one of them meanwhile; nothing was added.
          UsageError: the log cannot be written.
        """
        with self._lock:
            self._read()
            stale = [row for row, seen in zip(rows, revisions, strict=True) if self.revision(row) != seen]
            if stale:
                raise Stale(stale)
            return self._append([self._row(row, truth, queue) for row in self._one_a_file(rows, truth)])

    def undo(self, when: str | None = None) -> Action | None:
        """Takes back what this person judged last, or at a time: all images of one action.

        What the person had said of them before holds again.

        Returns:
          what was taken back; None where there is nothing.

        Raises:
          Stale: one of the images was judged again since.
          UsageError: the log cannot be written.
        """
        with self._lock:
            self._read()
            mine = [a for a in self._actions.values() if a.who == self.who and not a.undone]
            action = next((a for a in reversed(mine) if when in (None, a.when)), None)
            if action is None:
                return None
            since = [a for a in self._actions.values() if a.when > action.when and not a.undone]
            again = {key for other in since for key in other.images.keys() & action.images.keys()}
            if again:
                raise Stale([int(row) for key in again for row in self._places_of(key)])
            self._append(
                [{**row, "verdict": UNDONE, "new_label": "", "when": ""} for row in action.images.values()]
                + self._said_before(action, mine)
            )
            return action

    def _said_before(self, action: Action, mine: Sequence[Action]) -> list[dict[str, str]]:
        before: dict[str, dict[str, str]] = {}
        for other in mine:
            if other.when < action.when:
                before |= {key: row for key, row in other.images.items() if key in action.images}
        return [{**row, "when": ""} for row in before.values()]

    def last_action(self) -> Action | None:
        """What `undo` would take back."""
        mine = (a for a in reversed(self._actions.values()) if a.who == self.who and not a.undone)
        return next(mine, None)

    def held(self, row: int) -> Mapping[str, Any] | None:
        """The row of the log that holds of an image's file."""
        return self._held.get(self._key(row))

    def counts(self) -> dict[str, int]:
        """How many images were judged, by verdict; a file counts once."""
        found = collections.Counter(row["verdict"] for row in list(self._held.values()))
        return {verdict: found[verdict] for verdict in VERDICTS if verdict != UNDONE}

    def _key(self, row: int) -> str:
        return corrections.key_of({name: self.run.text(name, row) for name in ("content_hash", "path")})

    def rows_of(self, judgement: Mapping[str, str]) -> np.ndarray:
        """The images that a row of the log speaks of: int64 [n]."""
        return self._places_of(corrections.key_of(judgement))

    def _places_of(self, key: str) -> np.ndarray:
        """The images of a key: int64 [n], none where this run has none."""
        if key not in self._places:
            self._places[key] = self.run.rows_of(key_bytes(key))
        return self._places[key]

    def _one_a_file(self, rows: Sequence[int], truth: int | str) -> list[int]:
        """One image a file; of equal files one whose label changes, if there is one."""
        chosen: dict[bytes, int] = {}
        for row in rows:
            key = bytes(self.run.keys[row])
            if key not in chosen or (truth != GIVEN and self.run.label[chosen[key]] == truth):
                chosen[key] = row
        return list(chosen.values())

    def _row(self, row: int, truth: int | str, queue: str) -> dict[str, str]:
        given = self.run.log_names[self.run.label[row]]
        if truth in (GIVEN, int(self.run.label[row])):
            verdict, new_label = RIGHT, ""
        elif truth == OF_NO_CLASS:
            verdict, new_label = NONE_OF_THESE, ""
        elif truth == NOT_SURE:
            verdict, new_label = UNSURE, ""
        else:
            verdict, new_label = WRONG_CLASS, self.run.log_names[int(truth)]
        return {
            "content_hash": self.run.text("content_hash", row),
            "path": self.run.text("path", row),
            "old_label": given,
            "verdict": verdict,
            "new_label": new_label,
            "queue": queue,
            "who": self.who,
        }

    def _append(self, rows: list[dict[str, str]]) -> Action:
        corrections.append(self.path, rows, self.run.log_names)
        self._read()
        return next(a for a in reversed(self._actions.values()) if a.who == self.who)

    def _read(self) -> None:
        """Takes up what was added to the log."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if len(self._log):
                self._forget()
            self._stamp = None
            return
        except OSError as error:
            raise UsageError(f"Cannot read judgements from {self.path}: {error.strerror}.") from None
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp == self._stamp:
            return
        log = corrections.read([self.path])
        if not log.slice(0, len(self._log)).equals(self._log):  # another file, or one that was merged
            self._forget()
        added = log.slice(len(self._log)).to_pylist()
        self._log, self._stamp = log, stamp
        self._take_up(added)

    def _take_up(self, added: list[dict[str, str]]) -> None:
        touched: dict[str, None] = {}
        for row in added:
            key = corrections.key_of(row)
            touched[key] = None
            self._said.setdefault(key, []).append(row)
        self._take_up_actions(added)
        rows = [row for key in touched for row in self._said[key]]
        rows.sort(key=lambda row: row["when"])
        now = corrections.current(pa.Table.from_pylist(rows, corrections.SCHEMA))
        truth, sampled = self._states.truth.copy(), self._states.sampled.copy()
        for key in touched:
            self._held.pop(key, None)
            places = self._places_of(key)
            truth[places], sampled[places] = UNJUDGED, False
        for row in now.table.to_pylist():
            key = corrections.key_of(row)
            self._held[key] = row
            places = self._places_of(key)
            truth[places], sampled[places] = self._truth_of(row), row["in_random_sample"]
        self._conflicts = (self._conflicts - touched.keys()) | set(now.conflicts)
        found = [self._places_of(key) for key in reversed(self._held)]
        order = np.concatenate(found) if found else np.empty(0, np.int64)
        elsewhere = sum(not len(rows) for rows in found)
        self._states = States(truth, sampled, len(self._log), order, elsewhere, len(self._conflicts))

    def _take_up_actions(self, added: list[dict[str, str]]) -> None:
        groups: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in added:
            groups.setdefault((row["when"], row["who"]), []).append(row)
        for (when, who), rows in groups.items():
            taken = {corrections.key_of(row) for row in rows if row["verdict"] == UNDONE}
            if not taken:
                images = {corrections.key_of(row): row for row in rows}
                self._actions[when, who] = Action(when, who, images)
                continue
            for action in reversed(self._actions.values()):
                if action.who == who and not action.undone and taken & action.images.keys():
                    action.undone = True
                    break

    def _truth_of(self, row: Mapping[str, str]) -> int:
        if row["verdict"] in (RIGHT, WRONG_CLASS):
            name = row["old_label"] if row["verdict"] == RIGHT else row["new_label"]
            return self.run.label_of.get(plain_name(name), OF_ANOTHER_CRAWL)
        return OF_NO_CLASS if row["verdict"] == NONE_OF_THESE else NOT_SURE


def user_name() -> str:
    """Who judges: the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "reviewer"
