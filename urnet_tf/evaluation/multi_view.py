"""Prediction from several views of an image: 1, 5, 10 or a grid of crops at several scales.

In: an image store, ids, models. Out: probabilities float32 [M, B, C] of M models, each the mean of
the model's probabilities over the V views of an image; streamed, a batch of images at a time. At
scale s the image is resized to s times the size of the plain view and crops of `image_size_px`
are cut from it (`images.decode.views`), so every view has the size the network was trained for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.schema import CropFraction

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from urnet_tf.images.image_store import ImageStore


def stream_views(
    image_store: "ImageStore",
    ids: np.ndarray,
    image_size_px: int,
    crop_fraction: CropFraction,
    crops: str = "1",
    scales: Sequence[float] = (1.0,),
    batch_views: int = 64,
) -> "tf.data.Dataset":
    """The views of images in the order of `ids`.

    Args:
      image_store: has `read(ids) -> list[bytes]`.
      ids: int [n].
      batch_views: about how many views a batch holds; at least one image a batch.

    Returns:
      `tf.data.Dataset` of float32 [b, V, S, S, 3], RGB, 0..255; the last batch may be smaller.
    """
    import tensorflow as tf

    from urnet_tf.feed import batches
    from urnet_tf.images import decode

    def view(image_bytes: "tf.Tensor") -> "tf.Tensor":
        image = decode.stored_rgb(image_bytes)
        return decode.views(image, image_size_px, crops, scales, crop_fraction)

    encoded = batches.stream_bytes(image_store, ids)
    views = encoded.map(view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return views.batch(max(1, batch_views // views.element_spec.shape[0])).prefetch(2)


def build_predictor(
    members: Sequence[Callable],
    backbone: "keras.Model | None" = None,
    whole: Sequence[Callable] = (),
) -> Callable:
    """One graph function for several models that may share a backbone.

    Args:
      members: functions from a batch (images, or features when there is a backbone) to
        probabilities float32 [n, C]; see `instance_member` and `mean_member`.
      backbone: Keras model images → features, run once for all members; None = none.
      whole: further members, which take images whether there is a backbone or not.

    Returns:
      function of float32 [n, ...] to float32 [M, n, C].
    """
    import tensorflow as tf

    @tf.function
    def predict(x: "tf.Tensor") -> "tf.Tensor":
        seen = x if backbone is None else backbone(x, training=False)
        return tf.stack([*(member(seen) for member in members), *(member(x) for member in whole)])

    def run(x: "np.ndarray | tf.Tensor") -> "tf.Tensor":
        # One graph for batches of all sizes: tracing some large networks takes minutes.
        any_size = tf.TensorSpec([None, *x.shape[1:]], tf.float32)
        return predict.get_concrete_function(any_size)(tf.convert_to_tensor(x, tf.float32))

    return run


def instance_member(model: "keras.Model") -> Callable:
    """Softmax of a Keras model that gives logits [n, C]."""
    import tensorflow as tf

    return lambda x: tf.nn.softmax(tf.cast(model(x, training=False), tf.float32))


def mean_member(*models: Any) -> Callable:
    """Mean of the probabilities of several Keras models, as one member."""
    members = [instance_member(model) for model in models]
    return lambda x: sum(member(x) for member in members) / len(members)


def predict_views(predictor: Callable, batches: "list[tf.Tensor]") -> Iterator[np.ndarray]:
    """Mean probabilities over the views of each batch float32 [b, V, ...]: yields float32 [M, b, C]."""
    for views in batches:
        images, count = views.shape[0], views.shape[1]
        flat = np.asarray(predictor(views.numpy().reshape(images * count, *views.shape[2:])))
        yield flat.reshape(len(flat), images, count, -1).mean(axis=2, dtype=np.float64).astype(np.float32)
