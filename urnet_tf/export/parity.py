"""The gate of an export: how far a file's answers lie from Keras', and whether that may pass.

All numbers are over the same held images. float32 files are judged by their largest difference of a
probability and the relative one; more than rounding is an error there. float16 files are judged by
the relative difference alone: weights of 11 bits move single probabilities, and the largest of these
grows with the number of images that are looked at. int8 files are judged by the accuracy that they
lose.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from urnet_tf.evaluation import metrics

LIBRARY_NAMES = {"mediapipe": "MediaPipe", "task_library": "the TFLite Task Library"}
UNLABELED_DISAGREEMENT = 0.05  # of int8 files where no image has a label: share of other best classes


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a file may differ from Keras at most."""

    float32: float = 1e-4  # largest and relative difference
    float16: float = 1e-2  # relative difference
    int8_points: float = 1.5  # top-1 accuracy lost, percent
    library_points: float = 3.0  # the same, of a `.tflite` file in a task library, where that is no chance


class Comparison:
    """Gathers a file's answers batch by batch."""

    def __init__(self) -> None:
        self._largest: list[np.ndarray] = []
        self._square, self._reference = 0.0, 0.0
        self._agree: list[np.ndarray] = []
        self._top_ids: list[np.ndarray] = []
        self._top_probs: list[np.ndarray] = []

    def add(self, expected: np.ndarray, probs: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Takes one batch.

        Args:
          expected: float [n, C], probabilities of Keras.
          probs: float [n, C] of the file; with `ids` only float [n, k] of the classes int [n, k],
            best first (-1 where an image was refused, which counts as different).
        """
        if ids is None:
            ids, top = metrics.top_k(probs, 5)[0], expected
        else:
            top = np.where(ids >= 0, np.take_along_axis(expected, np.maximum(ids, 0), axis=1), 1.0)
        difference = np.asarray(probs, np.float64) - top
        self._largest.append(np.abs(difference).max(initial=0.0))
        self._square += float((difference**2).sum())
        self._reference += float((np.asarray(top, np.float64) ** 2).sum())
        self._agree.append(ids[:, 0] == expected.argmax(axis=1))
        self._top_ids.append(ids[:, :5])
        self._top_probs.append(np.asarray(probs).max(axis=1))

    def best(self) -> np.ndarray:
        """The likeliest class of each image, int [n]."""
        return np.concatenate(self._top_ids)[:, 0]

    def parity(self) -> dict[str, float]:
        """`max_difference`, `relative_difference` (of the norms) of probabilities, `top1_agreement`."""
        return {
            "max_difference": float(np.max(self._largest)),
            "relative_difference": float(np.sqrt(self._square / self._reference)),
            "top1_agreement": float(np.concatenate(self._agree).mean()),
        }

    def accuracy(self, labels: np.ndarray, num_classes: int) -> dict | None:
        """Top-1 and top-5, plain and class-balanced, and the calibration error `ece` of the best class.

        Where labels int [n] are not -1; None without any. Top-5 is None where the file gives fewer classes.
        """
        known, ids = metrics.labeled(labels), np.concatenate(self._top_ids)
        if not known.any():
            return None
        result = {}
        for k in (1, 5):
            hits = metrics.top_k_hits(labels[known], ids[known], k)
            enough = ids.shape[1] >= min(k, num_classes)
            result[f"top{k}"] = float(hits.mean()) if enough else None
            balanced = metrics.balanced_mean(hits, labels[known], num_classes)
            result[f"balanced_top{k}"] = balanced if enough else None
        confidence, hits = np.concatenate(self._top_probs), metrics.top_k_hits(labels[known], ids[known], 1)
        result["ece"] = metrics.expected_calibration_error(np.clip(confidence[known], 0, 1), hits)
        return result


def find_refusal(
    precision: str, parity: dict, accuracy: dict | None, reference: dict | None, tolerance: Tolerance
) -> str | None:
    """Why a file may not pass, with the numbers; None when it may.

    Args:
      precision: "float32", "float16" or "int8".
      parity, accuracy: of the file, see `Comparison`.
      reference: the accuracy of Keras on the same images; None where `accuracy` is.
    """
    agreement = f"the same best class on {100 * parity['top1_agreement']:.1f} % of the images"
    largest = parity["max_difference"]
    if precision != "int8" or not np.isfinite(largest):
        allowed = {"float32": tolerance.float32, "float16": tolerance.float16, "int8": np.inf}[precision]
        relative = parity["relative_difference"]
        judged = relative if precision == "float16" else max(largest, relative)
        if judged <= allowed and np.isfinite(largest):
            return None
        return (
            f"probabilities differ from Keras by up to {largest:.3g}, relatively by {relative:.3g} "
            f"(allowed {allowed:g}), {agreement}"
        )
    if accuracy is None:
        if parity["top1_agreement"] >= 1 - UNLABELED_DISAGREEMENT:
            return None
        return f"{agreement} as Keras (at least {100 * (1 - UNLABELED_DISAGREEMENT):.0f} % without labels)"
    if reference is None:
        raise ValueError("Expected the accuracy of Keras beside that of the file; received none.")
    lost = 100 * (reference["top1"] - accuracy["top1"])
    if lost <= tolerance.int8_points:
        return None
    return (
        f"top-1 accuracy {100 * accuracy['top1']:.2f} % where Keras has {100 * reference['top1']:.2f} %: "
        f"{lost:.2f} points lost (allowed {tolerance.int8_points:g}), {agreement}"
    )


def find_library_refusal(libraries: Mapping | None, tolerance: Tolerance) -> str | None:
    """Why a `.tflite` file may not pass as people call it; None when it may.

    Few images say little: what is lost must also exceed twice the standard deviation of the difference.

    Args:
      libraries: of the file, see `task_libraries.measure_libraries`.
    """
    for library, found in (libraries or {}).get("through", {}).items():
        lost, gained = found["lost"], found["gained"]
        points = 100 * (lost - gained) / found["images"]
        if points > tolerance.library_points and lost - gained > 2 * math.sqrt(lost + gained):
            return (
                f"top-1 accuracy {100 * found['top1']:.2f} % through {LIBRARY_NAMES[library]}, where Keras "
                f"has {100 * found['reference']:.2f} %: {points:.2f} points lost (allowed "
                f"{tolerance.library_points:g})"
            )
    return None


def explain_refusals(formats: dict[str, dict]) -> tuple[list[str], bool]:
    """Sentences about the refused files of an export, and whether one of them is an error.

    A float32 file that differs from Keras is wrong; that 8 bits cost more than they may is a
    finding like others.

    Args:
      formats: kind of file to its entry of export.json (`kept`, `precision`, `refused`).
    """
    refused = {kind: entry for kind, entry in formats.items() if not entry["kept"]}
    sentences = [f"{kind} was refused: {entry['refused']}." for kind, entry in refused.items()]
    return sentences, any(entry["precision"] == "float32" for entry in refused.values())
