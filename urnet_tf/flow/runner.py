"""Runs the stages of a plan: what is complete is skipped, what was killed goes on,
what is damaged is made again."""

import collections
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Iterator, Mapping

import yaml
from absl import logging

from urnet_tf import __version__, config as config_lib
from urnet_tf.config import Config
from urnet_tf.costs.units import format_bytes, format_seconds
from urnet_tf.errors import RunError, UsageError
from urnet_tf.flow import plan as plans
from urnet_tf.flow.plan import (
    NO_MARKER,
    RESTORE,
    RESUME,
    RUN,
    SKIP,
    Identity,
    Step,
    find_missing,
    find_stage,
    identify_stages,
    make_plan,
    why_not_complete,
)
from urnet_tf.flow.together import Company
from urnet_tf.stages.stage import Estimate, Stage, StageContext, executor_of
from urnet_tf.store import DamagedResult, Workdir, fingerprint, machine, write_text

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")
_REPAIRS = 3  # of one stage in one run: a disk that damages a file more often is to be replaced


def run(config: Config, workdir: Workdir, steps: list[Step], company: Company | None = None) -> None:
    """Runs the steps of a plan in order; a stage that turns out to be damaged is made again.

    Args:
      company: machines that take part in the stages that train; None = there are none.

    Raises:
      UsageError: another process works in this directory.
      RunError: the disk has too little room for a stage.
      Exception: whatever a stage raises; what it had finished stays for the next call.
    """
    names, rescan = [step.stage.name for step in steps], any(step.rescan for step in steps)
    repairs: collections.Counter[str] = collections.Counter()
    executor_of(config)  # a cluster that does not answer is told now, not after hours
    with lock(workdir):
        write_text(workdir.root / "config.yaml", yaml.safe_dump(config_lib.to_dict(config), sort_keys=False))
        while True:
            done: set[str] = set()
            try:
                _run_steps(config, workdir, steps, done, company)
                break
            except DamagedResult as damage:
                repairs[damage.stage] += 1
                if repairs[damage.stage] > _REPAIRS:
                    raise
                logging.warning(
                    "%s is damaged: %s. It and what needs it are made again.", damage.stage, damage.problem
                )
                workdir.invalidate(damage.stage)
                left = {step.stage.name for step in steps if step.action in (RUN, RESUME)} - done
                plan = make_plan(config, workdir, again=left, only=names)
                steps = [dataclasses.replace(step, rescan=rescan) for step in plan]
        if len(names) == len(plans.STAGES):
            workdir.drop_previous(names)


def _run_steps(
    config: Config, workdir: Workdir, steps: list[Step], done: set[str], company: Company | None
) -> None:
    """Runs the steps; adds the names of those that are complete to `done`."""
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.stage.name}"
        if step.action == SKIP or _recovers(workdir, step):
            logging.info("%s: complete, skipped", title)
        elif step.action == RESTORE:
            workdir.restore(step.stage.name)
            logging.info("%s: complete, restored, since %s", title, step.reason)
        else:
            expected = f", about {format_seconds(step.estimate.seconds)}" if step.estimate.seconds else ""
            action = "resumes" if step.action == RESUME else "runs"
            logging.info("%s: %s, since %s%s", title, action, step.reason, expected)
            _check_space(step, workdir)
            seconds = run_stage(
                step.stage, config, workdir, step.identity, named=step.named, used=step.used,
                rescan=step.rescan, estimate=step.estimate, company=company,
            )  # fmt: skip
            logging.info("%s: done in %s", title, format_seconds(seconds))
        workdir.publish(step.stage.name)
        for name in step.stage.uses_up:
            workdir.drop_ahead(name)
        done.add(step.stage.name)


def _recovers(workdir: Workdir, step: Step) -> bool:
    """Whether the stage was killed when all was done but the renaming, which is now done."""
    marker = workdir.marker(step.stage.name) if workdir.recover(step.stage.name) else None
    return marker is not None and marker["key"] == step.key


def _check_space(step: Step, workdir: Workdir) -> None:
    """Stops before a stage that the disk has no room for."""
    needed = (step.estimate.disk_bytes or 0) - workdir.partial_bytes(step.stage.name)
    free = shutil.disk_usage(workdir.root).free
    if needed > free:
        raise RunError(
            f"Expected about {format_bytes(needed)} of free disk for stage {step.stage.name}; "
            f"{workdir.root} has {format_bytes(free)}. Free some, and the same command goes on from here."
        )


def run_stage(
    stage: Stage, config: Config, workdir: Workdir, identity: Identity, *, named: bool = False,
    used: Mapping[str, Identity] | None = None, rescan: bool = False, estimate: Estimate | None = None,
    company: Company | None = None,
) -> float:  # fmt: skip
    """Runs one stage and gives its directory the final name; returns the seconds it took.

    Args:
      named: whether the user asked for this stage by its name.
      used: what decides the results of the stages that it uses.
      rescan: whether the times of files are not to be trusted.
      estimate: what was planned, which the marker keeps beside what came.
      company: machines that take part.
    """
    start = time.monotonic()
    machine.reset_peak_memory()
    missing = find_missing(used or {}, workdir)
    read = (*stage.needs, *(name for name in stage.uses if name not in missing))
    needs = {name: workdir.completed(name)["results"] for name in read}
    out = workdir.open_partial(stage.name, identity.key, fingerprint(needs) if needs else "")
    made_by = {"version": identity.version, "settings": identity.settings, "inputs": identity.inputs}
    if company is not None:
        company.call(stage)
    metadata = stage.run(StageContext(config, workdir, out, named, missing, rescan, made_by))
    seconds = time.monotonic() - start
    marker = {
        **dataclasses.asdict(identity),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "planned": None if estimate is None else _planned(estimate),
        "versions": versions(),
        "needs": needs,
        "metadata": metadata,
    }
    workdir.finish(stage.name, marker)
    return seconds


def _planned(estimate: Estimate) -> dict[str, float | None]:
    return {
        "seconds": estimate.seconds,
        "disk_bytes": estimate.disk_bytes,
        "peak_memory_bytes": estimate.memory_bytes,
    }


def run_single(name: str, config: Config, workdir: Workdir, company: Company | None = None) -> None:
    """Runs one stage again whose inputs are complete.

    Raises:
      UsageError: a stage that it needs is not complete for these settings.
    """
    stage, identities = find_stage(name), identify_stages(config, workdir)
    markers = {other.name: workdir.marker(other.name) for other in plans.STAGES}
    for needed in stage.needs:
        arguments = find_stage(needed), identities[needed], markers[needed], markers, workdir
        reason = why_not_complete(*arguments)
        if reason is not None:
            raise UsageError(
                f"Expected stage {needed} to be complete before {name} runs; it is not, since {reason}. "
                "Run `urnet run` first."
            )
    executor_of(config)
    with lock(workdir):
        workdir.recover(name)
        used = {other: identities[other] for other in stage.uses}
        run_stage(stage, config, workdir, identities[name], named=True, used=used, company=company)
        workdir.publish(name)
        for other in stage.uses_up:
            workdir.drop_ahead(other)


def verify(workdir: Workdir) -> tuple[list[str], bool]:
    """Reads every file of the complete stages.

    Returns:
      A line a stage, and whether everything that is there is as it was written.
    """
    lines, sound = [], True
    for stage in plans.STAGES:
        marker = workdir.marker(stage.name)
        if marker is None:
            exists = workdir.path(stage.name).exists()
            sound = sound and not exists
            lines.append(f"{stage.name}: " + (f"damaged: {NO_MARKER}" if exists else "not complete"))
            continue
        damage = workdir.find_damage(stage.name, full=True)
        total = sum(entry["bytes"] for entry in marker["files"].values())
        state = f"damaged: {'; '.join(damage)}" if damage else "as it was written"
        lines.append(f"{stage.name}: {len(marker['files'])} files, {format_bytes(total)}, {state}")
        sound = sound and not damage
    return lines, sound


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": sys.version.split()[0], "urnet_tf": __version__, **found}


@contextlib.contextmanager
def lock(workdir: Workdir) -> Iterator[None]:
    """Holds the work directory for this process; the lock vanishes with the process."""
    try:
        workdir.root.mkdir(parents=True, exist_ok=True)
        file = open(workdir.root / ".lock", "w")
    except OSError as error:
        raise UsageError(f"Cannot write to the work directory {workdir.root}: {error.strerror}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"Another process is working in {workdir.root}; wait for it or choose another --workdir."
            ) from None
        with workdir.held():
            yield
