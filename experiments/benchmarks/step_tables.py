"""Markdown tables of what bench_step.py measured.

A result is {"threads", "rounds", "others_cores", "rows": {row: {"inference": [images/s of each round],
"training": […], "inference_peak_mb", "training_peak_mb", "built_mb", "idle_cores", "notes": {mode: text}}}}.
"""

import statistics

MODES = ("inference", "training")
RATIOS = (  # of images/s; above 1 the first is faster
    ("ours", "keras"),
    ("ours", "keras_op"),
    ("ours", "ours_blocked"),
    ("ours", "torch"),
    ("ours", "torch_compile"),
    ("ours", "ours_dense"),
)


def format_tables(name, result):
    """Markdown: images/s and memory of each row, then the ratios that the rows allow."""
    rows = result["rows"]
    lines = [f"### {name}, {result['threads']} threads, {result['rounds']} rounds\n"]
    lines.append(
        "| row | inference images/s | training images/s | peak MB, inference | training | above start |"
    )
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row, values in rows.items():
        cells = [_spread(values[mode]) or values["notes"].get(mode, "–") for mode in MODES]
        peaks = [values.get(f"{mode}_peak_mb") for mode in MODES]
        above = peaks[1] - values["built_mb"] if peaks[1] else None
        cells += ["–" if value is None else f"{value:.0f}" for value in (*peaks, above)]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["\n| ratio of images/s | inference | training |", "|---|---:|---:|"]
    for first, second in RATIOS:
        if first in rows and second in rows:
            cells = [_spread(paired(rows[first][mode], rows[second][mode]), 2) or "–" for mode in MODES]
            lines.append(f"| {first} / {second} | {' | '.join(cells)} |")
    if result.get("others_cores", 0) > 0.1:
        lines.append(
            f"\nOther processes used {result['others_cores']:.1f} cores meanwhile: not a fair comparison."
            " PyTorch's threads wait for each other by spinning, so it loses more on a busy machine."
        )
    restless = [row for row, values in rows.items() if values.get("idle_cores", 0) > 0.1]
    if restless:
        lines.append(f"\nDid not sleep between turns, and slowed the others: {', '.join(restless)}.")
    return "\n".join(lines)


def paired(first, second):
    """Ratios within rounds; a row measured once, in the warm-up, stands beside every round."""
    count = max(len(first), len(second)) if 1 in (len(first), len(second)) else min(len(first), len(second))
    if not first or not second:
        return []
    return [first[min(i, len(first) - 1)] / second[min(i, len(second) - 1)] for i in range(count)]


def _spread(values, digits=None):
    """Median (smallest-largest), or the single value."""
    if not values:
        return ""
    middle = statistics.median(values)
    if digits is None:
        digits = 1 if middle >= 10 else 3 if middle < 0.1 else 2
    text = f"{middle:.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"
