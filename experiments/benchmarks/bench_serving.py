"""Latency, images per second and size of every format of an export, beside Keras and PyTorch.

    python experiments/benchmarks/bench_serving.py --torch_python .venv-torch/bin/python
    python experiments/benchmarks/bench_serving.py --arch resnext50_32x4d --compare_convolutions

requirements.txt beside this file says how to make the environment for PyTorch. The rows:

  saved_model_bytes     encoded JPEG files of 500 x 375 px through `serving_default`
  saved_model_tensor    prepared pixels through `tensor`
  keras_predict         keras.Model.predict
  keras_function        the same model as a tf.function
  tflite_KIND_Nt        a .tflite file on N threads, one image a call
  onnxruntime           prepared pixels, the ONNX file
  openvino              the same file in OpenVINO, where that is installed (pip install openvino)
  torch                 PyTorch, eager, channels last

With --clients 1,4,16,64 our own server is measured instead, on the SavedModel, the ONNX and the Keras file,
and with plain keras.Model.predict in it, with hostile requests among the others; see serving_load.py.

With --compare_convolutions the rows are two SavedModels, with native and with blocked grouped
convolutions, each with oneDNN on and off.

The machine must be idle otherwise; what is printed says when it was not. PyTorch's threads wait for
each other by spinning, so on a busy machine it loses many times more than the other rows.

Weights are random: they do not change the speed. A machine changes its speed within minutes. So
each row is a process of its own (serving_worker.py), all live together, and take short turns, round
after round, while the others sleep. Ratios are formed within a round and printed as the median over
the rounds, with the smallest and the largest. p50 and p99 are over the calls of all rounds; of fewer
than a hundred calls p99 is about the slowest.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from paired_workers import Worker, WorkerError, count_busy_cores  # of this directory
from serving_load import format_load, measure, peak_memory_mb, running_server
from serving_worker import TFLITE_KINDS, draw_photos
from step_tables import paired

WORKER = pathlib.Path(__file__).resolve().with_name("serving_worker.py")
RATIOS = (  # of images/s; above 1 the first is faster
    ("saved_model_bytes", "saved_model_tensor"),
    ("saved_model_tensor", "keras_predict"),
    ("saved_model_tensor", "keras_function"),
    ("saved_model_tensor", "torch"),
    ("saved_model_tensor", "onnxruntime"),
    ("saved_model_tensor", "openvino"),
    ("tflite_float32_2t", "saved_model_tensor"),
    *((f"tflite_{kind}_1t", "tflite_float32_1t") for kind in TFLITE_KINDS[1:]),
    *((f"tflite_{kind}_2t", "tflite_float32_2t") for kind in TFLITE_KINDS[1:]),
    ("native_onednn", "blocked_onednn"),
    ("native_plain", "blocked_plain"),
)
BYTES_TO_TENSOR, INT8_SIZE, INT8_SPEED = 0.9, 0.3, 1.5  # what is to be reached

_ARCH = flags.DEFINE_string("arch", "efficientnet_lite0", "the network; or one such as resnext50_32x4d")
_SIZE = flags.DEFINE_integer("image_size_px", 224, "side of the images", lower_bound=32)
_SHORT = flags.DEFINE_integer("short_side_px", 0, "encoded images are first reduced to this; 0 = not")
_BATCHES = flags.DEFINE_list("batch", ["1", "8", "32"], "images a call; TFLite always takes one")
_ROWS = flags.DEFINE_list("rows", None, "only these rows")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "turns of every row", lower_bound=1)
_TURN = flags.DEFINE_float("turn_s", 1.0, "seconds of a turn, about")
_LIMIT = flags.DEFINE_float("limit_s", 600.0, "longest wait for the files, a start or a turn")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "threads of one operation, but in TFLite")
_TORCH = flags.DEFINE_string("torch_python", sys.executable, "the Python of an environment with PyTorch")
_COMPARE = flags.DEFINE_bool("compare_convolutions", False, "only native and blocked grouped convolutions")
_CLIENTS = flags.DEFINE_list("clients", None, "measure our own server with so many clients at a time")
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "of all clients together", lower_bound=10)
_LOAD = flags.DEFINE_float("load_s", 600.0, "longest time for one number of clients")
_OUT = flags.DEFINE_string("out", None, "JSON file for the results")


def main(_):
    variant = _variant(_ARCH.value)
    rows = _rows()
    unknown = sorted(set(_ROWS.value or ()) - set(rows))
    if unknown:
        raise app.UsageError(f"Expected --rows of {', '.join(rows)}; received {', '.join(unknown)}.")
    rows = {row: rows[row] for row in rows if row in (_ROWS.value or rows)}
    if "torch" in rows and (problem := _torch_problem()):
        print(f"Skipped torch: {_TORCH.value}: {problem}; see requirements.txt beside this file")
        del rows["torch"]
    with tempfile.TemporaryDirectory() as directory:
        spec = {
            "arch": _ARCH.value, "variant": variant, "directory": directory, "threads": _THREADS.value,
            "image_size_px": _SIZE.value, "short_side_px": _SHORT.value,
            "grouped_convolutions": ["native", "blocked"] if _COMPARE.value else ["blocked"],
            "saved_models_only": _COMPARE.value, "tflite": not _CLIENTS.value,
        }  # fmt: skip
        print(f"writing the files of {_ARCH.value}", flush=True)
        writer = Worker(WORKER, {"row": "write", **spec}, _LIMIT.value)
        try:
            sizes = writer.answer()
        finally:
            writer.stop()
        if _CLIENTS.value:
            return _measure_servers(directory)
        for row in [row for row in ("onnxruntime", "openvino") if row in rows]:
            if importlib.util.find_spec(row) is None or "model.onnx" not in sizes:
                print(f"Skipped {row}: it is not installed, or there is no ONNX file")
                del rows[row]
        results, others = _measure(rows, spec)
    for row, result in results.items():
        result["bytes"] = sizes.get(rows[row].get("file", "model.keras" if "keras" in row else ""))
    name = f"{_ARCH.value}, {_SIZE.value} px, {_THREADS.value} threads, {_ROUNDS.value} rounds"
    print(format_tables(name, results))
    print(format_reach(results))
    if others > 0.1:
        print(f"\nOther processes used {others:.1f} cores meanwhile: not a fair comparison.")
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps({"name": name, "rows": results}, indent=1))


def _rows():
    """Row → what it adds to the specification, and its environment."""
    if _COMPARE.value:
        return {
            f"{grouped}_{mode}": {
                "row": "saved_model_tensor", "file": f"saved_model_{grouped}",
                "environment": {"TF_ENABLE_ONEDNN_OPTS": str(int(mode == "onednn"))},
            }
            for mode in ("onednn", "plain") for grouped in ("native", "blocked")
        }  # fmt: skip
    rows = {name: {"file": "saved_model_blocked"} for name in ("saved_model_bytes", "saved_model_tensor")}
    rows |= {name: {} for name in ("keras_predict", "keras_function", "torch")}
    rows |= {name: {"file": "model.onnx"} for name in ("onnxruntime", "openvino")}
    for kind in TFLITE_KINDS:
        for threads in (1, 2):
            rows[f"tflite_{kind}_{threads}t"] = {"file": f"{kind}.tflite", "tflite_threads": threads}
    return rows


def _measure_servers(directory):
    """Puts our own server on several files under load, one after the other."""
    own, predicting = ("-m", "urnet_tf.serving.own_server"), (WORKER.with_name("keras_predict_server.py"),)
    servers = {
        "SavedModel": ("saved_model_blocked", own),
        "onnxruntime": ("model.onnx", own),
        "Keras": ("model.keras", own),
        "keras.Model.predict": ("model.keras", predicting),
    }
    results, photos = {}, draw_photos(16)
    for server, (file, program) in servers.items():
        path = pathlib.Path(directory) / file
        if not path.exists():
            print(f"Skipped {server}: there is no {file}")
            continue
        with running_server(path, directory, _THREADS.value, program) as (port, process):
            rows = []
            for clients in map(int, _CLIENTS.value):
                rows.append(measure(port, photos, clients, _REQUESTS.value, _LOAD.value, process))
                print(f"{server}, {clients} clients: {rows[-1]['images_per_s']:.1f} images/s", flush=True)
            results[server] = rows, peak_memory_mb(process)
    print(format_load(f"{_ARCH.value}, {_SIZE.value} px, {_THREADS.value} threads", results))
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps(results, indent=1))


def _measure(rows, spec):
    """Row → `calls` {batch: [seconds]}, `speeds` {batch: [images/s of a round]}, `note`; and busy cores."""
    results = {row: {"calls": {}, "speeds": {}, "note": None} for row in rows}
    workers, others = {}, []
    try:
        for row, extra in rows.items():
            extra = dict(extra)
            environment = extra.pop("environment", {})
            python = _TORCH.value if row == "torch" else sys.executable
            workers[row] = Worker(WORKER, {**spec, "row": row, **extra}, _LIMIT.value, python, environment)
        for row in rows:
            with _losing(workers, results, row):
                workers[row].answer()
        for batch in map(int, _BATCHES.value):
            calls = {}
            for row in [row for row in workers if batch == 1 or not row.startswith("tflite")]:
                with _losing(workers, results, row):
                    calls[row] = _count_calls(workers[row], batch)
            for round_ in range(_ROUNDS.value if calls else 0):
                print(f"batch {batch}: round {round_ + 1} of {_ROUNDS.value}", flush=True)
                first = round_ % len(calls)
                order = [*calls][first:] + [*calls][:first]
                for row in (row for row in order if row in workers):
                    time.sleep(0.05)  # until the threads of the row before have gone to sleep
                    others.append(count_busy_cores(0.1))
                    with _losing(workers, results, row):
                        seconds = workers[row].ask(batch, calls[row])[1:]  # the first finds cold caches
                        results[row]["calls"].setdefault(batch, []).extend(seconds)
                        speed = batch / statistics.median(seconds)
                        results[row]["speeds"].setdefault(batch, []).append(speed)
    finally:
        for worker in workers.values():
            worker.stop()
    return results, statistics.median(others or [0.0])


def _count_calls(worker, batch):
    """How many calls make a turn; the first ones set things up."""
    worker.ask(batch, 2)
    return 1 + min(200, max(3, round(_TURN.value / statistics.median(worker.ask(batch, 3)))))


@contextlib.contextmanager
def _losing(workers, results, row):
    """Takes a row out when it fails."""
    try:
        yield
    except WorkerError as error:
        print(f"{row}: {error}", flush=True)
        results[row]["note"] = str(error)
        workers.pop(row).stop()


def format_tables(name, results):
    """Markdown: latency, images/s and size of each row and batch, then the ratios."""
    lines = [
        f"\n### {name}\n",
        "| row | batch | p50 ms | p99 ms | images/s | MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, result in results.items():
        size = f"{result['bytes'] / 1e6:.1f}" if result.get("bytes") else ""
        if result["note"]:
            lines.append(f"| {row} | failed: {result['note']} | | | | {size} |")
        for batch, seconds in result["calls"].items():
            p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
            speed = statistics.median(result["speeds"][batch])
            lines.append(f"| {row} | {batch} | {p50:.1f} | {p99:.1f} | {speed:.1f} | {size} |")
    batches = sorted({batch for result in results.values() for batch in result["speeds"]})
    lines += [
        f"\n| images/s, ratio | {' | '.join(f'batch {b}' for b in batches)} |",
        "|---|" + "---:|" * len(batches),
    ]
    for first, second in RATIOS:
        if first in results and second in results:
            cells = [_spread(ratios(results, first, second, batch)) for batch in batches]
            lines.append(f"| {first} / {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_reach(results):
    """What was to be reached, and what was."""
    lines = []
    if found := ratios(results, "saved_model_bytes", "saved_model_tensor", 8):
        lines.append(_reach("bytes at batch 8, of the speed of tensors", found, BYTES_TO_TENSOR))
    small, large = (results.get(f"tflite_{kind}_1t", {}) for kind in ("int8", "float32"))
    if small.get("bytes") and large.get("bytes"):
        share = small["bytes"] / large["bytes"]
        verdict = "reached" if share <= INT8_SIZE else "NOT reached"
        lines.append(
            f"{verdict}: TFLite int8 has {share:.2f} of the size of float32; wanted at most {INT8_SIZE}"
        )
    if found := ratios(results, "tflite_int8_1t", "tflite_float32_1t", 1):
        lines.append(_reach("TFLite int8 on 1 thread, of the speed of float32", found, INT8_SPEED))
    return "\n".join(["", *lines])


def ratios(results, first, second, batch):
    """Of images/s, round by round."""
    speeds = [results.get(row, {}).get("speeds", {}).get(batch, []) for row in (first, second)]
    return paired(*speeds)


def _reach(what, found, wanted):
    verdict = "reached" if statistics.median(found) >= wanted else "NOT reached"
    return f"{verdict}: {what}: {_spread(found)}; wanted at least {wanted}"


def _spread(values):
    """Median (smallest-largest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else "–"


def _variant(arch):
    """Keywords of a ResNeXt; None for EfficientNet-Lite0."""
    sys.path.insert(0, str(WORKER.parents[2]))  # urnet_tf, installed or not
    from urnet_tf.models.variants import VARIANTS

    if arch != "efficientnet_lite0" and arch not in VARIANTS:
        raise app.UsageError(
            f"Expected --arch efficientnet_lite0 or {', '.join(VARIANTS)}; received {arch!r}."
        )
    return dataclasses.asdict(VARIANTS[arch]) if arch in VARIANTS else None


def _torch_problem():
    package = "torch" if _variant(_ARCH.value) else "torch, efficientnet_lite_pytorch"
    try:
        done = subprocess.run([_TORCH.value, "-c", f"import {package}"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else None


if __name__ == "__main__":
    app.run(main)
