"""Pictures in which all frequencies occur, as in photographs: for what compares pictures."""

import functools

import numpy as np
from PIL import Image

SIZE = 192, 144


def draw_blobs(seed):
    """The picture of a number; the caller may change it."""
    return Image.fromarray(_pixels(seed))


@functools.lru_cache(maxsize=512)  # many tests draw the same
def _pixels(seed):
    generator = np.random.default_rng(seed)
    pixels = np.zeros((*SIZE[::-1], 3))
    for side in (3, 6, 12, 24, 48):
        small = generator.uniform(-1, 1, (side, side, 3)).astype(np.float32)
        channels = [Image.fromarray(small[..., c]).resize(SIZE, Image.Resampling.BICUBIC) for c in range(3)]
        pixels += np.stack([np.asarray(channel) for channel in channels], -1) * 60 * (3 / side) ** 0.7
    return np.clip(pixels + 128, 0, 255).astype(np.uint8)
