import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf import store
from urnet_tf.errors import UsageError
from urnet_tf.evaluation import engines, inference
from urnet_tf.evaluation.predictions import BalancedPredictions


class Images:
    """An image store in memory that may be killed after a number of reads."""

    def __init__(self, count, fail_after=None):
        rng = np.random.default_rng(0)
        self.records = [
            tf.io.encode_jpeg(rng.integers(0, 255, (20, 16 + i % 5, 3)).astype("uint8")).numpy()
            for i in range(count)
        ]
        self.fail_after = fail_after

    def read(self, ids):
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise RuntimeError("killed")
        return [self.records[i] for i in ids]


def backbone():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.DepthwiseConv2D(
        3, depthwise_initializer=keras.initializers.HeNormal(1), name="depthwise"
    )(image)
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(1), name="conv")(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="features")(keras.layers.ReLU()(x)))


def extract(images, path, ids, **settings):
    model = settings.pop("model", None) or backbone()
    features = store.open_column(path / "features.npy", (len(ids), 4), np.float32)
    units = store.UnitLog(path / "units", inference.count_units(len(ids), 8))
    inference.extract_features(
        model, images, ids, features, units, image_size_px=8, crop_fraction=0.9, batch_size=8, **settings
    )
    return np.array(features)


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(inference, "_UNIT_ROWS", 12)  # rounded up to two batches of 8


def test_units_are_whole_batches():
    assert inference.unit_rows(64) == 1024 and inference.unit_rows(100) == 1100
    assert inference.count_units(1101, 100) == 2 and inference.count_units(0, 64) == 0


def test_features_equal_the_plain_network_and_resume_bitwise(small_units, tmp_path):
    ids = np.random.default_rng(1).permutation(50)[:45]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = extract(Images(50), tmp_path / "a", ids)
    with pytest.raises(tf.errors.OpError, match="killed"):
        # reads are of 64 images, so let the second call fail by its first read
        store.UnitLog(tmp_path / "b" / "units", 3).complete(0)
        extract(Images(50, fail_after=0), tmp_path / "b", ids)
    features = store.open_column(tmp_path / "b" / "features.npy", (45, 4), np.float32)
    assert not features.any()
    features[:16] = straight[:16]
    resumed = extract(Images(50), tmp_path / "b", ids)
    np.testing.assert_array_equal(straight, resumed)

    from urnet_tf.images.decode import central_view, decode_rgb

    images = Images(50)
    batch = np.stack([central_view(decode_rgb(images.records[i]), 8, 0.9) for i in ids])
    np.testing.assert_allclose(straight, backbone()(batch), atol=1e-4)


def test_tflite_engine_agrees(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ids = np.arange(20)
    plain = extract(Images(20), tmp_path / "a", ids, engine="keras")
    lite = extract(Images(20), tmp_path / "b", ids, engine="tflite")
    np.testing.assert_allclose(plain, lite, atol=1e-4 * np.abs(plain).max())
    with pytest.raises(UsageError, match="engine"):
        extract(Images(20), tmp_path / "a", ids, engine="fast")


def test_auto_chooses_tflite_for_many_images_through_depthwise_networks(monkeypatch, tmp_path):
    chosen = []
    for name in ("build_function", "build_tflite_function"):
        monkeypatch.setattr(
            inference,
            name,
            lambda model, size, *cores, name=name: chosen.append(name) or (lambda x: np.zeros((len(x), 4))),
        )
    monkeypatch.setattr(engines, "TFLITE_FROM_IMAGES", 20)
    for i, count in enumerate((19, 20)):
        (tmp_path / str(i)).mkdir()
        extract(Images(20), tmp_path / str(i), np.arange(count))
    assert chosen == ["build_function", "build_tflite_function"] or tf.config.list_physical_devices("GPU")


def test_top_k_of_heads_by_hand():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    features = np.log(np.float16([[1, 2, 1], [4, 2, 2], [8, 1, 1]]))
    found = inference.predict_top_k(
        model, features, np.array([2, 0]), np.array([1, 1]), 2, np.array([0.1, 1.0, 2.0]), batch_size=4
    )
    np.testing.assert_array_equal(found.topk_ids, [[0, 1], [1, 0]])  # of equals the smaller id comes first
    np.testing.assert_allclose(found.topk_probs, [[0.8, 0.1], [0.5, 0.25]], atol=1e-3)
    np.testing.assert_allclose(found.given_prob, [0.1, 0.5], atol=1e-3)
    # Scaled by class: (0.8, 1, 2) / 3.8 and (0.1, 2, 2) / 4.1.
    np.testing.assert_array_equal(found.balanced_topk_ids, [[2, 1], [1, 2]])
    np.testing.assert_allclose(found.balanced_topk_probs, [[2 / 3.8, 1 / 3.8], [2 / 4.1, 2 / 4.1]], atol=1e-3)
    np.testing.assert_allclose(found.balanced_given_prob, [1 / 3.8, 2 / 4.1], atol=1e-3)


def test_a_small_class_outside_of_the_raw_best_is_among_the_balanced_best():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    features = np.log(np.float32([[0.5, 0.3, 0.15, 0.05]]))
    found = inference.predict_top_k(
        model, features, np.array([0]), np.array([0]), 2, np.array([0.5, 1.0, 1.0, 9.0])
    )
    np.testing.assert_array_equal(found.topk_ids, [[0, 1]])
    np.testing.assert_allclose(found.topk_probs, [[0.5, 0.3]], atol=1e-6)
    # 0.25, 0.3, 0.15 and 0.45 of 1.15
    np.testing.assert_array_equal(found.balanced_topk_ids, [[3, 1]])
    np.testing.assert_allclose(found.balanced_topk_probs, [[0.45 / 1.15, 0.3 / 1.15]], atol=1e-6)
    np.testing.assert_allclose(found.balanced_given_prob, [0.25 / 1.15], atol=1e-6)
    assert found.balanced_topk_ids.dtype == np.int32


def test_top_k_of_images_fills_rows_by_id(small_units, tmp_path):
    images, ids = Images(30), np.array([3, 29, 7, *range(10, 28)])
    labels = np.arange(len(ids)) % 4
    columns = BalancedPredictions.allocate(30, 2, lambda name, shape, dtype: np.full(shape, -1, dtype))
    model = backbone()
    units = store.UnitLog(tmp_path, inference.count_units(len(ids), 8))
    inference.extract_top_k(
        model, images, ids, labels, columns, units, class_scale=np.ones(4), image_size_px=8,
        crop_fraction=0.9, batch_size=8,
    )  # fmt: skip
    assert (columns.topk_ids[[0, 1, 2]] == -1).all() and (columns.topk_ids[ids] >= 0).all()
    assert not units.pending()

    from urnet_tf.images.decode import central_view, decode_rgb

    logits = np.asarray(
        model(np.stack([central_view(decode_rgb(images.records[i]), 8, 0.9) for i in ids])), np.float64
    )
    np.testing.assert_array_equal(columns.topk_ids[ids, 0], logits.argmax(1))
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    np.testing.assert_allclose(columns.given_prob[ids], probs[np.arange(len(ids)), labels], atol=1e-4)
    # Where all classes have one scale, balancing changes nothing.
    np.testing.assert_array_equal(columns.balanced_topk_ids[ids], columns.topk_ids[ids])
    np.testing.assert_allclose(columns.balanced_topk_probs[ids], columns.topk_probs[ids], atol=1e-6)
    np.testing.assert_allclose(columns.balanced_given_prob, columns.given_prob, atol=1e-6)
