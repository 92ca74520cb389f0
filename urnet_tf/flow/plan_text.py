"""A plan for a person: the network, the stages, what training holds, and warnings."""

from urnet_tf.config import Config
from urnet_tf.costs.units import format_bytes, format_count, format_seconds
from urnet_tf.flow.plan import NOT_YET, SKIP, Step
from urnet_tf.models.variants import LITES
from urnet_tf.stages.effects import ignored_settings
from urnet_tf.stages.judgements import format_judgements
from urnet_tf.stages.settings import count_backbone
from urnet_tf.stages.stage import PlanContext
from urnet_tf.store import Workdir


def format_plan(config: Config, steps: list[Step], workdir: Workdir) -> str:
    """The plan for a person: the network, the stages, what training holds, and warnings."""
    machine = PlanContext()
    lines = [
        f"Plan for {workdir.address or workdir.root} (input {config.ingest.path})",
        _format_network(config),
    ]
    lines.append(f"{'stage':<10}{'action':<8}{'rows':>12}{'time':>10}{'disk':>10}{'memory':>10}  note")
    for step in steps:
        e = step.estimate
        rows = "" if e.rows is None else f"{e.rows:,}"
        cells = (format_seconds(e.seconds), format_bytes(e.disk_bytes), format_bytes(e.memory_bytes))
        line = f"{step.stage.name:<10}{step.action:<8}{rows:>12}" + "".join(f"{c:>10}" for c in cells)
        lines.append(f"{line}  {e.note}".rstrip())
    # That one stage runs since another does, or for the first time, goes without saying.
    explained = [step for step in steps if step.reason and step.reason != NOT_YET and not step.follows]
    lines += [f"{step.stage.name} has to {step.action}, since {step.reason}." for step in explained]
    obeyed = any(step.stage.name == "ingest" and step.action == SKIP for step in steps)
    lines += format_judgements(config, workdir, obeyed=obeyed)
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
        unknown = [step.stage.name for step in todo if "not known" in step.estimate.note]
        without = f", without the time and memory of {', '.join(unknown)}" if unknown else ""
        lines.append(f"Together about {format_seconds(seconds)}, {cost}{without}.")
    else:
        lines.append("Everything is complete; nothing to do.")
    return "\n".join(lines)


def format_ignored(config: Config) -> list[str]:
    """A sentence for each setting that was changed and has no effect."""
    return [f"{key} has no effect here; it needs {needs}." for key, needs in ignored_settings(config).items()]


def _format_network(config: Config) -> str:
    network = count_backbone(config)
    if config.model.features is not None:
        place = config.model.features
        return f"Features: {network.feature_dim:,} an image, from {place}; only heads are trained"
    use = "trained as a whole" if config.model.mode == "finetune" else "frozen; only heads are trained"
    side = config.model.image_size_px
    if not network.parameters:
        return f"Network: {config.model.backbone} at {side} px, {use}; its cost is not known"
    own = LITES.get(config.model.backbone)
    made_for = f" (made for {own.image_size_px} px)" if own and own.image_size_px > side else ""
    return (
        f"Network: {network.name} at {side} px{made_for}, {use}: "
        f"{format_count(network.parameters)} parameters, {format_count(network.multiply_adds)} multiply-adds "
        f"({format_count(network.flops)} FLOP) per image forward"
    )


def _format_training(config: Config, steps: list[Step], gpus: int) -> list[str]:
    """What a device holds while it trains, a line for each number of devices that comes into question."""
    costs = [(step.stage.name, cost) for step in steps if (cost := step.estimate.training) is not None]
    if not costs:
        return []
    spread = config.runtime.strategy != "none"
    counts = sorted({1, 4, 8, gpus} - {0}) if spread else [1] * bool(gpus)
    found = f"{gpus} GPU(s) found" if gpus else "no GPU found"
    columns = ("weights", "gradients", "optimizer", "activations", "rest", "together")
    lines = [
        f"Memory of a device in training, {config.runtime.precision} ({found}):",
        f"{'stage':<10}{'heads':>9}{'classes':>9}  {'device':<9}{'images':>7}"
        + "".join(f"{name:>13}" for name in columns),
    ]
    for stage_name, cost in costs:
        for devices in [*([] if gpus else [0]), *counts]:
            together = cost.device_bytes(devices) if devices else cost.host_bytes()
            held = [cost.weights, cost.gradients, cost.optimizer, cost.activations(devices or 1)]
            cells = [format_bytes(count) for count in (*held, together - sum(held), together)]
            name = "CPU" if not devices else "GPU" if devices == 1 else f"{devices} GPUs"
            lines.append(
                f"{stage_name:<10}{format_count(cost.heads.parameters):>9}{cost.num_classes:>9,}  "
                f"{name:<9}{cost.images_at_once(devices or 1):>7}" + "".join(f"{cell:>13}" for cell in cells)
            )
    return lines


def _too_large(config: Config, step: Step, machine: PlanContext) -> str:
    """Says that a stage will not fit into this machine, and what would make it smaller."""
    name, hint = step.stage.name, ""
    if step.estimate.training is not None:
        hint = f" Lower {name}.fit.batch_images or raise {name}.fit.accumulate_steps."
    elif hasattr(getattr(config, name, None), "batch_images"):  # `features` has no section
        hint = f" Lower {name}.batch_images."
    needed, there = format_bytes(step.estimate.memory_bytes), format_bytes(machine.memory_bytes)
    return f"Warning: {name} needs about {needed} of memory; this machine has {there}.{hint}"
