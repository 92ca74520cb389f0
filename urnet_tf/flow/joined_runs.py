"""Joins finished runs into one ensemble: `urnet ensemble RUN RUN ...`.

In: work directories with the same classes and the same held images (validation and test). Out, in a work
directory of its own:

    evaluate/    metrics.json, predictions_<model>.npz, submission_ensemble.txt
    export/      the ensemble as one model, where all members see images of one preparation

    run1, run2 ...    the URNets of one run, mean probability
    ensemble          the URNets of all runs, mean probability; ensemble_rank: rank fusion

Each run looks at the images in its own way (network, image size, views). Fold models and baselines, which
were trained without weights, take no part. What is complete is skipped, and a killed call goes on.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from absl import logging

from urnet_tf import config as config_lib
from urnet_tf.config import Config, count_members
from urnet_tf.config.file import override
from urnet_tf.costs.units import format_bytes, format_seconds
from urnet_tf.errors import UsageError
from urnet_tf.flow import runner
from urnet_tf.flow.plan import Identity
from urnet_tf.schema import TRAIN
from urnet_tf.stages import evaluate, export
from urnet_tf.stages.effects import effective_settings
from urnet_tf.stages.held_images import describe_labels, drawn_splits, held_rows
from urnet_tf.stages.members import build_member_predictor, member_directory
from urnet_tf.stages.settings import BACKBONE_SETTINGS, open_backbone
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import Workdir, column, fingerprint, read_json, read_table, remove, write_json, write_text

if TYPE_CHECKING:
    import keras

_PART_IMAGES = 1024  # the unit of resuming, which all members see before the next
_NEEDED = ("ingest", "pack", "reweight", "train")
_OWN_SETTINGS = ("export.", "evaluate.split", "evaluate.ece_bins")  # what --set may change
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    context: StageContext  # reads from it; `out` is where the joint results go
    held: dict[str, np.ndarray]  # split, label and content_hash of the images that are not trained on
    ids: np.ndarray  # int64, of these in this run
    classes: list[str]

    @property
    def config(self) -> Config:
        """What the run was made with."""
        return self.context.config

    @property
    def root(self) -> pathlib.Path:
        """Its work directory."""
        return self.context.workdir.root


def join_runs(
    directories: Sequence[str | os.PathLike], out: str | os.PathLike, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Predicts the held images with all runs together, and exports the ensemble.

    Args:
      directories: at least two work directories of finished runs.
      out: the work directory of the results.
      overrides: "section.key=value" of `export.*`, `evaluate.split` and `evaluate.ece_bins`; else the first
        run's settings count.

    Returns:
      `metrics` as in metrics.json, and `export`, the metadata of the export, or `no_export`, a clause that
      says why there is none.

    Raises:
      UsageError: runs that cannot be joined, or a directory that cannot be used.
      RunError: no file of the export passed.
    """
    runs, config = open_runs(directories, out, overrides)
    workdir = Workdir(out, hashes=config.runtime.verify_hashes)
    reason = why_no_export(runs)
    with runner.lock(workdir):
        write_text(workdir.root / "config.yaml", yaml.safe_dump(config_lib.to_dict(config), sort_keys=False))
        joined = {str(run.root): _identity_of(run) for run in runs}
        _run_stage("evaluate", lambda context: _evaluate(context, runs), config, workdir, joined)
        if reason is None:
            _run_stage("export", lambda context: _export(context, runs), config, workdir, joined)
        elif workdir.path("export").exists():  # of other runs
            remove(workdir.path("export"), workdir.root)
        workdir.drop_previous(("evaluate", "export"))
    metrics = read_json(workdir.checked("evaluate", "metrics.json"))
    if reason is not None:
        return {"metrics": metrics, "no_export": reason}
    return {"metrics": metrics, "export": workdir.completed("export")["metadata"]}


def open_runs(
    directories: Sequence[str | os.PathLike], out: str | os.PathLike, overrides: Sequence[str] = ()
) -> tuple[list[Run], Config]:
    """The runs, checked, and the configuration of their ensemble; see `join_runs`."""
    if len({os.path.realpath(directory) for directory in directories}) < max(2, len(directories)):
        raise UsageError(
            f"Expected at least two different work directories after `ensemble`; received "
            f"{' and '.join(map(str, directories)) or 'none'}."
        )
    out = pathlib.Path(out)
    if (out / "pack").exists() or os.path.realpath(out) in map(os.path.realpath, directories):
        raise UsageError(
            f"Expected a work directory of its own for the ensemble; {out} is that of a run. Give another "
            "--workdir."
        )
    runs = [_open_run(pathlib.Path(directory), out) for directory in directories]
    for run in runs[1:]:
        _check_alike(runs[0], run)
    foreign = [text for text in overrides if not text.startswith(_OWN_SETTINGS)]
    if foreign:
        raise UsageError(
            f"Expected --set of export.*, evaluate.split or evaluate.ece_bins with `ensemble`; received "
            f"{foreign[0]}. The runs keep the settings that they were made with."
        )
    tree = config_lib.to_dict(runs[0].config)
    members = sum(count_members(run.config) for run in runs)
    config = config_lib.from_dict(override(tree, overrides))
    # For the model card: what is exported.
    train = dataclasses.replace(config.train, members=members)
    exported = dataclasses.replace(config.export, model="ensemble")
    return runs, dataclasses.replace(config, train=train, export=exported)


def why_no_export(runs: Sequence[Run]) -> str | None:
    """A clause where the members cannot be one model: it would need one preparation of images."""
    for run in runs:
        if run.config.model.features is not None:
            return f"{run.root} rests on features of your own (model.features), not on images"
    first, *others = (export.preparation_of(run.config) for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        alike = dataclasses.replace(
            other, crops=first.crops, scales=first.scales, max_pixels=first.max_pixels
        )
        if alike != first:
            return (
                f"{runs[0].root} and {run.root} prepare images otherwise (sizes, crop_fraction), and "
                "one exported model has one preparation"
            )
    return None


def format_plan(runs: Sequence[Run], config: Config) -> str:
    """What joining will take, for a person."""
    lines = [f"{'run':<32}{'members':>9}{'images':>9}{'views':>7}{'time':>10}{'memory':>10}"]
    seconds, memory = 0.0, 0
    for run in runs:
        # Of `evaluate`, with the members that are joined and without the plain models.
        alone = dataclasses.replace(run.config, baseline=dataclasses.replace(run.config.baseline, folds=1))
        plan = PlanContext(images=len(run.ids), train_images=0, num_classes=len(run.classes))
        e = evaluate.estimate(alone, plan)
        seconds, memory = seconds + (e.seconds or 0), memory + (e.memory_bytes or 0)
        members, views = count_members(run.config), evaluate.count_views(run.config)
        lines.append(
            f"{str(run.root):<32}{members:>9}{len(run.ids):>9,}{views:>7}{format_seconds(e.seconds):>10}"
            f"{format_bytes(e.memory_bytes):>10}"
        )
    reason = why_no_export(runs)
    if reason is None:
        e = export.estimate(
            config, PlanContext(images=len(runs[0].ids), train_images=0, num_classes=len(runs[0].classes))
        )
        seconds, memory = seconds + (e.seconds or 0), max(memory, e.memory_bytes or 0)
        lines.append(f"Export: {format_seconds(e.seconds)}, {format_bytes(e.disk_bytes)} of disk.")
    else:
        lines.append(f"No export, since {reason}.")
    lines.append(f"Together about {format_seconds(seconds)}, {format_bytes(memory)} of memory.")
    return "\n".join(lines)


def _open_run(root: pathlib.Path, out: pathlib.Path) -> Run:
    if not root.is_dir():
        raise UsageError(f"Expected work directories of runs after `ensemble`; there is none at {root}.")
    try:
        tree = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = "has none" if isinstance(error, FileNotFoundError) else "has one that cannot be read"
        raise UsageError(f"Expected config.yaml of a run in {root}; it {problem}. Run `urnet run`.") from None
    try:
        config = config_lib.from_dict(tree)
    except UsageError as error:
        raise UsageError(f"Cannot use config.yaml of {root}: {error}") from None
    workdir = Workdir(root, hashes=config.runtime.verify_hashes)
    for name in (*_NEEDED, *(("features",) if config.model.mode == "frozen" else ())):
        marker = workdir.marker(name)
        if marker is None:
            raise UsageError(
                f"Expected a finished run in {root}; its stage {name} is not complete. Run `urnet run` there."
            )
        if name == "train" and marker["settings"] != _settings_of_training(config):
            raise UsageError(
                f"Expected the network of {root} to be that of its config.yaml; it was trained with other "
                "settings. Run `urnet run` there."
            )
    context = StageContext(config, workdir, out)
    table = read_table(context.path("pack", "instances.parquet"), ["split", "label", "content_hash"])
    ids = np.flatnonzero(column(table, "split") != TRAIN)
    held = {name: column(table, name)[ids] for name in ("split", "label", "content_hash")}
    classes = [entry["name"] for entry in read_json(context.path("pack", "classes.json"))]
    return Run(context, held, ids, classes)


def _settings_of_training(config: Config) -> dict[str, object]:
    from urnet_tf.stages.train import STAGE

    return effective_settings(config, STAGE.depends_on)


def _check_alike(first: Run, other: Run) -> None:
    """Whether two runs have the same classes and held images, in the same order.

    Raises:
      UsageError: they have not, and where they differ first.
    """
    told = f"Expected runs with the same %s; {first.root} has %s and {other.root} has %s."
    if len(first.classes) != len(other.classes):
        raise UsageError(told % ("classes", len(first.classes), len(other.classes)))
    for label, (mine, yours) in enumerate(zip(first.classes, other.classes, strict=True)):
        if mine != yours:
            raise UsageError(told % ("classes", f"{mine!r} as class {label}", repr(yours)))
    if len(first.ids) != len(other.ids):
        counts = f"{len(first.ids):,}", f"{len(other.ids):,}"
        raise UsageError(told % ("validation and test images", *counts))
    for name, what in (("split", "split"), ("content_hash", "contents"), ("label", "label")):
        differ = int((first.held[name] != other.held[name]).sum())
        if differ:
            raise UsageError(
                f"Expected runs with the same validation and test images; {differ:,} of {len(first.ids):,} "
                f"have another {what} in {other.root} than in {first.root}, in the order of the lists."
            )


def _identity_of(run: Run) -> str:
    """A hash of what of a run decides the joint results."""
    keys = ("evaluate", "model", "runtime.precision", "pack.short_side_px", "ingest.max_pixels")
    made = {name: run.context.workdir.completed(name)["results"] for name in ("pack", "train")}
    return fingerprint(effective_settings(run.config, keys), made)


def _run_stage(
    name: str, work: Callable[[StageContext], dict], config: Config, workdir: Workdir, joined: dict[str, str]
) -> None:
    """Makes a directory of results, or leaves it where it is complete."""
    settings = effective_settings(config, (name,))
    identity = Identity(fingerprint("ensemble", _VERSION, name, settings, joined), _VERSION, settings, joined)
    workdir.recover(name)
    marker = workdir.marker(name)
    if marker is not None and marker["key"] == identity.key and not workdir.find_damage(name):
        logging.info("%s: complete, skipped", name)
        return
    stage = Stage(name, (), (), work, lambda config, plan: Estimate())
    seconds = runner.run_stage(stage, config, workdir, identity)
    logging.info("%s: done in %s", name, format_seconds(seconds))


def _evaluate(context: StageContext, runs: Sequence[Run]) -> dict:
    """Stage `evaluate` of the ensemble."""
    out, first, settings = context.out, runs[0], context.config.evaluate
    columns = first.held["split"], first.held["label"]
    split, ids, wanted = held_rows(*columns, settings.split, drawn_splits(first.context))
    labels = first.held["label"][wanted]
    if not wanted.size:
        raise UsageError(f"Expected validation or test images; {first.root} has none.")
    groups = _groups([count_members(run.config) for run in runs])
    views = [evaluate.count_views(run.config) for run in runs]
    streams = [_stream_of(run) for run in runs]

    def stream(part: slice) -> Iterator[np.ndarray]:
        yield np.concatenate([of_run(wanted[part]) for of_run in streams])

    predictions, _ = evaluate.predict_parts(
        out / "parts", labels, groups, stream, part_size=_PART_IMAGES, views=max(views)
    )
    evaluate.write_predictions(out, predictions, first.ids[wanted], labels)
    measured = np.flatnonzero(labels[: len(ids)] >= 0)
    figures = evaluate.summarize(predictions, labels, measured, len(first.classes), settings.ece_bins)
    reader = dataclasses.replace(first.context, out=out)
    table = read_table(reader.path("pack", "instances.parquet"), ["split", "label", "rank", "path"])
    evaluate.write_submissions(reader, table, predictions, first.ids[wanted])
    told: dict[str, Any] = {"split": split, "num_classes": len(first.classes), "models": figures}
    told |= {
        "views": views,
        "runs": [str(run.root) for run in runs],
        **describe_labels(reader, split),
    }
    write_json(out / "metrics.json", told)
    shown = str(views[0]) if len(set(views)) == 1 else f"{min(views)} to {max(views)}"
    logging.info("%s", evaluate.format_figures(split, figures, shown, len(first.classes)))
    context.remove("parts")
    return told


def _groups(members: Sequence[int]) -> dict[str, tuple[list[int], str]]:
    """Model name → (numbers of its members, fusion)."""
    ends = np.cumsum(members)
    everyone = list(range(int(ends[-1])))
    groups = {
        f"run{number}": (everyone[end - count : end], "mean_probability")
        for number, (count, end) in enumerate(zip(members, map(int, ends), strict=True), 1)
    }
    return groups | {"ensemble": (everyone, "mean_probability"), "ensemble_rank": (everyone, "rank")}


def _stream_of(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """A function of numbers of held images to probabilities float32 [M, n, C] of the run's URNets."""
    cached = evaluate.uses_cached_features(run.config)
    predictor = build_member_predictor(run.context, cached)

    def probs_of(rows: np.ndarray) -> np.ndarray:
        blocks = evaluate.stream_probs(run.context, predictor, run.ids[rows], cached)
        return np.concatenate(list(blocks), axis=1)

    return probs_of


def _export(context: StageContext, runs: Sequence[Run]) -> dict:
    """Stage `export` of the ensemble, checked on the images of the first run."""
    reader = dataclasses.replace(runs[0].context, config=context.config, out=context.out)
    return export.write_export(reader, _build_model(runs), context.workdir.path("export"))


def _build_model(runs: Sequence[Run]) -> "keras.Model":
    """All URNets as one model; frozen backbones that are the same are computed once."""
    from urnet_tf.models.ensemble import build_ensemble

    backbones: dict[str, Any] = {}
    members = []
    for run in runs:
        backbone = None
        if run.config.model.mode == "frozen":
            seed = run.config.seed if run.config.model.weights is None else 0
            same = fingerprint(effective_settings(run.config, BACKBONE_SETTINGS), seed)
            backbone = backbones.setdefault(same, None) or open_backbone(run.config)
            backbones[same] = backbone
        places = map(member_directory, range(count_members(run.config)))
        members += [(backbone, export.load_instance(run.context, place)) for place in places]
    return build_ensemble(members)
