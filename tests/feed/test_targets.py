"""The packed targets: hand numbers for bags, shapes of what is packed, and the limit of counting."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.feed.targets import check_instance_count, pack_bag_targets, pack_targets, target_shape

IDS = np.array([[[3, 1], [0, 3]]])  # one bag of two instances, two classes each
PROBS = np.array([[[0.75, 0.25], [0.5, 0.5]]])


def test_a_bag_by_hand():
    packed = pack_bag_targets(IDS, PROBS)
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed, [[[3, 1, 0, 3], [0.375, 0.125, 0.25, 0.25]]])


def test_shapes_are_those_of_packed_targets():
    assert pack_targets(IDS, PROBS).shape == target_shape((1, 2), 2)
    assert pack_targets(IDS, PROBS, np.array([[7, 8]])).shape == target_shape((1, 2), 2, instance_ids=True)
    assert pack_bag_targets(IDS, PROBS).shape == target_shape((1,), 4)
    assert target_shape((None,), 3) == (None, 2, 3)


def test_more_instances_than_float32_counts_are_refused():
    check_instance_count(2**24)
    assert np.float32(2**24) == np.float32(2**24 + 1)
    with pytest.raises(UsageError, match="at most 16,777,216 images.*received 16,777,217"):
        check_instance_count(2**24 + 1)
