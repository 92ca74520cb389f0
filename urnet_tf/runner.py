"""Plans and runs the stages: what is complete is skipped, what was killed goes on.

The key of a stage is a hash of the settings that it depends on and that have an effect, of what it reads
from outside and of the keys of the stages that it needs. A stage is complete when its directory carries the
same key, its files are as they were written, and what it needs has the results that it was made from.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import resource
import shutil
import sys
import time
from collections.abc import Collection
from importlib import metadata

import yaml
from absl import logging

from urnet_tf import __version__, config as config_lib
from urnet_tf.config import Config
from urnet_tf.config_effects import effective_settings, ignored_settings
from urnet_tf.data import readers
from urnet_tf.errors import RunError, UsageError
from urnet_tf.stages import STAGES
from urnet_tf.stages.stage import Estimate, Facts, Stage, StageContext, count_backbone
from urnet_tf.store import MARKER, DamagedResult, Workdir, fingerprint, write_text

SKIP, RUN, RESUME, RESTORE = "skip", "run", "resume", "restore"
_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")
_SHOWN_CHANGES = 3
_REPAIRS = 3  # of one stage in one run: a disk that damages a file more often is to be replaced


@dataclasses.dataclass(frozen=True)
class Identity:
    """What decides what a stage writes."""

    key: str  # a hash of the rest, of the stage's name and of the keys of what it needs
    version: int
    settings: dict  # dotted key → plain value, of those that have an effect
    inputs: dict  # what is read from outside, in words → fingerprint


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of a plan."""

    stage: Stage
    action: str  # SKIP, RUN, RESUME, or RESTORE: the results that were kept beside fit
    identity: Identity
    estimate: Estimate
    reason: str = ""  # why it is not skipped: a clause
    follows: bool = False  # whether that is since a stage that it needs runs

    @property
    def key(self) -> str:
        """The stage's key."""
        return self.identity.key


def make_plan(
    config: Config,
    workdir: Workdir,
    first: str | None = None,
    *,
    rescan: bool = False,
    again: Collection[str] = (),
) -> list[Step]:
    """Says for each stage whether it will be skipped, run, or resumed, why, and what it will cost.

    Args:
      first: this stage and what needs it run again even when they are complete.
      rescan: look at the contents of the images, too, where names, sizes and times are as they were.
      again: stages that run again even when they are complete.

    Raises:
      UsageError: `first` is no stage, or the input cannot be found.
    """
    if first is not None:
        find_stage(first)
    identities, facts = identify_stages(config), gather_facts(config, workdir)
    steps, in_effect = [], {}  # the markers of what later stages will read; None = to be made
    for stage in STAGES:
        identity, marker = identities[stage.name], workdir.marker(stage.name)
        made = [name for name in stage.needs if in_effect[name] is None]
        if stage.name == first:
            reason = "--from names it"
        elif made:
            reason = f"{made[-1]} runs"
        elif stage.name in again:
            reason = "it had to run again"
        else:
            reason = _why_not_complete(stage, identity, marker, in_effect, workdir)
            if reason is None and rescan:
                reason = stage.rescan(config, workdir)
        action, estimate = SKIP, Estimate()
        if reason is not None:
            kept = workdir.previous_marker(stage.name)
            if stage.name != first and not made and _fits(stage, identity, kept, in_effect):
                action, marker = RESTORE, kept
            else:
                action, marker = RUN, None
                if workdir.holds_partial(stage.name, identity.key):
                    action = RESUME
                estimate = stage.estimate(config, facts)
        in_effect[stage.name] = marker
        steps.append(Step(stage, action, identity, estimate, reason or "", follows=bool(made)))
    return steps


def run(config: Config, workdir: Workdir, steps: list[Step]) -> None:
    """Runs the steps of a plan in order; a stage that turns out to be damaged is made again.

    Raises:
      UsageError: another process works in this directory.
      RunError: the disk has too little room for a stage.
      Exception: whatever a stage raises; what it had finished stays for the next call.
    """
    names, repairs = [step.stage.name for step in steps], collections.Counter()
    with lock(workdir):
        write_text(workdir.root / "config.yaml", yaml.safe_dump(config_lib.to_dict(config), sort_keys=False))
        while True:
            done = set()
            try:
                _run_steps(config, workdir, steps, done)
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
                plan = make_plan(config, workdir, again=left)
                steps = [step for step in plan if step.stage.name in names]
        workdir.drop_previous(names)


def _run_steps(config, workdir, steps, done):
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
            seconds = run_stage(step.stage, config, workdir, step.identity)
            logging.info("%s: done in %s", title, format_seconds(seconds))
        done.add(step.stage.name)


def _recovers(workdir, step):
    """Whether the stage was killed when all was done but the renaming, which is now done."""
    marker = workdir.marker(step.stage.name) if workdir.recover(step.stage.name) else None
    return marker is not None and marker["key"] == step.key


def _check_space(step, workdir):
    """Stops before a stage that the disk has no room for."""
    needed = (step.estimate.disk_bytes or 0) - workdir.partial_bytes(step.stage.name)
    free = shutil.disk_usage(workdir.root).free
    if needed > free:
        raise RunError(
            f"Expected about {format_bytes(needed)} of free disk for stage {step.stage.name}; "
            f"{workdir.root} has {format_bytes(free)}. Free some, and the same command goes on from here."
        )


def run_stage(stage: Stage, config: Config, workdir: Workdir, identity: Identity) -> float:
    """Runs one stage and gives its directory the final name; returns the seconds it took."""
    start = time.monotonic()
    needs = {name: workdir.marker(name)["results"] for name in stage.needs}
    out = workdir.open_partial(stage.name, identity.key, fingerprint(needs) if needs else "")
    facts = stage.run(StageContext(config, workdir, out))
    seconds = time.monotonic() - start
    marker = {
        **dataclasses.asdict(identity),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions(),
        "needs": needs,
        "facts": facts,
    }
    workdir.finish(stage.name, marker)
    return seconds


def run_single(name: str, config: Config, workdir: Workdir) -> None:
    """Runs one stage again whose inputs are complete.

    Raises:
      UsageError: a stage that it needs is not complete for these settings.
    """
    stage, identities = find_stage(name), identify_stages(config)
    markers = {other.name: workdir.marker(other.name) for other in STAGES}
    for needed in stage.needs:
        arguments = find_stage(needed), identities[needed], markers[needed], markers, workdir
        reason = _why_not_complete(*arguments)
        if reason is not None:
            raise UsageError(
                f"Expected stage {needed} to be complete before {name} runs; it is not, since {reason}. "
                "Run `urnet run` first."
            )
    with lock(workdir):
        workdir.recover(name)
        run_stage(stage, config, workdir, identities[name])


def verify(workdir: Workdir) -> tuple[list[str], bool]:
    """Reads every file of the complete stages.

    Returns:
      A line a stage, and whether everything that is there is as it was written.
    """
    lines, sound = [], True
    for stage in STAGES:
        marker = workdir.marker(stage.name)
        if marker is None:
            exists = workdir.path(stage.name).exists()
            sound = sound and not exists
            lines.append(f"{stage.name}: " + (f"damaged: {_NO_MARKER}" if exists else "not complete"))
            continue
        damage = workdir.find_damage(stage.name, full=True)
        total = sum(entry["bytes"] for entry in marker["files"].values())
        state = f"damaged: {'; '.join(damage)}" if damage else "as it was written"
        lines.append(f"{stage.name}: {len(marker['files'])} files, {format_bytes(total)}, {state}")
        sound = sound and not damage
    return lines, sound


def identify_stages(config: Config) -> dict[str, Identity]:
    """What decides the results of each stage.

    Raises:
      UsageError: something that is read from outside cannot be found.
    """
    found = {}
    for stage in STAGES:
        keys = stage.depends_on if stage.applies(config) else ()
        settings, inputs = effective_settings(config, keys), stage.inputs(config)
        needed = {name: found[name].key for name in stage.needs}
        key = fingerprint(stage.name, stage.version, settings, inputs, needed)
        found[stage.name] = Identity(key, stage.version, settings, inputs)
    return found


def stage_keys(config: Config) -> dict[str, str]:
    """For each stage the hash of everything that decides what it writes."""
    return {name: identity.key for name, identity in identify_stages(config).items()}


_NOT_YET = "it was not run yet"
_NO_MARKER = f"its {MARKER} is missing or was changed"


def _why_not_complete(stage, identity, marker, in_effect, workdir):
    """Why a stage has to run although what it needs is complete: a clause; None where it is complete."""
    if marker is None:
        return _NO_MARKER if workdir.path(stage.name).exists() else _NOT_YET
    if marker["key"] != identity.key:
        return _changes(marker, identity)
    damage = workdir.find_damage(stage.name)
    if damage:
        return f"it is damaged: {damage[0]}" + (f" (and {len(damage) - 1} more)" if len(damage) > 1 else "")
    for name in stage.needs:
        if in_effect[name] is None or in_effect[name]["results"] != marker["needs"].get(name):
            return f"{name} has other results since"
    return None


def _fits(stage, identity, marker, in_effect):
    """Whether results that were kept are those that the stage would write again."""
    return (
        marker is not None
        and marker["key"] == identity.key
        and all(in_effect[name]["results"] == marker["needs"].get(name) for name in stage.needs)
    )


def _changes(marker, identity):
    """What differs from when a stage ran: a clause."""
    before, now = marker["settings"], identity.settings
    changes = []
    for key in sorted({*before, *now}):
        if key not in before:
            changes.append(f"{key} ({_shown(now[key])}) applies now")
        elif key not in now:
            changes.append(f"{key} applies no more")
        elif before[key] != now[key]:
            changes.append(f"{key} changed from {_shown(before[key])} to {_shown(now[key])}")
    for name in sorted({*marker["inputs"], *identity.inputs}):
        if marker["inputs"].get(name) != identity.inputs.get(name):
            counts = (str(side.get(name)).partition(" #")[0] for side in (marker["inputs"], identity.inputs))
            before_now = [count for count in counts if count.endswith(" files")]
            known = len(set(before_now)) == 2
            changes.append(f"{name} changed" + (" ({} before, {} now)".format(*before_now) if known else ""))
    if marker["version"] != identity.version:
        changes.append("this version of the program computes something else")
    left = len(changes) - _SHOWN_CHANGES
    more = f" and {left} more things changed" if left > 0 else ""
    return " and ".join(changes[:_SHOWN_CHANGES]) + more or "what it needs changed"


def _shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def find_stage(name: str) -> Stage:
    """The stage of that name; UsageError when there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise UsageError(f"Expected a stage ({', '.join(s.name for s in STAGES)}); received {name!r}.")


def gather_facts(config: Config, workdir: Workdir) -> Facts:
    """What is known of the data: from complete stages, else from a quick count of the input."""
    for name in ("pack", "ingest"):
        marker = workdir.marker(name)
        if marker:
            facts = marker["facts"]
            return Facts(
                images=facts["images"],
                train_images=facts["train_images"],
                num_classes=facts["num_classes"],
                bytes_per_image=facts["bytes"] / max(1, facts["images"]),
            )
    listed, settings = find_stage("ingest").estimate(config, Facts()).rows, config.ingest
    classes = readers.count_classes(settings.path, settings.kind, settings.first_classes)
    # Upper bounds: nothing was left out yet.
    return Facts(images=listed, train_images=listed, num_classes=classes)


def format_plan(config: Config, steps: list[Step], workdir: Workdir) -> str:
    """The plan for a person: the network, the stages, what training holds, and warnings."""
    machine = Facts()
    lines = [f"Plan for {workdir.root} (input {config.ingest.path})", _format_network(config)]
    lines.append(f"{'stage':<10}{'action':<8}{'rows':>12}{'time':>10}{'disk':>10}{'memory':>10}  note")
    for step in steps:
        e = step.estimate
        rows = "" if e.rows is None else f"{e.rows:,}"
        cells = (format_seconds(e.seconds), format_bytes(e.disk_bytes), format_bytes(e.memory_bytes))
        line = f"{step.stage.name:<10}{step.action:<8}{rows:>12}" + "".join(f"{c:>10}" for c in cells)
        lines.append(f"{line}  {e.note}".rstrip())
    # That one stage runs since another does, or for the first time, goes without saying.
    told = [step for step in steps if step.reason and step.reason != _NOT_YET and not step.follows]
    lines += [f"{step.stage.name} has to {step.action}, since {step.reason}." for step in told]
    lines += [f"Warning: {sentence}" for sentence in format_ignored(config)]
    todo = [s for s in steps if s.action != SKIP]
    lines += _format_training(config, todo, machine.gpus)
    too_large = [s for s in todo if (s.estimate.memory_bytes or 0) > machine.memory_bytes]
    lines += [_too_large(config, step, machine) for step in too_large]
    if todo and machine.gpus:
        lines.append("Times on GPUs are rough: none was measured.")
    seconds = sum(s.estimate.seconds or 0 for s in todo)
    disk = sum(s.estimate.disk_bytes or 0 for s in todo)
    memory = max((s.estimate.memory_bytes or 0 for s in todo), default=0)
    if todo:
        cost = f"{format_bytes(disk)} of disk, {format_bytes(memory)} of memory"
        lines.append(f"Together about {format_seconds(seconds)}, {cost}.")
    else:
        lines.append("Everything is complete; nothing to do.")
    return "\n".join(lines)


def format_ignored(config: Config) -> list[str]:
    """A sentence for each setting that was changed and has no effect."""
    return [f"{key} has no effect here; it needs {needs}." for key, needs in ignored_settings(config).items()]


def _format_network(config):
    network = count_backbone(config)
    use = "trained as a whole" if config.model.mode == "finetune" else "frozen; only heads are trained"
    return (
        f"Network: {network.name} at {config.model.image_size_px} px, {use}: "
        f"{format_count(network.parameters)} parameters, {format_count(network.multiply_adds)} multiply-adds "
        f"({format_count(network.flops)} FLOP) per image forward"
    )


def _format_training(config, steps, gpus):
    """What a device holds while it trains, a line for each number of devices that comes into question."""
    steps = [step for step in steps if step.estimate.training is not None]
    if not steps:
        return []
    mirrored = config.runtime.strategy == "mirrored"
    counts = sorted({1, 4, 8, gpus} - {0}) if mirrored else [1] * bool(gpus)
    found = f"{gpus} GPU(s) found" if gpus else "no GPU found"
    columns = ("weights", "gradients", "optimizer", "activations", "rest", "together")
    lines = [
        f"Memory of a device in training, {config.runtime.precision} ({found}):",
        f"{'stage':<10}{'heads':>9}{'classes':>9}  {'device':<9}{'images':>7}"
        + "".join(f"{name:>13}" for name in columns),
    ]
    for step in steps:
        cost = step.estimate.training
        for devices in [*([] if gpus else [0]), *counts]:
            together = cost.device_bytes(devices) if devices else cost.host_bytes()
            held = [cost.weights, cost.gradients, cost.optimizer, cost.activations(devices or 1)]
            cells = [format_bytes(count) for count in (*held, together - sum(held), together)]
            name = "CPU" if not devices else "GPU" if devices == 1 else f"{devices} GPUs"
            lines.append(
                f"{step.stage.name:<10}{format_count(cost.heads.parameters):>9}{cost.num_classes:>9,}  "
                f"{name:<9}{cost.images_at_once(devices or 1):>7}" + "".join(f"{cell:>13}" for cell in cells)
            )
    return lines


def _too_large(config, step, machine):
    """Says that a stage will not fit into this machine, and what would make it smaller."""
    name, hint = step.stage.name, ""
    if step.estimate.training is not None:
        hint = f" Lower {name}.fit.batch_images or raise {name}.fit.accumulate_steps."
    elif hasattr(getattr(config, name, None), "batch_images"):  # `features` has no section
        hint = f" Lower {name}.batch_images."
    needed, there = format_bytes(step.estimate.memory_bytes), format_bytes(machine.memory_bytes)
    return f"Warning: {name} needs about {needed} of memory; this machine has {there}.{hint}"


def format_seconds(seconds: float | None) -> str:
    """Seconds as `45 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_bytes(count: float | None) -> str:
    """Bytes as `12 MB`, `3.4 GB`."""
    if count is None:
        return ""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def format_count(count: float) -> str:
    """Counts as `950`, `86.7 M`, `16.4 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": sys.version.split()[0], "urnet_tf": __version__, **found}


@contextlib.contextmanager
def lock(workdir: Workdir):
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
        yield
