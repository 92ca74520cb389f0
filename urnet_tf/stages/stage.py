"""What a stage is: a name, what it needs, which settings it depends on, how to run and estimate it.

Stage modules are thin: they read what earlier stages left on disk, call the core, write their
own directory. They import TensorFlow only inside of `run`, so that plans are drawn at once.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from urnet_tf import store
from urnet_tf.config import Config
from urnet_tf.costs.step import TrainingCost
from urnet_tf.errors import settings_named
from urnet_tf.executors import Executor, open_executor
from urnet_tf.store import MARKER, UnitLog, Workdir, machine

SPARE_BYTES = 2**30  # of the disk, that is left alone
_GUESSED_CLASSES = 1000  # of a list, which is not read for a plan


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a stage will cost; None where that cannot be known yet."""

    rows: int | None = None
    seconds: float | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None  # of the machine
    note: str = ""
    training: TrainingCost | None = None  # of a stage that trains


@dataclasses.dataclass(frozen=True)
class PlanContext:
    """What is known of the data when a plan is drawn: from earlier stages or a quick count."""

    images: int | None = None  # all splits
    train_images: int | None = None
    num_classes: int | None = None
    bytes_per_image: float = 25_000.0
    record_bytes: float | None = None  # the mean of some images that were packed for the plan
    new_images: int | None = None  # that ingest will decode; None = all
    free_bytes: int | None = None  # of the disk with the work directory; None = enough
    changes: str = ""  # what differs from the last run of ingest: a clause
    # Whether a stage finds again what it has made of known images; else it makes them all again.
    reuses: bool = False
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    gpus: int = dataclasses.field(default_factory=machine.count_gpus)
    memory_bytes: int = dataclasses.field(default_factory=machine.memory_bytes)
    gpu_bytes: int | None = dataclasses.field(default_factory=machine.gpu_memory_bytes)  # of one
    machines: int = dataclasses.field(default_factory=machine.count_machines)  # alike, that train together

    @property
    def classes(self) -> int:
        """The number of classes, or a guess."""
        return self.num_classes or _GUESSED_CLASSES

    @property
    def new(self) -> int:
        """How many images ingest will decode."""
        return (self.images or 0) if self.new_images is None else self.new_images

    def keeps_ahead(self, record_bytes: float) -> bool:
        """Whether the disk holds the records of all images twice: as ingest makes them, and in order."""
        needed = 2 * (self.images or 0) * record_bytes + SPARE_BYTES
        return self.free_bytes is None or self.free_bytes > needed

    @property
    def guess(self) -> str:
        """What a note adds where `classes` is a guess."""
        return "" if self.num_classes else f"; {_GUESSED_CLASSES:,} classes guessed"


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What `run` receives."""

    config: Config
    workdir: Workdir
    out: pathlib.Path  # the directory to fill; holds finished units after a kill
    named: bool = False  # whether this stage was asked for by its name, and not just found incomplete
    # Of the stages that this one uses: those that are not complete, and why, a clause each.
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rescan: bool = False  # whether times of files are not to be trusted
    # What decides the results besides those of earlier stages: version, settings and inputs, as in markers.
    made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def reread(self) -> bool:
        """Whether all files from outside are to be read, also those that did not change by their times."""
        return self.named or self.rescan

    def path(self, stage: str, *parts: str) -> pathlib.Path:
        """A file, or the whole directory, of an earlier, complete stage, as that stage wrote it.

        Raises:
          DamagedResult: it is not; the runner makes that stage again.
        """
        return self.workdir.checked(stage, *parts)

    def marker(self, stage: str) -> dict:
        """The marker of an earlier, complete stage.

        Raises:
          DamagedResult: it cannot be read.
        """
        self.workdir.checked(stage, MARKER)
        return self.workdir.completed(stage)

    def earlier(self, *parts: str) -> pathlib.Path:
        """A file of what this stage has made before, which is there until this run of it is complete.

        Raises:
          DamagedResult: it made nothing, or the file is not as it was written.
        """
        return self.workdir.checked(self._name, *parts)

    def earlier_marker(self) -> dict | None:
        """The marker of what this stage has made before; None where there is none."""
        return self.workdir.marker(self._name)

    def was_alike(self) -> bool:
        """Whether what this stage has made before was made from the same settings and inputs."""
        marker = self.earlier_marker()
        return marker is not None and all(marker.get(key) == value for key, value in self.made_by.items())

    def kept_partial(self) -> pathlib.Path | None:
        """What a killed run of this stage left that had other settings or inputs, or None."""
        return self.workdir.kept_partial(self._name)

    @property
    def _name(self) -> str:
        return self.out.name.removesuffix(".partial")

    def units(self, name: str, total: int, *columns: np.memmap) -> UnitLog:
        """The log of a resumable loop of this stage, which fills `columns`."""
        return UnitLog(self.out / f"units_{name}", total, *columns)

    def open_executor(self) -> Executor:
        """What `runtime.executor` names.

        Raises:
          UsageError: it cannot be had.
        """
        return executor_of(self.config)

    def part(self, name: str) -> pathlib.Path:
        """A file of this stage that holds a part of a result until it is merged; its folder is there."""
        folder = self.out / "units_parts"
        folder.mkdir(exist_ok=True)
        return folder / name

    def remove(self, name: str) -> None:
        """Removes a file or directory of this stage, if it is there."""
        store.remove(self.out / name, self.out)


def executor_of(config: Config) -> Executor:
    """What `runtime.executor` names.

    Raises:
      UsageError: it cannot be had.
    """
    runtime = config.runtime
    with settings_named({"address": "runtime.address"}):
        workers = runtime.workers or os.cpu_count() or 1
        return open_executor(runtime.executor, workers=workers, address=runtime.address)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One arrow of the flow."""

    name: str
    needs: tuple[str, ...]  # stages whose files `run` reads
    depends_on: tuple[str, ...]  # dotted configuration keys, of settings or sections, that change the result
    run: Callable[[StageContext], dict]  # returns metadata for the marker (plain JSON)
    estimate: Callable[[Config, PlanContext], Estimate]
    applies: Callable[[Config], bool] = lambda config: True  # False: `run` has nothing to do
    version: int = 1  # raise it when the same settings give another result
    uses: tuple[
        str, ...
    ] = ()  # stages whose files `run` reads where they are complete, and does without else
    # What is read from outside: words for a person → fingerprint.
    inputs: Callable[[Config], dict[str, str]] = lambda config: {}
    # The same, of what may lie in the work directory itself.
    inputs_of_workdir: Callable[[Config, pathlib.Path], dict[str, str]] = lambda config, root: {}
    # Stages whose directory `store.AHEAD` is of no more use when this one is complete.
    uses_up: tuple[str, ...] = ()
    # Settings of a later stage by which it fills `store.AHEAD`, which is no part of its results.
    reads_ahead: tuple[str, ...] = ()
    starts_tensorflow: bool = True  # which costs the first of these stages some seconds
    # What the other machines do while the first one runs the stage: see `flow.together`. They write nothing.
    follow: Callable[[StageContext], None] | None = None
    # Looks at the contents of what is read from outside: why the stage must run again, or None.
    rescan: Callable[[Config, Workdir], str | None] = lambda config, workdir: None
