"""Several classifiers as one Keras model, whose probabilities are the mean of theirs.

  p(c) = mean over m of softmax(logits_m)(c),   logits(c) = log p(c),   so that softmax(logits) = p

Exports, which add the softmax, take it like any other classifier. It is made of Keras' own layers and
operations: every format that a single model can be written in has them.
"""

from collections.abc import Sequence

import keras
from keras import layers, ops

_SMALLEST = 1e-30  # a probability below counts as this: the logarithm of 0 is no number for a file of 8 bits


def build_ensemble(members: Sequence[tuple[keras.Model | None, keras.Model]]) -> keras.Model:
    """Builds images → `logits` float32 [B, C] and, where all share a backbone, its `features`, by name.

    Weights are shared with the members, not copied.

    Args:
      members: each a backbone images → features and a head features → logits; or None and a classifier
        images → logits. The same backbone object is computed once.
    """
    backbone, classifier = members[0]
    image = keras.Input((backbone or classifier).input_shape[1:], name="image")
    seen: dict[int, keras.KerasTensor] = {}  # backbone → features
    probabilities = []
    for number, (backbone, classifier) in enumerate(members):
        entering = image
        if backbone is not None:
            if id(backbone) not in seen:
                seen[id(backbone)] = _named(backbone, f"backbone{len(seen)}")(image)
            entering = seen[id(backbone)]
        logits = _named(classifier, f"member{number}")(entering)
        probabilities.append(layers.Softmax(dtype="float32", name=f"member{number}_probabilities")(logits))
    mean = layers.Average(dtype="float32", name="mean_probabilities")(probabilities)
    outputs = {"logits": ops.log(ops.maximum(mean, _SMALLEST))}
    if len(seen) == 1 and all(backbone is not None for backbone, _ in members):
        outputs["features"] = next(iter(seen.values()))
    return keras.Model(image, outputs, name="ensemble")


def _named(model: keras.Model, name: str) -> keras.Model:
    """The model under a name of its own, which the parts of one model need."""
    return keras.Model(model.inputs[0], model.outputs[0], name=name)
