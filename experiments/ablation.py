r"""What each re-weighting is worth: the rows below, equal steps, several seeds, paired differences.

    python experiments/ablation.py --data CRAWL --config experiments/configs/webtiny.yaml \
        [--out runs/ablation] [--seeds 3] [--truth TRUTH.csv] [--rows baseline,paper,sound]

Images are packed and features extracted once; each seed has its own folds, heads, text map, k-means
and URNet. One (seed, row) is one unit of work: a killed run goes on behind the last one. The truth
(`path,label,true_label`) is read after everything is computed, to score the weight columns.
"""

import csv
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from absl import app, flags

from urnet_tf import runner, store
from urnet_tf.config import load_config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.metrics import auroc

_DATA = flags.DEFINE_string("data", None, "the crawl", required=True)
_OUT = flags.DEFINE_string("out", "runs/ablation", "directory for results")
_CONFIG = flags.DEFINE_string("config", None, "YAML configuration; model.mode must be frozen")
_SET = flags.DEFINE_multi_string("set", [], "section.key=value")
_SEEDS = flags.DEFINE_integer("seeds", 3, "how many seeds", lower_bound=1)
_TRUTH = flags.DEFINE_string("truth", None, "CSV with the truth, for scoring only")
_ROWS = flags.DEFINE_list("rows", ["baseline", "paper", "sound"], "which rows, of ROWS")

_OFF = {
    "class": "reweight.class_weight.enabled=false",
    "cluster": "reweight.cluster_weight.enabled=false",
    "confidence": "reweight.confidence.enabled=false",
    "self": "reweight.self_confidence.enabled=false",
    "bag": "train.bag.loss_weight=0",
    "label": "reweight.soft_label.enabled=false",
}
_STEPS = tuple(_OFF)


def _only(*kept):
    return [setting for step, setting in _OFF.items() if step not in kept]


# Name of a row to the settings that make it. "baseline" is the plain classifier of the baseline stage.
ROWS = {
    "baseline": None,
    "paper": ["reweight.fidelity=paper"],
    "sound": [],
    **{f"ladder_{'+'.join(_STEPS[: n + 1])}": _only(*_STEPS[: n + 1]) for n in range(len(_STEPS))},
    **{f"only_{step}": _only(step) for step in _STEPS},
    **{f"without_{step}": [setting] for step, setting in _OFF.items()},
}
_COLUMNS = ("class_weight", "cluster_weight", "confidence", "self_confidence", "saliency", "sample_weight")
_FIGURES = ("balanced_top1", "balanced_top5", "ece")


def main(_):
    unknown = set(_ROWS.value) - set(ROWS)
    if unknown:
        raise UsageError(f"Unknown rows {sorted(unknown)}; known: {', '.join(ROWS)}.")
    out = pathlib.Path(_OUT.value)
    settings = [*_SET.value, f"ingest.path={json.dumps(_DATA.value, ensure_ascii=False)}"]
    first = _prepare(out / "seed0", load_config(_CONFIG.value, [*settings, "seed=0"]))
    for seed in range(_SEEDS.value):
        directory = out / f"seed{seed}"
        if seed:
            _share(first, directory, load_config(_CONFIG.value, [*settings, f"seed={seed}"]))
        for name in _ROWS.value:
            # "paper" compares with the paper's formulas on the same out-of-fold baseline.
            config = load_config(_CONFIG.value, [*settings, f"seed={seed}", *(ROWS[name] or [])])
            result = out / f"{name}.seed{seed}.json"
            key = store.fingerprint(runner.plain_setting(config, "reweight"), _figure_key(config))
            if result.exists() and store.read_json(result)["key"] == key:
                continue
            store.write_json(result, {"key": key, **_measure(config, store.Workdir(directory), ROWS[name])})
    results = {
        name: [store.read_json(out / f"{name}.seed{seed}.json") for seed in range(_SEEDS.value)]
        for name in _ROWS.value
    }
    table = _format(results)
    store.write_text(out / "ablation.md", table)
    print(table)


def _figure_key(config):
    names = ("baseline", "train", "evaluate", "model", "extract")
    return [runner.plain_setting(config, name) for name in names]


def _prepare(directory, config):
    """Runs everything up to the baseline for the first seed."""
    if config.model.mode != "frozen":
        raise UsageError("Expected model.mode=frozen; whole networks are another experiment.")
    workdir = store.Workdir(directory)
    steps = [
        s
        for s in runner.make_plan(config, workdir)
        if s.stage.name in ("ingest", "pack", "baseline", "extract")
    ]
    runner.run(config, workdir, steps)
    return workdir


def _share(first, directory, config):
    """Gives another seed the packed images and the cached features of the first one."""
    directory.mkdir(parents=True, exist_ok=True)
    for stage in ("ingest", "pack"):
        if not (directory / stage).exists():
            (directory / stage).symlink_to(first.path(stage).resolve())
    workdir, keys = store.Workdir(directory), runner.stage_keys(config)
    marker = workdir.marker("baseline")
    if marker is None or marker["key"] != keys["baseline"]:
        partial = workdir.open_partial("baseline", keys["baseline"])
        if not (partial / "units_features").exists():
            shutil.copyfile(first.path("baseline") / "features.npy", partial / "features.npy")
            shutil.copytree(first.path("baseline") / "units_features", partial / "units_features")
        runner.run_single("baseline", config, workdir)
    marker = workdir.marker("extract")
    if marker is None or marker["key"] != keys["extract"]:
        runner.run_single("extract", config, workdir)


def _measure(config, workdir, overrides):
    """Figures of one row and the AUROC of its weight columns."""
    for stage in ("reweight", "train", "evaluate"):
        runner.run_single(stage, config, workdir)
    metrics = store.read_json(workdir.path("evaluate") / "metrics.json")
    found = metrics["models"]["baseline" if overrides is None else "urnet"]
    facts = workdir.marker("reweight")["facts"]
    weights = store.read_table(workdir.path("train") / "weights.parquet")
    steps = workdir.marker("train")["facts"]["steps"]
    row = {"split": metrics["split"], "steps": steps, **{name: found[name] for name in _FIGURES}}
    if overrides is not None:
        row["effective_share"] = facts["effective_sample_size"] / facts["rows"]
        if _TRUTH.value:
            row["auroc"] = _auroc(weights)
    return row


def _auroc(weights):
    with open(_TRUTH.value, encoding="utf-8", errors="surrogateescape", newline="") as file:
        clean = {row["path"]: row["label"] == row["true_label"] for row in csv.DictReader(file)}
    positive = np.array([clean[path] for path in weights.column("path").to_pylist()])
    return {name: auroc(store.column(weights, name), positive) for name in _COLUMNS}


def _format(results):
    """A Markdown table: mean, standard deviation, paired difference to the first row with its spread."""
    names = list(results)
    split, steps = results[names[0]][0]["split"], results[names[0]][0]["steps"]
    seeds = len(results[names[0]])
    lines = [
        f"{seeds} seeds, {steps} steps in every row, {split} list, class-balanced, percent",
        "",
        f"| row | top-1 | top-5 | top-1 minus {names[0]} | top-5 minus {names[0]} | effective share |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = []
        for figure in ("balanced_top1", "balanced_top5"):
            cells.append(_mean_sd([100 * r[figure] for r in results[name]]))
        for figure in ("balanced_top1", "balanced_top5"):
            pairs = zip(results[name], results[names[0]], strict=True)
            cells.append(_mean_sd([100 * (a[figure] - b[figure]) for a, b in pairs], "+"))
        share = [r["effective_share"] for r in results[name] if "effective_share" in r]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {np.mean(share):.2f} |"
            if share
            else f"| {name} | {' | '.join(cells)} | 1.00 |"
        )
    scored = {name: rows for name, rows in results.items() if "auroc" in rows[0]}
    if scored:
        lines += [
            "",
            f"AUROC against the truth | {' | '.join(_COLUMNS)}",
            "|".join(["---"] * (1 + len(_COLUMNS))),
        ]
        for name, rows in scored.items():
            means = [np.mean([r["auroc"][column] for r in rows]) for column in _COLUMNS]
            lines.append(f"{name} | " + " | ".join(f"{m:.3f}" for m in means))
    return "\n".join(lines) + "\n"


def _mean_sd(values, sign=""):
    spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):{sign}.2f} ± {spread:.2f}"


if __name__ == "__main__":
    try:
        app.run(main)
    except UsageError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(1)
