"""Several views of an image: order, means, equality with the plain view."""

import numpy as np
import pytest

from urnet_tf.evaluation import multi_view
from urnet_tf.images.crops import num_views


class Store:
    """An image store in memory."""

    def __init__(self, files):
        self.files = files

    def read(self, ids):
        return [self.files[i] for i in ids]


@pytest.fixture(scope="module")
def store():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 40, 56, 3), np.uint8)
    return Store([tf.io.encode_png(image).numpy() for image in images])


def test_one_crop_is_the_plain_view_in_the_order_of_the_ids(store):
    from urnet_tf.images import decode

    ids = np.array([5, 0, 3])
    batches = list(multi_view.stream_views(store, ids, 16, 0.875, batch_views=2))
    assert [b.shape for b in batches] == [(2, 1, 16, 16, 3), (1, 1, 16, 16, 3)]
    plain = [decode.central_view(decode.decode_rgb(store.files[i]), 16, 0.875).numpy() for i in ids]
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0], plain)


def test_views_of_a_batch_stay_within_the_limit(store):

    batches = multi_view.stream_views(store, np.arange(7), 16, 0.5, "10", (1.0, 0.8), batch_views=64)
    shapes = [tuple(b.shape) for b in batches]
    assert num_views("10", (1.0, 0.8)) == 20
    assert shapes == [(3, 20, 16, 16, 3), (3, 20, 16, 16, 3), (1, 20, 16, 16, 3)]


def test_probabilities_are_the_mean_over_views(store):
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    predictor = multi_view.build_predictor([multi_view.instance_member(model)] * 2)
    batches = list(multi_view.stream_views(store, np.arange(3), 16, 0.5, "5"))
    probs = np.concatenate(list(multi_view.predict_views(predictor, batches)), axis=1)
    assert probs.shape == (2, 3, 4) and probs.dtype == np.float32
    by_view = [tf.nn.softmax(model(batches[0][:, v])).numpy() for v in range(5)]
    np.testing.assert_allclose(probs[0], np.mean(by_view, axis=0), atol=1e-6)
    np.testing.assert_array_equal(probs[0], probs[1])


def test_one_graph_serves_batches_of_all_sizes():
    traced = []

    def member(x):
        traced.append(x.shape)
        return x

    predictor = multi_view.build_predictor([member])
    for rows in (4, 4, 1, 3):
        assert predictor(np.zeros((rows, 5), np.float32)).shape == (1, rows, 5)
    assert traced == [(None, 5)]


def test_a_backbone_is_shared_and_members_are_averaged(store):
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    backbone = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D()])
    heads = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]) for _ in range(2)]
    members = [multi_view.instance_member(heads[0]), multi_view.mean_member(*heads)]
    images = next(iter(multi_view.stream_views(store, np.arange(2), 16, 0.5)))[:, 0]
    probs = multi_view.build_predictor(members, backbone)(images).numpy()
    each = [tf.nn.softmax(head(backbone(images))).numpy() for head in heads]
    np.testing.assert_allclose(probs, [each[0], (each[0] + each[1]) / 2], atol=1e-6)
