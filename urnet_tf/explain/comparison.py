"""Did it help? Baseline and URNet side by side: accuracies, classes, calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from urnet_tf.evaluation.wording import shown_accuracies, whose_labels
from urnet_tf.explain import figures, pictures
from urnet_tf.explain.inputs import BASELINE, URNET, ReportInputs
from urnet_tf.schema import JUDGED

_CHANGES = 12  # classes in each of the lists of gains and losses

MODEL_NAMES = {
    BASELINE: "plain training",
    URNET: "URNet",
    "folds": "the fold models together",
    "folds_rank": "the fold models together, by rank",
    "ensemble": "the ensemble",
    "ensemble_rank": "the ensemble, by rank",
    "distilled": "one URNet, distilled from the ensemble",
}

METRICS = {
    "balanced_top1": ("First guess right", "each class counts the same"),
    "top1": ("First guess right", "each image counts the same"),
    "balanced_top5": ("Right among five guesses", "each class counts the same"),
    "top5": ("Right among five guesses", "each image counts the same"),
}
_FEWEST_IN_BIN = 5  # images of a point of the reliability curves
_FEWEST_HELD = 10  # held images of a class whose gain or loss is worth a line


def compare_accuracies(inputs: ReportInputs) -> dict[str, Any] | None:
    """Rows of the comparison of the baseline and the URNet; None where they were not measured."""
    return _compare(inputs.metrics, inputs.evaluation, inputs.num_classes)


def compare_judged(inputs: ReportInputs) -> dict[str, Any] | None:
    """The same on the random sample that people judged, where that is not what is measured on anyway."""
    judged = inputs.evaluation.get(JUDGED)
    return _compare(judged["models"], judged, inputs.num_classes) if judged else None


def _compare(
    metrics: Mapping[str, Mapping], evaluation: Mapping[str, Any], num_classes: int
) -> dict[str, Any] | None:
    before, after = metrics.get(BASELINE), metrics.get(URNET)
    if not before or not after:
        return None
    rows = [
        {
            "name": name,
            "note": note,
            "before": before[key],
            "after": after[key],
            "change": after[key] - before[key],
            "between": after.get("change", {}).get(key, (None, None, None))[1:],
            "intervals": [m.get("intervals", {}).get(key) for m in (before, after)],
        }
        for key in shown_accuracies(num_classes)
        if before.get(key) is not None and after.get(key) is not None
        for name, note in [METRICS[key]]
    ]
    by_class, by_image = ([(row["before"], row["after"]) for row in rows[start::2]] for start in (0, 1))
    alike = len(by_class) == len(by_image) and np.allclose(by_class, by_image, atol=5e-4)
    if alike:
        rows = [row | {"note": "classes and images counted alike"} for row in rows[::2]]
    others = [(name, m) for name, m in metrics.items() if name not in (BASELINE, URNET)]
    note = whose_labels(evaluation)
    return {"rows": rows, "others": others, "n": after["n"], "note": note, "alike": alike} if rows else None


def compare_classes(inputs: ReportInputs) -> dict[str, Any] | None:
    """The classes that gained and lost most; None where none was measured."""
    gains = pictures.class_gains(inputs)
    if gains is None or not np.isfinite(gains).any():
        return None
    before, after = inputs.per_class[BASELINE], inputs.per_class[URNET]
    known = np.flatnonzero(np.isfinite(gains))
    few = known[inputs.held[known] < _FEWEST_HELD] if inputs.held is not None else known[:0]
    known = np.setdiff1d(known, few)
    order = known[np.argsort(-gains[known], kind="stable")]
    widest = float(np.abs(gains[known]).max(initial=0.0)) or 1.0

    def bars(labels: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "label": int(j),
                "name": inputs.name(int(j)),
                "change": float(gains[j]),
                "length": abs(float(gains[j])) / widest,
                "before": float(before[j]),
                "after": float(after[j]),
                "held": None if inputs.held is None else int(inputs.held[j]),
            }
            for j in labels
        ]

    return {
        "better": int((gains[known] > 0).sum()),
        "equal": int((gains[known] == 0).sum()),
        "worse": int((gains[known] < 0).sum()),
        "few": len(few),
        "fewest": _FEWEST_HELD,
        "gains": bars([j for j in order[:_CHANGES] if gains[j] > 0]),
        "losses": bars([j for j in order[::-1][:_CHANGES] if gains[j] < 0]),
    }


def compare_calibration(inputs: ReportInputs) -> dict[str, Any] | None:
    """Calibration errors and reliability curves; None where they were not measured."""
    errors = [
        (name, inputs.metrics[name]["ece"])
        for name in (BASELINE, URNET)
        if inputs.metrics.get(name, {}).get("ece") is not None
    ]
    curves = []
    for name, bins in inputs.reliability.items():
        enough = np.asarray(bins["count"]) >= min(_FEWEST_IN_BIN, max(bins["count"], default=0))
        if enough.any():
            kept = {key: np.asarray(values)[enough] for key, values in bins.items()}
            curves.append((MODEL_NAMES.get(name, name), kept))
    drawing = None
    if curves:
        label = "Share of right first guesses against how sure the models are"
        drawing = figures.draw_reliability(curves, label)
    return {"errors": errors, "drawing": drawing} if errors or drawing else None
