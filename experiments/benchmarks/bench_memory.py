"""Planned and real peak memory of training, each row in a process of its own, on drawn images.

    python experiments/benchmarks/bench_memory.py                 the rows that the plan was fitted to
    python experiments/benchmarks/bench_memory.py --config experiments/configs/webvision.yaml \
        --set train.fit.batch_images=3 --set runtime.precision=float32 --steps 20

With --config there is one row: the URNet of that configuration on bags of --classes classes, as stage
`train` fits it, with augmentation, checkpoints and saving. "planned" is what a dry run says for this
machine, "measured" the largest resident set of the process (ru_maxrss), "share" measured / planned.
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from absl import app, flags

from urnet_tf import config as config_lib
from urnet_tf.costs.network import count_urnet
from urnet_tf.feed.sampling import BagSampler
from urnet_tf.stages import stage as stages

_CONFIG = flags.DEFINE_string("config", None, "YAML configuration of the one row")
_SET = flags.DEFINE_multi_string("set", [], "section.key=value")
_CLASSES = flags.DEFINE_integer("classes", 5000, "classes of the heads")
_STEPS = flags.DEFINE_integer("steps", 4, "steps of training")
_CHILD = flags.DEFINE_bool("child", False, "measure in this process, and print JSON")

_RESNEXT = ("model.mode=finetune", "model.backbone=resnext", "model.weights=null")
_R26 = (*_RESNEXT, "model.resnext_depth=26", "model.resnext_cardinality=8", "model.image_size_px=64")
_R50 = (*_RESNEXT, "model.resnext_depth=50")
_LITE = ("model.mode=finetune", "model.weights=null", "train.fit.optimizer=adamw")
_SGD, _BF16 = "train.fit.optimizer=sgd", "runtime.precision=mixed_bfloat16"
ROWS = [
    *[(*_R26, "model.resnext_small_stem=true", f"train.fit.batch_images={n}") for n in (12, 48)],
    *[(*_R50, _SGD, "model.image_size_px=128", f"train.fit.batch_images={n}") for n in (12, 48)],
    *[(*_R50, _SGD, f"train.fit.batch_images={n}") for n in (3, 6, 12, 24)],
    (*_R50, _SGD, "train.fit.batch_images=24", "train.fit.accumulate_steps=4"),
    (*_R50, _SGD, _BF16, "train.fit.batch_images=12"),
    (*_RESNEXT, _SGD, "model.resnext_width_per_group=8", "train.fit.batch_images=3"),
    (*_LITE, "model.image_size_px=128", "train.fit.batch_images=48"),
    (*_LITE, "train.fit.batch_images=12"),
]


def main(_):
    if _CHILD.value:
        print(json.dumps(measure(config_lib.load_config(_CONFIG.value, _SET.value))))
        return
    rows = [tuple(_SET.value)] if _CONFIG.value else [(*row, *_SET.value) for row in ROWS]
    print(_line("network", "px", "images", "parts", "precision", "planned", "measured", "share", "s a step"))
    for settings in rows:
        command = [sys.executable, __file__, "--child", f"--classes={_CLASSES.value}"]
        command += [f"--steps={_STEPS.value}", *(f"--set={setting}" for setting in settings)]
        command += [f"--config={_CONFIG.value}"] if _CONFIG.value else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"The row {settings} failed.")
        *names, planned, measured, seconds = json.loads(done.stdout.splitlines()[-1])
        memory = (f"{count / 1e6:.0f} MB" for count in (planned, measured))
        print(_line(*names, *memory, f"{measured / planned:.2f}", f"{seconds:.2f}"), flush=True)


def _line(network, px, images, parts, precision, *others):
    return f"{network:<20}{px:>4}{images:>7}{parts:>6}{precision:>15}" + "".join(f"{c:>10}" for c in others)


def measure(config) -> list:
    """Fits the URNet of stage `train` for some steps and reads the peak of this process."""
    from urnet_tf.feed import batches
    from urnet_tf.models import urnet
    from urnet_tf.training import fit as training
    from urnet_tf.training.saving import save_model

    fit, bag_size, classes = config.train.fit, config.train.bag.size, _CLASSES.value
    labels, ones = np.repeat(np.arange(classes), bag_size), np.ones(classes * bag_size, np.float32)
    bags = max(1, fit.batch_images // bag_size)
    data = batches.ImageBatches(
        DrawnImages(config.pack.short_side_px),
        BagSampler(np.arange(len(labels)), labels, bag_size, bags, config.seed),
        labels[:, None].astype(np.int32), ones[:, None], ones,
        image_size_px=config.model.image_size_px, augment=stages.open_augmenter(config), bag=True,
    )  # fmt: skip
    strategy = training.build_strategy(config.runtime.strategy)
    with training.precision_policy(config.runtime.precision), strategy.scope():
        backbone = stages.open_backbone(config, synchronized=strategy.num_replicas_in_sync > 1)
        model = urnet.build_image_urnet(
            backbone, classes, bag_size, attention_dim=config.model.attention_dim,
            dropout=config.model.dropout, seed=config.seed,
        )  # fmt: skip
    times, settings = _Times(), stages.fit_settings(fit, config.runtime, bags)
    with tempfile.TemporaryDirectory() as directory:
        training.fit_model(
            model, data, dataclasses.replace(settings["options"], checkpoint_s=10.0), loss=settings["loss"],
            total_steps=_STEPS.value, loss_weights={urnet.INSTANCE: 1.0, urnet.BAG: 1.0},
            checkpoint_dir=directory, callbacks=[times.callback()],
        )  # fmt: skip
        save_model(model, pathlib.Path(directory, "urnet.keras"))
    metadata = stages.PlanContext(num_classes=classes)
    heads = count_urnet(backbone.output_shape[-1], classes, bag_size, config.model.attention_dim)
    planned = stages.count_training(config, fit, heads, metadata).host_bytes(metadata.gpus)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    name = stages.count_backbone(config).name
    return [
        name, config.model.image_size_px, bags * bag_size, fit.accumulate_steps, config.runtime.precision,
        planned, measured, times.median(),
    ]  # fmt: skip


class DrawnImages:
    """An image store in memory: some smooth random JPEGs, again and again."""

    def __init__(self, side_px: int):
        import tensorflow as tf

        rng = np.random.default_rng(0)
        coarse = tf.image.resize(rng.uniform(0, 255, (8, 8, 8, 3)), (side_px, side_px), "bicubic")
        pixels = tf.cast(tf.clip_by_value(coarse, 0, 255), tf.uint8)
        self._images = [tf.io.encode_jpeg(image).numpy() for image in pixels]

    def read(self, ids) -> list[bytes]:
        """The encoded images of these ids."""
        return [self._images[int(i) % len(self._images)] for i in ids]


class _Times:
    """Seconds of the steps after the first, which traces."""

    def __init__(self):
        self.ends = []

    def callback(self):
        """Notes the end of each step."""
        import keras

        def note(batch, logs):
            self.ends.append(time.monotonic())

        return keras.callbacks.LambdaCallback(on_train_batch_end=note)

    def median(self) -> float:
        """Of the steps after the first."""
        return float(np.median(np.diff(self.ends))) if len(self.ends) > 1 else 0.0


if __name__ == "__main__":
    app.run(main)
