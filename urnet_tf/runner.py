"""Plans and runs the stages: what is complete is skipped, what was killed goes on.

The key of a stage is a hash of the settings that it depends on, of what it reads from outside and
of the keys of the stages that it needs. A stage whose directory carries the same key is complete.
"""

import contextlib
import dataclasses
import fcntl
import resource
import sys
import time
from importlib import metadata

import yaml
from absl import logging

from urnet_tf import __version__, config as config_lib
from urnet_tf.config import Config
from urnet_tf.data import readers
from urnet_tf.errors import UsageError
from urnet_tf.stages import STAGES
from urnet_tf.stages.stage import Estimate, Facts, Stage, StageContext, count_backbone
from urnet_tf.store import Workdir, fingerprint, write_text

SKIP, RUN, RESUME = "skip", "run", "resume"
_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of a plan."""

    stage: Stage
    action: str  # SKIP, RUN or RESUME
    key: str
    estimate: Estimate


def make_plan(config: Config, workdir: Workdir, first: str | None = None) -> list[Step]:
    """Says for each stage whether it will be skipped, run, or resumed, and what it will cost.

    Args:
      first: this stage and what needs it run again even when they are complete.

    Raises:
      UsageError: `first` is no stage, or the input cannot be found.
    """
    if first is not None:
        find_stage(first)
    keys, again, steps = stage_keys(config), set(), []
    facts = gather_facts(config, workdir)
    for stage in STAGES:
        marker = workdir.marker(stage.name)
        complete = marker is not None and marker["key"] == keys[stage.name]
        if stage.name == first or again & set(stage.needs):
            again.add(stage.name)
            complete = False
        if complete:
            action, estimate = SKIP, Estimate()
        else:
            action = RESUME if workdir.holds_partial(stage.name, keys[stage.name]) else RUN
            estimate = stage.estimate(config, facts)
        steps.append(Step(stage, action, keys[stage.name], estimate))
    return steps


def run(config: Config, workdir: Workdir, steps: list[Step]) -> None:
    """Runs the steps of a plan in order.

    Raises:
      UsageError: another process works in this directory.
      Exception: whatever a stage raises; what it had finished stays for the next call.
    """
    with lock(workdir):
        write_text(workdir.root / "config.yaml", yaml.safe_dump(config_lib.to_dict(config), sort_keys=False))
        for number, step in enumerate(steps, 1):
            title = f"[{number}/{len(steps)}] {step.stage.name}"
            if step.action == SKIP or _recovers(workdir, step):
                logging.info("%s: complete, skipped", title)
                continue
            expected = f", about {format_seconds(step.estimate.seconds)}" if step.estimate.seconds else ""
            logging.info("%s: %s%s", title, "resumes" if step.action == RESUME else "runs", expected)
            seconds = run_stage(step.stage, config, workdir, step.key)
            logging.info("%s: done in %s", title, format_seconds(seconds))


def _recovers(workdir, step):
    """Whether the stage was killed when all was done but the renaming, which is now done."""
    return workdir.recover(step.stage.name) and workdir.marker(step.stage.name)["key"] == step.key


def run_stage(stage: Stage, config: Config, workdir: Workdir, key: str) -> float:
    """Runs one stage and gives its directory the final name; returns the seconds it took."""
    start = time.monotonic()
    out = workdir.open_partial(stage.name, key)
    facts = stage.run(StageContext(config, workdir, out))
    seconds = time.monotonic() - start
    marker = {
        "key": key,
        "seconds": round(seconds, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions(),
        "settings": {name: plain_setting(config, name) for name in stage.depends_on},
        "facts": facts,
    }
    workdir.finish(stage.name, marker)
    return seconds


def run_single(name: str, config: Config, workdir: Workdir) -> None:
    """Runs one stage again whose inputs are complete.

    Raises:
      UsageError: a stage that it needs is not complete for these settings.
    """
    stage, keys = find_stage(name), stage_keys(config)
    for needed in stage.needs:
        marker = workdir.marker(needed)
        if marker is None or marker["key"] != keys[needed]:
            state = "is missing" if marker is None else "was made with other settings"
            raise UsageError(f"Stage {name} needs stage {needed}, which {state}; run `urnet run` first.")
    with lock(workdir):
        workdir.recover(name)
        run_stage(stage, config, workdir, keys[name])


def stage_keys(config: Config) -> dict[str, str]:
    """For each stage the hash of everything that decides what it writes."""
    keys = {}
    for stage in STAGES:
        settings = {name: plain_setting(config, name) for name in stage.depends_on}
        needed = {name: keys[name] for name in stage.needs}
        keys[stage.name] = fingerprint(stage.name, stage.version, settings, stage.inputs(config), needed)
    return keys


def plain_setting(config: Config, name: str):
    """The value of a dotted configuration key as plain JSON."""
    value = config_lib.select(config, name)
    return config_lib.to_dict(value) if dataclasses.is_dataclass(value) else config_lib.plain_value(value)


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
    elif hasattr(config_lib.select(config, name), "batch_images"):
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
