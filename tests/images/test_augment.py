import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from urnet_tf.errors import UsageError
from urnet_tf.images.augment import POLICIES, build_augmenter, require_packages

SIZE = 32


def is_installed(policy):
    try:
        require_packages(policy)
    except UsageError:
        return False
    return True


INSTALLED = [policy for policy in POLICIES if is_installed(policy)]  # the extra `augment` brings the others
DRAWN = [policy for policy in INSTALLED if policy != "none"]


def photo(width=60, height=48):
    y, x = np.mgrid[0:height, 0:width]
    planes = [120 + 100 * np.sin(x / 7), 128 + 90 * np.cos(y / 5), 40 + 2 * (x + y)]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="module")
def augmenters():
    return {policy: tf.function(build_augmenter(policy, SIZE), reduce_retracing=True) for policy in INSTALLED}


def seeds(count, start=0):
    return [tf.constant([start + i, 7 * i], tf.int32) for i in range(count)]


@pytest.mark.parametrize("policy", INSTALLED)
def test_shape_range_and_repeatability(augmenters, policy):
    augment, data = augmenters[policy], tf.constant(jpeg(photo()))
    found = [augment(data, seed).numpy() for seed in seeds(30)]
    for image, seed in zip(found, seeds(30), strict=True):
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.float32
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255
        np.testing.assert_array_equal(augment(data, seed), image)
    distinct = len({image.tobytes() for image in found})
    assert distinct == (1 if policy == "none" else 30)


@pytest.mark.parametrize("policy", DRAWN)
def test_the_result_depends_on_the_seed_alone_whatever_runs_in_parallel(policy):
    data = jpeg(photo())
    many = tf.data.Dataset.from_tensor_slices(tf.range(24))

    def run(parallel, order):
        tf.random.set_seed(parallel)  # hidden generators, were there any, would show
        augment = build_augmenter(policy, SIZE)
        dataset = many.map(
            lambda i: (i, augment(tf.constant(data), tf.stack([i, 3]))), num_parallel_calls=parallel
        )
        found = dict(list(dataset.as_numpy_iterator())[::order])
        return np.stack([found[i] for i in range(24)])

    np.testing.assert_array_equal(run(1, 1), run(4, -1))


def test_encoded_and_decoded_images_give_the_same_crop(augmenters):
    data = jpeg(photo())
    pixels = tf.io.decode_jpeg(data)
    for seed in seeds(5):
        one, other = (augmenters["crop_flip"](image, seed).numpy() for image in (tf.constant(data), pixels))
        assert np.abs(one - other).mean() < 1.0


def test_crops_show_at_least_the_smallest_area():
    y, x = np.mgrid[0:64, 0:64]
    coordinates = tf.constant(np.stack([y * 4, x * 4, x * 0], -1).astype(np.uint8))
    augment = tf.function(build_augmenter("crop_flip", 64, min_area=0.5, flip=False))
    areas = []
    for seed in seeds(60):
        crop = augment(coordinates, seed).numpy()
        areas.append(np.ptp(crop[..., 0]) / 252 * np.ptp(crop[..., 1]) / 252)
    assert 0.45 < min(areas) < 0.6 and 0.85 < max(areas) <= 1.0


def test_half_of_the_images_are_mirrored():
    ramp = tf.constant(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    for flip, low, high in ((True, 25, 55), (False, 0, 0)):
        augment = tf.function(build_augmenter("crop_flip", 16, flip=flip))
        images = [augment(ramp, seed).numpy() for seed in seeds(80)]
        assert low <= sum(image[0, 0, 0] > image[0, -1, 0] for image in images) <= high


@pytest.mark.parametrize("policy", [p for p in INSTALLED if p in ("randaugment", "augmix")])
def test_flat_images_are_no_trouble(augmenters, policy):
    for value in (0, 255):
        data = tf.constant(jpeg(np.full((40, 40, 3), value, np.uint8)))
        for seed in seeds(40):
            assert np.isfinite(augmenters[policy](data, seed).numpy()).all()


@pytest.mark.parametrize("policy", [p for p in INSTALLED if p in ("randaugment", "augmix")])
def test_precision_policies_do_not_reach_images(augmenters, policy):
    import keras

    data, before = tf.constant(jpeg(photo())), keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        augment = tf.function(build_augmenter(policy, SIZE))
        results = [augment(data, tf.constant([3, seed])).numpy() for seed in range(4)]
    finally:
        keras.config.set_dtype_policy(before)
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result, augmenters[policy](data, tf.constant([3, seed])).numpy())


@pytest.mark.skipif("randaugment" not in INSTALLED, reason="tf-models-official is not installed")
def test_magnitude_0_of_randaugment_is_mild():
    augment, plain = (
        build_augmenter("randaugment", SIZE, magnitude=0.0, flip=False),
        build_augmenter("none", SIZE),
    )
    data = tf.constant(jpeg(photo()))
    assert augment(data, seeds(1)[0]).shape == plain(data, seeds(1)[0]).shape


def test_importing_does_not_load_the_packages():
    code = (
        "import sys, urnet_tf.images.augment as a; a.build_augmenter('crop_flip', 8);"
        "print([m for m in ('keras_cv', 'official', 'tensorflow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize("arguments", [("cutout", 8), ("crop_flip", 8, 0.0)])
def test_impossible_arguments(arguments):
    with pytest.raises(UsageError, match="Expected"):
        build_augmenter(*arguments)
