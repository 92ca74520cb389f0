r"""What an ensemble gains with its size: URNets that differ in their seed, on frozen features.

    python experiments/ensemble_sizes.py --crawl quickstart=runs/quickstart/crawl --crawl webtiny=WEBTINY \
        [--sizes 1,3,5,10,29] [--groups 2] [--out runs/ensemble_sizes] [--set section.key=value]

A crawl is given with the configuration that it is read by. Of each crawl GROUPS times as many URNets are
trained as the largest ensemble has (by steps: fitted heads are the same for every seed), all on one set of
weights; ensembles of a size are made of different ones, so that they are independent. Says mean and standard
deviation of the class-balanced accuracy over the ensembles of each size. Writes ensemble_sizes.json, .md and
.png. A killed call goes on when it is started again.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from absl import app, flags, logging

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.evaluation import ensemble, metrics
from urnet_tf.export.classifier import describe_machine
from urnet_tf.flow import plan, runner
from urnet_tf.stages import NAMES, evaluate
from urnet_tf.stages.members import build_member_predictor
from urnet_tf.stages.stage import StageContext

FIGURES = {"balanced_top1": "top-1", "balanced_top5": "top-5"}
_COLORS = {"mean_probability": "#1b6ca8", "rank": "#c0392b"}
_FUSION_NAMES = {"mean_probability": "mean of probabilities", "rank": "rank fusion"}


def define_flags():
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_multi_string("crawl", None, "configuration=crawl, may be repeated", required=True)
    flags.DEFINE_list("sizes", ["1", "3", "5", "10", "29"], "members of an ensemble")
    flags.DEFINE_integer("groups", 2, "ensembles of the largest size", lower_bound=1)
    flags.DEFINE_string("out", "runs/ensemble_sizes", "directory for results")
    flags.DEFINE_multi_string("set", [], "section.key=value, for all crawls")


def main(_):
    chosen = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    sizes = sorted({int(size) for size in chosen.sizes})
    out, measured = pathlib.Path(chosen.out), {}
    for crawl in chosen.crawl:
        name, separator, path = crawl.partition("=")
        if not separator:
            raise UsageError(f"Expected --crawl configuration=crawl; received {crawl!r}.")
        probs, labels, told = predict(name, path, chosen.groups * sizes[-1], out / name, chosen.set)
        print(f"{name}: {len(probs)} URNets, {len(labels)} {told['split']} images", flush=True)
        measured[name] = told | {"sizes": measure_sizes(probs, labels, sizes)}
    machine = describe_machine()
    store.write_json(out / "ensemble_sizes.json", {"machine": machine, "crawls": measured})
    table = format_table(measured, machine)
    store.write_text(out / "ensemble_sizes.md", table)
    draw(out / "ensemble_sizes.png", measured)
    print(table)


def predict(name, path, members, directory, overrides):
    """Trains the members; probabilities float32 [M, n, C] of labeled held images, their labels, the split."""
    data = json.dumps(path, ensure_ascii=False)
    settings = [*overrides, f"ingest.path={data}", "train.head=trained", f"train.members={members}"]
    config = load_config(name, settings)
    workdir = store.Workdir(directory)
    steps = plan.make_plan(config, workdir)[: NAMES.index("train") + 1]
    runner.run(config, workdir, steps)
    context = StageContext(config, workdir, directory / "unused")
    table = store.read_table(context.path("pack", "instances.parquet"), ["split", "label"])
    splits, labels = store.column(table, "split"), store.column(table, "label")
    split, ids, _ = evaluate.held_rows(splits, labels, config.evaluate.split)
    ids = ids[labels[ids] >= 0]
    if not ids.size:
        raise RunError(f"Expected validation or test images with labels in {path}; there are none.")
    cached = evaluate.uses_cached_features(config)
    predictor = build_member_predictor(context, cached)
    probs = np.concatenate(list(evaluate.stream_probs(context, predictor, ids, cached)), axis=1)
    return probs, labels[ids], {"split": split, "images": len(ids), "members": members}


def measure_sizes(probs, labels, sizes):
    """Size → fusion → figure → the values of independent ensembles, percent."""
    num_classes = probs.shape[2]
    found = {}
    for size in sizes:
        groups = [range(first, first + size) for first in range(0, len(probs) - size + 1, size)]
        found[size] = {fusion: {figure: [] for figure in FIGURES} for fusion in ensemble.FUSIONS}
        for fusion, values in found[size].items():
            for group in groups:
                top = metrics.top_k(ensemble.fuse(probs[list(group)], fusion), 5)
                told = metrics.summarize(labels, *top, num_classes)
                for figure in FIGURES:
                    values[figure].append(100 * told[figure])
    return found


def spread(values):
    """The standard deviation over ensembles; NaN for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def format_table(measured, machine):
    """The table as Markdown."""
    lines = [f"On {machine['processor']}, {machine['cores']} cores.", ""]
    heads = [f"{_FUSION_NAMES[fusion]}, {FIGURES[figure]}" for fusion in _FUSION_NAMES for figure in FIGURES]
    lines += ["| crawl | members | ensembles | " + " | ".join(heads) + " |"]
    lines += ["|---" * (3 + len(heads)) + "|"]
    for name, told in measured.items():
        for size, fusions in told["sizes"].items():
            cells = []
            for fusion in _FUSION_NAMES:
                for figure in FIGURES:
                    values = fusions[fusion][figure]
                    deviation = f" ± {spread(values):.2f}" if len(values) > 1 else ""
                    cells.append(f"{np.mean(values):.2f}{deviation}")
            lines.append(f"| {name} | {size} | {len(values)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path, measured):
    """Top-1 over the size, a panel a crawl."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    canvas, panels = pyplot.subplots(1, len(measured), figsize=(5 * len(measured), 4), squeeze=False)
    for axes, (name, told) in zip(panels[0], measured.items(), strict=True):
        sizes = list(told["sizes"])
        for fusion, color in _COLORS.items():
            values = [told["sizes"][size][fusion]["balanced_top1"] for size in sizes]
            deviations = [spread(v) if len(v) > 1 else 0.0 for v in values]
            means = [np.mean(v) for v in values]
            axes.errorbar(
                sizes, means, deviations, marker="o", capsize=3, color=color, label=_FUSION_NAMES[fusion]
            )
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("URNets in the ensemble")
        axes.set_ylabel(f"class-balanced top-1 of the {told['split']} list, percent")
        axes.set_title(name)
        axes.grid(axis="y", alpha=0.3)
        axes.legend()
    canvas.tight_layout()
    with store.atomic_path(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=150)
    pyplot.close(canvas)


if __name__ == "__main__":
    define_flags()
    app.run(main)
