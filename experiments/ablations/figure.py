"""The plot in the manner of the paper's Fig. 7: top-5 over the steps, and what others reach beside it."""

import os
from collections.abc import Mapping

from ablations.rows import NOTHING
from urnet_tf import store

_NAMES = {"nothing": "baseline", "self": "self-\nconfidence"}
_COLORS = {"sound": "#1b6ca8", "paper": "#c0392b"}
_LINES = {"best": "#222222", "oracle": "#2e8b57"}


def draw_figure(
    path: str | os.PathLike, summary: Mapping[str, dict], steps: Mapping[str, tuple[str, ...]],
    methods: list[str], figure: str = "balanced_top5",
) -> bool:  # fmt: skip
    """Draws what there is of the ladders and of the other methods; returns whether there was anything.

    Args:
      summary: as `statistics.summarize` gives it.
      steps: form of the ladder to its steps; their rows are `rows.NOTHING` and `<form>_to_<step>`.
      methods: rows of the second panel.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    measured = {name: row for name, row in summary.items() if row["seeds"]}
    ladders = {
        form: [NOTHING[form], *(f"{form}_to_{step}" for step in names)] for form, names in steps.items()
    }
    ladders = {form: names for form, names in ladders.items() if all(name in measured for name in names)}
    methods = [name for name in methods if name in measured]
    if not ladders and not methods:
        return False
    width = 5.5 * (bool(ladders) + bool(methods))
    canvas, panels = pyplot.subplots(1, bool(ladders) + bool(methods), figsize=(width, 5), squeeze=False)
    panels = list(panels[0])
    split = next(iter(measured.values()))["split"]
    label = f"class-balanced {'top-5' if figure.endswith('5') else 'top-1'} of the {split} list, percent"
    if ladders:
        _draw_ladders(panels.pop(0), measured, ladders, figure, label)
    if methods:
        _draw_methods(panels.pop(0), measured, methods, figure, label)
    canvas.tight_layout()
    with store.atomic_path(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=150)
    pyplot.close(canvas)
    return True


def _value(row, figure):
    """Percent and the deviation; 0 for one seed."""
    found = row["figures"][row["split"]][figure]
    return 100 * found["mean"], 100 * found["sd"] if found["sd"] == found["sd"] else 0.0


def _draw_ladders(axes, measured, ladders, figure, label):
    # Both forms share the places of their common steps.
    order = max(ladders.values(), key=len)
    places = {_step(name): place for place, name in enumerate(order)}
    for form, names in ladders.items():
        values, spreads = zip(*(_value(measured[name], figure) for name in names), strict=True)
        x = [places[_step(name)] for name in names]
        axes.errorbar(x, values, spreads, marker="o", capsize=3, color=_COLORS[form], label=f"{form} form")
    for name, color in _LINES.items():
        if name in measured:
            value = _value(measured[name], figure)[0]
            axes.axhline(value, linestyle="--", linewidth=1, color=color, label=f"{name}, {value:.1f}")
    ticks = [_NAMES.get(step, step) if step == "nothing" else f"+{_NAMES.get(step, step)}" for step in places]
    axes.set_xticks(list(places.values()), ticks, fontsize=8)
    axes.set_ylabel(label)
    axes.set_title("one step after the other")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()


def _step(name):
    return "nothing" if name in NOTHING.values() else name.rpartition("_to_")[2]


def _draw_methods(axes, measured, methods, figure, label):
    methods = sorted(methods, key=lambda name: _value(measured[name], figure)[0])
    for place, name in enumerate(methods):
        value, spread = _value(measured[name], figure)
        ours = name in ("best", "sound", "paper", "oracle")
        color = _LINES.get(name) or _COLORS.get(name, "#888888")
        axes.errorbar(value, place, xerr=spread, marker="D" if ours else "o", capsize=2, color=color)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_xlabel(label)
    axes.set_title("beside other methods")
    axes.grid(axis="x", alpha=0.3)
