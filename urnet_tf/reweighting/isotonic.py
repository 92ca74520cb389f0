"""Isotonic regression of binned values, which page texts, search ranks and label scores share.

Source: not in the paper.
"""

import numpy as np


def isotonic_steps(sums: np.ndarray, weights: np.ndarray, *, increasing: bool = True) -> np.ndarray:
    """The rising (or falling) step function nearest to the means of bins.

    Args:
      sums: float [B], the weighted sum of the values of each bin, in the order of the bins.
      weights: [B], the sum of their weights; 0 where a bin is empty, but not everywhere.
      increasing: False for a function that falls.

    Returns:
      float64 [B]; an empty bin has the value of the one before it, or of the first filled one.

    Source: not in the paper; Barlow et al., Statistical inference under order restrictions, 1972.
    """
    import scipy.optimize

    filled = weights > 0
    fitted = scipy.optimize.isotonic_regression(
        sums[filled] / weights[filled], weights=weights[filled], increasing=increasing
    )
    return fitted.x[np.maximum(np.cumsum(filled) - 1, 0)]
