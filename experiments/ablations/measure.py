"""One unit of work: one row with one seed, from the configuration to its figures in a file.

    OUT/packs/<key>/        ingest and pack; rows that change neither share it, over all seeds
    OUT/features/<key>/     the features of frozen networks, likewise
    OUT/seed0-<key>/        baseline and extract; the later stages of a row replace those of the row before
    OUT/units/<row>.seed0.json, .npz    the figures of a unit, and its predictions; with a truth .scores.npz,
                            what its weights say of each training image and what is true of it

A unit is complete when its file holds the key of its settings: a killed run goes on behind the last
one. Rows with the same settings are computed once. The steps of a row are those of the network that is
measured; what its weights cost (folds, a second round) is in the seconds.
"""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np

from ablations import members, other_methods, rows as row_lists, views
from ablations.truth import read_marks
from urnet_tf import schema, store
from urnet_tf.config import load_config
from urnet_tf.costs.units import format_seconds
from urnet_tf.errors import RunError, UsageError
from urnet_tf.evaluation import metrics
from urnet_tf.flow import plan, runner
from urnet_tf.reweighting.combine import effective_sample_size
from urnet_tf.stages.effects import trains
from urnet_tf.stages.stage import StageContext

_WEIGHTS = tuple(name for name, dtype in schema.WEIGHT_COLUMNS.items() if dtype == "float32")
SCORES = ".scores.npz"  # beside a unit
_KEPT, _COPIED, _MEASURED = "kept", "copied", "measured"
_MEMBERS = "ensemble.members"
_ROW_STAGES = ("reweight", "train", "evaluate")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What all units have in common."""

    out: pathlib.Path
    settings: tuple[str, ...]  # of the command line, with ingest.path
    config_path: str | None = None
    truth_path: str | None = None  # for scoring, and for the oracle

    def load(self, settings: tuple[str, ...], seed: int):
        """The configuration of a row, and the harness's own settings."""
        plain, own = row_lists.split_settings(settings)
        return load_config(self.config_path, [*self.settings, f"seed={seed}", *plain]), own

    def unit_path(self, name: str, seed: int) -> pathlib.Path:
        return self.out / "units" / f"{name}.seed{seed}.json"


def run_units(
    experiment: Experiment, rows: dict[str, tuple[str, ...]], seeds: list[int],
    report: Callable[[str], None], finished: Callable[[int], None] = lambda seed: None,
) -> None:  # fmt: skip
    """Measures every row with every seed, seed by seed; a row that fails is noted and does not stop others.

    Args:
      rows: name to settings.
      report: receives the progress, a line at a time.
      finished: called after each seed.

    Raises:
      UsageError, RunError: the data cannot be read; rows whose budgets cannot be equal.
    """
    check_budgets(experiment, rows)
    _prepare_pack(experiment, experiment.load((), 0)[0])  # what fails here would fail in every row
    (experiment.out / "units").mkdir(exist_ok=True)
    left, spent, announced = len(rows) * len(seeds), [], False
    for seed in seeds:
        for name, settings in rows.items():
            start = time.monotonic()
            done = _complete(experiment, name, settings, seed)
            left -= 1
            if done == _KEPT:
                continue
            spent.append(time.monotonic() - start)
            if done == _MEASURED and not announced:
                most, announced = format_seconds((left + 1) * spent[-1]), True
                report(
                    f"{left + 1} units of {len(rows)} rows x {len(seeds)} seeds to go; the first, with what "
                    f"it needs, took {spent[-1]:.0f} s: at most about {most} together."
                )
            # The first of a seed pays for its baseline, so the mean and not the median.
            rest = format_seconds(left * float(np.mean(spent)))
            unit = store.read_json(experiment.unit_path(name, seed))
            what = f"failed: {unit['error']}" if "error" in unit else _headline(unit)
            report(f"seed {seed}, {name}: {what}; {spent[-1]:.0f} s; {left} left, about {rest}")
        finished(seed)


def check_budgets(experiment: Experiment, rows: dict[str, tuple[str, ...]]) -> None:
    """Refuses, before anything is computed, trained rows that would take unequal numbers of steps.

    Raises:
      UsageError: naming the rows.
    """
    budgets = {}
    for name, settings in rows.items():
        config, own = experiment.load(settings, 0)
        section = "baseline" if own.get("figures.model") == "baseline" else "train"
        if not trains(config, section):
            continue  # fitted to convergence: there are no steps
        fit = getattr(config, section).fit
        budgets.setdefault((fit.epochs, fit.batch_images), []).append(name)
    if len(budgets) > 1:
        counts = "; ".join(
            f"{epochs:g} epochs of {batch}: {', '.join(names)}" for (epochs, batch), names in budgets.items()
        )
        raise UsageError(
            f"Expected rows with equal numbers of steps; received {counts}. Set baseline.fit and train.fit "
            "alike."
        )


def read_units(experiment: Experiment, rows: dict, seeds: list[int]) -> dict[str, dict[int, dict]]:
    """Row to seed to unit, of the units that are there; their keys are not looked at."""
    found = {name: {seed: _read(experiment.unit_path(name, seed)) for seed in seeds} for name in rows}
    return {name: {seed: unit for seed, unit in units.items() if unit} for name, units in found.items()}


def has_labels(experiment: Experiment, split: str) -> bool:
    """Whether an image of the split has a label."""
    workdir = _prepare_pack(experiment, experiment.load((), 0)[0])
    table = store.read_table(workdir.path("pack") / "instances.parquet", ["split", "label"])
    known = metrics.labeled(store.column(table, "label"))
    return bool((known & (store.column(table, "split") == split)).any())


def open_baseline(experiment: Experiment, settings: tuple[str, ...], seed: int) -> StageContext:
    """What a stage behind `extract` reads for a row, its baseline trained and asked."""
    config = experiment.load(settings, seed)[0]
    workdir = _prepare_seed(experiment, config)
    return StageContext(config, workdir, workdir.root)


def _complete(experiment, name, settings, seed):
    """Sees to it that the unit's file is there: _KEPT from before, _COPIED from a like row, or _MEASURED."""
    path, done = experiment.unit_path(name, seed), _MEASURED
    try:
        config, own = _resolve(experiment, settings, seed)
        key = store.fingerprint(plan.stage_keys(config)["evaluate"], own)
        if _is_complete(_read(path), key, experiment.truth_path):
            return _KEPT
        others = (p for p in path.parent.glob(f"*.seed{seed}.json") if p != path)
        twin = next((p for p in others if _is_complete(_read(p), key, experiment.truth_path)), None)
        if twin is not None:
            for suffix in (".npz", SCORES):
                if twin.with_suffix(suffix).exists():
                    shutil.copyfile(twin.with_suffix(suffix), path.with_suffix(suffix))
            unit, done = _read(twin), _COPIED
        else:
            if _MEMBERS in own:
                unit, predictions = _measure_members(experiment, name, settings, seed, int(own[_MEMBERS]))
            else:
                unit, predictions = _measure(experiment, config, own, path.with_suffix(SCORES))
            with store.atomic_path(path.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **predictions)
        unit |= {"key": key, "row": name, "seed": seed, "settings": list(settings)}
    except Exception as error:  # one row's failure is a line of the table
        unit = {"row": name, "seed": seed, "settings": list(settings)}
        unit["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    store.write_json(path, unit)
    return done


def _measure_members(experiment, name, settings, seed, count):
    """The mean prediction of networks that are units of their own; what they cost together."""
    alone = tuple(setting for setting in settings if not setting.startswith(f"{_MEMBERS}="))
    units, files = [], []
    for own_seed in members.seeds_of(seed, count):
        _complete(experiment, f"{name}.member", alone, own_seed)
        path = experiment.unit_path(f"{name}.member", own_seed)
        units.append(_read(path))
        if "error" in units[-1]:
            raise RunError(f"member with seed {own_seed}: {units[-1]['error']}")
        files.append(dict(np.load(path.with_suffix(".npz"))))
    fused = members.fuse(files)
    seconds = {stage: sum(unit["seconds"][stage] for unit in units) for stage in units[0]["seconds"]}
    more = {"model": f"{count} members", "figures": _summarize(**fused), "seconds": seconds}
    return units[0] | more, fused


def _is_complete(unit, key, truth_path):
    return bool(unit) and unit.get("key") == key and (truth_path is None or unit["auroc"] is not None)


def _read(path):
    try:
        return store.read_json(path)
    except (OSError, ValueError):
        return None


def _resolve(experiment, settings, seed):
    """The configuration of a row; on fewer images it makes more passes, to as many steps."""
    config, own = experiment.load(settings, seed)
    images = _count_images(experiment, config)
    more = images["train"] / _count_images(experiment, experiment.load((), seed)[0])["train"]
    extra = []
    if more != 1.0:
        epochs = {"baseline": config.baseline.fit.epochs / more, "train": config.train.fit.epochs / more}
        extra = [f"{stage}.fit.epochs={value!r}" for stage, value in epochs.items()]
    # Where the validation list is wanted, predictions of both lists are written.
    split = next((split for split in (schema.VAL, schema.TEST) if images[split]), None)
    if split is None:
        raise RunError("There is no validation or test image, so nothing can be measured.")
    return experiment.load((*settings, *extra, f"evaluate.split={split}"), seed)


def _count_images(experiment, config):
    metadata = _prepare_pack(experiment, config).marker("pack")["metadata"]
    return {split: metadata[f"{split}_images"] for split in schema.SPLITS}


def _prepare_pack(experiment, config):
    """The work directory with the packed images that a configuration needs."""
    return _prepare(experiment, config, "packs", "pack")


def _prepare_seed(experiment, config):
    """The work directory with the baseline and its predictions that a configuration needs."""
    shared = dict.fromkeys(("ingest", "pack"), _prepare_pack(experiment, config))
    features = _prepare(experiment, config, "features", "features", shared)
    place = f"seed{config.seed}-{plan.stage_keys(config)['extract'][:12]}"
    return _prepare(experiment, config, place, "extract", shared | {"features": features}, keyed=False)


def _prepare(experiment, config, place, last, shared=None, keyed=True):
    """A work directory that is complete up to a stage; stages that others made before are linked."""
    key = plan.stage_keys(config)[last]
    workdir = store.Workdir(experiment.out / place / key[:12] if keyed else experiment.out / place)
    workdir.root.mkdir(parents=True, exist_ok=True)
    for stage, other in (shared or {}).items():
        if not workdir.path(stage).exists():
            workdir.path(stage).symlink_to(other.path(stage).resolve())
    _run_up_to(last, config, workdir, key)
    return workdir


def _run_up_to(last, config, workdir, key):
    marker = workdir.marker(last)
    if marker is None or marker["key"] != key:
        steps = plan.make_plan(config, workdir)
        names = [step.stage.name for step in steps]
        runner.run(config, workdir, steps[: names.index(last) + 1])


def _measure(experiment, config, own, scores):
    """Runs the stages that differ between rows; returns the unit and its predictions, writes its scores."""
    import keras

    method = {key: value for key, value in own.items() if key != "figures.model"}
    workdir, identities = _prepare_seed(experiment, config), plan.identify_stages(config)
    stages = {name: plan.find_stage(name) for name in _ROW_STAGES}
    stages |= other_methods.replace_stages(stages, method, experiment.truth_path)
    model, images = own.get("figures.model", "urnet"), _count_images(experiment, config)
    shared = views.are_shared(config, model, images[schema.VAL] + images[schema.TEST])
    if shared:
        del stages["evaluate"]
    with runner.lock(workdir):
        for name, stage in stages.items():
            workdir.recover(name)
            own_key = store.fingerprint(identities[name].key, method)
            identity, marker = dataclasses.replace(identities[name], key=own_key), workdir.marker(name)
            if marker is None or marker["key"] != own_key:
                runner.run_stage(stage, config, workdir, identity)
    keras.utils.clear_session()  # or every row would be slower than the one before
    if shared:
        key = identities["features"].key
        directory = experiment.out / "features" / key[:12]
        predictions = views.predict(config, workdir, directory, key, model)
    else:
        predictions = _read_predictions(workdir, model)
    return _read_results(
        experiment, workdir, model, ("baseline", "extract", *stages), predictions, scores
    ), predictions


def _read_results(experiment, workdir, model, stages, predictions, scores):
    markers = {name: workdir.marker(name) for name in stages}
    unit = {
        "model": model,
        "figures": _summarize(**predictions),
        "steps": markers["train"]["metadata"].get("steps"),  # none where a head was fitted to convergence
        "seconds": {name: marker["seconds"] for name, marker in markers.items()},
        "effective_share": None,
        "auroc": None if experiment.truth_path is None else {},
    }
    if model in ("baseline", "folds", "folds_rank"):
        unit["steps"] = store.read_json(workdir.path("baseline") / "history_full.json")[-1].get("step")
        return unit
    weights = store.read_table(workdir.path("train") / "weights.parquet")
    sample_weight = store.column(weights, "sample_weight")
    unit["effective_share"] = effective_sample_size(sample_weight) / len(sample_weight)
    if experiment.truth_path is not None:
        marks = read_marks(experiment.truth_path, weights.column("path").to_pylist())
        known = marks >= 0
        # A factor that is off is a column of ones and tells nothing; nor does attention nobody trained.
        columns = {name: store.column(weights, name)[known] for name in _WEIGHTS}
        if not markers["train"]["settings"].get("train.bag.loss_weight"):
            columns.pop("saliency")
        columns = {n: v for n, v in columns.items() if v.size and v.min() < v.max()}
        unit["auroc"] = {n: metrics.auroc(v, marks[known] == 1) for n, v in columns.items()}
        with store.atomic_path(scores) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, right=marks[known], **columns)
    return unit


def _read_predictions(workdir, model):
    path = workdir.path("evaluate") / f"predictions_{model}.npz"
    if not path.exists():
        raise RunError(f"The evaluation has no model {model}; with baseline.folds=1 there are no folds.")
    splits = store.column(store.read_table(workdir.path("pack") / "instances.parquet", ["split"]), "split")
    with np.load(path) as file:
        return {
            "labels": file["label"],
            "splits": splits[file["instance_id"]].astype(str),
            "top_ids": file["top_ids"],
            "top_probs": file["top_probs"],
            "num_classes": len(store.read_json(workdir.path("pack") / "classes.json")),
        }


def _summarize(labels, splits, top_ids, top_probs, num_classes):
    """Figures of each list that has labels, in the order in which they are preferred for a report."""
    figures = {}
    for split in (schema.TEST, schema.VAL):
        rows = (splits == split) & metrics.labeled(labels)
        if rows.any():
            figures[split] = metrics.summarize(labels[rows], top_ids[rows], top_probs[rows], int(num_classes))
    return figures


def _headline(unit):
    split, figures = next(iter(unit["figures"].items()))
    return f"{split} {100 * figures['balanced_top1']:.2f} / {100 * figures['balanced_top5']:.2f}"
