"""One row of bench_step.py: a process that builds a network, then computes steps when asked.

    python step_worker.py '{"library": "torch", "depth": 50, …}'

Each row is its own process because PyTorch may live in another environment and because peak memory
is counted per process. It speaks JSON lines: it says once what it built, then reads requests such as
`training 5` or `profile 3` and answers each with the seconds of every step. Between requests it waits
on its input, so it does not take time from the row that is being measured.

Both libraries compute the same step: a forward pass in float32, cross entropy over CLASSES classes,
the backward pass, SGD with momentum 0.9. Ours and Keras do it through the function that `model.fit`
calls for each step; PyTorch through its usual four lines.
"""

import collections
import ctypes
import glob
import json
import os
import resource
import sys
import tempfile
import time

import urnet_tf  # noqa: F401  before TensorFlow: switches oneDNN on as the program does

CLASSES = 1000
LEARNING_RATE, MOMENTUM = 0.01, 0.9


class TensorFlowSteps:
    """Steps of a Keras model on TensorFlow.

    `variant` is `auto` or `blocked`, the implementation of our grouped convolutions; or `keras`, the
    same network from Keras' own layers, whose grouped convolutions Keras compiles with XLA, trained
    with the defaults of `model.compile`, that is with XLA over the whole step; or `keras_op`, the
    same without that: XLA for the convolutions only.
    """

    def __init__(self, spec):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import keras
        import numpy as np
        import tensorflow as tf

        from urnet_tf.models.resnext import build_resnext
        from urnet_tf.models.variants import Variant

        self.tf = tf
        tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
        plain = spec["variant"].startswith("keras")
        backbone = build_resnext(
            spec["image_size_px"],
            Variant(spec["depth"], spec["cardinality"], spec["width_per_group"]),
            implementation="auto" if plain else spec["variant"],
        )
        if plain:
            backbone = keras.models.clone_model(backbone, clone_function=_with_layers_of_keras)
        self.model = keras.Model(backbone.input, keras.layers.Dense(CLASSES)(backbone.output))
        self.model.compile(
            optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile="auto" if spec["variant"] == "keras" else False,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self.parameters = sum(v.shape.num_elements() for v in self.model.trainable_variables)
        generator = np.random.default_rng(0)
        shape = (spec["batch"], spec["image_size_px"], spec["image_size_px"], 3)
        self.images = tf.constant(generator.uniform(0, 255, shape).astype("float32"))
        labels = tf.constant(generator.integers(0, CLASSES, spec["batch"]))
        self.batches = iter(tf.data.Dataset.from_tensors((self.images, labels)).repeat())
        self.model.make_train_function()
        jit = self.model.jit_compile
        self.infer = tf.function(lambda images: self.model(images, training=False), jit_compile=jit or None)

    def step(self, mode):
        """The step of `mode` as a function that returns once the result is there."""
        if mode == "training":
            return lambda: float(self.model.train_function(self.batches)["loss"])
        return lambda: self.infer(self.images).numpy()

    def profile(self, steps):
        """(operation, milliseconds a training step, calls a step), the costliest first."""
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        step = self.step("training")
        with tempfile.TemporaryDirectory() as directory:
            self.tf.profiler.experimental.start(directory)
            for _ in range(steps):
                step()
            self.tf.profiler.experimental.stop()
            space = xplane_pb2.XSpace()
            (path,) = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
            with open(path, "rb") as file:
                space.ParseFromString(file.read())
        milliseconds, calls = collections.Counter(), collections.Counter()
        for plane in space.planes:
            for event in (event for line in plane.lines for event in line.events):
                name = plane.event_metadata[event.metadata_id].name
                node, _, operation = name.partition(":")  # "model/conv1/Conv2D:Conv2D#id=3#"
                operation = operation.partition("#")[0]
                # Functions contain the operations that are counted by themselves.
                if node and operation.isidentifier() and not operation.endswith("PartitionedCall"):
                    milliseconds[operation] += event.duration_ps / 1e9 / steps
                    calls[operation] += 1
        return [(name, value, calls[name] // steps) for name, value in milliseconds.most_common()]


class TorchSteps:
    """Steps of the same network in PyTorch, channels last; `variant` is `eager` or `compile`."""

    def __init__(self, spec):
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of waiting compilers
        import torch
        from torch_resnext import build_torch_resnext  # of this directory

        self.torch = torch
        torch.set_num_threads(spec["threads"])
        network = build_torch_resnext(
            spec["depth"], spec["cardinality"], spec["width_per_group"], num_classes=CLASSES
        ).to(memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)
        self.network = torch.compile(network) if spec["variant"] == "compile" else network
        side = spec["image_size_px"]
        self.images = torch.randn(spec["batch"], 3, side, side).to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (spec["batch"],))

    def step(self, mode):
        """The step of `mode` as a function that returns once the result is there."""
        self.network.train(mode == "training")
        return self._train if mode == "training" else self._infer

    def _train(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.torch.nn.functional.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _infer(self):
        with self.torch.inference_mode():
            return self.network(self.images).numpy()

    def profile(self, steps):
        """(operation, milliseconds a training step, calls a step), the costliest first."""
        step = self.step("training")
        with self.torch.profiler.profile(
            activities=[self.torch.profiler.ProfilerActivity.CPU], acc_events=True
        ) as trace:
            for _ in range(steps):
                step()
        rows = [
            (row.key, row.self_cpu_time_total / 1e3 / steps, row.count // steps)
            for row in trace.key_averages()
        ]
        return sorted(rows, key=lambda row: -row[1])


LIBRARIES = {"tensorflow": TensorFlowSteps, "torch": TorchSteps}


def _with_layers_of_keras(layer):
    """The layer that Keras itself offers for one of ours."""
    import keras

    if isinstance(layer, keras.layers.BatchNormalization):
        config = layer.get_config()
        names = ("name", "momentum", "epsilon", "synchronized")
        return keras.layers.BatchNormalization(**{name: config[name] for name in names})
    if type(layer).__name__ != "GroupedConv2D":
        return layer.__class__.from_config(layer.get_config())
    explicit = isinstance(layer.padding, int)
    convolution = keras.layers.Conv2D(
        layer.filters,
        layer.kernel_size,
        layer.strides,
        "valid" if explicit else layer.padding,
        groups=layer.groups,
        use_bias=layer.use_bias,
        name=layer.name,
    )
    if not explicit or layer.padding == 0:
        return convolution
    return keras.Sequential([keras.layers.ZeroPadding2D(layer.padding), convolution], name=layer.name)


def _resident_mb():
    """Memory of this process now; its peak so far where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return _peak_mb()


def _peak_mb():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _return_memory():
    """Gives freed memory back to the system, for the row at work; TensorFlow keeps its pool anyway."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # not glibc: the waiting rows keep what they have


def _timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not mix with the answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    spec = json.loads(sys.argv[1])
    steps = LIBRARIES[spec["library"]](spec)
    answer(parameters=steps.parameters, built_mb=_resident_mb())
    idle_since, idle_cpu_since = time.perf_counter(), time.process_time()
    for request in sys.stdin:
        idle = (time.process_time() - idle_cpu_since) / max(1e-9, time.perf_counter() - idle_since)
        mode, count = request.split()
        if mode == "profile":
            answer(operations=steps.profile(int(count)))
        else:
            step = steps.step(mode)
            seconds = [_timed(step) for _ in range(int(count))]
            peak = _peak_mb()
            _return_memory()
            answer(seconds=seconds, peak_mb=peak, resident_mb=_resident_mb(), idle_cores=idle)
        idle_since, idle_cpu_since = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
