"""Numbers that look random and depend on their keys alone, whatever the order or the machine."""

import numpy as np


def splitmix64(keys: np.ndarray, round_number: int = 1) -> np.ndarray:
    """Spreads every bit of keys over all 64: a bijection for each round number.

    Args:
      keys: uint64 of any shape.
      round_number: other numbers give other results.

    Returns:
      uint64 of the shape of `keys`.

    Source: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, 2014.
    """
    with np.errstate(over="ignore"):  # uint64 arithmetic is meant to wrap
        keys = keys + np.uint64(0x9E3779B97F4A7C15) * np.uint64(round_number)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
