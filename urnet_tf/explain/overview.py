"""The answer in a few figures and lines: for the top of the page, and for a terminal."""

from typing import Any

import numpy as np

from urnet_tf.explain.formats import format_count, format_percent
from urnet_tf.explain.inputs import ReportInputs, Share
from urnet_tf.explain.matrix import Matrix
from urnet_tf.reweighting.combine import effective_sample_size
from urnet_tf.text_rules import one_line

_WORST = 3  # classes and mix-ups that lines name
_FEWEST = 10  # images of a class that is called one of the worst
_STAGE_GIVES = {  # what the page lacks without a stage, in words
    "reweight": "which labels look wrong",
    "train": "the trained network",
    "evaluate": "whether it helped",
    "export": "the files to use",
}


def share_wrong(inputs: ReportInputs) -> tuple[float, tuple[float, float] | None] | None:
    """The estimated share of wrong labels and its interval; None where it was not estimated."""
    right = inputs.reweighting.get("clean_rate_estimate")
    if not isinstance(right, int | float):
        return None
    interval = inputs.reweighting.get("clean_rate_interval")
    return 1.0 - right, (1.0 - interval[1], 1.0 - interval[0]) if interval else None


def worst_classes(inputs: ReportInputs) -> list[int]:
    """Classes by their share of wrong labels, highest first; last those of few images, where it is chance."""
    there = np.flatnonzero(inputs.size)
    few = inputs.size[there] < min(_FEWEST, int(inputs.size.max()))
    return [int(j) for j in there[np.lexsort((there, -inputs.wrong_share[there], few))]]


def say_missing(inputs: ReportInputs) -> list[str]:
    """What is not on the page yet."""
    return [words for stage, words in _STAGE_GIVES.items() if stage in inputs.missing]


def count_everything(inputs: ReportInputs) -> dict[str, Any]:
    """The figures that the page names more than once."""
    found: dict[str, Any] = {
        "images": len(inputs.label),
        "classes": inputs.num_classes,
        "smallest": int(inputs.size.min()),
        "largest": int(inputs.size.max()),
        "quarantined": len(inputs.quarantine["status"]),
        "repeated": len(np.unique(np.asarray(inputs.duplicates["picture"], dtype=str))),
    }
    if not inputs.is_weighed:
        return found
    weight, pro = inputs.relative_weight, np.maximum(inputs.relative_weight, 0.0)
    doubtful = inputs.doubtful
    return found | {
        "doubtful": int(doubtful.sum()),
        "doubtful_share": float(doubtful.mean()),
        "doubtful_weight": float(pro[doubtful].sum() / pro.sum()) if pro.sum() > 0 else 0.0,
        "effective": effective_sample_size(weight),
        "against": float((weight < 0).mean()),
        "agreement": float((inputs.predicted == inputs.label).mean()),
        "halved": float((weight < 0.5).mean()),
        "doubled": float((weight > 2).mean()),
        "sure_right": int((inputs.wrong_prob < 0.1).sum()),
        "sure_wrong": int((inputs.wrong_prob > 0.9).sum()),
    }


def format_lines(inputs: ReportInputs, matrix: Matrix) -> list[str]:
    """The most useful lines for a terminal: the share of wrong labels, the worst classes, the mix-ups."""
    lines = []
    images = format_count(len(inputs.label))
    found = share_wrong(inputs)
    if found is not None:
        least = "At least" if inputs.reweighting.get("labels_seen") else "About"
        between = f" (95 % interval: {_percent(found[1][0])} to {_percent(found[1][1])})" if found[1] else ""
        left = " that are left to train on" if "judged" in inputs.reweighting else ""
        lines.append(f"{least} {_percent(found[0])} of the {images} labels{left} look wrong{between}.")
    if inputs.is_weighed:
        worst = [
            f"{one_line(inputs.name(j))} {_percent(inputs.wrong_share[j])} of {format_count(inputs.size[j])}"
            for j in worst_classes(inputs)[:_WORST]
        ]
        lines.append(f"Worst classes: {'; '.join(worst)}.")
        mixed = [
            f"{one_line(inputs.name(int(matrix.given[i])))} that looks like "
            f"{one_line(inputs.name(int(matrix.predicted[i])))} ({format_count(matrix.wrong[i])})"
            for i in matrix.by_wrong(_WORST)
        ]
        lines += [f"Most frequent mistakes: {'; '.join(mixed)}."] if mixed else []
    return lines


def show_share(share: Share | None) -> str:
    """Like "40 % (20 to 60 %)"."""
    if share is None:
        return "–"
    return f"{format_percent(share[0])} ({format_percent(share[1])} to {format_percent(share[2])})"


def _percent(share: float) -> str:
    return format_percent(share).replace("\N{NO-BREAK SPACE}", " ")
