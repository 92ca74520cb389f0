"""What will run, and why: the key of each stage, and what makes a stage incomplete.

The key of a stage is a hash of the settings that it depends on and that have an effect, of what it reads
from outside and of the keys of the stages that it needs. A stage is complete when its directory carries the
same key, its files are as they were written, and what it needs has the results that it was made from.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from urnet_tf.config import Config
from urnet_tf.errors import UsageError
from urnet_tf.stages import STAGES as STAGES  # the runner looks here, where tests put others
from urnet_tf.stages.effects import effective_settings
from urnet_tf.stages.settings import say_unknown
from urnet_tf.stages.stage import Estimate, PlanContext, Stage
from urnet_tf.store import MARKER, Workdir, fingerprint

SKIP, RUN, RESUME, RESTORE = "skip", "run", "resume", "restore"


_SHOWN_CHANGES = 3
# Measured by experiments/benchmarks/bench_plan.py.
_START_SECONDS = 6.0  # to import TensorFlow and Keras
_KEPT_SHARE, _MOST_KEPT_BYTES = 0.8, 25 * 10**8  # of a stage's memory, that its process still holds later


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
    named: bool = False  # whether that is since the user named it
    used: Mapping[str, Identity] = dataclasses.field(default_factory=dict)  # of the stages that it uses
    rescan: bool = False  # whether the times of files are not to be trusted

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
    only: Collection[str] | None = None,
) -> list[Step]:
    """Says for each stage whether it will be skipped, run, or resumed, why, and what it will cost.

    Args:
      first: this stage and what needs it run again even when they are complete.
      rescan: look at the contents of the images, too, where names, sizes and times are as they were.
      again: stages that run again even when they are complete.
      only: the stages that are planned, and with each those that it needs; None = all.

    Raises:
      UsageError: `first` is no stage of the plan, or the input cannot be found.
    """
    if first is not None:
        _check_named(first, only)
    steps = _decide(config, workdir, first, rescan, again, only)
    actions = {step.stage.name: step.action for step in steps}
    if not {RUN, RESUME}.intersection(actions.values()):
        return steps
    metadata = gather_plan_context(config, workdir, lists=actions.get("ingest") in (RUN, RESUME))
    return _in_one_process([_estimated(config, workdir, step, metadata) for step in steps])


def _in_one_process(steps: list[Step]) -> list[Step]:
    """The steps as they cost one after the other: TensorFlow starts once, memory is not given back."""
    found, started, held = [], False, 0
    for step in steps:
        cost = step.estimate
        if step.action in (RUN, RESUME) and cost.seconds is not None:
            starts = step.stage.starts_tensorflow and not started and cost.seconds > 0
            started = started or starts
            cost = dataclasses.replace(cost, seconds=cost.seconds + _START_SECONDS * starts)
        if step.action in (RUN, RESUME) and cost.memory_bytes is not None:
            held = max(held, min(int(_KEPT_SHARE * cost.memory_bytes), _MOST_KEPT_BYTES))
            cost = dataclasses.replace(cost, memory_bytes=max(held, cost.memory_bytes))
        found.append(dataclasses.replace(step, estimate=cost))
    return found


def _decide(
    config: Config,
    workdir: Workdir,
    first: str | None,
    rescan: bool,
    again: Collection[str],
    only: Collection[str] | None,
) -> list[Step]:
    """The steps without their costs."""
    identities = identify_stages(config, workdir)
    steps: list[Step] = []
    in_effect: dict[str, dict | None] = {}  # the markers of what later stages will read; None = to be made
    for stage in STAGES:
        identity, marker = identities[stage.name], workdir.marker(stage.name)
        if only is not None and stage.name not in only:
            in_effect[stage.name] = (
                {} if why_not_complete(stage, identity, marker, in_effect, workdir) else marker
            )
            continue
        made = [name for name in (*stage.needs, *stage.uses) if in_effect[name] is None]
        reason: str | None
        if stage.name == first:
            reason = "--from names it"
        elif made:
            reason = f"{made[-1]} runs"
        elif stage.name in again:
            reason = "it had to run again"
        else:
            reason = why_not_complete(stage, identity, marker, in_effect, workdir)
            if reason is None and rescan:
                reason = stage.rescan(config, workdir)
        action = SKIP
        if reason is not None:
            kept = workdir.previous_marker(stage.name)
            fits = stage.name != first and not made and _fits(stage, identity, kept, in_effect)
            action, marker = (RESTORE, kept) if fits else (_begin(stage, identity, workdir), None)
        in_effect[stage.name] = marker
        used = {name: identities[name] for name in stage.uses}
        told = reason or "", bool(made), stage.name == first
        steps.append(Step(stage, action, identity, Estimate(), *told, used, rescan))
    return steps


def _begin(stage: Stage, identity: Identity, workdir: Workdir) -> str:
    return RESUME if workdir.holds_partial(stage.name, identity.key) else RUN


def _check_named(first: str, only: Collection[str] | None) -> None:
    find_stage(first)
    if only is not None and first not in only:
        planned = ", ".join(stage.name for stage in STAGES if stage.name in only)
        raise UsageError(f"Expected --from with a stage that runs here ({planned}); received {first!r}.")


def with_needs(name: str) -> set[str]:
    """A stage and all that it needs, directly or not."""
    return {name}.union(*map(with_needs, find_stage(name).needs))


def find_missing(used: Mapping[str, Identity], workdir: Workdir) -> dict[str, str]:
    """Those of the used stages that are not complete, and why, a clause each."""
    markers = {stage.name: workdir.marker(stage.name) for stage in STAGES}
    found = {}
    for name, identity in used.items():
        reason = why_not_complete(find_stage(name), identity, markers[name], markers, workdir)
        if reason is not None:
            found[name] = reason
    return found


def _estimated(config: Config, workdir: Workdir, step: Step, metadata: PlanContext) -> Step:
    """A step with its cost, and with what is new in the crawl among its reasons."""
    if step.action not in (RUN, RESUME):
        return step
    before, identity = workdir.marker(step.stage.name), step.identity
    reuses = before is not None and not step.named and all(
        before.get(key) == getattr(identity, key) for key in ("version", "settings", "inputs")
    )  # fmt: skip
    estimate = step.stage.estimate(config, dataclasses.replace(metadata, reuses=reuses))
    changes = f": {metadata.changes}" if metadata.changes and step.stage.name == "ingest" else ""
    return dataclasses.replace(
        step, estimate=say_unknown(config, step.stage.name, estimate), reason=step.reason + changes
    )


def identify_stages(config: Config, workdir: Workdir | None = None) -> dict[str, Identity]:
    """What decides the results of each stage.

    Args:
      workdir: where something may lie that is read, like judgements; None = nothing does.

    Raises:
      UsageError: something that is read from outside cannot be found.
    """
    found: dict[str, Identity] = {}
    for stage in STAGES:
        keys = stage.depends_on if stage.applies(config) else ()
        settings, inputs = effective_settings(config, keys), stage.inputs(config)
        if workdir is not None:
            inputs |= stage.inputs_of_workdir(config, workdir.root)
        needed = {name: found[name].key for name in (*stage.needs, *stage.uses)}
        key = fingerprint(stage.name, stage.version, settings, inputs, needed)
        found[stage.name] = Identity(key, stage.version, settings, inputs)
    return found


def stage_keys(config: Config, workdir: Workdir | None = None) -> dict[str, str]:
    """For each stage the hash of everything that decides what it writes."""
    return {name: identity.key for name, identity in identify_stages(config, workdir).items()}


NOT_YET = "it was not run yet"


NO_MARKER = f"its {MARKER} is missing or was changed"


def why_not_complete(
    stage: Stage,
    identity: Identity,
    marker: dict[str, Any] | None,
    in_effect: dict[str, Any],
    workdir: Workdir,
) -> str | None:
    """Why a stage has to run although what it needs is complete: a clause; None where it is complete."""
    if marker is None:
        return NO_MARKER if workdir.path(stage.name).exists() else NOT_YET
    if marker["key"] != identity.key:
        return _changes(marker, identity)
    damage = workdir.find_damage(stage.name)
    if damage:
        return f"it is damaged: {damage[0]}" + (f" (and {len(damage) - 1} more)" if len(damage) > 1 else "")
    for name in stage.needs:
        if not in_effect[name] or in_effect[name]["results"] != marker["needs"].get(name):
            return f"{name} has other results since"
    for name in stage.uses:
        before, now = marker["needs"].get(name), (in_effect[name] or {}).get("results")
        if before != now:
            return f"{name} {'is complete' if before is None else 'has other results'} since"
    return None


def _fits(stage: Stage, identity: Identity, marker: dict[str, Any] | None, in_effect: dict[str, Any]) -> bool:
    """Whether results that were kept are those that the stage would write again."""
    return (
        marker is not None
        and marker["key"] == identity.key
        and all(
            in_effect[name].get("results") == marker["needs"].get(name)
            for name in (*stage.needs, *stage.uses)
        )
    )


def _changes(marker: dict[str, Any], identity: Identity) -> str:
    """What differs from when a stage ran: a clause."""
    before, now = marker["settings"], identity.settings
    changes = []
    for key in sorted({*before, *now}, key=lambda key: (key not in before or key not in now, key)):
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


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def find_stage(name: str) -> Stage:
    """The stage of that name; UsageError when there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise UsageError(f"Expected a stage ({', '.join(s.name for s in STAGES)}); received {name!r}.")


def gather_plan_context(config: Config, workdir: Workdir, lists: bool) -> PlanContext:
    """What is known of the data: from complete stages or, where ingest `lists` it anew, from the crawl."""
    markers = [] if lists else [workdir.marker(name) for name in ("pack", "ingest")]
    for marker in filter(None, markers):
        metadata = marker["metadata"]
        return PlanContext(
            images=metadata["images"],
            train_images=metadata["train_images"],
            num_classes=metadata["num_classes"],
            bytes_per_image=metadata["bytes"] / max(1, metadata["images"]),
            new_images=0,
        )
    from urnet_tf.flow.survey import survey_crawl

    return dataclasses.replace(survey_crawl(config, workdir), free_bytes=workdir.free_bytes())
