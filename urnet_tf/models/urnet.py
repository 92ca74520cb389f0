"""URNet: an instance branch and an attention branch over bags of N_b images of one class.

  features f_i [D]   from the backbone, or given
  instance branch    logits_i = FC1(dropout(f_i))
  bag branch         s_i = FC3(tanh(FC2(f_i))),  a = softmax(s_1 .. s_Nb),  b = sum_i a_i f_i,
                     logits = FC4(dropout(b))

The attention a_i times N_b is the saliency of an image inside its bag: 1 is neutral.

Source: Fig. 4, Sec. 4.4.
Differs: in nothing that the paper says; `bag_branch` asks FC4 about bags of one, where that is wanted.
Reading: the paper gives no sizes, dropout or first weights. FC2 has D / 4 units and tanh, FC3 one without a
bias, which softmax cancels; FC1 and FC4 begin at zero; the instance branch alone is deployed.
"""

from typing import Any

import keras
from keras import layers, ops

from urnet_tf.models.classifier import LOGITS
from urnet_tf.models.seeding import glorot_uniform, layer_seed

INSTANCE, BAG = "instance", "bag"


@keras.saving.register_keras_serializable(package="urnet_tf")
class MergeBags(keras.layers.Layer):
    """[B, N_b, ...] → [B * N_b, ...]. `layers.Reshape` cannot: it keeps the batch axis."""

    def call(self, bags: keras.KerasTensor) -> keras.KerasTensor:
        return ops.reshape(bags, (-1, *bags.shape[2:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        bags, bag_size = input_shape[:2]
        batch = None if bags is None or bag_size is None else bags * bag_size
        return (batch, *input_shape[2:])


@keras.saving.register_keras_serializable(package="urnet_tf")
class SplitBags(keras.layers.Layer):
    """[B * N_b, ...] → [B, N_b, ...]."""

    def __init__(self, bag_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.bag_size = bag_size

    def call(self, instances: keras.KerasTensor) -> keras.KerasTensor:
        return ops.reshape(instances, (-1, self.bag_size, *instances.shape[1:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch = None if input_shape[0] is None else input_shape[0] // self.bag_size
        return (batch, self.bag_size, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bag_size": self.bag_size}


def build_urnet(
    feature_dim: int,
    num_classes: int,
    bag_size: int,
    *,
    attention_dim: int | None = None,
    dropout: float = 0.5,
    seed: int = 0,
) -> keras.Model:
    """Builds bags of features → {"instance": logits float32 [B, N_b, C], "bag": logits float32 [B, C]}.

    Example:
      >>> import urnet_tf
      >>> model = urnet_tf.build_urnet(1280, 10, bag_size=3)
      >>> model.output["instance"].shape, model.output["bag"].shape
      ((None, 3, 10), (None, 10))

    Args:
      feature_dim: D of the bags [B, N_b, D].
      num_classes: C.
      bag_size: N_b; 1 is allowed.
      attention_dim: units of FC2; None = D / 4.
      dropout: rate before FC1 and FC4.
      seed: of the initial weights and of dropout.
    """
    bags = keras.Input((bag_size, feature_dim), name="features")
    return _branches(bags, bags, num_classes, attention_dim, dropout, seed)


def build_image_urnet(
    backbone: keras.Model,
    num_classes: int,
    bag_size: int,
    *,
    attention_dim: int | None = None,
    dropout: float = 0.5,
    seed: int = 0,
) -> keras.Model:
    """As `build_urnet`, but from bags of images [B, N_b, H, W, 3].

    Args:
      backbone: image → features, which becomes a part of the result.
      num_classes, bag_size, attention_dim, dropout, seed: as for `build_urnet`.
    """
    bags = keras.Input((bag_size, *backbone.input_shape[1:]), name="images")
    features = SplitBags(bag_size, dtype="float32", name="split_bags")(
        backbone(MergeBags(dtype="float32", name="merge_bags")(bags))
    )
    return _branches(bags, features, num_classes, attention_dim, dropout, seed)


def _branches(
    bags: keras.KerasTensor,
    features: keras.KerasTensor,
    num_classes: int,
    attention_dim: int | None,
    dropout: float,
    seed: int,
) -> keras.Model:
    bag_size, feature_dim = features.shape[1:]

    def dense(name: str, units: int, initializer: str | None = None, **kwargs: Any) -> keras.layers.Layer:
        return layers.Dense(
            units, kernel_initializer=initializer or glorot_uniform(seed, name), name=name, **kwargs
        )

    def dropped(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.Dropout(dropout, seed=layer_seed(seed, name), name=name)(x)

    instance_logits = dense(LOGITS, num_classes, "zeros", dtype="float32")(
        dropped(features, "instance_dropout")
    )

    hidden = dense("attention_hidden", attention_dim or max(1, feature_dim // 4), activation="tanh")(features)
    score = dense("attention_score", 1, use_bias=False, dtype="float32")(hidden)  # softmax cancels a bias
    attention = layers.Softmax(dtype="float32", name="attention")(
        layers.Reshape((bag_size,), dtype="float32", name="attention_scores")(score)
    )
    bag_features = layers.Dot(axes=1, dtype="float32", name="bag_features")([attention, features])
    bag_logits = dense("bag_logits", num_classes, "zeros", dtype="float32")(
        dropped(bag_features, "bag_dropout")
    )
    return keras.Model(bags, {INSTANCE: instance_logits, BAG: bag_logits}, name="urnet")


def instance_branch(model: keras.Model) -> keras.Model:
    """The classifier of single images (or features) inside a URNet: what is deployed. Weights are shared."""
    inputs, features = _single_inputs(model)
    x = model.get_layer("instance_dropout")(features)
    return keras.Model(inputs, model.get_layer(LOGITS)(x), name="instance")


def bag_branch(model: keras.Model) -> keras.Model:
    """The bag branch on bags of one image, where the attention is 1: inputs as `instance_branch`."""
    inputs, features = _single_inputs(model)
    return keras.Model(inputs, model.get_layer("bag_logits")(features), name="bag_of_one")


def saliency_model(model: keras.Model) -> keras.Model:
    """Bags → attention float32 [B, N_b], which sums to 1 over each bag."""
    return keras.Model(model.input, model.get_layer("attention").output, name="saliency")


def _single_inputs(model: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if model.input.name == "features":
        features = keras.Input((model.input.shape[-1],), name="features")
        return features, features
    image = keras.Input(model.input.shape[2:], name="image")
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    return image, backbone(image)
