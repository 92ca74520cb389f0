"""Means, paired differences with 95 % intervals, and tables, of the units of `measure`.

    difference d_i = row_i - reference_i, over the seeds that both have
    interval       mean(d) ± t(0.975, n - 1) sd(d) / sqrt(n),    sd with n - 1

The seeds share their data and, in the frozen regime, their features; what varies are folds, heads,
draws and k-means. The interval is for the mean over such seeds on this crawl, not over crawls.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from urnet_tf.errors import RunError

FIGURES = ("balanced_top1", "balanced_top5")  # each class counts the same
PLAIN = ("top1", "top5")  # each image counts the same
_NONE = "–"


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample deviation (NaN for a single value)."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"mean": float(np.mean(values)), "sd": deviation}


def paired_interval(values: Sequence[float], reference: Sequence[float], level: float = 0.95) -> dict:
    """Mean of the paired differences and its t interval: `mean`, `low`, `high` (NaN for a single pair)."""
    from scipy import stats

    found = mean_and_deviation(np.subtract(values, reference))
    n = len(values)
    half = float("nan")
    if n > 1:
        half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * found["sd"] / n**0.5
    return {"mean": found["mean"], "low": found["mean"] - half, "high": found["mean"] + half}


def check_equal_steps(units: Mapping[str, Mapping[int, dict]]) -> int | None:
    """The number of optimizer steps of all trained rows of a table; None where heads were fitted instead.

    Raises:
      RunError: rows differ, so that they must not stand beside each other.
    """
    steps = {}
    for name, by_seed in units.items():
        for unit in by_seed.values():
            if "error" not in unit and unit["steps"] is not None:
                steps.setdefault(unit["steps"], set()).add(name)
    if len(steps) > 1:
        counts = "; ".join(f"{count}: {', '.join(sorted(names))}" for count, names in sorted(steps.items()))
        raise RunError(
            f"Expected equal numbers of optimizer steps in every row of a table; received {counts}. Set "
            "baseline.fit and train.fit alike, or leave these rows out."
        )
    return next(iter(steps), None)


def summarize(
    units: Mapping[str, Mapping[int, dict]], against: str, before: Mapping[str, str], split: str | None = None
) -> dict:
    """The figures that are reported of each row.

    Args:
      units: row to seed to unit, the reference among them.
      against: the reference row.
      before: row to the row whose settings it adds to; for a second difference.
      split: the list that is reported; None = test where it has labels, else val.

    Returns:
      Row to a dictionary: `seeds`, `error`, `settings`, and where something was measured the list
      `split`, by list the figures with `mean`, `sd` and `values`, `difference` and `step` by figure,
      `effective_share`, `auroc` by column, `seconds` by stage. Shares from 0 to 1.
    """
    good = {name: {s: u for s, u in by.items() if "error" not in u} for name, by in units.items()}
    summary = {}
    for name, by_seed in good.items():
        errors = [unit["error"] for unit in units[name].values() if "error" in unit]
        row = {"seeds": sorted(by_seed), "error": errors[0] if errors else None}
        summary[name] = row
        if not by_seed:
            continue
        each = list(by_seed.values())
        row["settings"] = each[0]["settings"]
        row["split"] = split or next(iter(each[0]["figures"]))
        row["figures"] = {
            listed: {
                figure: mean_and_deviation(values) | {"values": values}
                for figure in (*FIGURES, *PLAIN)
                if figure in each[0]["figures"][listed]
                for values in [[unit["figures"][listed][figure] for unit in each]]
            }
            for listed in each[0]["figures"]
        }
        for key, other in (("difference", against), ("step", before.get(name))):
            if other in good and other != name:
                row[key] = _differences(by_seed, good[other], row["split"])
        shares = [unit["effective_share"] for unit in each if unit["effective_share"] is not None]
        row["effective_share"] = float(np.mean(shares)) if shares else None
        row["auroc"] = _mean_by_key([unit["auroc"] for unit in each if unit["auroc"]])
        row["seconds"] = _mean_by_key([unit["seconds"] for unit in each])
    return summary


def _differences(by_seed, reference, split):
    seeds = sorted(set(by_seed) & set(reference))
    if not seeds:
        return None

    def values(units, figure):
        return [units[seed]["figures"][split][figure] for seed in seeds]

    return {f: paired_interval(values(by_seed, f), values(reference, f)) for f in FIGURES}


def _mean_by_key(rows):
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}


def format_table(title: str, summary: Mapping[str, dict], against: str, steps: int | None, seeds: int) -> str:
    """One group as Markdown: figures in percent, the weights' AUROC below where there is a truth."""
    measured = {name: row for name, row in summary.items() if row["seeds"]}
    if not measured:
        return "\n".join([f"## {title}", "", *_errors(summary), ""])
    split = next(iter(measured.values()))["split"]
    others = [listed for listed in next(iter(measured.values()))["figures"] if listed != split]
    ladder = any("step" in row for row in measured.values())
    budget = "heads fitted to convergence, their strength chosen by agreement with the labels as given"
    if steps is not None:
        budget = f"{steps} steps in every trained row, else {budget}"
    head = ["row", "top-1", "top-5", f"top-1 minus {against}", f"top-5 minus {against}"]
    head += ["top-1, one step", "top-5, one step"] * ladder
    head += [f"{listed}: top-1 / top-5" for listed in others] + ["effective share", "reweight + train"]
    lines = [
        f"## {title}",
        "",
        f"{split} list, class-balanced, percent; mean ± standard deviation of {seeds} seed(s); {budget}; "
        "differences of the same seeds with their 95 % interval.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for name, row in measured.items():
        fewer = f" ({len(row['seeds'])} seeds)" if len(row["seeds"]) < seeds else ""
        cells = [name + fewer, *(_mean_cell(row["figures"][split][figure]) for figure in FIGURES)]
        for key in ("difference", "step")[: 1 + ladder]:
            cells += [_interval_cell((row.get(key) or {}).get(figure)) for figure in FIGURES]
        for listed in others:
            means = (f"{100 * row['figures'][listed][figure]['mean']:.2f}" for figure in FIGURES)
            cells.append(" / ".join(means))
        share, seconds = row["effective_share"], row["seconds"]
        cells += [_NONE if share is None else f"{share:.2f}"]
        cells += [_NONE if share is None else f"{seconds['reweight']:.0f} + {seconds['train']:.0f} s"]
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_auroc_lines(measured), *_errors(summary)])


def _auroc_lines(measured):
    scored = {name: row["auroc"] for name, row in measured.items() if row["auroc"]}
    if not scored:
        return []
    columns = list(dict.fromkeys(column for row in scored.values() for column in row))
    lines = ["AUROC of the weights against the truth:", "", _line(["row", *columns])]
    lines.append(_line(["---"] * (1 + len(columns))))
    for name, row in scored.items():
        lines.append(_line([name, *(f"{row[c]:.3f}" if c in row else _NONE for c in columns)]))
    return [*lines, ""]


def _errors(summary):
    failed = {name: row["error"] for name, row in summary.items() if row["error"]}
    return [f"{name} was not measured with every seed: {error}" for name, error in failed.items()]


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _mean_cell(figure):
    spread = "" if np.isnan(figure["sd"]) else f" ± {100 * figure['sd']:.2f}"
    return f"{100 * figure['mean']:.2f}{spread}"


def _interval_cell(interval):
    if interval is None:
        return _NONE
    if np.isnan(interval["low"]):
        return f"{100 * interval['mean']:+.2f}"
    return f"{100 * interval['mean']:+.2f} [{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
