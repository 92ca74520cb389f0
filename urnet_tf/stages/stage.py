"""What a stage is: a name, what it needs, which settings it depends on, how to run and estimate it.

Stage modules are thin: they read what earlier stages left on disk, call the core, write their
own directory. They import TensorFlow only inside of `run`, so that plans are drawn at once.
"""

import dataclasses
import glob
import math
import os
import pathlib
from collections.abc import Callable

import numpy as np

from urnet_tf import store
from urnet_tf.config import Config, FitConfig, RuntimeConfig
from urnet_tf.models import step_cost
from urnet_tf.models.network_cost import HeadCost, NetworkCost, count_classifier, count_network
from urnet_tf.models.step_cost import TrainingCost, training_cost
from urnet_tf.store import MARKER, UnitLog, Workdir

# What decides the network that `open_backbone` gives, for `Stage.depends_on`.
BACKBONE_SETTINGS = (
    "model.backbone", "model.weights", "model.image_size_px", "model.resnext_depth",
    "model.resnext_cardinality", "model.resnext_width_per_group", "model.resnext_squeeze_excitation",
    "model.resnext_deep_stem", "model.resnext_small_stem",
)  # fmt: skip

_GUESSED_CLASSES = 1000  # of a list, which is not read for a plan


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a stage will cost; None where that cannot be known yet."""

    rows: int | None = None
    seconds: float | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None  # of the machine
    note: str = ""
    training: TrainingCost | None = None  # of a stage that trains


def _count_gpus():
    """NVIDIA devices of this machine that may be used, without a driver or TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(glob.glob("/dev/nvidia[0-9]*"))
    if visible is None:
        return found
    return min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def _machine_memory():
    """Bytes of memory that this process may use: the machine's, or the limit of its container."""
    try:
        limit = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(limit)) if limit.isdecimal() else machine


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of the data when a plan is drawn: from earlier stages or a quick count."""

    images: int | None = None  # all splits
    train_images: int | None = None
    num_classes: int | None = None
    bytes_per_image: float = 25_000.0
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    gpus: int = dataclasses.field(default_factory=_count_gpus)
    memory_bytes: int = dataclasses.field(default_factory=_machine_memory)

    @property
    def classes(self) -> int:
        """The number of classes, or a guess."""
        return self.num_classes or _GUESSED_CLASSES

    @property
    def guess(self) -> str:
        """What a note adds where `classes` is a guess."""
        return "" if self.num_classes else f"; {_GUESSED_CLASSES:,} classes guessed"


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What `run` receives."""

    config: Config
    workdir: Workdir
    out: pathlib.Path  # the directory to fill; holds finished units after a kill

    def path(self, stage: str, *parts: str) -> pathlib.Path:
        """A file, or the whole directory, of an earlier, complete stage, as that stage wrote it.

        Raises:
          DamagedResult: it is not; the runner makes that stage again.
        """
        return self.workdir.checked(stage, *parts)

    def marker(self, stage: str) -> dict:
        """The marker of an earlier, complete stage.

        Raises:
          DamagedResult: it cannot be read.
        """
        self.workdir.checked(stage, MARKER)
        return self.workdir.marker(stage)

    def units(self, name: str, total: int, *columns: np.memmap) -> UnitLog:
        """The log of a resumable loop of this stage, which fills `columns`."""
        return UnitLog(self.out / f"units_{name}", total, *columns)

    def remove(self, name: str) -> None:
        """Removes a file or directory of this stage, if it is there."""
        store.remove(self.out / name, self.out)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One arrow of the flow."""

    name: str
    needs: tuple[str, ...]  # stages whose files `run` reads
    depends_on: tuple[str, ...]  # dotted configuration keys, of settings or sections, that change the result
    run: Callable[[StageContext], dict]  # returns facts for the marker (plain JSON)
    estimate: Callable[[Config, Facts], Estimate]
    applies: Callable[[Config], bool] = lambda config: True  # False: `run` has nothing to do
    version: int = 1  # raise it when the same settings give another result
    # What is read from outside: words for a person → fingerprint.
    inputs: Callable[[Config], dict[str, str]] = lambda config: {}
    # Looks at the contents of what is read from outside: why the stage must run again, or None.
    rescan: Callable[[Config, Workdir], str | None] = lambda config, workdir: None


def open_backbone(config: Config, **changes):
    """The backbone that `model` describes; `changes` are other keywords of `build_backbone`."""
    from urnet_tf.models.backbone import build_backbone

    model = config.model
    settings = {
        "name": model.backbone,
        "image_size_px": model.image_size_px,
        "weights": model.weights,
        "seed": config.seed if model.weights is None else 0,
        **_resnext_settings(model),
    }
    return build_backbone(**(settings | changes))


def open_augmenter(config: Config, **changes):
    """The augmentation that `augment` describes; `changes` are other keywords of `build_augmenter`."""
    from urnet_tf.data.augment import build_augmenter

    settings = {
        **dataclasses.asdict(config.augment),
        "image_size_px": config.model.image_size_px,
        "crop_fraction": config.model.crop_fraction,
    }
    return build_augmenter(**(settings | changes))


def fingerprint_weights(config: Config) -> dict[str, str]:
    """`Stage.inputs` of a stage that opens the backbone: the checkpoint file that `model.weights` names.

    Empty for ImageNet and random weights.

    Raises:
      UsageError: the weights cannot be had.
    """
    from urnet_tf.models.pretrained import IMAGENET, find_weights

    path = find_weights(config.model.backbone, config.model.weights)
    if config.model.weights in (None, IMAGENET):
        return {}
    status = os.stat(path)
    return {"the file of model.weights": store.fingerprint(status.st_size, status.st_mtime_ns)}


def fit_settings(
    fit: FitConfig, runtime: RuntimeConfig, rows: int, class_counts=None, num_instances: int | None = None
) -> dict:
    """A section `fit` as keywords of `training.fit_model`, for steps of `rows` images or bags.

    Like the devices, XLA changes no more than the rounding, so that no stage depends on `jit_compile`.

    Args:
      class_counts, num_instances: of the training images; what some losses need, see `build_loss`.
    """
    from urnet_tf.robust_losses import build_loss

    settings = {field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)}
    settings["jit_compile"] = runtime.jit_compile
    settings["accumulate_steps"] = math.gcd(fit.accumulate_steps, rows)  # rows are fewer on small crawls
    settings["loss"] = build_loss(
        **dataclasses.asdict(fit.loss), label_smoothing=fit.label_smoothing, class_counts=class_counts,
        num_instances=num_instances,
    )  # fmt: skip
    left_out = ("epochs", "batch_images", "label_smoothing")
    return {name: value for name, value in settings.items() if name not in left_out}


def images_per_step(fit: FitConfig, images: int) -> int:
    """`batch_images`, halved until a pass over `images` has four steps: small crawls need steps, too."""
    size = fit.batch_images
    while size > 1 and _STEPS_PER_PASS * size > images:
        size //= 2
    return size


_STEPS_PER_PASS = 4


def count_backbone(config: Config) -> NetworkCost:
    """What the backbone that `model` describes costs."""
    model = config.model
    return count_network(model.backbone, model.image_size_px, **_resnext_settings(model))


def _resnext_settings(model):
    """The settings of one ResNeXt, which building and counting it share."""
    return {
        "depth": model.resnext_depth,
        "cardinality": model.resnext_cardinality,
        "width_per_group": model.resnext_width_per_group,
        "squeeze_excitation": model.resnext_squeeze_excitation,
        "deep_stem": model.resnext_deep_stem,
        "small_stem": model.resnext_small_stem,
    }


def count_training(config: Config, fit: FitConfig, heads: HeadCost, facts: Facts) -> TrainingCost:
    """What one fit of the configured network, or of heads on its features, holds in memory."""
    network = count_backbone(config)
    return training_cost(
        network if config.model.mode == "finetune" else None,
        heads,
        facts.classes,
        images_per_step(fit, facts.train_images or fit.batch_images * _STEPS_PER_PASS),
        feature_dim=network.feature_dim,
        image_size_px=config.model.image_size_px,
        optimizer=fit.optimizer,
        ema=fit.ema is not None,
        parts=fit.accumulate_steps,
        precision=config.runtime.precision,
    )


def training_seconds(config: Config, fit: FitConfig, images: float, facts: Facts) -> float:
    """Estimated seconds of one fit over `images` instances."""
    if config.model.mode == "frozen":
        return 4.0 + 0.012 * fit.epochs * images / fit.batch_images * max(1.0, fit.batch_images / 255)
    gpus = facts.gpus if config.runtime.strategy == "mirrored" else min(1, facts.gpus)
    images *= fit.epochs
    return 30.0 + step_cost.training_seconds(count_backbone(config), images, facts.cores, gpus)


def forward_seconds(config: Config, images: float, facts: Facts) -> float:
    """Estimated seconds to run the configured backbone once over `images`."""
    return step_cost.forward_seconds(count_backbone(config), images, facts.cores, min(1, facts.gpus))


def inference_bytes(config: Config, facts: Facts, models: int, batch_images: int) -> int:
    """Estimated memory of running `models` networks with their heads on batches of images."""
    network = count_backbone(config)
    heads = count_classifier(network.feature_dim, facts.classes)
    return step_cost.inference_bytes(
        network, heads, models, batch_images, config.model.image_size_px, facts.gpus
    )
