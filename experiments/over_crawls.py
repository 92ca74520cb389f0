r"""Rows of several ablations together: is one row above the others on the mean over crawls?

    python experiments/over_crawls.py --ablation CRAWL=DIR [--ablation ...] [--row best] [--draws 2000]

Reads what `ablation.py` has left in each DIR. For every row that all crawls have: its class-balanced and
plain top-1 on each crawl, mean over the seeds, and how far --row is above it on the mean over crawls. The
interval draws test images (class by class, the same for all rows) and seeds; crawls stay as they are, so it
is for these crawls. Where an ablation had a truth, also the rankings of wrong labels: AUROC of each row's
weights, and how many of the 50 images that weigh least are wrong, with the same kind of interval over
training images.
"""

import pathlib

import numpy as np
from absl import app, flags

from urnet_tf import store
from urnet_tf.errors import UsageError
from urnet_tf.evaluation.metrics import auroc

LOWEST = 50


def define_flags() -> None:
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_multi_string("ablation", [], "name=directory, for each crawl", required=True)
    flags.DEFINE_string("row", "best", "what the others are compared with")
    flags.DEFINE_integer("draws", 2000, "of images and seeds", lower_bound=100)


def main(_) -> None:
    places = dict(text.split("=", 1) for text in flags.FLAGS.ablation)
    crawls = {name: read_units(pathlib.Path(place)) for name, place in places.items()}
    print(format_accuracy(crawls, flags.FLAGS.row, flags.FLAGS.draws))
    print(format_rankings({n: read_scores(pathlib.Path(p)) for n, p in places.items()}, flags.FLAGS.draws))


def read_units(out: pathlib.Path) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Row → seed → (labels int [n], right bool [n]) of the test images of an ablation.

    Raises:
      UsageError: there is none.
    """
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    summary = _read_summary(out)
    for row, told in summary["rows"].items():
        for seed in told["seeds"]:
            with np.load(out / "units" / f"{row}.seed{seed}.npz") as file:
                rows = (file["splits"] == told["split"]) & (file["labels"] >= 0)
                labels = file["labels"][rows]
                found.setdefault(row, {})[seed] = labels, file["top_ids"][rows, 0] == labels
    return found


def read_scores(out: pathlib.Path) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Row → seed → (right bool [n], weight float [n]) of training images about which something is known."""
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for path in sorted((out / "units").glob("*.scores.npz")):
        row, _, seed = path.name.removesuffix(".scores.npz").rpartition(".seed")
        with np.load(path) as file:
            if "sample_weight" in file and row not in ("oracle", "corrected_oracle"):
                found.setdefault(row, {})[int(seed)] = file["right"] == 1, file["sample_weight"]
    return found


def _read_summary(out: pathlib.Path) -> dict:
    try:
        return store.read_json(out / "ablation.json")
    except OSError as error:
        raise UsageError(
            f"Expected a finished ablation in {out}; {error.strerror}. Run ablation.py first."
        ) from None


def mean_accuracy(labels: np.ndarray, right: np.ndarray, weight: np.ndarray, balanced: bool) -> float:
    """Top-1 where image i counts weight[i], by class or not; classes that are not drawn do not count."""
    if not balanced:
        return float(np.average(right, weights=weight))
    mass = np.bincount(labels, weight)
    hits = np.bincount(labels, weight * right)
    return float((hits[mass > 0] / mass[mass > 0]).mean())


def draw_counts(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn, class by class with replacement: int [n]."""
    counts = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        counts += np.bincount(rng.choice(rows, len(rows)), minlength=len(labels))
    return counts


def compare(crawls: dict, row: str, draws: int, balanced: bool) -> dict[str, tuple[float, float, float]]:
    """Other row → how far `row` is above it on the mean over crawls: mean, ends of the 95 % interval."""
    rng = np.random.default_rng(0)
    common = set.intersection(*(set(units) for units in crawls.values()))
    if row not in common:
        raise UsageError(f"Expected the row {row} in every ablation; received {', '.join(sorted(common))}.")
    drawn: dict[str, list[float]] = {name: [] for name in sorted(common)}
    for draw in range(draws + 1):  # the first is all images once
        sums = dict.fromkeys(drawn, 0.0)
        for units in crawls.values():
            seeds = sorted(set.intersection(*(set(units[name]) for name in drawn)))
            labels = units[row][seeds[0]][0]
            counts = draw_counts(labels, rng) if draw else np.ones(len(labels))
            chosen = rng.choice(seeds, len(seeds)) if draw else seeds
            for name in drawn:
                values = [mean_accuracy(*units[name][seed], counts, balanced) for seed in chosen]
                sums[name] += float(np.mean(values)) / len(crawls)
        for name in drawn:
            drawn[name].append(sums[row] - sums[name])
    return {
        name: (values[0], *np.quantile(values[1:], (0.025, 0.975)).tolist())
        for name, values in drawn.items()
        if name != row
    }


def format_accuracy(crawls: dict, row: str, draws: int) -> str:
    """The table of accuracies, in percent."""
    lines = []
    for balanced, title in ((True, "class-balanced"), (False, "plain")):
        above = compare(crawls, row, draws, balanced)
        lines += [
            f"Top-1, {title}, percent, mean over seeds:",
            "",
            f"| row | {' | '.join(crawls)} | mean | {row} is above by |",
            "|---" * (len(crawls) + 3) + "|",
        ]
        for name in (row, *above):
            means = [
                np.mean([mean_accuracy(*one, np.ones(len(one[0])), balanced) for one in units[name].values()])
                for units in crawls.values()
            ]
            told = "" if name == row else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * v for v in above[name]))
            cells = [f"{100 * mean:.2f}" for mean in (*means, np.mean(means))]
            lines.append(f"| `{name}` | {' | '.join(cells)} | {told} |")
        lines.append("")
    return "\n".join(lines)


def rank_figures(right: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """AUROC of the weights for right labels, and the share of wrong ones among the `LOWEST` (or a fifth)."""
    count = min(LOWEST, max(1, len(right) // 5))
    lowest = np.argsort(weight, kind="stable")[:count]
    return auroc(weight, right), float(np.mean(~right[lowest]))


def format_rankings(crawls: dict, draws: int) -> str:
    """The table of rankings of wrong labels; crawls without a truth are left out."""
    crawls = {name: rows for name, rows in crawls.items() if rows}
    if not crawls:
        return ""
    names = sorted(set.intersection(*(set(rows) for rows in crawls.values())))
    lines = [
        f"AUROC of the weights / share of wrong labels among the {LOWEST} lowest (a fifth of fewer than "
        "250), and their 95 % intervals, percent, mean over seeds:",
        "",
        f"| row | {' | '.join(crawls)} |",
        "|---" * (len(crawls) + 1) + "|",
    ]
    for name in names:
        cells = [_ranking_cell(rows[name], draws) for rows in crawls.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ranking_cell(by_seed: dict, draws: int) -> str:
    rng = np.random.default_rng(0)
    seeds = sorted(by_seed)
    mean = np.mean([rank_figures(*by_seed[seed]) for seed in seeds], axis=0)
    drawn = []
    for _ in range(min(draws, 500)):
        right, weight = by_seed[int(rng.choice(seeds))]
        rows = rng.choice(len(right), len(right))
        if 0 < right[rows].sum() < len(rows):
            drawn.append(rank_figures(right[rows], weight[rows]))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return " / ".join(
        f"{100 * m:.1f} [{100 * a:.1f}, {100 * b:.1f}]" for m, a, b in zip(mean, low, high, strict=True)
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
