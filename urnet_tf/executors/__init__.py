"""Where units of offline work run: in this process, in processes beside it, or on a Ray cluster.

The contract is that of `contract.Job`; what a unit leaves on the disk is checked by `store.parts`.
"""

from urnet_tf.executors.contract import Executor, Job
from urnet_tf.executors.local import InProcess, Processes

__all__ = ["Executor", "InProcess", "Job", "Processes", "open_executor"]


def open_executor(kind: str, *, workers: int, address: str) -> Executor:
    """The executor of a name.

    Args:
      kind: "local", "processes" or "ray".
      workers: processes of "processes", and threads of units in this one.
      address: of a Ray cluster, see `on_ray.RayCluster`.

    Raises:
      UsageError: Ray is not installed, or the cluster does not answer.
    """
    if kind == "local":
        return InProcess(workers)
    if kind == "processes":
        return Processes(workers)
    from urnet_tf.executors.on_ray import RayCluster

    return RayCluster(address)
