"""Images per second and peak memory of inference and training steps of ResNeXt: ours, Keras', PyTorch's.

    python experiments/benchmarks/bench_step.py --torch_python .venv-torch/bin/python [--full]

requirements.txt beside this file says how to make the environment for PyTorch. The rows:

  ours           build_resnext as it is, `implementation="auto"`
  ours_blocked   the same, grouped convolutions as blocks of dense ones
  ours_dense     the floor: the ResNet of the same depth (1 group, 64 channels wide), dense throughout
  keras          the same network from keras.layers.Conv2D(groups=…), compiled by Keras with XLA
  keras_op       the same, with XLA for the grouped convolutions only
  torch          PyTorch, eager, channels_last
  torch_compile  PyTorch, torch.compile, channels_last

A busy machine changes its speed within minutes. So each row is a process of its own (step_worker.py)
with equally many threads, all of one configuration live together, and the rows take short turns, round
after round, while the others sleep. Ratios are formed within a round and printed as the median over
the rounds, with the smallest and the largest. Finished configurations in --out are not measured again.

The machine must be idle otherwise; the tables say when it was not. OMP_WAIT_POLICY stays unset on
purpose: "passive" nearly halves the speed of PyTorch on an idle machine, and without it a waiting
worker goes to sleep soon enough, which is checked.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

from absl import app, flags
from paired_workers import Worker, WorkerError, count_busy_cores  # of this directory
from step_tables import MODES, format_tables

WORKER = pathlib.Path(__file__).resolve().with_name("step_worker.py")
ROWS = {  # library, variant
    "ours": ("tensorflow", "auto"),
    "ours_blocked": ("tensorflow", "blocked"),
    "ours_dense": ("tensorflow", "auto"),
    "keras": ("tensorflow", "keras"),
    "keras_op": ("tensorflow", "keras_op"),
    "torch": ("torch", "eager"),
    "torch_compile": ("torch", "compile"),
}
OPTIONAL = ("keras_op", "keras", "ours_blocked", "torch_compile", "ours_dense")  # where memory is short
SLOW_S = 10  # above this a turn counts one step, and Keras' rows are measured once, in the warm-up

_ARCH = flags.DEFINE_list(
    "arch", None, "networks, as resnext50_32x4d; default that, --full resnext101_32x4d too"
)
_SIZES = flags.DEFINE_list("image_size_px", None, "sides of the images; default 64,224, --full 64,128,224")
_BATCHES = flags.DEFINE_list("batch", None, "images a step; default 8, --full 8,32")
_FULL = flags.DEFINE_bool("full", False, "the whole grid")
_ROWS = flags.DEFINE_list("rows", list(ROWS), "which rows")
_KERAS_SIZE = flags.DEFINE_integer(
    "keras_max_px", 64, "rows of Keras only up to this size: they take minutes"
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "turns of every row", lower_bound=1)
_TURN = flags.DEFINE_float("turn_s", 2.0, "seconds of a turn, about")
_LIMIT = flags.DEFINE_float("limit_s", 300.0, "longest wait for a start, a first step or a turn of a row")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "threads of one operation, in both libraries")
_TORCH = flags.DEFINE_string("torch_python", sys.executable, "the Python of an environment with PyTorch")
_OUT = flags.DEFINE_string("out", None, "JSON file to keep results in")
_PROFILE = flags.DEFINE_bool("profile", False, "print where the time of a training step goes, and stop")


def main(_):
    rows = _available(_check_rows(_ROWS.value))
    configurations = _configurations()
    if _PROFILE.value:
        return _profile(rows, configurations[0])
    results = _load(_OUT.value)
    results.update(machine=_machine(), date=datetime.datetime.now().isoformat(timespec="minutes"))
    done = results.setdefault("configurations", {})
    waiting = {name: c for name, c in configurations if not _is_done(done.get(name), _rows_of(c, rows))}
    minutes = sum(_estimated_minutes(c, _rows_of(c, rows)) for c in waiting.values())
    print(f"{len(waiting)} of {len(configurations)} configurations to measure, about {minutes:.0f} minutes")
    for name, configuration in waiting.items():
        print(f"  {name}: about {_estimated_gb(configuration, _rows_of(configuration, rows)):.1f} GB")
    if waiting and (busy := count_busy_cores(1)) > 0.1:
        print(f"Other processes use {busy:.1f} cores: for a fair comparison wait until they are done")
    try:
        for name, configuration in waiting.items():
            fitting = _fitting(name, configuration, _rows_of(configuration, rows))
            for result in _measure(name, configuration, fitting) if fitting else ():
                left_out = {
                    row: {"inference": [], "training": [], "notes": dict.fromkeys(MODES, "too little memory")}
                    for row in _rows_of(configuration, rows)
                    if row not in fitting
                }
                result["rows"] |= left_out
                done[name] = result
                _save(_OUT.value, results)
    except KeyboardInterrupt:
        _say("interrupted; a rerun with the same --out continues with the unfinished configurations")
    for name, _ in configurations:
        if name in done:
            print("\n" + format_tables(name, done[name]))


def _measure(name, configuration, rows):
    """Yields the result so far of a configuration, a dict to store, after every round."""
    results = {row: {"inference": [], "training": [], "notes": {}} for row in rows}
    workers, steps, others = {}, {}, []
    try:
        for row in rows:
            _say(f"{name}: {row} starts")
            workers[row] = _start(row, configuration)
            try:
                results[row].update(workers[row].answer())
                for mode in MODES:
                    steps[row, mode] = _warm_up(workers[row], row, mode, configuration["batch"], results[row])
            except WorkerError as error:
                _lose(workers, row, error, results[row])
        for round_ in range(_ROUNDS.value):
            _say(f"{name}: round {round_ + 1} of {_ROUNDS.value}")
            order = rows[round_ % len(rows) :] + rows[: round_ % len(rows)]
            for mode in MODES:
                for row in order:
                    if row not in workers or not steps.get((row, mode)):
                        continue
                    time.sleep(0.1)  # until the threads of the row before have gone to sleep
                    others.append(count_busy_cores(0.2))
                    try:
                        answer = workers[row].ask(f"{mode} {steps[row, mode]}")
                    except WorkerError as error:
                        _lose(workers, row, error, results[row], mode)
                        continue
                    seconds = statistics.median(answer["seconds"][1:])  # the first finds cold caches
                    results[row][mode].append(configuration["batch"] / seconds)
                    results[row]["idle_cores"] = max(results[row].get("idle_cores", 0), answer["idle_cores"])
            busy = statistics.median(others) if others else 0
            yield {**configuration, "rounds": round_ + 1, "others_cores": busy, "rows": results}
    finally:
        for worker in workers.values():
            worker.stop()


def _start(row, configuration):
    library, variant = ROWS[row]
    groups = {"cardinality": 1, "width_per_group": 64} if row == "ours_dense" else {}
    spec = {**configuration, **groups, "library": library, "variant": variant}
    return Worker(WORKER, spec, _LIMIT.value, _TORCH.value if library == "torch" else sys.executable)


def _warm_up(worker, row, mode, batch, result):
    """Two steps; returns how many steps make a turn, 0 for a row that is too slow for turns."""
    try:
        first = worker.ask(f"{mode} 1")
        result[f"{mode}_first_s"] = first["seconds"][0]
    except WorkerError as error:
        raise WorkerError(f"first {mode} step {error}") from error
    answer = worker.ask(f"{mode} 1")
    result[f"{mode}_peak_mb"] = answer["peak_mb"]
    (seconds,) = answer["seconds"]
    _say(f"  {mode}: first step {first['seconds'][0]:.1f} s, then {seconds:.2f} s")
    if seconds > SLOW_S and row.startswith("keras"):
        result[mode] = [batch / seconds]
        result["notes"][mode] = "one step only"
        return 0
    if seconds > SLOW_S:
        return 2
    return 1 + min(50, max(2, round(_TURN.value / seconds)))


def _lose(workers, row, error, result, mode=None):
    _say(f"  {row}: {error}")
    workers.pop(row).stop()
    for lost in [mode] if mode else [name for name in MODES if not result[name]]:
        result["notes"][lost] = str(error)


def _profile(rows, named_configuration):
    name, configuration = named_configuration
    for row in rows:
        worker = _start(row, configuration)
        try:
            worker.answer()
            worker.ask("training 3")
            seconds = statistics.median(worker.ask("training 3")["seconds"])
            operations = worker.ask("profile 3")["operations"]
        except WorkerError as error:
            print(f"\n{row}: {error}")
            continue
        finally:
            worker.stop()
        total = sum(milliseconds for _, milliseconds, _ in operations)
        print(f"\n{row}, {name}: a step {seconds * 1e3:.0f} ms, operations {total:.0f} ms")
        print("\n| operation | ms a step | calls |\n|---|---:|---:|")
        for operation, milliseconds, calls in operations[:15]:
            print(f"| {operation} | {milliseconds:.1f} | {calls} |")


def _configurations():
    """[(name, configuration)], the cheap ones first."""
    archs = _ARCH.value or ["resnext50_32x4d", "resnext101_32x4d"][: 2 if _FULL.value else 1]
    sizes = [int(size) for size in _SIZES.value or ((64, 128, 224) if _FULL.value else (64, 224))]
    batches = [int(batch) for batch in _BATCHES.value or ((8, 32) if _FULL.value else (8,))]
    found = []
    for arch in archs:
        match = re.fullmatch(r"resnext(26|50|101|152)_(\d+)x(\d+)d", arch)
        if not match:
            raise app.UsageError(f"Expected an --arch such as resnext101_32x8d; received {arch!r}.")
        depth, cardinality, width = map(int, match.groups())
        for size in sizes:
            for batch in batches:
                configuration = {
                    "depth": depth,
                    "cardinality": cardinality,
                    "width_per_group": width,
                    "image_size_px": size,
                    "batch": batch,
                    "threads": _THREADS.value,
                }
                found.append((f"{arch}, {size} px, batch {batch}", configuration))
    return sorted(found, key=lambda item: _gflop(item[1]))


def _check_rows(rows):
    for row in rows:
        if row not in ROWS:
            raise app.UsageError(f"Expected --rows of {', '.join(ROWS)}; received {row!r}.")
    return rows


def _available(rows):
    """The rows without those of PyTorch where it is missing; says so."""
    if not any(ROWS[row][0] == "torch" for row in rows):
        return rows
    try:
        command = [_TORCH.value, "-c", "import torch; print(torch.__version__)"]
        found = subprocess.run(command, capture_output=True, text=True)
        problem = found.returncode and (found.stderr.strip().splitlines() or ["it failed"])[-1]
    except OSError as error:
        problem = str(error)
    if not problem:
        return rows
    print(f"Skipped the rows of PyTorch: {_TORCH.value}: {problem}; see requirements.txt beside this file")
    return [row for row in rows if ROWS[row][0] != "torch"]


def _rows_of(configuration, rows):
    small = configuration["image_size_px"] <= _KERAS_SIZE.value
    return [row for row in rows if small or not row.startswith("keras")]


def _is_done(result, rows):
    """Whether all rows took part in all rounds or ran out of time; failed ones are tried again."""
    if not result or result["rounds"] < _ROUNDS.value or not set(rows) <= set(result["rows"]):
        return False
    return not any("ended" in note for row in rows for note in result["rows"][row]["notes"].values())


def _gflop(configuration):
    """Of a training step, about: three times the forward pass, 8.5 GFLOP for 50 layers at 224 px."""
    width = configuration["cardinality"] * configuration["width_per_group"] / 128
    area = (configuration["image_size_px"] / 224) ** 2
    return 3 * 8.5 * configuration["depth"] / 50 * width * area * configuration["batch"]


def _estimated_minutes(configuration, rows):
    """Starts, warm-ups and turns, on threads of 30 GFLOP/s; compiling."""
    step = _gflop(configuration) / (30 * configuration["threads"])
    slow = sum(row.startswith("keras") for row in rows)
    one = 25 + 3 * step + _ROUNDS.value * (max(_TURN.value, 3 * step) + max(_TURN.value, step))
    compile_ = 90 * ("torch_compile" in rows)
    return ((len(rows) - slow) * one + slow * min(_LIMIT.value, 120) + compile_) / 60


def _fitting(name, configuration, rows):
    """The rows that the free memory holds together, given up in the order of OPTIONAL; says which."""
    free, fitting = _available_gb(), list(rows)
    for row in [*OPTIONAL, *rows]:
        if row in fitting and _estimated_gb(configuration, fitting) > free:
            fitting.remove(row)
    if missing := [row for row in rows if row not in fitting]:
        _say(f"{name}: {free:.0f} GB of memory are free, too little for {', '.join(missing)}")
    return fitting


def _estimated_gb(configuration, rows):
    """Of rows that live together: TensorFlow keeps the memory of a step while it waits, PyTorch does not."""
    area = (configuration["image_size_px"] / 224) ** 2
    width = configuration["cardinality"] * configuration["width_per_group"] / 128
    step = 0.17 * configuration["depth"] / 50 * (1 + width) / 2 * area * configuration["batch"]
    weights = 0.3 * configuration["depth"] / 50 * width
    torch = sum(ROWS[row][0] == "torch" for row in rows)
    return (len(rows) - torch) * (1 + weights + step) + torch * (0.5 + weights) + (step if torch else 0)


def _available_gb():
    try:
        meminfo = pathlib.Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+)", meminfo)[1]) / 1e6
    except OSError:
        return float("inf")  # not a Linux; the estimate is printed


def _machine():
    try:
        model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        model = platform.processor()
    return f"{model}, {os.cpu_count()} cores"


def _load(path):
    if path and os.path.exists(path):
        return json.loads(pathlib.Path(path).read_text())
    return {}


def _save(path, results):
    if path:
        partial = pathlib.Path(f"{path}.partial")
        partial.write_text(json.dumps(results, indent=1))
        partial.replace(path)


def _say(line):
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    app.run(main)
