"""Which instances make up a step: (seed, step) -> instance ids, without any state to save.

A sampler is an endless stream over epochs. Step s covers the stream positions
`[s * B, (s + 1) * B)`; position p is place `p % total` of epoch `p // total`. So batches are always
full, nothing is ever dropped, and a run resumes from one integer. The order of an epoch is drawn by
a Philox generator whose key is (seed, epoch). Only numpy; 16 M instances need less than 1 GB.
"""

import collections
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from urnet_tf.errors import UsageError

_EPOCHS_KEPT = 2  # a step on the border of two epochs needs both


class _EpochStream:
    """The arithmetic that both random samplers share; children say what an epoch looks like."""

    def __init__(self, total: int, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UsageError(f"Expected a batch size of at least 1; received {batch_size}.")
        if not 0 <= seed < 2**64:
            raise UsageError(f"Expected a seed from 0 to 2**64 - 1; received {seed}.")
        self.shape: tuple[int, ...]  # of children
        self.total = int(total)
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self._epochs: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every place of one epoch was seen, rounded up."""
        return -(-self.total // self.batch_size)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the batch of a step.

        Returns:
          ids: int64 [*shape], instance ids.
          epochs: int64 [*shape], the epoch in which each of them is drawn.
        """
        positions = int(step) * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.total)
        parts = []
        for epoch in range(epochs[0], epochs[-1] + 1):
            order = self._order(int(epoch))
            parts.append(self._ids_at(order, places[epochs == epoch]))
        ids = np.concatenate(parts).astype(np.int64, copy=False)
        epochs = epochs.reshape(-1, *[1] * (ids.ndim - 1))
        return ids, np.broadcast_to(epochs, ids.shape).copy()

    def _order(self, epoch: int) -> Any:
        with self._lock:  # several threads draw batches
            if epoch not in self._epochs:
                while len(self._epochs) >= _EPOCHS_KEPT:  # free one before the next is drawn
                    self._epochs.popitem(last=False)
                generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
                self._epochs[epoch] = self._draw(generator)
            self._epochs.move_to_end(epoch)
            return self._epochs[epoch]

    def _draw(self, generator: np.random.Generator) -> Any:
        raise NotImplementedError

    def _ids_at(self, order: Any, places: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class InstanceSampler(_EpochStream):
    """Every instance exactly once an epoch, in a global shuffle.

    Args:
      ids: int [M], instance ids in any order, not necessarily contiguous.
      batch_size: instances a step, B.
      seed: of the shuffles.

    Attributes:
      total: places of an epoch, M.
      shape: static shape of the ids of a batch, (B,).
    """

    def __init__(self, ids: np.ndarray, batch_size: int, seed: int):
        self._ids = _compact_ids(ids)
        super().__init__(len(self._ids), batch_size, seed)
        self.shape = (self.batch_size,)

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        return _permutation(generator, self.total)

    def _ids_at(self, order: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._ids[order[places]]


class BagSampler(_EpochStream):
    """Bags of N_b instances of one class; every instance at least once an epoch, bags re-drawn each epoch.

    A class of n instances has ceil(n / N_b) bags. Its last bag is filled with instances from its
    first one, so a class with fewer than N_b instances repeats them inside its bag.

    Args:
      ids: int [M], instance ids in any order, not necessarily contiguous.
      labels: int [M], their classes, not negative.
      bag_size: instances of a bag, N_b.
      batch_bags: bags a step, B.
      seed: of the draws.

    Attributes:
      total: bags of an epoch.
      shape: static shape of the ids of a batch, (B, N_b).

    Source: Sec. 4.4.
    Reading: the paper does not say how its bags are drawn: anew each pass, each image at least once in it.
    """

    def __init__(self, ids: np.ndarray, labels: np.ndarray, bag_size: int, batch_bags: int, seed: int):
        self._ids = _compact_ids(ids)
        labels = np.asarray(labels)
        if labels.shape != self._ids.shape:
            raise UsageError(
                f"Expected one label for each of the {len(self._ids)} ids; received shape {labels.shape}."
            )
        if labels.min() < 0:
            raise UsageError("Expected labels of 0 and more in bags; received a negative one.")
        if bag_size < 1:
            raise UsageError(f"Expected a bag size of at least 1; received {bag_size}.")
        # 16-bit keys are radix sorted by numpy's stable sort: ten times faster at 16 M instances.
        self._labels = labels.astype(np.uint16 if labels.max() < 2**16 else np.uint32)
        self._class_size = np.bincount(self._labels)
        bags = -(-self._class_size // bag_size)
        self._first_bag = np.concatenate([[0], np.cumsum(bags)])
        self._first_instance = np.concatenate([[0], np.cumsum(self._class_size)])
        self.bag_size = int(bag_size)
        super().__init__(self._first_bag[-1], batch_bags, seed)
        self.shape = (self.batch_size, self.bag_size)

    def _draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shuffled = _permutation(generator, len(self._ids))
        by_class = shuffled[np.argsort(self._labels[shuffled], kind="stable")]
        return by_class, _permutation(generator, self.total)

    def _ids_at(self, order: tuple[np.ndarray, np.ndarray], places: np.ndarray) -> np.ndarray:
        by_class, bag_order = order
        bags = bag_order[places]
        classes = np.searchsorted(self._first_bag, bags, side="right") - 1
        slots = (bags - self._first_bag[classes])[:, None] * self.bag_size + np.arange(self.bag_size)
        inside = slots % self._class_size[classes][:, None]
        return self._ids[by_class[self._first_instance[classes][:, None] + inside]]


class SequentialSampler:
    """Instances in the given order, once; the last batch may be short. For evaluation.

    Attributes:
      total: number of ids.
      steps: batches until all ids were seen; `steps_per_epoch` is the same.
      shape: static shape of the ids of a batch, (None,).
    """

    seed = 0
    shape: tuple[Any, ...] = (None,)

    def __init__(self, ids: np.ndarray, batch_size: int):
        if batch_size < 1:
            raise UsageError(f"Expected a batch size of at least 1; received {batch_size}.")
        self._ids = np.asarray(ids, dtype=np.int64)
        self.batch_size = int(batch_size)
        self.total = len(self._ids)
        self.steps = self.steps_per_epoch = -(-self.total // self.batch_size)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step, as the other samplers give it: (ids int64 [<= B], zeros int64 [<= B])."""
        if not 0 <= step < self.steps:
            raise UsageError(f"Expected a step from 0 to {self.steps - 1}; received {step}.")
        ids = self._ids[int(step) * self.batch_size : (int(step) + 1) * self.batch_size]
        return ids, np.zeros_like(ids)


class PartSampler:
    """Some rows of each step of a sampler: what one of several machines reads.

    Args:
      sampler: whose steps these are, of a fixed size.
      rows_of: step -> int [b], the rows of that step, always as many.
      size: rows, b; images or bags.

    Attributes:
      shape: static shape of the ids of a batch, (b, ...).
      total, batch_size, seed, steps_per_epoch: the sampler's.
    """

    def __init__(self, sampler: "Sampler", rows_of: Callable[[int], np.ndarray], size: int) -> None:
        self._sampler, self._rows_of = sampler, rows_of
        self.total: int = sampler.total
        self.batch_size: int = sampler.batch_size
        self.seed: int = sampler.seed
        self.steps_per_epoch: int = sampler.steps_per_epoch
        self.shape: tuple[Any, ...] = (size, *sampler.shape[1:])

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a step, as the other samplers give it: ids and epochs, int64 [*shape]."""
        rows = self._rows_of(step)
        ids, epochs = self._sampler.batch(step)
        return ids[rows], epochs[rows]


def part_rows(rows: int, part: int, parts: int) -> np.ndarray:
    """The consecutive rows of one of equal parts: int64 [rows / parts].

    Raises:
      UsageError: the parts would not be equal.
    """
    if rows % parts:
        raise UsageError(
            f"Expected a batch that {parts} machines divide equally; received {rows} rows a step (images, or "
            "whole bags). Change `batch_images`."
        )
    size = rows // parts
    return np.arange(part * size, (part + 1) * size)


Sampler = InstanceSampler | BagSampler | SequentialSampler | PartSampler


def _compact_ids(ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise UsageError(f"Expected a list of instance ids; received {ids.dtype} of shape {ids.shape}.")
    if ids.min() < 0:
        raise UsageError(f"Expected instance ids of 0 and more; received {ids.min()}.")
    return ids.astype(_index_dtype(ids.max() + 1))


def _permutation(generator: np.random.Generator, size: int) -> np.ndarray:
    order = np.arange(size, dtype=_index_dtype(size))
    generator.shuffle(order)
    return order


def _index_dtype(size: int) -> type[np.signedinteger]:
    return np.int32 if size <= 2**31 - 1 else np.int64
