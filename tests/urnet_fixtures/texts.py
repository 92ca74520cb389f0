"""Images that tell the class, and words of the classes: what maps from one to the other learn from."""

import numpy as np

TEXT = np.eye(3, 6, dtype=np.float32)  # one vector a class


def planted(count=300, noise=0.0, seed=0):
    """Features that tell the class, and labels of which a share is wrong."""
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    centers = generator.standard_normal((3, 16)) * 2
    features = (centers[truth] + generator.standard_normal((count, 16))).astype(np.float16)
    wrong = generator.random(count) < noise
    return features, np.where(wrong, (truth + 1) % 3, truth), wrong
