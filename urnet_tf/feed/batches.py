"""Training and evaluation batches as tf.data: step -> ids -> (x, y, sample weights).

One call into Python a step turns a step number into instance ids and the rows that belong to them;
everything after it is TensorFlow. The element of a step does not depend on where a dataset was
started, so a resumed run sees bitwise the same batches. No string leaves the pipeline.

Targets `y: float32 [..., 2, K]` are packed as `targets` tells. The target of a bag is the mean of its
instances' targets, or its label alone; its weight is the mean of its instances' weights, or 1.

Source: Sec. 4.4, where the loss of a bag is a cross entropy without a weight: `bag_labels`, and not
`weigh_bags`.
Differs: the mean target and weight of a bag let what is known of its images reach the bag branch.

A loss that remembers instances gets their ids as a third row of these targets, not of the bags'.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.feed.sampling import PartSampler, Sampler, part_rows
from urnet_tf.feed.targets import check_instance_count, pack_bag_targets, pack_targets, target_shape
from urnet_tf.reweighting.bag_saliency import compute_bag_weight
from urnet_tf.schema import CropFraction
from urnet_tf.store.hashing import splitmix64

if TYPE_CHECKING:
    import tensorflow as tf

    from urnet_tf.images.image_store import ImageStore


class _Batches:
    """Targets and weights by instance id, and the checks that both kinds of batches share."""

    def __init__(
        self,
        sampler: Sampler,
        target_ids: np.ndarray,
        target_probs: np.ndarray,
        weights: np.ndarray,
        bag: bool,
        bag_labels: np.ndarray | None,
        weigh_bags: bool,
    ) -> None:
        if bag != (len(sampler.shape) == 2):
            raise UsageError(
                f"Expected a BagSampler when bag is true; received {type(sampler).__name__}, bag={bag}."
            )
        if target_ids.shape != target_probs.shape or len(target_ids.shape) != 2:
            raise UsageError(
                f"Expected target ids and probabilities of one shape [N, K]; received {target_ids.shape} "
                f"and {target_probs.shape}."
            )
        if weights.shape != target_ids.shape[:1]:
            raise UsageError(f"Expected {len(target_ids)} weights; received shape {weights.shape}.")
        self.sampler: Sampler = sampler
        self.bag = bag
        self._target_ids, self._target_probs, self._weights = target_ids, target_probs, weights
        self._bag_labels, self._weigh_bags = bag_labels, weigh_bags

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every instance was seen once, rounded up."""
        return self.sampler.steps_per_epoch

    def dataset(self, start_step: int, stop_step: int, instance_ids: bool = False) -> "tf.data.Dataset":
        """Streams the batches of steps `start_step` to `stop_step - 1`."""
        raise NotImplementedError

    def part(self, part: int, parts: int) -> Self:
        """What one of several machines trains on: its rows of each step, and it reads no others.

        Raises:
          UsageError: the rows of a step do not divide into so many parts.
        """
        rows = part_rows(self.sampler.shape[0], part, parts)
        return self.some_rows(lambda _: rows, len(rows))

    def some_rows(self, rows_of: Callable[[int], np.ndarray], size: int) -> Self:
        """These batches with some rows of each step, as `PartSampler` takes them."""
        some = copy.copy(self)
        some.sampler = PartSampler(self.sampler, rows_of, size)
        return some

    def one_pass(self) -> "tf.data.Dataset":
        """The batches of the first pass, as a dataset that knows its length: Keras warns where others end."""
        import tensorflow as tf

        length = tf.data.experimental.assert_cardinality(self.steps_per_epoch)
        return self.dataset(0, self.steps_per_epoch).apply(length)

    def _targets(self, ids: np.ndarray, instance_ids: bool) -> tuple[np.ndarray, ...]:
        """(y, w) of ids, flat: for bags (y instance, y bag, w instance, w bag)."""
        classes = np.asarray(self._target_ids[ids], np.float32)
        probs = np.asarray(self._target_probs[ids], np.float32)
        weights = np.asarray(self._weights[ids], np.float32)
        targets = pack_targets(classes, probs, ids if instance_ids else None)
        if not self.bag:
            return targets, weights
        if self._bag_labels is None:
            bag_targets = pack_bag_targets(classes, probs)
        else:
            label = self._bag_labels[ids[:, :1]]
            bag_targets = pack_targets(label, np.ones_like(label, np.float32))
        bag_weights = compute_bag_weight(weights)
        return targets, bag_targets, weights, bag_weights if self._weigh_bags else np.ones_like(bag_weights)

    def _shaped_targets(self, tensors: Sequence["tf.Tensor"], instance_ids: bool) -> tuple[Any, Any]:
        """Gives the outputs of `_targets` their static shapes and the structure that `fit` takes."""
        entries = self._target_ids.shape[1]
        shape = self.sampler.shape
        if not self.bag:
            targets, weights = tensors
            targets.set_shape(target_shape(shape, entries, instance_ids))
            weights.set_shape(shape)
            return targets, weights
        targets, bag_targets, weights, bag_weights = tensors
        targets.set_shape(target_shape(shape, entries, instance_ids))
        bag_entries = shape[1] * entries if self._bag_labels is None else 1
        bag_targets.set_shape(target_shape(shape[:1], bag_entries))
        weights.set_shape(shape)
        bag_weights.set_shape(shape[:1])
        return {"instance": targets, "bag": bag_targets}, {"instance": weights, "bag": bag_weights}

    @property
    def _num_targets(self) -> int:
        return 4 if self.bag else 2

    def _check_ids(self, instance_ids: bool) -> None:
        if instance_ids:
            check_instance_count(len(self._weights))


class FeatureBatches(_Batches):
    """Batches of cached features, for heads on a frozen network.

    Args:
      features: float16 or float32 [N, D] by instance id; usually memory-mapped.
      sampler: an `InstanceSampler`, `BagSampler` (with `bag`) or `SequentialSampler`.
      target_ids: int [N, K] by instance id, class ids of the sparse targets.
      target_probs: float [N, K], their probabilities; rows sum to 1.
      weights: float [N], sample weights by instance id.
      bag: whether elements are bags.
      bag_labels: int [N], the labels of instances, one for all of a bag: it is the target of the bag. None =
        the mean of the targets.
      weigh_bags: whether bags have the mean weight of their instances, or 1.
    """

    def __init__(
        self,
        features: np.ndarray,
        sampler: Sampler,
        target_ids: np.ndarray,
        target_probs: np.ndarray,
        weights: np.ndarray,
        bag: bool = False,
        bag_labels: np.ndarray | None = None,
        weigh_bags: bool = True,
    ) -> None:
        super().__init__(sampler, target_ids, target_probs, weights, bag, bag_labels, weigh_bags)
        self._features = features

    def dataset(self, start_step: int, stop_step: int, instance_ids: bool = False) -> "tf.data.Dataset":
        """Streams the batches of steps `start_step` to `stop_step - 1`.

        Args:
          instance_ids: whether y of instances ends with the instance id, a row more.

        Returns:
          `tf.data.Dataset` of (x, y, w): x float32 [B, D], y float32 [B, 2, K], w float32 [B]; for bags
          x [B, N_b, D], y {"instance": [B, N_b, 2, K], "bag": [B, 2, N_b K]} (with
          `bag_labels` [B, 2, 1]) and w {"instance": [B, N_b], "bag": [B]}.

        Raises:
          UsageError: instance ids are wanted that float32 does not hold exactly.
        """
        import tensorflow as tf

        self._check_ids(instance_ids)

        def rows_of(step: int) -> tuple[np.ndarray, ...]:
            ids, _ = self.sampler.batch(step)
            return (self._features[ids].astype(np.float32), *self._targets(ids, instance_ids))

        def element(step: "tf.Tensor") -> tuple:
            features, *targets = tf.numpy_function(
                rows_of, [step], [tf.float32] * (1 + self._num_targets), stateful=False
            )
            features.set_shape([*self.sampler.shape, self._features.shape[1]])
            return features, *self._shaped_targets(targets, instance_ids)

        # Python holds one lock, so more than two calls at a time gain nothing.
        steps = tf.data.Dataset.range(start_step, stop_step)
        return _finished(steps.map(element, num_parallel_calls=2, deterministic=True))


class ImageBatches(_Batches):
    """Batches of decoded images, for training a whole network.

    Args:
      image_store: `ImageStore`, or anything with `read(ids) -> list[bytes]`.
      sampler, target_ids, target_probs, weights, bag, bag_labels, weigh_bags: as for `FeatureBatches`.
      image_size_px: height and width of the images, S.
      augment: what `augment.build_augmenter` gives: (JPEG bytes, seed int32 [2]) -> float32 [S, S, 3].
        The seed of an image comes from (id, epoch, place in its bag, the sampler's seed). None = the
        central square, as in evaluation.
      crop_fraction: part of the short side that the central square shows; only without `augment`.
    """

    def __init__(
        self,
        image_store: "ImageStore",
        sampler: Sampler,
        target_ids: np.ndarray,
        target_probs: np.ndarray,
        weights: np.ndarray,
        image_size_px: int,
        augment: Callable | None = None,
        bag: bool = False,
        crop_fraction: CropFraction = 0.875,
        bag_labels: np.ndarray | None = None,
        weigh_bags: bool = True,
    ) -> None:
        super().__init__(sampler, target_ids, target_probs, weights, bag, bag_labels, weigh_bags)
        self._store = image_store
        self._image_size_px = image_size_px
        self._augment = augment
        self._crop_fraction = crop_fraction

    def dataset(self, start_step: int, stop_step: int, instance_ids: bool = False) -> "tf.data.Dataset":
        """Streams the batches of steps `start_step` to `stop_step - 1`.

        Returns:
          `tf.data.Dataset` of (x, y, w): x float32 [B, S, S, 3] or [B, N_b, S, S, 3], RGB, 0-255; the
          rest as in `FeatureBatches.dataset`.
        """
        import tensorflow as tf

        self._check_ids(instance_ids)

        def bytes_of(step: int) -> tuple[np.ndarray, np.ndarray]:
            ids, epochs = self.sampler.batch(step)
            seeds = image_seeds(ids, epochs, self.sampler.seed)
            return np.array(self._store.read(ids.ravel()), dtype=object), seeds.reshape(-1, 2)

        def targets_of(step: int) -> tuple[np.ndarray, ...]:
            return self._targets(self.sampler.batch(step)[0], instance_ids)

        def images_of(step: "tf.Tensor") -> "tf.data.Dataset":
            encoded, seeds = tf.numpy_function(bytes_of, [step], [tf.string, tf.int32], stateful=False)
            encoded.set_shape([None])
            seeds.set_shape([None, 2])
            return tf.data.Dataset.from_tensor_slices((encoded, seeds))

        def targets(step: "tf.Tensor") -> tuple[Any, Any]:
            columns = tf.numpy_function(targets_of, [step], [tf.float32] * self._num_targets, stateful=False)
            return self._shaped_targets(columns, instance_ids)

        # Images, not batches, are decoded in parallel: the memory does not grow with the cores.
        shape = self.sampler.shape
        steps = tf.data.Dataset.range(start_step, stop_step)
        images = _read_ahead(steps, images_of).map(
            self._decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        images = images.batch(shape[-1] or self.sampler.batch_size, drop_remainder=shape[-1] is not None)
        if self.bag:
            images = images.batch(shape[0], drop_remainder=True)
        both = tf.data.Dataset.zip((images, steps.map(targets)))
        return _finished(both.map(lambda x, yw: (x, *yw)))

    def _decode(self, encoded: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        if self._augment is not None:
            return self._augment(encoded, seed)
        from urnet_tf.images import decode

        return decode.central_view(decode.stored_rgb(encoded), self._image_size_px, self._crop_fraction)


def stream_images(
    image_store: "ImageStore",
    ids: np.ndarray,
    image_size_px: int,
    crop_fraction: CropFraction,
    batch_size: int,
) -> "tf.data.Dataset":
    """Streams central squares in the order of `ids`, each once.

    Returns:
      `tf.data.Dataset` of float32 [b, S, S, 3], RGB, 0-255; b is `batch_size` but for the last batch.
    """
    import tensorflow as tf

    from urnet_tf.images import decode

    def image(encoded: "tf.Tensor") -> "tf.Tensor":
        return decode.central_view(decode.stored_rgb(encoded), image_size_px, crop_fraction)

    images = stream_bytes(image_store, ids).map(
        image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return _finished(images.batch(batch_size))


def stream_bytes(image_store: "ImageStore", ids: np.ndarray, read_size: int = 64) -> "tf.data.Dataset":
    """Streams encoded images in the order of `ids`: `tf.data.Dataset` of scalar strings."""
    import tensorflow as tf

    ids = np.asarray(ids, np.int64)

    def bytes_of(first: int) -> np.ndarray:
        return np.array(image_store.read(ids[first : first + read_size]), dtype=object)

    def encoded(first: "tf.Tensor") -> "tf.data.Dataset":
        strings = tf.numpy_function(bytes_of, [first], tf.string, stateful=False)
        strings.set_shape([None])
        return tf.data.Dataset.from_tensor_slices(strings)

    return _read_ahead(tf.data.Dataset.range(0, len(ids), read_size), encoded)


def image_seeds(ids: np.ndarray, epochs: np.ndarray, seed: int) -> np.ndarray:
    """Hashes (id, epoch, place in the bag, seed) to the seed of an image's augmentation.

    The place tells repetitions of one instance in a small class's bag apart.

    Args:
      ids: int64 [B] or [B, N_b].
      epochs: int64, of the shape of `ids`.

    Returns:
      int32 [*ids.shape, 2].
    """
    places = np.arange(ids.shape[1], dtype=np.uint64) if ids.ndim == 2 else np.zeros(1, np.uint64)
    key = splitmix64(places + splitmix64(np.full(1, seed, np.uint64)))
    key = splitmix64(key + epochs.astype(np.uint64))
    key = splitmix64(key + ids.astype(np.uint64))
    return np.ascontiguousarray(key).view(np.int32).reshape(*ids.shape, 2)


def _read_ahead(steps: "tf.data.Dataset", dataset_of: Callable) -> "tf.data.Dataset":
    """Strings of the next steps are fetched while images are decoded; order is kept."""
    return steps.flat_map(dataset_of).prefetch(64)


def _finished(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """Prefetches; says how replicas share an element, and that order matters."""
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    # One host splits each batch between its devices in any case; with several hosts DATA is the policy
    # that trains on no image twice.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(2)
