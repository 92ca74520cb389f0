"""One writer at a time in a bucket: an object with an owner, whose time is renewed while the owner works.

Object stores have no locks that vanish with a process. Who finds an object that was not renewed for
`STALE_S` may take it over; two who do so at once find out, since each looks again after a while.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

from absl import logging

from urnet_tf.errors import RunError, UsageError
from urnet_tf.store.buckets import Bucket

LOCK = ".urnet_lock.json"
RENEW_S, STALE_S = 60.0, 300.0
SETTLE_S = 1.0  # in which another one that wrote at the same moment is seen


class BucketLock:
    """The lock of one run in a bucket.

    Args:
      bucket: of the run.
      owner: tells caches apart; a lock that this one left behind, killed, is its own.
    """

    def __init__(self, bucket: Bucket, owner: str) -> None:
        self._bucket, self._owner = bucket, owner
        self._lost: str | None = None
        self._since = ""
        self._one_at_a_time = threading.Lock()  # so that no look falls into a renewal

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock.

        Raises:
          UsageError: another machine holds it.
        """
        self._take()
        end = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(end,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            end.set()
            renewing.join(timeout=5)
            with contextlib.suppress(UsageError, RunError):  # it ends by itself
                if self._lost is None and self._holder() == self._owner:
                    self._bucket.delete(LOCK)

    def check(self) -> None:
        """Raises RunError where another machine has taken the lock over meanwhile."""
        if self._lost is None:
            self._look()
        if self._lost is not None:
            raise RunError(
                f"{self._bucket.shown} was taken over by {self._lost} while this run worked in it, so "
                "nothing more is written there. What this machine has made is in its cache: run the same "
                "command again when the other one is done."
            )

    def _take(self) -> None:
        found = self._read()
        if found and found.get("owner") != self._owner:
            there = self._bucket.look_up(LOCK)
            age = (self._store_time_ns() - there.modified_ns) / 1e9 if there else STALE_S
            if age < STALE_S:
                raise UsageError(self._refusal(found, age))
            logging.warning(
                "%s was left locked by %s, which gave no sign of life for %.0f s; this run takes it over.",
                self._bucket.shown, found.get("who", "another machine"), age,
            )  # fmt: skip
        self._write()
        time.sleep(SETTLE_S)
        found = self._read()
        if found.get("owner") != self._owner:
            raise UsageError(self._refusal(found, 0.0))

    def _store_time_ns(self) -> int:
        """The time by the store's clock, which dates objects; that of this machine may be wrong."""
        name = f"{LOCK}.{self._owner}"
        self._bucket.write(name, b"")
        probe = self._bucket.look_up(name)
        self._bucket.delete(name)
        return probe.modified_ns if probe else time.time_ns()

    def _refusal(self, found: dict[str, str], age: float) -> str:
        return (
            f"Expected to be the only run in {self._bucket.shown}; {found.get('who', 'another machine')} "
            f"works there since {found.get('since', 'some time')} and gave a sign of life "
            f"{max(age, 0):.0f} s ago. Wait for it. If it is gone, its lock ends {STALE_S / 60:.0f} "
            f"minutes after that sign, or at once when you remove the object {LOCK} there."
        )

    def _renew(self, end: threading.Event) -> None:
        while not end.wait(RENEW_S):
            try:
                self._look()
                if self._lost is not None:
                    return
                self._write()
            except (UsageError, RunError) as error:  # a publication will tell, if it lasts
                logging.warning("The lock of %s was not renewed: %s", self._bucket.shown, error)

    def _look(self) -> None:
        with self._one_at_a_time:
            found = self._read()
        if found.get("owner") != self._owner:
            self._lost = found.get("who", "someone who removed its lock")

    def _holder(self) -> str | None:
        return self._read().get("owner")

    def _read(self) -> dict[str, str]:
        data = self._bucket.read(LOCK)
        try:
            found = json.loads(data or b"{}")
        except ValueError:  # half written
            found = {"who": "another machine"}
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def _write(self) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._since = self._since or now
        who = f"process {os.getpid()} on {socket.gethostname()}"
        told = {"owner": self._owner, "who": who, "since": self._since, "renewed": now}
        with self._one_at_a_time:
            self._bucket.write(LOCK, json.dumps(told, indent=1).encode())
