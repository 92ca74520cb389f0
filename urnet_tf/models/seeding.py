"""Initial weights that depend on a seed and on the layer's name only, not on global random state."""

import hashlib

import keras


def layer_seed(seed: int, name: str) -> int:
    """A 31-bit seed for one layer; adding or removing other layers does not change it."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def he_normal(seed: int, name: str) -> keras.initializers.Initializer:
    """The usual start of convolutions followed by ReLU."""
    return keras.initializers.HeNormal(seed=layer_seed(seed, name))


def glorot_uniform(seed: int, name: str) -> keras.initializers.Initializer:
    """The usual start of dense layers."""
    return keras.initializers.GlorotUniform(seed=layer_seed(seed, name))
