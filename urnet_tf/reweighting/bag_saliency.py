"""Bags (Sec. 4.4): what a bag guarantees, its weight, and how salient an instance was in its bags.

A bag holds N_b images of one class; attention over them sums to 1. The network itself lies in
`urnet_tf.models`; here is the arithmetic around it.
"""

import numpy as np


def bag_guarantee(clean_rate: float, bag_size: int) -> float:
    """The probability that a bag holds at least one representative image: 1 - (1 - p)^N_b.

    Source: Sec. 4.4.
    Differs: the paper says that 30 % representative images satisfy this in 97 % of cases. With bags
    of 3 it is 65.7 %; 97.3 % needs 70 % representative images, and 97.2 % bags of 10.
    Reading: an image is representative as often as its label is right, one independent of the others.

    Raises:
      ValueError: clean_rate is no share, or bag_size < 1.
    """
    if not 0.0 <= clean_rate <= 1.0 or bag_size < 1:
        raise ValueError(f"Expected a share and a bag of 1 or more; received {clean_rate} and {bag_size}.")
    return float(1.0 - (1.0 - clean_rate) ** bag_size)


def compute_bag_weight(instance_weights: np.ndarray) -> np.ndarray:
    """The weight of a bag, the mean of its instances' weights: [..., N_b] to float32 [...].

    Attention takes no part, so that the network cannot lower its loss by looking at light images.

    Source: not in the paper, whose bags have no weight (`train.bag.weighted=false`).
    """
    return np.asarray(instance_weights, np.float64).mean(axis=-1).astype(np.float32)


def compute_saliency(attention: np.ndarray, ids: np.ndarray, *, num_instances: int) -> np.ndarray:
    """Attention times bag size, averaged over the bags of an instance.

    Args:
      attention: float [..., N_b], sums to 1 over the last axis.
      ids: int [..., N_b], instance ids below num_instances.

    Returns:
      float32 [num_instances]; 1 = neutral, also for instances in no bag.

    Source: Sec. 4.4, Fig. 4: the attention of each image.
    Reading: the paper gives one bag's attention; here it is the mean over one pass without augmentation.
    """
    attention, ids = np.asarray(attention, np.float64), np.asarray(ids)
    if attention.shape != ids.shape:
        raise ValueError(f"Expected attention and ids of one shape; received {attention.shape}, {ids.shape}.")
    flat = ids.reshape(-1)
    bags = np.bincount(flat, minlength=num_instances)
    total = np.bincount(flat, weights=(attention * ids.shape[-1]).reshape(-1), minlength=num_instances)
    return np.where(bags > 0, total / np.maximum(bags, 1), 1.0).astype(np.float32)
