"""The plain classifier: dropout and one dense layer on features, alone or behind a backbone."""

import keras
from keras import layers

from urnet_tf.models.seeding import layer_seed

LOGITS = "instance_logits"


def build_classifier(
    feature_dim: int, num_classes: int, *, dropout: float = 0.5, seed: int = 0
) -> keras.Model:
    """Builds features [B, D] → logits float32 [B, C].

    Example:
      >>> import urnet_tf
      >>> urnet_tf.build_classifier(1280, 10).output_shape
      (None, 10)

    Args:
      feature_dim: D.
      num_classes: C.
      dropout: rate before the dense layer.
      seed: of the initial weights and of dropout.
    """
    features = keras.Input((feature_dim,), name="features")
    return _classifier(features, features, num_classes, dropout, seed)


def build_image_classifier(
    backbone: keras.Model, num_classes: int, *, dropout: float = 0.5, seed: int = 0
) -> keras.Model:
    """Builds images → logits float32 [B, C].

    Args:
      backbone: image → features, which becomes a part of the result.
      num_classes, dropout, seed: as for `build_classifier`.
    """
    image = keras.Input(backbone.input_shape[1:], name="image")
    return _classifier(image, backbone(image), num_classes, dropout, seed)


def _classifier(
    inputs: keras.KerasTensor, features: keras.KerasTensor, num_classes: int, dropout: float, seed: int
) -> keras.Model:
    x = layers.Dropout(dropout, seed=layer_seed(seed, "dropout"), name="instance_dropout")(features)
    logits = layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name=LOGITS)(
        x
    )  # random logits would take a good part of a short fit to unlearn
    return keras.Model(inputs, logits, name="classifier")


def compose(backbone: keras.Model, head: keras.Model, with_features: bool = False) -> keras.Model:
    """Joins a backbone image → features and a head features → logits; weights are shared, not copied.

    Args:
      with_features: gives a dictionary of `logits` and `features`, and not the logits alone.
    """
    image = keras.Input(backbone.input_shape[1:], name="image")
    features = backbone(image)
    logits = head(features)
    outputs = {"logits": logits, "features": features} if with_features else logits
    return keras.Model(image, outputs, name="image_classifier")


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone inside a model that was built on one.

    Raises:
      ValueError: there is none.
    """
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if not nested:
        raise ValueError(f"Expected a model built on a backbone; {model.name} works on features.")
    return nested[0]


def head_of(model: keras.Model) -> keras.Model:
    """The part features → logits of a classifier; weights are shared, not copied."""
    features = keras.Input((model.get_layer(LOGITS).kernel.shape[0],), name="features")
    return keras.Model(features, model.get_layer(LOGITS)(features), name="head")
