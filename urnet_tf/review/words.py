"""An image in words: what was given, what the models say, why it counted, what its page says.

What comes from the web is put on one line, without what turns or steers a text; the page escapes it.
"""

from typing import Any

import numpy as np

from urnet_tf.explain.reasons import describe_amount, describe_standing, find_reasons
from urnet_tf.review.reviewed_run import ReviewedRun
from urnet_tf.reweighting.combine import average_amount
from urnet_tf.reweighting.factors import FACTORS, OBSERVED
from urnet_tf.text_rules import cut, one_line

_NAME_LENGTH, _TEXT_LENGTH, _PATH_LENGTH = 120, 600, 200
_COPIES = 20


def show_name(name: str) -> str:
    """The name of a class."""
    return cut(one_line(name), _NAME_LENGTH)


def rank_classes(run: ReviewedRun, row: int) -> list[tuple[int, float | None]]:
    """Classes that an image may have instead of its own, likeliest first, and their probabilities.

    What the run predicts comes first, if it is another class; a probability is None where it is not known.
    """
    probs = {int(i): float(p) for i, p in zip(run.top_ids[row], run.top_probs[row], strict=True) if i >= 0}
    given, predicted = int(run.label[row]), int(run.predicted[row])
    order = [predicted, *probs] if predicted >= 0 else [*probs]
    return [(label, probs.get(label)) for label in dict.fromkeys(order) if label != given]


class Describer:
    """Descriptions of images of one run.

    Args:
      run: whose images.
    """

    def __init__(self, run: ReviewedRun):
        self._run = run
        self._average = average_amount(run.weights["sample_weight"])
        self._mean_class_weight = float(np.mean(run.weights["class_weight"], dtype=float))
        self._questions = {factor.name: factor.question for factor in FACTORS}
        self._weighing = [f.name for f in FACTORS if f.role != OBSERVED and f.name in run.weights]

    def describe(self, row: int) -> dict[str, Any]:
        """All of one image but its judgement and its look-alikes: plain JSON."""
        run, label = self._run, int(self._run.label[row])
        text = {name: run.text(name, row) for name in ("source", "query", "title", "description", "tags")}
        return {
            "path": cut(one_line(run.text("path", row)), _PATH_LENGTH),
            "rank": int(run.text("rank", row)),
            "size": [int(run.text("width_px", row)), int(run.text("height_px", row))],
            **{name: cut(one_line(value), _TEXT_LENGTH) for name, value in text.items()},
            "right_prob": float(run.right_prob[row]),
            "amount": describe_amount(float(run.weights["sample_weight"][row]), self._average),
            "reasons": self._reasons(row, label),
            "factors": self._factors(row, label),
            "copies": self._copies(row),
        }

    def _class(self, name: str, label: int) -> np.ndarray:
        return np.asarray(self._run.weights[name][self._run.bounds[label] : self._run.bounds[label + 1]])

    def _reasons(self, row: int, label: int) -> list[str]:
        weights = self._run.weights
        weight = float(weights["sample_weight"][row]) / self._average
        if 0.95 <= weight <= 1.05:
            return []
        means = {name: float(self._class(name, label).mean(dtype=float)) for name in self._weighing}
        means["class_weight"] = self._mean_class_weight
        return find_reasons(weight, {name: float(weights[name][row]) for name in self._weighing}, means)

    def _factors(self, row: int, label: int) -> list[dict[str, Any]]:
        found = []
        for name in self._run.used_factors:
            value = float(self._run.weights[name][row])
            found.append(
                {
                    "name": name.replace("_", " "),
                    "question": self._questions[name],
                    "value": value,
                    "standing": describe_standing(self._class(name, label), value),
                }
            )
        return found

    def _copies(self, row: int) -> list[dict[str, str]]:
        """Other files that show the same picture, and the labels under which they stand."""
        listed, picture = self._run.duplicates, self._run.text("picture", row)
        path = self._run.text("path", row)
        found: dict[str, dict[str, str]] = {}
        for at in np.flatnonzero(listed["picture"] == picture)[: 2 * _COPIES]:
            label = int(listed["label"][at])
            if listed["path"][at] != path:
                name = show_name(self._run.names[label]) if 0 <= label < self._run.num_classes else ""
                found[listed["path"][at]] = {
                    "path": cut(one_line(listed["path"][at]), _PATH_LENGTH),
                    "split": str(listed["split"][at]),
                    "label": name,
                }
        return list(found.values())[:_COPIES]
