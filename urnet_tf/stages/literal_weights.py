"""What must be told of a run with the paper's literal weights: what they do to training, what they lack."""

import numpy as np

from urnet_tf.config import Config
from urnet_tf.reweighting import LITERAL


def describe_scale(weights: np.ndarray) -> list[str]:
    """Sentences on what literal weights do to training beyond preferring some images.

    Args:
      weights: float [N], sample weights.

    Returns:
      What is worth a line: negative weights, and of a mean that is not about 1.
    """
    mean, negative = float(np.mean(weights, dtype=float)), float(np.mean(weights < 0))
    lines = []
    if negative:
        lines.append(f"{negative:.1%} of the weights are below 0: these images count against their labels.")
    if mean <= 0:
        lines.append(
            f"The weights have the mean {mean:.3g}: taken together they count against the labels. Set "
            "reweight.confidence.enabled=false or reweight.formulas=repaired."
        )
    elif not 0.95 <= mean <= 1.05:
        times, size, much = (1 / mean, "smaller", "less") if mean < 1 else (mean, "larger", "more")
        lines.append(
            f"The weights have the mean {mean:.3g}, not 1, and Keras divides by the images of a step, so the "
            f"loss is {times:.2g} times {size}: with train.fit.optimizer=sgd this is {times:.2g} times "
            f"{much} learning rate (adamw divides it out). reweight.combine.unit_mean=true scales the "
            "weights to mean 1."
        )
    return lines


def describe_lacks(config: Config) -> list[str]:
    """Sentences on what literal formulas lack, to be the paper's, in this run."""
    confidence = config.reweight.confidence
    if config.reweight.formulas != LITERAL or not confidence.enabled or confidence.text_vectors != "hashed":
        return []
    return [
        "The words of the classes are hashed character n-grams, which know no meaning; the paper has vectors "
        "of fastText with 300 numbers. Give such a .bin or .vec file: reweight.confidence.text_vectors=FILE."
    ]
