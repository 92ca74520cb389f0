"""Training augmentation: (image, seed) -> float32 [S, S, 3], without any state.

Policies: `none` (central square), `crop_flip` (random resized crop and mirror image), `randaugment`
and `augmix` (these two work on what `crop_flip` gives). Every number is drawn by a stateless op from
the image's own seed, so the result depends on (image, seed) alone, whatever runs in parallel.

The only module that imports tf-models-official (the image operations of RandAugment) and keras-cv (those
of AugMix), and only when such a policy is built. Both packages' own layers draw from a hidden generator,
which cannot be keyed by image; so the draws are made here and their deterministic operations are applied.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from urnet_tf.errors import UsageError
from urnet_tf.extras import require
from urnet_tf.schema import CropFraction

if TYPE_CHECKING:
    import tensorflow as tf

POLICIES = ("none", "crop_flip", "randaugment", "augmix")
_MODULES = {"randaugment": "official", "augmix": "keras_cv"}  # which these policies need
_ASPECT_RATIOS = (3 / 4, 4 / 3)
_GRAY = (128, 128, 128)  # shown where an image was moved away
_MAX_LEVEL = 10.0
_CHAINS = 3  # of AugMix
_LONGEST_CHAIN = 3  # operations; the shortest is one
_SEVERITY = 0.3  # of AugMix, keras-cv's default
_ANTIALIAS_FACTOR = 1.5  # packed images are near their final size; only larger reductions need the filter


def build_augmenter(
    policy: str,
    image_size_px: int,
    min_area: float = 0.25,
    flip: bool = True,
    num_ops: int = 2,
    magnitude: float = 9.0,
    crop_fraction: CropFraction = 0.875,
) -> Callable:
    """Builds the augmentation of one image, for `Dataset.map`.

    Args:
      policy: one of `POLICIES`.
      image_size_px: S.
      min_area: smallest share of the image's area that the random crop shows.
      flip: whether half of the images are mirrored.
      num_ops: RandAugment operations per image.
      magnitude: of RandAugment, 0-10.
      crop_fraction: of `none`.

    Returns:
      A function of an image and a seed (int32 [2]) that gives float32 [S, S, 3], RGB, 0-255. The image is
      either uint8 [h, w, 3] or a scalar string: the bytes of a JPEG without EXIF rotation, as an image store
      holds them; of these only the crop is decoded.

    Raises:
      UsageError: the policy is unknown or its package not installed, or `min_area` is not in (0, 1].
    """
    if policy not in POLICIES:
        raise UsageError(
            f"Expected an augmentation policy out of {', '.join(POLICIES)}; received {policy!r}."
        )
    if not 0 < min_area <= 1:
        raise UsageError(f"Expected min_area above 0 and at most 1; received {min_area}.")
    require_packages(policy)
    if policy == "none":
        return lambda image, seed: _central(image, image_size_px, crop_fraction)
    build: dict[str, Callable[[], Callable | None]] = {
        "crop_flip": lambda: None,
        "randaugment": lambda: _randaugment(num_ops, magnitude, image_size_px),
        "augmix": lambda: _augmix(image_size_px),
    }
    change = build[policy]()

    def augment(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        seeds = _split(seed, 3)
        image = _random_crop(image, seeds[0], image_size_px, min_area)
        if flip:
            image = _random_flip(image, seeds[1])
        return image if change is None else change(image, seeds[2])

    return augment


def require_packages(policy: str) -> None:
    """Checks that what a policy needs is installed; the extra `augment` brings it.

    Raises:
      UsageError: it is not.
    """
    if policy in _MODULES:
        require(
            "augment",
            _MODULES[policy],
            purpose=f"The augmentation policy {policy}",
            otherwise="choose the policy crop_flip",
        )


def _split(seed: "tf.Tensor", count: int) -> "list[tf.Tensor]":
    import tensorflow as tf

    return tf.unstack(tf.random.split(seed, count, alg="philox"))


def _uniform(seed: "tf.Tensor", low: float, high: float, shape: tuple[int, ...] = ()) -> "tf.Tensor":
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, seed, low, high, alg="philox")


def _whole(seed: "tf.Tensor", count: int) -> "tf.Tensor":
    """A whole number 0 ... count - 1."""
    import tensorflow as tf

    return tf.random.stateless_uniform((), seed, 0, count, tf.int32, alg="philox")


def _sign(seed: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.where(_whole(seed, 2) == 0, -1.0, 1.0)


def _central(image: "tf.Tensor", image_size_px: int, crop_fraction: CropFraction) -> "tf.Tensor":
    import tensorflow as tf

    from urnet_tf.images import decode

    if image.dtype == tf.string:
        image = decode.stored_rgb(image)
    return decode.central_view(image, image_size_px, crop_fraction)


def _random_crop(image: "tf.Tensor", seed: "tf.Tensor", image_size_px: int, min_area: float) -> "tf.Tensor":
    import tensorflow as tf

    is_encoded = image.dtype == tf.string
    shape = tf.image.extract_jpeg_shape(image) if is_encoded else tf.shape(image)
    start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([shape[0], shape[1], 3]),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT_RATIOS,
        area_range=(min_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    top, left, height, width = start[0], start[1], size[0], size[1]
    if is_encoded:
        image = tf.image.decode_and_crop_jpeg(image, tf.stack([top, left, height, width]), channels=3)
    else:
        image = image[top : top + height, left : left + width]
    new = (image_size_px, image_size_px)
    resized = tf.cond(
        tf.cast(tf.maximum(height, width), tf.float32) > _ANTIALIAS_FACTOR * image_size_px,
        lambda: tf.image.resize(image, new, antialias=True),
        lambda: tf.image.resize(image, new),
    )
    return tf.ensure_shape(resized, (*new, 3))


def _random_flip(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.cond(_whole(seed, 2) == 0, lambda: tf.reverse(image, [1]), lambda: image)


@functools.lru_cache(maxsize=4)  # its graph takes seconds to build, and every fold asks for the same
def _randaugment(num_ops: int, magnitude: float, image_size_px: int) -> Callable:
    """`num_ops` operations drawn with replacement, at one magnitude with a random sign.

    Source: Cubuk et al., RandAugment, arXiv 1909.13719, with the ranges of tf-models-official.
    """
    import tensorflow as tf
    from official.vision.ops import augment as ops

    level = magnitude / _MAX_LEVEL
    enhance = 0.1 + 1.8 * level
    shift = level * 100.0 * image_size_px / 224  # its range is meant for 224 px
    operations = [
        lambda image, sign: ops.autocontrast(image),
        lambda image, sign: ops.equalize(image),
        lambda image, sign: ops.wrapped_rotate(image, sign * 30.0 * level, _GRAY),
        lambda image, sign: ops.posterize(image, 8 - int(4 * level)),
        lambda image, sign: ops.solarize(image, tf.constant(int(255 * (1 - level)), tf.uint8)),
        lambda image, sign: ops.color(image, enhance),
        lambda image, sign: ops.contrast(image, enhance),
        lambda image, sign: ops.brightness(image, enhance),
        lambda image, sign: ops.sharpness(image, enhance),
        lambda image, sign: ops.shear_x(image, sign * 0.3 * level, _GRAY),
        lambda image, sign: ops.shear_y(image, sign * 0.3 * level, _GRAY),
        lambda image, sign: ops.translate_x(image, sign * shift, _GRAY),
        lambda image, sign: ops.translate_y(image, sign * shift, _GRAY),
    ]

    @tf.function
    def change(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        image = tf.saturate_cast(tf.round(image), tf.uint8)
        for one_seed in _split(seed, num_ops):
            which, sign_seed = _split(one_seed, 2)
            image = _one_of(operations, _whole(which, len(operations)), image, _sign(sign_seed))
        return tf.cast(image, tf.float32)

    return change


@functools.lru_cache(maxsize=4)  # as `_randaugment`
def _augmix(image_size_px: int) -> Callable:
    """A convex mixture of the image and of three chains of operations.

    Source: Hendrycks et al., AugMix, arXiv 1912.02781, with the operations and the severity of
    `keras_cv.layers.AugMix`.
    Differs: the sides to which an image is moved or turned, and the chain's length, come from the
    image's seed; without the consistency loss of the paper.
    """
    import tensorflow as tf

    operations = _augmix_operations(image_size_px)

    def step(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        which, strength_seed, sign_seed = _split(seed, 3)
        strength = _uniform(strength_seed, 0.01, _SEVERITY)
        return _one_of(operations, _whole(which, len(operations)), image, strength, _sign(sign_seed))

    def chain(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        length_seed, steps_seed = _split(seed, 2)
        length = 1 + _whole(length_seed, _LONGEST_CHAIN)
        seeds = tf.random.split(steps_seed, _LONGEST_CHAIN, alg="philox")
        # A loop, not nine copies of nine operations: the graph is built in seconds.
        return tf.while_loop(
            lambda done, _: done < length,
            lambda done, image: (done + 1, step(image, seeds[done])),
            (tf.constant(0), image),
        )[1]

    @tf.function
    def change(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        mix_seed, share_seed, chains_seed = _split(seed, 3)
        # Dirichlet(1, 1, 1) is made of exponentials; Beta(1, 1) is uniform.
        shares = -tf.math.log(_uniform(mix_seed, 1e-6, 1.0, (_CHAINS,)))
        shares /= tf.reduce_sum(shares)
        seeds = tf.random.split(chains_seed, _CHAINS, alg="philox")
        mixed = tf.map_fn(
            lambda i: shares[i] * chain(image, seeds[i]), tf.range(_CHAINS), fn_output_signature=tf.float32
        )
        mixed = tf.reduce_sum(mixed, axis=0)
        share = _uniform(share_seed, 0.0, 1.0)
        return tf.clip_by_value(share * image + (1 - share) * mixed, 0.0, 255.0)

    return change


def _augmix_operations(image_size_px: int) -> list[Callable]:
    """Functions of an image, a strength and a sign."""
    import tensorflow as tf
    from keras_cv import layers

    # Float32 under every precision policy: bfloat16 cannot hold 0..255 to the bit.
    autocontrast = layers.AutoContrast(value_range=(0, 255), dtype="float32")
    equalize = layers.Equalization(value_range=(0, 255), dtype="float32")
    solarize = layers.Solarization(value_range=(0, 255), dtype="float32")
    shear = layers.RandomShear(x_factor=_SEVERITY, y_factor=_SEVERITY, dtype="float32")
    size = float(image_size_px)

    def moved(image: "tf.Tensor", dx: Any = 0.0, dy: Any = 0.0, angle: Any = 0.0) -> "tf.Tensor":
        cos, sin = tf.cos(angle), tf.sin(angle)
        middle = (size - 1) / 2
        to_x, to_y = middle * (1 - cos + sin) - dx, middle * (1 - cos - sin) - dy
        matrix = tf.stack([cos, -sin, to_x, sin, cos, to_y, 0.0, 0.0])
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None], transforms=matrix[None], output_shape=[image_size_px] * 2, fill_value=0.0,
            interpolation="BILINEAR", fill_mode="REFLECT",
        )[0]  # fmt: skip

    def sheared(image: "tf.Tensor", x: "tf.Tensor", y: "tf.Tensor") -> "tf.Tensor":
        factors = {"shear_x": tf.reshape(x, [1, 1]), "shear_y": tf.reshape(y, [1, 1])}
        return shear.augment_images(image[None], factors)[0]

    def posterized(image: "tf.Tensor", strength: "tf.Tensor") -> "tf.Tensor":
        step = tf.pow(2.0, tf.floor(1.0 + 3.0 * strength / _SEVERITY))  # keeps 7 to 4 bits
        return tf.floor(image / step) * step

    def solarized(image: "tf.Tensor", strength: "tf.Tensor") -> "tf.Tensor":
        thresholds = tf.reshape(255.0 * (1.0 - strength), [1, 1, 1, 1])
        return solarize.augment_images(image[None], {"additions": 0.0, "thresholds": thresholds})[0]

    return [
        lambda image, strength, sign: autocontrast.augment_images(image[None])[0],
        lambda image, strength, sign: equalize.augment_images(image[None])[0],
        lambda image, strength, sign: posterized(image, strength),
        lambda image, strength, sign: solarized(image, strength),
        lambda image, strength, sign: moved(image, angle=sign * strength * math.radians(30.0)),
        lambda image, strength, sign: sheared(image, sign * strength * 0.3, 0.0),
        lambda image, strength, sign: sheared(image, 0.0, sign * strength * 0.3),
        lambda image, strength, sign: moved(image, dx=sign * strength * size / 3),
        lambda image, strength, sign: moved(image, dy=sign * strength * size / 3),
    ]


def _one_of(
    operations: Sequence[Callable], index: "tf.Tensor", image: "tf.Tensor", *parameters: "tf.Tensor"
) -> "tf.Tensor":
    """Applies the operation of that index."""
    import tensorflow as tf

    changed = tf.switch_case(index, [lambda op=op: op(image, *parameters) for op in operations])
    return tf.ensure_shape(changed, image.shape)
