"""Where a run of training stands: steps, passes over the data, checkpoints, progress, the caller's callbacks.

`fit` makes one Keras "epoch" of a whole run; here its steps become passes again.
"""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from urnet_tf import store
from urnet_tf.errors import RunError
from urnet_tf.training.machines import Machines

_FIRST_LOOK = 8  # steps after which several machines first ask whether a checkpoint is due
_LOG_SECONDS = 10.0  # between lines of a log; passes over small crawls are over in an instant


class Run:
    """Where a run stands: the step, the means of the pass in hand, the passes done."""

    def __init__(
        self,
        model: keras.Model,
        loss_state: list[tf.Tensor],
        steps_per_epoch: int,
        total_steps: int,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        description: str,
        log_dir: str | os.PathLike | None,
        validate: Callable[[], dict[str, float]],
        machines: Machines,
    ) -> None:
        self.machines = machines
        self.model, self.loss_state, self._validate = model, loss_state, validate
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps
        self.schedule, self.description = schedule, description
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir)) if log_dir is not None else None

    def rate(self) -> float:
        """The learning rate of the last step; steps that a float16 overflow left out do not count."""
        return float(self.schedule(max(0, int(self.model.optimizer.iterations.numpy()) - 1)))

    def add(self, values: Mapping[str, float]) -> None:
        """Counts one step with its own losses and metrics."""
        self.step += 1
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"the loss is {values['loss']}")
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self.step % self.steps_per_epoch == 0 or self.step == self.total_steps:
            self._close_pass()

    def _close_pass(self) -> None:
        means = {name: total / self._count for name, total in self._sums.items()}
        metadata = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "learning_rate": self.rate(),
            **means,
            **self._validate(),
        }
        self.history.append(metadata)
        self._sums, self._count = {}, 0
        if self._writer is not None:
            with self._writer.as_default(step=self.step):
                for name, value in metadata.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def save(self, path: pathlib.Path) -> None:
        """Writes the checkpoint, on the chief; all machines call it, as reading weights may take all."""
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        if not all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f"):
            raise self._diverged("a weight is not finite")
        if not self.machines.is_chief:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, state=np.array(json.dumps(self._state())), **arrays)

    def restore(self, path: pathlib.Path | None) -> bool:
        """Goes on where a checkpoint stands, if there is one; whether there is.

        The other machines go on where the chief does, and begin with its weights.
        """
        variables, found = self._variables(), None
        if self.machines.is_chief and path is not None and path.exists():
            with np.load(path) as file:
                found = {name: file[name] for name in file.files}
        state = json.loads(str(found.pop("state"))) if found is not None else None
        if found is not None:
            shapes = {name: array.shape for name, array in found.items()}
            if shapes != {name: tuple(variable.shape) for name, variable in variables.items()}:
                raise RunError(f"{path} is a checkpoint of another model; delete it to start over.")
        if self.machines.count > 1:
            state = self.machines.tell("state", state)
            own = {name: variable.numpy() for name, variable in variables.items()}
            found = self.machines.share(own if found is None else found)
        for name, array in (found or {}).items():
            variables[name].assign(array)
        if state is None:
            return False
        self.step, self.history = state["step"], state["history"]
        self._sums, self._count = state["sums"], state["count"]
        return True

    def _state(self) -> dict[str, Any]:
        return {"step": self.step, "history": self.history, "sums": self._sums, "count": self._count}

    def _variables(self) -> dict[str, Any]:
        model = self.model
        groups = {"model": model.variables, "optimizer": model.optimizer.variables, "loss": self.loss_state}
        return {f"{group}-{i}": v for group, variables in groups.items() for i, v in enumerate(variables)}

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"{self.description}: {what} at step {self.step} of {self.total_steps}. Try a lower "
            f"`learning_rate` (it was {self.rate():.3g}), `clip_norm=1`, a longer `warmup_fraction`, or "
            "float32 where the precision is mixed."
        )


class BestPass:
    """Keeps the weights of the pass that agreed best with held-out labels, for the end of the run.

    They replace those of the last pass only where their agreement is higher by more than its standard error:
    held-out labels are few, and the best of several passes looks better than it is. The file is written
    before a checkpoint that knows of its pass, so that a killed run ends with the same weights.

    Args:
      run: whose history has the agreement as `metric`.
      metric: its name.
      rows: held-out images, n; the standard error is sqrt(a (1 - a) / n).
      path: of the file.
    """

    def __init__(self, run: Run, metric: str, rows: int, path: pathlib.Path) -> None:
        self._run, self._metric, self._rows, self._path = run, metric, rows, path

    def close_pass(self) -> None:
        """To be called after each pass; keeps its weights where none was better."""
        agreements = [row[self._metric] for row in self._run.history]
        if agreements[-1] < max(agreements):
            return
        arrays = {f"w{i}": variable.numpy() for i, variable in enumerate(self._run.model.variables)}
        if not self._run.machines.is_chief:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic_path(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, step=self._run.step, **arrays)

    def finish(self) -> None:
        """Puts the kept weights in place where that is due, and marks their pass as `kept` in the history."""
        history = self._run.history
        agreements = np.array([row[self._metric] for row in history])
        best = len(agreements) - 1 - int(agreements[::-1].argmax())
        error = math.sqrt(agreements[best] * (1.0 - agreements[best]) / self._rows)
        if agreements[best] - agreements[-1] <= error:
            best = len(agreements) - 1
        else:
            variables = {f"w{i}": variable for i, variable in enumerate(self._run.model.variables)}
            arrays = {"step": np.array(0)} | {name: variable.numpy() for name, variable in variables.items()}
            if self._run.machines.is_chief:
                with np.load(self._path) as file:
                    arrays = {name: file[name] for name in arrays}
            arrays = self._run.machines.share(arrays)
            if int(arrays["step"]) != history[best]["step"]:
                raise RunError(
                    f"{self._path} is not of the best pass; delete {self._path.parent} to start over."
                )
            for name, variable in variables.items():
                variable.assign(arrays[name])
            logging.info(
                "%s: the weights of pass %d of %d are kept, which agreed with %.1f %% of the held-out "
                "labels, the last ones with %.1f %%.", self._run.description, best + 1, len(history),
                100 * agreements[best], 100 * agreements[-1],
            )  # fmt: skip
        history[best]["kept"] = 1.0


class Loop(keras.callbacks.Callback):
    """Tells the run of each step, writes checkpoints, shows progress, calls callbacks pass by pass."""

    def __init__(
        self,
        run: Run,
        checkpoint: pathlib.Path | None,
        checkpoint_s: float,
        callbacks: Sequence[keras.callbacks.Callback],
        best: BestPass | None = None,
    ) -> None:
        super().__init__()
        self._best = best
        self._run, self._checkpoint, self._checkpoint_s = run, checkpoint, checkpoint_s
        self._bar: tqdm | None = None
        self._callbacks = keras.callbacks.CallbackList(
            list(callbacks), model=run.model, verbose=0, steps=run.steps_per_epoch,
            epochs=math.ceil(run.total_steps / run.steps_per_epoch),
        )  # fmt: skip

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._callbacks.on_train_begin()
        self._saved_at = self._reported_at = time.monotonic()
        self._saved_step, self._look_at = self._run.step, self._run.step + _FIRST_LOOK
        if sys.stderr.isatty():
            run = self._run
            self._bar = tqdm(
                desc=run.description, total=run.total_steps, initial=run.step, unit="step",
                mininterval=1.0, dynamic_ncols=True,
            )  # fmt: skip

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.model.reset_metrics()  # so that logs are of one step, and a NaN is found at its step
        epoch, place = divmod(self._run.step, self._run.steps_per_epoch)
        if batch == 0 or place == 0:
            self._callbacks.on_epoch_begin(epoch)
        self._callbacks.on_train_batch_begin(place)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        run, passes = self._run, len(self._run.history)
        epoch, place = divmod(run.step, run.steps_per_epoch)
        run.add(logs or {})
        if self._best is not None and len(run.history) > passes:
            self._best.close_pass()
        now = time.monotonic()
        if self._checkpoint is not None and run.step < run.total_steps and self._is_due(now):
            run.save(self._checkpoint)
            self._saved_at, self._saved_step = time.monotonic(), run.step
        if self._bar is not None:
            self._bar.update()
        if len(run.history) > passes:
            self._report(run.history[-1], now)
        self._callbacks.on_train_batch_end(place, logs)
        if len(run.history) > passes:
            told = {name: value for name, value in run.history[-1].items() if name not in ("step", "epoch")}
            self._callbacks.on_epoch_end(epoch, told)

    def _is_due(self, now: float) -> bool:
        """Whether a checkpoint is due by the clock: by the chief's, where several machines train.

        These ask it at steps that it has named before, since all of them save at the same step.
        """
        run, elapsed = self._run, now - self._saved_at
        due = elapsed >= self._checkpoint_s
        if run.machines.count == 1:
            return due
        if run.step < self._look_at:
            return False
        pace = elapsed / (run.step - self._saved_step)
        wait = self._checkpoint_s if due else self._checkpoint_s - elapsed
        told = run.machines.tell("checkpoint", [due, run.step + max(1, math.ceil(wait / max(pace, 1e-6)))])
        due, self._look_at = told
        return due

    def _report(self, metadata: dict[str, float], now: float) -> None:
        shown = ", ".join(
            f"{k} {v:.3f}" for k, v in metadata.items() if k not in ("step", "epoch", "learning_rate")
        )
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
        elif now - self._reported_at >= _LOG_SECONDS or self._run.step == self._run.total_steps:
            passes = self._run.total_steps / self._run.steps_per_epoch
            seconds, self._reported_at = now - self._reported_at, now
            logging.info(
                "%s: pass %.1f of %.1f, %s (%.1f s)",
                self._run.description,
                metadata["epoch"],
                passes,
                shown,
                seconds,
            )

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._callbacks.on_train_end(logs)
        if self._bar is not None:
            self._bar.close()
