"""Plots of the paper's tables: what this crawl shows and, beside it, what the paper reports of WebVision."""

import os
import textwrap
from collections.abc import Sequence

from ablations.tables import SPLITS, Line
from urnet_tf import store

_OURS, _TOP5, _PAPER, _INK, _SOFT = "#0067a5", "#00795a", "#8a5a00", "#1d1f23", "#5d636e"


def draw_panels(path: str | os.PathLike, title: str, tells: str, lines: Sequence[Line], ladder: bool) -> bool:
    """One panel a figure, rows from top to bottom; returns whether there was anything to draw.

    Args:
      tells: what the reader sees, below the panels.
      ladder: whether rows build on each other; they are joined by a line, and else sorted.
    """
    if not lines:
        return False
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    if not ladder:
        lines = sorted(lines, key=lambda line: -line.figures["balanced_top1"]["mean"])
    paper = [line.paper for line in lines]
    count = 2 + any(value is not None for value in paper)
    height = 2.6 + 0.46 * len(lines)
    style = {"font.size": 11, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _SOFT}
    with pyplot.rc_context(style):
        canvas, panels = pyplot.subplots(1, count, figsize=(3.2 + 3.6 * count, height), sharey=True)
        _draw(panels[0], lines, "balanced_top1", "First guess right", _OURS, ladder)
        _draw(panels[1], lines, "balanced_top5", "Right among five guesses", _TOP5, ladder)
        if count == 3:
            _draw_values(panels[2], paper, "The paper: among five guesses,\nWebVision, 5,000 classes", ladder)
        panels[0].set_yticks(range(len(lines)), [textwrap.fill(line.words, 34) for line in lines])
        panels[0].invert_yaxis()
        canvas.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        seeds = max(len(line.seeds) for line in lines)
        where = (
            f"Each class counts the same; {SPLITS[lines[0].split]} list. Dots are means, bars one standard "
        )
        where += f"deviation of {seeds} seeds."
        words = textwrap.fill(f"{tells} {where}", int(60 * count))
        canvas.tight_layout(rect=(0, 0.02 + 0.19 * (words.count("\n") + 1) / height, 1, 0.97))
        canvas.text(0.01, 0.02, words, fontsize=10, color=_SOFT, ha="left", va="bottom")
        with store.atomic_path(path) as temporary:
            canvas.savefig(temporary, format="png", dpi=130, facecolor="white")
        pyplot.close(canvas)
    return True


def _draw(axes, lines, figure, title, color, ladder):
    means = [100 * line.figures[figure]["mean"] for line in lines]
    spreads = [_zero(100 * line.figures[figure]["sd"]) for line in lines]
    axes.errorbar(
        means, range(len(lines)), xerr=spreads, fmt="o-" if ladder else "o", color=color, capsize=4,
        linewidth=1.2, markersize=7,
    )  # fmt: skip
    for place, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        axes.annotate(
            f"{mean:.1f}",
            (mean + spread, place),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    ends = list(zip(means, spreads, strict=True))
    _finish(axes, title, [mean - spread for mean, spread in ends], [mean + spread for mean, spread in ends])


def _draw_values(axes, values, title, ladder):
    known = [(value, place) for place, value in enumerate(values) if value is not None]
    values = [value for value, _ in known]
    axes.plot(*zip(*known, strict=True), "o-" if ladder else "o", color=_PAPER, linewidth=1.2, markersize=7)
    for value, place in known:
        axes.annotate(
            f"{value:.1f}",
            (value, place),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
        )
    _finish(axes, title, values, values)


def _finish(axes, title, lows, highs):
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("percent")
    room = max(max(highs) - min(lows), 0.5)
    axes.set_xlim(min(lows) - 0.08 * room, max(highs) + 0.32 * room)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _zero(value):
    return 0.0 if value != value else value
