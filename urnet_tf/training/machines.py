"""Several machines that train one model: which of them this one is, and how all of them come to agree.

Each machine runs the same program, under TensorFlow's MultiWorkerMirroredStrategy, and takes the same steps
on its own rows. The first one is the chief: it reads checkpoints and writes all files. What it knows it tells
the others by sums to which it alone contributes, so that nothing depends on how fast a shared disk shows new
files. Whatever sums or reads weights is done by all machines, in the same order.

Source: TensorFlow, "Multi-worker training with Keras": TF_CONFIG, chief and workers.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from urnet_tf.errors import RunError, UsageError

_KINDS = ("chief", "worker")
_SLURM_PORT = 8888  # of the first task of a node
# What TensorFlow raises, depending on what it was doing when a machine was lost.
_LOST = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
    tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError, tf.errors.UnknownError,
)  # fmt: skip


class Machines:
    """The machines of a strategy, as one of them sees them; one alone agrees with itself.

    Attributes:
      count: how many there are.
      rank: which of them this one is, from 0.
      is_chief: whether it is the one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.count, self.rank = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            tasks = [task for task in _tasks(resolver.cluster_spec().as_dict()) if task]
            self.count = max(1, len(tasks))
            self.rank = tasks.index((resolver.task_type, resolver.task_id)) if tasks else 0
        self.is_chief = self.rank == 0

    def tell(self, topic: str, value: Any) -> Any:
        """What the chief says, on every machine.

        Args:
          topic: what it is about, so that machines that have lost step notice.
          value: what JSON can hold; that of the others is ignored.

        Raises:
          RunError: another machine was lost, or the chief speaks of something else.
        """
        if self.count == 1:
            return value
        letters = np.frombuffer(json.dumps([topic, value]).encode(), np.uint8)
        (length,) = self._sum([np.array(len(letters))])
        if not self.is_chief:
            letters = np.zeros(int(length), np.uint8)
        told, value = json.loads(self._sum([letters])[0].tobytes())
        if told != topic:
            raise RunError(
                f"Machine {self.rank + 1} of {self.count} is at {topic!r} and the first one at {told!r}, so "
                "they cannot go on together. Run the same command on all machines again."
            )
        return value

    def share(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chief's arrays on every machine; all give some of the same names, shapes and dtypes."""
        if self.count == 1:
            return dict(arrays)
        return dict(zip(arrays, self._sum([np.asarray(array) for array in arrays.values()]), strict=True))

    def all_alike(self, value: str) -> bool:
        """Whether the value is the same on all machines."""
        different = np.array(self.tell("agreement", value) != value, np.int64)
        return not self._sum([different], of_chief=False)[0]

    def _sum(self, arrays: list[np.ndarray], of_chief: bool = True) -> list[np.ndarray]:
        """Sums over the first device of each machine, or copies of what the chief's has."""
        if self.count == 1:
            return arrays
        mine = self.is_chief or not of_chief
        # Sums know no unsigned numbers.
        wide = [array.astype(np.int64) if array.dtype.kind in "bu" else array for array in arrays]
        sums: list[np.ndarray] = list(arrays)
        for dtype in sorted({array.dtype.name for array in wide}):  # one sum each, as each takes its time
            places = [place for place, array in enumerate(wide) if array.dtype.name == dtype]
            joined = np.concatenate([wide[place].ravel() for place in places])
            with self.watched():
                summed = _adder(self._strategy, self.count, dtype)(joined if mine else np.zeros_like(joined))
                total = self._strategy.experimental_local_results(summed)[0].numpy()
            parts = np.split(total, np.cumsum([wide[place].size for place in places])[:-1])
            for place, part in zip(places, parts, strict=True):
                sums[place] = part.reshape(wide[place].shape).astype(arrays[place].dtype)
        return sums

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Says in one sentence that a machine was lost.

        Raises:
          RunError: what was done together failed.
        """
        try:
            yield
        except _LOST as error:
            if self.count == 1:
                raise
            logging.debug("%s", error)
            raise RunError(
                f"Machine {self.rank + 1} of {self.count} lost another one ({type(error).__name__}). The log "
                "of that one says why; the same command on all machines goes on from the last checkpoint."
            ) from error


@functools.cache
def _adder(strategy: tf.distribute.Strategy, machines: int, dtype: str) -> Any:
    """Sums vectors of any length over the first device of each machine; traced once a process."""
    devices = strategy.num_replicas_in_sync // machines

    def add(mine: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group % devices, 0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, mine, tf.zeros_like(mine)))

    @tf.function(input_signature=[tf.TensorSpec([None], dtype)])
    def add_all(mine: tf.Tensor) -> Any:
        return strategy.run(add, args=(mine,))

    return add_all


def _tasks(cluster: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(kind, number) of the machines that train, the chief first."""
    return [(kind, number) for kind in _KINDS for number in range(len(cluster.get(kind, ())))]


def open_cluster() -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy over the machines that TF_CONFIG, or else Slurm, names; waits until all are there.

    To be called before TensorFlow computes anything.

    Raises:
      UsageError: neither says which machines there are, or it was called too late.
    """
    resolver = None
    if "TF_CONFIG" in os.environ:
        _check_tf_config(os.environ["TF_CONFIG"])
    elif os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        resolver = _resolve_slurm()
    else:
        raise UsageError(
            "Expected TF_CONFIG, or a job of Slurm with several tasks, with the strategy multi_worker, "
            "to say which machines train together; found neither. docs/clusters.md shows both."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise UsageError(
            f"Expected the strategy multi_worker to be built before anything is computed; {error}"
        ) from error


def _resolve_slurm() -> tf.distribute.cluster_resolver.ClusterResolver:
    """The tasks of a job step of Slurm, one after the other by node.

    TensorFlow's resolver deals GPUs out itself and fails where there are none; Slurm has already dealt them.
    """
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=_SLURM_PORT, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
    )
    spec = slurm.cluster_spec()
    kind, rank = slurm.get_task_info()
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec, task_type=kind, task_id=rank)


def _check_tf_config(text: str) -> None:
    """Refuses what TensorFlow would answer with a traceback, or wait for."""
    try:
        told = json.loads(text)
        tasks = _tasks(told["cluster"])
        task = told["task"]["type"], int(told["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            'Expected TF_CONFIG like {"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": '
            f'{{"type": "worker", "index": 0}}}}; received {text[:200]!r}.'
        ) from None
    if task not in tasks:
        names = ", ".join(f"{kind} {number}" for kind, number in tasks)
        raise UsageError(
            f"Expected the task of TF_CONFIG to be one of its cluster ({names}), where chief and worker "
            f"train; received {task[0]} {task[1]}."
        )
