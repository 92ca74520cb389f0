"""Orders of images: small ones by hand, and what must not depend on the rest of a crawl."""

import numpy as np

from urnet_tf.review import queues


def test_the_random_order_of_images_stays_when_others_come_and_go():
    rng = np.random.default_rng(0)
    keys = np.array([rng.bytes(16).hex() for _ in range(500)], "S32")
    order = queues.order_at_random(keys)
    assert sorted(order.tolist()) == list(range(500)) and not np.array_equal(order, np.arange(500))
    kept = np.flatnonzero(np.arange(500) % 3)
    again = kept[queues.order_at_random(keys[kept])]
    assert again.tolist() == [i for i in order if i in set(kept.tolist())]
    shuffled = rng.permutation(500)
    assert np.array_equal(shuffled[queues.order_at_random(keys[shuffled])], order)
    # Hashes that are close together do not stay so: the sample says nothing of names or times.
    near = np.array([f"{i:032x}" for i in range(2000)], "S32")
    early = queues.order_at_random(near)[:200]
    assert 700 < early.mean() < 1300


def test_an_image_that_looks_like_no_class_comes_first():
    axes = np.eye(4, dtype=np.float16)
    label = np.array([0] * 6 + [1] * 6 + [0])
    features = np.concatenate([np.tile(axes[0], (6, 1)), np.tile(axes[1], (6, 1)), axes[3:]])
    right = np.where(np.arange(13) == 12, 0.1, 0.9)
    top = np.tile([0, 1], (13, 1))
    strangeness = queues.compute_strangeness(features, label, right, top)
    assert strangeness.argmax() == 12 and strangeness[12] > 0.9 and strangeness[:12].max() < 0.01
    assert queues.order_by_strangeness(strangeness, np.full(13, 0.5), right)[0] == 12


def test_a_wrong_label_of_a_known_class_is_not_strange():
    axes = np.eye(3, dtype=np.float16)
    label = np.array([0, 0, 0, 1, 1, 1, 0])
    features = axes[[0, 0, 0, 1, 1, 1, 1]]
    found = queues.compute_strangeness(features, label, np.full(7, 0.9), np.tile([1, 0], (7, 1)))
    assert found[6] < 0.05


def test_contradictions_are_training_images_of_one_picture():
    def column(*values):
        return np.array(values, object)

    duplicates = {
        "picture": column("p", "p", "q", "q", "r", "r", "r"),
        "kind": column(*["near_several_labels"] * 2, *["same_label"] * 2, *["train_and_evaluation"] * 3),
        "split": column("train", "train", "train", "train", "train", "train", "test"),
        "path": column("a", "b", "c", "d", "e", "f", "g"),
    }
    label = np.array([0, 1, 2, 2, 0, 1])
    found = queues.find_contradictions(duplicates, list("abcdef"), label)
    assert [ids.tolist() for ids in found] == [[0, 1], [4, 5]]
    # Those that pack has set aside are no images any more.
    assert queues.find_contradictions(duplicates, list("acdef"), label[[0, 2, 3, 4, 5]])[0].tolist() == [3, 4]
    assert not queues.find_contradictions({k: v[:0] for k, v in duplicates.items()}, [], label)
