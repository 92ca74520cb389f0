"""Writes and reads SavedModels: encoded images in, classes out, for TF Serving and everything like it.

    serving_default   image_bytes string [n] → classes int32 [n, k], labels and ids string [n, k],
                      probabilities float32 [n, k] (best first), valid bool [n]; none_of_these
                      float32 [n] when the model has it
    tensor            images float32 [n, S, S, 3], RGB, 0..255 → the same without `valid`
    features          image_bytes string [n] → features float32 [n, D], valid bool [n]; when the
                      model has them

Decoding, EXIF, transparency, cropping and resizing are inside, by the functions of training. A bad
image is `valid = False` with class -1, label and id "" and zeros; its neighbors do not notice.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.export.formats import CLASS_IDS_FILE, LABELS_FILE
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.rewriting import (
    FEATURES,
    LOGITS,
    NONE_OF_THESE,
    float32_copy,
    tf_variables,
    with_grouped_convolutions,
    with_named_outputs,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_VIEWS_AT_ONCE = 32  # more are computed one after the other, so that no request is too large for the memory


def write_saved_model(
    model: "keras.Model",
    labels: Sequence[str],
    path: str | os.PathLike,
    preparation: Preparation,
    *,
    class_ids: Sequence[str] | None = None,
    top_k: int = 5,
    metadata: Mapping | None = None,
    grouped_convolution: str = "blocked",
) -> None:
    """Writes a SavedModel with the signatures above; every variable once.

    Args:
      model: Keras model images float32 [B, S, S, 3], 0..255 → logits, or named outputs; see
        `rewriting.with_named_outputs`.
      labels: C names.
      preparation: of encoded images; with several views their mean is served.
      class_ids: C ids for programs; None = the names.
      top_k: classes that are served; C where it is larger.
      metadata: plain JSON of the asset `model.json`.
      grouped_convolution: how grouped convolutions compute. "native" is 1.1 to 1.2 times faster where
        the server has oneDNN on, and fails where it has not, since TensorFlow fuses them with what
        follows, and its own kernel takes no groups then; "blocked" runs everywhere.
    """
    import tempfile

    import tensorflow as tf

    from urnet_tf.store import write_json, write_text

    class_ids = labels if class_ids is None else class_ids
    model = with_grouped_convolutions(float32_copy(with_named_outputs(model)), grouped_convolution)
    module = tf.Module()
    module.variables_once = tf_variables(model)  # the model itself would write each a second time
    with tempfile.TemporaryDirectory() as folder:
        assets = [pathlib.Path(folder) / name for name in (LABELS_FILE, CLASS_IDS_FILE, "model.json")]
        write_text(assets[0], "\n".join(labels) + "\n")
        write_text(assets[1], "\n".join(class_ids) + "\n")
        write_json(assets[2], metadata or {})
        module.files = [tf.saved_model.Asset(os.fspath(asset)) for asset in assets]
        signatures = _build_signatures(model, labels, class_ids, preparation, min(top_k, len(labels)))
        tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def _build_signatures(
    model: "keras.Model", labels: Sequence[str], class_ids: Sequence[str], preparation: Preparation, k: int
) -> dict[str, Any]:
    """Name → graph function of all that is served."""
    import tensorflow as tf

    size, at_once = preparation.image_size_px, max(1, _VIEWS_AT_ONCE // preparation.views)
    encoded_images = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    plain_images = [tf.TensorSpec([None, size, size, 3], tf.float32, name="images")]
    # Each of these two is traced once, with a signature of its own, and called by all that is served.
    forward = tf.function(_forward(model, size), input_signature=plain_images)
    from_views = tf.function(_forward_views(forward, preparation), input_signature=encoded_images)
    names, ids = tf.constant(list(labels)), tf.constant(list(class_ids))

    def best(outputs: dict[str, "tf.Tensor"]) -> dict[str, "tf.Tensor"]:
        probabilities, classes = tf.math.top_k(outputs["probs"], k)
        none = {NONE_OF_THESE: outputs[NONE_OF_THESE]} if NONE_OF_THESE in outputs else {}
        return {
            "classes": classes,
            "labels": tf.gather(names, classes),
            "ids": tf.gather(ids, classes),
            "probabilities": probabilities,
            **none,
        }

    @tf.function(input_signature=encoded_images)
    def from_bytes(image_bytes: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        outputs = _in_parts(from_views, image_bytes, b"", at_once)
        served, valid = best(outputs), outputs["valid"]
        nothing = {"classes": -1, "labels": "", "ids": "", "probabilities": 0.0, NONE_OF_THESE: 0.0}
        masked = {
            name: tf.where(valid if name == NONE_OF_THESE else valid[:, None], value, nothing[name])
            for name, value in served.items()
        }
        return {**masked, "valid": valid}

    @tf.function(input_signature=plain_images)
    def from_images(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return best(_in_parts(forward, images, 0.0, _VIEWS_AT_ONCE))

    @tf.function(input_signature=encoded_images)
    def to_features(image_bytes: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        outputs = _in_parts(from_views, image_bytes, b"", at_once)
        valid = outputs["valid"]
        return {FEATURES: tf.where(valid[:, None], outputs[FEATURES], 0.0), "valid": valid}

    features = {FEATURES: to_features} if FEATURES in model.output else {}
    return {"serving_default": from_bytes, "tensor": from_images, **features}


def _forward(model: "keras.Model", size: int) -> Callable:
    """A function of plain images → `probs`, and features and `none_of_these` where the model has them."""
    import tensorflow as tf

    def forward(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        # With training=None, as `model.export` calls it, random layers would stay active.
        images = tf.ensure_shape(images, [None, size, size, 3])  # a signature does not check them
        outputs = model(images, training=False)
        result = {"probs": tf.nn.softmax(tf.cast(outputs[LOGITS], tf.float32))}
        if FEATURES in outputs:
            result[FEATURES] = tf.cast(outputs[FEATURES], tf.float32)
        if NONE_OF_THESE in outputs:
            result[NONE_OF_THESE] = tf.reshape(tf.cast(outputs[NONE_OF_THESE], tf.float32), [-1])
        return result

    return forward


def _forward_views(forward: Any, preparation: Preparation) -> Callable:
    """A function of encoded images → the means of what `forward` gives over their views, and `valid`."""
    import tensorflow as tf

    size, views = preparation.image_size_px, preparation.views

    def from_views(encoded: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        images, valid = preparation.decode_views(encoded)
        outputs = forward(tf.reshape(images, [-1, size, size, 3]))
        # The number of images is not always known from the values: there may be none.
        means = {
            name: tf.reduce_mean(
                tf.reshape(value, tf.concat([[tf.shape(valid)[0], views], tf.shape(value)[1:]], 0)), axis=1
            )
            for name, value in outputs.items()
        }
        return {**means, "valid": valid}

    return from_views


def open_saved_model(path: str | os.PathLike) -> Callable[[str, Mapping], dict]:
    """A function (name of a signature, its inputs) → its outputs as arrays; the model stays loaded."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.fspath(path))

    def call(signature: str, inputs: Mapping) -> dict[str, np.ndarray]:
        # The closure keeps `loaded`: without it the variables would be freed.
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {k: v.numpy() for k, v in loaded.signatures[signature](**tensors).items()}

    return call


def _in_parts(function: Any, rows: "tf.Tensor", filler: bytes | float, part: int) -> dict[str, "tf.Tensor"]:
    """`function` of `rows` [n, ...], `part` of them at a time when there are more.

    Args:
      function: a graph function of one signature: rows → dictionary of tensors of as many rows.
      filler: what completes the last part.
    """
    import tensorflow as tf

    count = tf.shape(rows)[0]

    def one_after_the_other() -> dict[str, "tf.Tensor"]:
        missing = tf.where(count == 0, part, -count % part)  # not every convolution takes an empty batch
        filled = tf.concat([rows, tf.fill(tf.concat([[missing], tf.shape(rows)[1:]], 0), filler)], 0)
        parts = tf.reshape(filled, tf.concat([[-1, part], tf.shape(rows)[1:]], 0))
        parts = tf.ensure_shape(parts, [None, part, *rows.shape[1:]])
        outputs = tf.map_fn(function, parts, fn_output_signature=dtypes, parallel_iterations=1)
        return {
            name: tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:count]
            for name, value in outputs.items()
        }

    structure = function.get_concrete_function().structured_outputs
    dtypes = {name: value.dtype for name, value in structure.items()}
    outputs = tf.cond((count == 0) | (count > part), one_after_the_other, lambda: function(rows))
    return {name: tf.ensure_shape(value, structure[name].shape) for name, value in outputs.items()}
