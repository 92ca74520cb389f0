"""A run on several machines, which all get the same command: `runtime.strategy=multi_worker`.

The first one, the chief, runs the stages as one machine alone would, and holds the lock. Before a stage that
trains it tells the others, who then do their part of it (`Stage.follow`) and wait again.
"""

import json
from typing import TYPE_CHECKING, Any

from absl import logging

from urnet_tf import __version__, config as config_lib
from urnet_tf.config import Config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow.plan import find_stage
from urnet_tf.stages.effects import trains
from urnet_tf.stages.stage import Stage, StageContext
from urnet_tf.store import Workdir, machine

if TYPE_CHECKING:
    from urnet_tf.training.machines import Machines


class Company:
    """The other machines of a run, as the chief sees them; without any nothing happens."""

    def __init__(self, machines: "Machines | None" = None) -> None:
        self._machines = machines

    def call(self, stage: Stage) -> None:
        """Tells the others that a stage begins in which they take part."""
        if self._machines is not None and stage.follow is not None:
            self._machines.tell("stage", {"name": stage.name})

    def __enter__(self) -> "Company":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tells the others that all is done, or what failed, unless that is that one of them was lost."""
        if self._machines is None or not (error is None or isinstance(error, (UsageError, RunError))):
            return
        lost = error is not None and error.__cause__ is not None
        if not lost:
            self._machines.tell("stage", {"name": None, "failure": None if error is None else str(error)})


def open_machines(config: Config, workdir: Workdir) -> "Machines | None":
    """All machines of the run, once they are there; None where this one works alone.

    Raises:
      UsageError: nothing says which machines there are, they were started with different commands, or a
        batch does not divide by their devices.
    """
    if config.runtime.strategy != "multi_worker":
        if config.runtime.strategy == "mirrored":
            check_batches(config, max(1, machine.count_gpus()))
        return None
    machines, gpus = machine.count_machines(), max(1, machine.count_gpus())
    check_batches(config, machines * gpus, machines)
    from urnet_tf.training.fit import build_strategy
    from urnet_tf.training.machines import Machines

    logging.info("Waiting until all machines of the training are there.")
    found = Machines(build_strategy(config.runtime.strategy))
    wanted: dict[str, Any] = {**config_lib.to_dict(config), "version": __version__}
    if not found.all_alike(json.dumps(wanted, sort_keys=True)):
        raise UsageError(
            f"Expected the same command and the same urnet_tf on all {found.count} machines; the settings "
            "of at least one differ."
        )
    shared = found.tell("workdir", str(workdir.root.absolute()))
    if found.count > 1:
        logging.info("This is machine %d of %d; all work in %s.", found.rank + 1, found.count, shared)
    return found


def check_batches(config: Config, devices: int, machines: int = 1) -> None:
    """Refuses steps that the devices cannot divide, before the stages that come first.

    Small crawls have smaller steps, which are looked at when training begins.

    Raises:
      UsageError: a step of images or bags does not divide by the devices.
    """
    bags = dict.fromkeys((config.train.bag.size, *(config.train.member_bag_sizes or ())))
    steps = [("train", size) for size in bags] if trains(config, "train") else []
    apart = machines > 1 and devices == machines and config.baseline.folds > 1  # a network each
    steps += [("baseline", 1)] if trains(config, "baseline") and not apart else []
    for name, size in steps:
        images = getattr(config, name).fit.batch_images
        rows = max(1, images // size)
        if rows % devices:
            what = f"bags of {size}" if size > 1 else "images"
            fitting = max(devices, rows // devices * devices) * size
            raise UsageError(
                f"Expected {name}.fit.batch_images to give {what} that {devices} devices divide equally; "
                f"received {images}, which are {rows}. {name}.fit.batch_images={fitting} does."
            )


def follow(config: Config, workdir: Workdir, machines: "Machines") -> None:
    """Takes part in the stages of a run that train, until the chief says that all is done.

    Raises:
      RunError: the chief failed or was lost.
    """
    while True:
        logging.info("Waiting for the first machine, which runs the stages between.")
        told = machines.tell("stage", None)
        if told["name"] is None:
            break
        stage = find_stage(told["name"])
        if stage.follow is not None:
            logging.info("%s: takes part", stage.name)
            stage.follow(StageContext(config, workdir, workdir.partial(stage.name)))
    if told["failure"] is not None:
        raise RunError(f"The first machine failed: {told['failure']}")
