"""Running a trained network over many instances: cached features and top-k predictions.

Loops are cut into units of about a thousand rows whose results are written into memory-mapped
columns; a killed loop continues with the unit in hand. Batches have one fixed shape (the last one
is padded) and units begin at multiples of the batch, so a row's result is bitwise the same however
often the loop was interrupted. Nothing of size N x C is held: the k best classes and the
probability of the given label are kept.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.evaluation import engines
from urnet_tf.evaluation.predictions import BalancedPredictions
from urnet_tf.feed.batches import stream_images
from urnet_tf.models.grouped_convolution import with_implementation
from urnet_tf.schema import CropFraction
from urnet_tf.store import UnitLog
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    from urnet_tf.images.image_store import ImageStore

ENGINES = ("auto", "keras", "tflite")
_UNIT_ROWS = 1024


def unit_rows(batch_size: int) -> int:
    """Rows of a unit: the multiple of the batch next to 1024."""
    return -(-_UNIT_ROWS // batch_size) * batch_size


def count_units(rows: int, batch_size: int) -> int:
    """Units that `rows` make: the `total` of the UnitLog of a loop."""
    return -(-rows // unit_rows(batch_size))


def run_units(
    function: Callable[[np.ndarray], Any],
    stream: Callable[[np.ndarray], Iterable],
    rows: int,
    units: UnitLog,
    write: Callable[[slice, Any], None],
    *,
    batch_size: int,
    description: str,
) -> None:
    """Applies a function to batches of rows 0..rows-1, leaving out the units already complete.

    Args:
      function: batch [b, ...] → anything.
      stream: given the wanted rows (int [n], ascending), yields their batches in order, each of
        `batch_size` rows but for the last.
      rows: how many there are.
      units: has `count_units(rows, batch_size)` units.
      write: stores the result of the rows of a slice.
      batch_size: rows of a batch.
      description: of the progress bar.
    """
    size, pending = unit_rows(batch_size), units.pending()
    if not pending:
        return
    spans = [range(unit * size, min(rows, (unit + 1) * size)) for unit in pending]
    batches = iter(stream(np.concatenate([np.arange(span.start, span.stop) for span in spans])))
    with progress(None, description, rows, "rows", initial=rows - sum(map(len, spans))) as bar:
        for unit, span in zip(pending, spans, strict=True):
            for first in range(span.start, span.stop, batch_size):
                last = min(first + batch_size, span.stop)
                write(slice(first, last), function(np.asarray(next(batches))))
                bar.update(last - first)
            units.complete(unit)


def build_function(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A compiled batch [b <= batch_size, ...] → output [b, ...] that always runs at the full size."""
    shape = (batch_size, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def forward(batch: "tf.Tensor") -> "tf.Tensor":
        return model(batch, training=False)

    concrete = forward.get_concrete_function()
    return _padded(lambda batch: concrete(tf.convert_to_tensor(batch, tf.float32)).numpy(), shape)


def extract_features(
    backbone: keras.Model,
    image_store: "ImageStore",
    ids: np.ndarray,
    features: np.ndarray,
    units: UnitLog,
    *,
    image_size_px: int,
    crop_fraction: CropFraction,
    batch_size: int = 64,
    engine: str = "auto",
    rows: np.ndarray | None = None,
) -> None:
    """Writes the features of images into a column; can be killed and called again.

    Args:
      backbone: image → features.
      image_store: has `read(ids) -> list[bytes]`.
      ids: int [n], images in the order of `rows`.
      features: float [N, D], written in place; usually `store.open_column`.
      units: `UnitLog` of `count_units(n, batch_size)` units.
      image_size_px, crop_fraction: of the central square shown to the network.
      batch_size: images of a batch.
      engine: "keras", "tflite" (about twice as fast on CPUs for networks of depthwise convolutions,
        after seconds of converting; features differ by less than 1e-4), or "auto" = see `choose_engine`.
      rows: int [n], where the features of the images stand in the column; None = they are the column.

    Raises:
      UsageError: an unknown engine.
    """
    if engine not in ENGINES:
        raise UsageError(f"Expected an engine of {', '.join(ENGINES)}; received {engine!r}.")
    if not units.pending():
        return
    if engine == "auto":
        engine = choose_engine(backbone, len(ids))
    logging.info("features of %d images by %s", len(ids), engine)

    def write(some: slice, values: np.ndarray) -> None:
        features[some if rows is None else rows[some]] = values

    run_units(
        build_feature_function(backbone, batch_size, engine),
        lambda some: stream_images(image_store, ids[some], image_size_px, crop_fraction, batch_size),
        len(ids),
        units,
        write,
        batch_size=batch_size,
        description="features",
    )


def build_feature_function(
    backbone: keras.Model, batch_size: int, engine: str, cores: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """A function batch [b <= batch_size, ...] → features [b, D].

    Args:
      engine: "keras" or "tflite".
      cores: that TFLite keeps busy; None = all. For Keras see `limit_threads`.
    """
    if engine == "tflite":
        return build_tflite_function(backbone, batch_size, cores)
    return build_function(backbone, batch_size)


def limit_threads(cores: int) -> None:
    """Lets TensorFlow keep so many cores busy, if it has not computed anything yet in this process."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)


def choose_engine(backbone: keras.Model, images: int) -> str:
    """ "tflite" where that pays off for so many images, else "keras"."""
    return "tflite" if engines.are_many(images) and _suits_tflite(backbone) else "keras"


def build_tflite_function(
    model: keras.Model, batch_size: int, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """`build_function` computed by TFLite with XNNPACK in float32; for CPUs.

    Args:
      threads: None = all cores.
    """
    from ai_edge_litert.interpreter import Interpreter

    native = with_implementation(model, "native")
    shape = (batch_size, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def forward(batch: "tf.Tensor") -> "tf.Tensor":
        return native(batch, training=False)

    owner = tf.Module()
    owner.variables_once = [variable.value for variable in native.variables]  # the converter freezes these
    converter = tf.lite.TFLiteConverter.from_concrete_functions([forward.get_concrete_function()], owner)
    interpreter = Interpreter(model_content=converter.convert(), num_threads=threads or os.cpu_count())
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def invoke(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, batch)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return _padded(invoke, shape)


def build_top_k_function(
    model: keras.Model, k: int, batch_size: int, class_scale: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], BalancedPredictions]:
    """A function (batch [b, ...], labels int [b]) → `BalancedPredictions` of b rows.

    Args:
      model: inputs → logits [B, C].
      k: best classes kept, best first; at most C.
      class_scale: float [C], N / (C N_c).
    """
    logits_of = build_function(model, batch_size)
    log_scale = np.log(np.maximum(class_scale, np.finfo(np.float32).tiny)).astype(np.float32)

    def predict(batch: np.ndarray, labels: np.ndarray) -> BalancedPredictions:
        logits = logits_of(batch)
        labels = tf.cast(labels, tf.int32)
        probs, balanced = tf.nn.softmax(logits), tf.nn.softmax(logits + log_scale)
        values = []
        for prediction in (probs, balanced):
            best = tf.math.top_k(prediction, k)
            values += [best.indices, best.values, tf.gather(prediction, labels, batch_dims=1)]
        return BalancedPredictions(*(value.numpy() for value in values))

    return predict


def predict_top_k(
    model: keras.Model,
    features: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    k: int,
    class_scale: np.ndarray,
    batch_size: int = 1024,
) -> BalancedPredictions:
    """Top-k predictions of a head on cached features.

    Args:
      model: features → logits.
      features: float [N, D], usually memory-mapped.
      rows: int [n], which of them.
      labels: int [n], given labels of these rows.
      k: best classes kept; at most C.
      class_scale: float [C], N / (C N_c).
    """
    predict = build_top_k_function(model, k, batch_size, class_scale)
    found = BalancedPredictions.allocate(len(rows), k)
    for first in range(0, len(rows), batch_size):
        part = slice(first, first + batch_size)
        found.write(part, predict(np.asarray(features[rows[part]], np.float32), labels[part]))
    return found


def extract_top_k(
    model: keras.Model,
    image_store: "ImageStore",
    ids: np.ndarray,
    labels: np.ndarray,
    columns: BalancedPredictions,
    units: UnitLog,
    *,
    class_scale: np.ndarray,
    image_size_px: int,
    crop_fraction: CropFraction,
    batch_size: int = 64,
) -> None:
    """Writes top-k predictions of images into columns by id; can be killed and called again.

    Args:
      model: image → logits.
      ids: int [n], the images to predict.
      labels: int [n], their given labels.
      columns: of all instances; rows `ids` are written.
      units: `UnitLog` of `count_units(n, batch_size)` units.
      class_scale: float [C], N / (C N_c).
    """
    if not units.pending():
        return
    predict = build_top_k_function(model, columns.topk_ids.shape[1], batch_size, class_scale)
    run_units(
        lambda batch: batch,
        lambda rows: stream_images(image_store, ids[rows], image_size_px, crop_fraction, batch_size),
        len(ids),
        units,
        lambda rows, batch: columns.write(ids[rows], predict(batch, labels[rows])),
        batch_size=batch_size,
        description="predictions",
    )


def _padded(function: Callable, shape: tuple[int, ...]) -> Callable:
    """Feeds a function of batches of exactly `shape` with shorter ones too."""

    def run(batch: np.ndarray) -> np.ndarray:
        count = len(batch)
        if count < shape[0]:
            full = np.zeros(shape, np.float32)
            full[:count] = batch
            batch = full
        return function(batch)[:count]

    return run


def _suits_tflite(backbone: keras.Model) -> bool:
    depthwise = any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in backbone.layers)
    exact = all(layer.compute_dtype == "float32" for layer in backbone.layers)
    return depthwise and exact and not tf.config.list_physical_devices("GPU")
