import numpy as np

from urnet_tf.store.hashing import splitmix64


def test_the_published_sequence_of_seed_zero():
    zero = np.zeros(1, np.uint64)
    # The first three outputs of the reference implementation.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(splitmix64(zero, number)[0]) for number in (1, 2, 3)] == expected


def test_keys_are_kept_and_stay_distinct():
    keys = np.arange(10_000, dtype=np.uint64).reshape(100, 100)
    found = splitmix64(keys)
    assert found.shape == keys.shape and len(np.unique(found)) == keys.size
    assert keys[0, 1] == 1
