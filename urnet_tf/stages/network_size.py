"""What a network of Keras costs, counted from its layers: as `costs.network` counts those of this package.

In: a built model image → features. Out: a `NetworkCost`. A matrix of weights is applied at each place of its
layer's output, so its multiply-adds are its size times the places: convolutions, depthwise ones, dense layers
and the projections of attention alike. What attention multiplies without weights (scores, and values by
them) is left out: 4 % of a ViT-B at 224 px. The activations that training keeps are about all outputs but
those of batch normalization, and for a layer made of others those of its matrices: 0.97 times what
`costs.network` counts for EfficientNet-Lite0, 1.2 times for ResNeXt-101.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from urnet_tf.costs.network import NetworkCost

if TYPE_CHECKING:
    import keras

_VIEWS = ("InputLayer", "Dropout", "Reshape", "Flatten", "Permute")  # nothing is kept of them


def count_keras_network(model: "keras.Model", name: str) -> NetworkCost:
    """Counts a network with one output, features float32 [B, D].

    Args:
      model: of images of one known size; one whose sides are open has places that nobody knows, and
        multiply-adds and activations of 0.
      name: what the plan calls it.
    """
    from keras import layers

    multiply_adds = kept = normalized = largest = matrices = 0
    for layer, outputs in _leaves(model):
        places = [math.prod(shape[1:-1]) for shape in outputs if len(shape) > 1]
        elements = sum(math.prod(shape[1:]) for shape in outputs)
        largest = max([largest, *(math.prod(shape[1:]) for shape in outputs)])
        kernels = [tuple(w.shape) for w in layer.weights if len(w.shape) > 1 and not _is_added(w)]
        matrices += len(kernels)
        multiply_adds += sum(math.prod(kernel) for kernel in kernels) * sum(places)
        inner = sum(_columns(kernel) for kernel in kernels) * sum(places)
        if isinstance(layer, layers.BatchNormalization):
            normalized += elements
        else:
            kept += max(elements, inner) if len(kernels) > 1 else elements
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    width = int(model.output.shape[-1])
    return NetworkCost(
        name, width, trainable, model.count_params(), matrices, multiply_adds, kept, normalized, largest
    )


def _leaves(model: Any) -> Iterator[tuple[Any, list[tuple[int, ...]]]]:
    """The layers that are not models themselves, and the shapes of what they give; unknown sides are 0."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model) and layer.layers:
            yield from _leaves(layer)
        elif type(layer).__name__ not in _VIEWS:
            nodes = layer._inbound_nodes  # a sequential model that was read back has two of its first layer
            nodes = nodes[-1:] if isinstance(model, keras.Sequential) else nodes
            tensors = [t for node in nodes for t in keras.tree.flatten(node.output_tensors)]
            yield layer, [tuple(side or 0 for side in (1, *tensor.shape[1:])) for tensor in tensors]


def _is_added(weight: Any) -> bool:
    """Whether it is looked up or added, and no matrix: embeddings of positions, biases of several heads."""
    return any(word in weight.path for word in ("embeddings", "position", "_token", "/bias"))


def _columns(kernel: tuple[int, ...]) -> int:
    """How many numbers a matrix gives at a place; the heads of attention are an axis of their own."""
    if len(kernel) == 3 and kernel[0] >= kernel[-1]:
        return math.prod(kernel[1:])
    return kernel[-1]
