r"""Trains on the machines of a Ray cluster, which begins again by itself when one of them is lost.

    python experiments/examples/train_on_ray.py --machines 4 --gpus 8 -- \
        run --workdir /shared/run --data /shared/crawl --set model.mode=finetune

What stands behind `--` goes to `urnet` on each machine, with `runtime.strategy=multi_worker`. Ray Train says
by TF_CONFIG which machines there are. It needs `pip install 'urnet_tf[ray]' 'ray[train]'`, and a crawl and a
work directory that all machines reach under the same path.
"""

import subprocess
import sys

from absl import app, flags
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

_MACHINES = flags.DEFINE_integer("machines", 2, "how many take part", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 0, "GPUs of each", lower_bound=0)
_CPUS = flags.DEFINE_float("cpus", 1, "cores of each that Ray sets aside", lower_bound=0)
_TRIES = flags.DEFINE_integer("tries", 10, "how often all may begin again", lower_bound=0)
_RECORDS = flags.DEFINE_string("records", None, "where Ray keeps its own records; None = its default")


def take_part(settings: dict) -> None:
    """Runs in a process of Ray's, whose TF_CONFIG the command inherits."""
    command = [sys.executable, "-m", "urnet_tf", *settings["arguments"]]
    subprocess.run([*command, "--set", "runtime.strategy=multi_worker"], check=True)


def main(arguments: list[str]) -> None:
    each = {"CPU": _CPUS.value} | ({"GPU": _GPUS.value} if _GPUS.value else {})
    TensorflowTrainer(
        take_part,
        train_loop_config={"arguments": arguments[1:]},
        scaling_config=ScalingConfig(
            num_workers=_MACHINES.value, use_gpu=_GPUS.value > 0, resources_per_worker=each,
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            storage_path=_RECORDS.value, failure_config=FailureConfig(max_failures=_TRIES.value)
        ),
    ).fit()  # fmt: skip


if __name__ == "__main__":
    app.run(main)
