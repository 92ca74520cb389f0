import threading
import time

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.feed.sampling import BagSampler, InstanceSampler, SequentialSampler

IDS = np.array([3, 5, 8, 100, 101, 7, 40])


def stream(sampler, steps):
    ids, epochs = zip(*(sampler.batch(step) for step in range(steps)), strict=True)
    return np.concatenate(ids), np.concatenate(epochs)


def test_every_instance_exactly_once_an_epoch_and_batches_always_full():
    sampler = InstanceSampler(IDS, batch_size=3, seed=1)
    assert (sampler.total, sampler.steps_per_epoch, sampler.shape) == (7, 3, (3,))
    ids, epochs = stream(sampler, 14)  # 42 places = 6 epochs
    assert ids.dtype == epochs.dtype == np.int64
    np.testing.assert_array_equal(epochs, np.arange(42) // 7)
    orders = ids.reshape(6, 7)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.sort(IDS), (6, 1)))
    assert len({tuple(order) for order in orders}) == 6


def test_a_batch_larger_than_an_epoch_holds_several_epochs():
    ids, epochs = InstanceSampler([4, 9], batch_size=7, seed=0).batch(0)
    np.testing.assert_array_equal(epochs, [0, 0, 1, 1, 2, 2, 3])
    assert set(ids[:2]) == set(ids[2:4]) == set(ids[4:6]) == {4, 9}


def test_batches_depend_on_seed_and_step_only():
    one, other = (InstanceSampler(np.arange(50), 8, seed=3) for _ in range(2))
    late = [other.batch(step)[0] for step in (17, 2, 9)]
    for step, ids in zip((17, 2, 9), late, strict=True):
        np.testing.assert_array_equal(one.batch(step)[0], ids)
    assert not np.array_equal(one.batch(0)[0], InstanceSampler(np.arange(50), 8, seed=4).batch(0)[0])


def test_bags_are_pure_complete_and_redrawn():
    labels = np.repeat([0, 1, 2, 3, 7], [10, 2, 1, 6, 4])  # classes of one and two images, and empty ones
    order = np.random.default_rng(0).permutation(len(labels))
    ids, labels = order * 5 + 2, labels[order]  # neither sorted nor contiguous
    label_of = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    sampler = BagSampler(ids, labels, bag_size=3, batch_bags=2, seed=5)
    assert sampler.total == 4 + 1 + 1 + 2 + 2 and sampler.shape == (2, 3)
    bags, epochs = stream(sampler, 15)  # 30 bags = 3 epochs
    seen = []
    for epoch in range(3):
        of_epoch = bags[epochs[:, 0] == epoch]
        assert all(len({label_of[i] for i in bag}) == 1 for bag in of_epoch.tolist())
        assert set(of_epoch.ravel()) == set(ids)
        seen.append({tuple(sorted(bag)) for bag in of_epoch.tolist() if label_of[bag[0]] == 0})
    assert seen[0] != seen[1] != seen[2]
    np.testing.assert_array_equal(epochs, np.broadcast_to(epochs[:, :1], epochs.shape))
    in_turn = [label_of[i] for i in bags[epochs[:, 0] == 0][:, 0].tolist()]
    assert in_turn != sorted(in_turn)
    full = bags[[label_of[i] in (0, 3, 7) for i in bags[:, 0].tolist()]]  # 10, 6 and 4 images are enough
    assert all(len(set(bag)) == 3 for bag in full.tolist())


def test_sequential_loses_nothing_and_repeats_nothing():
    sampler = SequentialSampler(IDS, 3)
    assert sampler.steps == 3
    np.testing.assert_array_equal(stream(sampler, 3)[0], IDS)
    assert len(sampler.batch(2)[0]) == 1
    with pytest.raises(UsageError, match="from 0 to 2"):
        sampler.batch(3)


def test_threads_agree():
    sampler, wanted = InstanceSampler(np.arange(1000), 64, 0), InstanceSampler(np.arange(1000), 64, 0)
    found = {}

    def draw(steps):
        for step in steps:
            found[step] = sampler.batch(step)[0]

    threads = [threading.Thread(target=draw, args=(range(i, 100, 4),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step in range(100):
        np.testing.assert_array_equal(found[step], wanted.batch(step)[0])
    assert len(sampler._epochs) <= 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: InstanceSampler([], 2, 0),
        lambda: InstanceSampler([1.5], 2, 0),
        lambda: InstanceSampler([-1], 2, 0),
        lambda: InstanceSampler([1], 0, 0),
        lambda: InstanceSampler([1], 1, -1),
        lambda: BagSampler([1, 2], [0], 2, 1, 0),
        lambda: BagSampler([1, 2], [0, -1], 2, 1, 0),
        lambda: BagSampler([1, 2], [0, 0], 0, 1, 0),
        lambda: SequentialSampler([1], 0),
    ],
)
def test_impossible_arguments(make):
    with pytest.raises(UsageError, match="Expected"):
        make()


def test_a_million_instances_are_quick():
    labels = np.repeat(np.arange(1000), 1000)
    sampler = BagSampler(np.arange(10**6), labels, 3, 85, 0)
    start = time.perf_counter()
    sampler.batch(0)
    assert time.perf_counter() - start < 3.0
