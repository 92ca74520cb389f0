"""Accuracies as a person reads them: with interval, both ways of counting, and whose labels they rest on."""

from collections.abc import Mapping
from typing import Any

from urnet_tf.schema import DRAWN, JUDGED

_FEW_CLASSES = 5  # up to which five guesses are always right
_NAMES = {
    "balanced_top1": "each class alike", "top1": "each image alike",
    "balanced_top5": "top-5, each class alike", "top5": "top-5, each image alike",
}  # fmt: skip


def shown_accuracies(num_classes: int | None) -> tuple[str, ...]:
    """The names of accuracies that say something with so many classes; None = not known."""
    few = num_classes is not None and num_classes <= _FEW_CLASSES
    return tuple(_NAMES)[:2] if few else tuple(_NAMES)


def format_models(evaluated: Mapping[str, Any], models: tuple[str, ...] | None = None) -> list[str]:
    """A line a model, and one on what they were measured.

    Args:
      evaluated: what metrics.json holds.
      models: which; None = all.
    """
    found = {n: m for n, m in evaluated["models"].items() if models is None or n in models}
    if not found:
        return []
    width, lines = max(len(name) for name in found), []
    for name, figures in found.items():
        cells = [f"{_NAMES[key]} {format_accuracy(figures, key)}" for key in tuple(_NAMES)[:2]]
        lines.append(f"{name:<{width}}  {'   '.join(cells)}")
    last = list(found.values())[-1].get("change")
    if last and list(found)[0] == "baseline" and len(found) == 2:
        lines.append(f"{'change':<{width}}  " + "   ".join(_change(*last[key]) for key in tuple(_NAMES)[:2]))
    count = next(iter(found.values()))["n"]
    lines.append(
        f"First guesses that are right, with 95 % intervals, on {count:,} {evaluated['split']} images."
    )
    lines += [note for note in [whose_labels(evaluated)] if note]
    return lines + (format_models(evaluated[JUDGED], models) if JUDGED in evaluated else [])


def whose_labels(evaluated: Mapping[str, Any]) -> str:
    """What is special about the labels that accuracies rest on: the crawl's own, or people's; else ""."""
    if evaluated.get("labels") == JUDGED:
        return (
            "These labels were judged by people, of a random sample of the crawl; images of it that show "
            "none of the classes are not among them."
        )
    if evaluated.get("labels") != DRAWN:
        return ""
    wrong = evaluated.get("wrong_share")
    about = f", about {wrong:.0%} of them wrong" if wrong is not None else ""
    return (
        f"These labels come from the crawl itself{about}, so the accuracies are those of guessing such "
        "labels; give a test list with right labels for true ones."
    )


def format_accuracy(figures: Mapping[str, Any], key: str) -> str:
    """Like "80.0 % (75.6 to 84.4)"; figures as `metrics.summarize` gives them."""
    interval = figures.get("intervals", {}).get(key)
    text = f"{100 * figures[key]:.1f} %"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _change(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
