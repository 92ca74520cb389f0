"""Writes and reads SavedModels: encoded images in, classes out, for TF Serving and everything like it.

    serving_default   image_bytes string [n] → classes int32 [n, k], labels string [n, k],
                      probabilities float32 [n, k] (best first), valid bool [n]; none_of_these
                      float32 [n] when the model has it
    tensor            images float32 [n, S, S, 3], RGB, 0..255 → the same without `valid`
    features          image_bytes string [n] → features float32 [n, D], valid bool [n]; when the
                      model has them

Decoding, EXIF, transparency, cropping and resizing are inside, by the functions of training. A bad
image is `valid = False` with class -1, label "" and zeros; its neighbors do not notice.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

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

_VIEWS_AT_ONCE = 32  # more are computed one after the other, so that no request is too large for the memory


def write_saved_model(
    model,
    labels: Sequence[str],
    path: str | os.PathLike,
    preparation: Preparation,
    *,
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
      top_k: classes that are served; C where it is larger.
      metadata: plain JSON of the asset `model.json`.
      grouped_convolution: how grouped convolutions compute. "native" is 1.1 to 1.2 times faster where
        the server has oneDNN on, and fails where it has not, since TensorFlow fuses them with what
        follows, and its own kernel takes no groups then; "blocked" runs everywhere.
    """
    import tempfile

    import tensorflow as tf

    from urnet_tf.store import write_json, write_text

    model = with_grouped_convolutions(float32_copy(with_named_outputs(model)), grouped_convolution)
    size, views, k = preparation.image_size_px, preparation.views, min(top_k, len(labels))
    has_features, has_none = (name in model.output for name in (FEATURES, NONE_OF_THESE))

    def forward(images):  # with training=None, as `model.export` calls it, random layers would stay active
        images = tf.ensure_shape(images, [None, size, size, 3])  # a signature does not check them
        outputs = model(images, training=False)
        result = {"probs": tf.nn.softmax(tf.cast(outputs[LOGITS], tf.float32))}
        if has_features:
            result[FEATURES] = tf.cast(outputs[FEATURES], tf.float32)
        if has_none:
            result[NONE_OF_THESE] = tf.reshape(tf.cast(outputs[NONE_OF_THESE], tf.float32), [-1])
        return result

    def from_views(encoded):
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

    def best(outputs):
        probabilities, classes = tf.math.top_k(outputs["probs"], k)
        served = {"classes": classes, "labels": tf.gather(names, classes), "probabilities": probabilities}
        return {**served, **({NONE_OF_THESE: outputs[NONE_OF_THESE]} if has_none else {})}

    encoded_images = [tf.TensorSpec([None], tf.string, name="image_bytes")]

    @tf.function(input_signature=encoded_images)
    def from_bytes(image_bytes):
        outputs = _in_parts(from_views, image_bytes, b"", max(1, _VIEWS_AT_ONCE // views))
        served, valid = best(outputs), outputs["valid"]
        nothing = {"classes": -1, "labels": "", "probabilities": 0.0, NONE_OF_THESE: 0.0}
        masked = {
            name: tf.where(valid if name == NONE_OF_THESE else valid[:, None], value, nothing[name])
            for name, value in served.items()
        }
        return {**masked, "valid": valid}

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="images")])
    def from_images(images):
        return best(_in_parts(forward, images, 0.0, _VIEWS_AT_ONCE))

    @tf.function(input_signature=encoded_images)
    def to_features(image_bytes):
        outputs = _in_parts(from_views, image_bytes, b"", max(1, _VIEWS_AT_ONCE // views))
        valid = outputs["valid"]
        return {FEATURES: tf.where(valid[:, None], outputs[FEATURES], 0.0), "valid": valid}

    signatures = {"serving_default": from_bytes, "tensor": from_images}
    if has_features:
        signatures["features"] = to_features
    names = tf.constant(list(labels))
    module = tf.Module()
    module.variables_once = tf_variables(model)  # the model itself would write each a second time
    with tempfile.TemporaryDirectory() as folder:
        assets = [pathlib.Path(folder) / name for name in ("labels.txt", "model.json")]
        write_text(assets[0], "\n".join(labels) + "\n")
        write_json(assets[1], metadata or {})
        module.files = [tf.saved_model.Asset(os.fspath(asset)) for asset in assets]
        tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def open_saved_model(path: str | os.PathLike) -> Callable[[str, Mapping], dict]:
    """A function (name of a signature, its inputs) → its outputs as arrays; the model stays loaded."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.fspath(path))

    def call(signature: str, inputs: Mapping) -> dict[str, np.ndarray]:
        # The closure keeps `loaded`: without it the variables would be freed.
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {k: v.numpy() for k, v in loaded.signatures[signature](**tensors).items()}

    return call


def _in_parts(function, rows, filler, part: int):
    """`function` of `rows` [n, ...], `part` of them at a time when there are more.

    Args:
      function: rows → dictionary of tensors of as many rows.
      filler: what completes the last part.
    """
    import tensorflow as tf

    compute = tf.function(function)  # one body for both branches
    count = tf.shape(rows)[0]

    def one_after_the_other():
        missing = tf.where(count == 0, part, -count % part)  # not every convolution takes an empty batch
        filled = tf.concat([rows, tf.fill(tf.concat([[missing], tf.shape(rows)[1:]], 0), filler)], 0)
        parts = tf.reshape(filled, tf.concat([[-1, part], tf.shape(rows)[1:]], 0))
        parts = tf.ensure_shape(parts, [None, part, *rows.shape[1:]])
        outputs = tf.map_fn(compute, parts, fn_output_signature=dtypes, parallel_iterations=1)
        return {
            name: tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:count]
            for name, value in outputs.items()
        }

    shapes = compute.get_concrete_function(tf.TensorSpec([None, *rows.shape[1:]], rows.dtype))
    structure = shapes.structured_outputs
    dtypes = {name: value.dtype for name, value in structure.items()}
    outputs = tf.cond((count == 0) | (count > part), one_after_the_other, lambda: compute(rows))
    return {name: tf.ensure_shape(value, structure[name].shape) for name, value in outputs.items()}
