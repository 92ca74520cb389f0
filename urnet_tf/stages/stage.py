"""What a stage is: a name, what it needs, which settings it depends on, how to run and estimate it.

Stage modules are thin: they read what earlier stages left on disk, call the core, write their
own directory. They import TensorFlow only inside of `run`, so that plans are drawn at once.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from urnet_tf.config import Config, FitConfig
from urnet_tf.store import UnitLog, Workdir


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a stage will cost; None where that cannot be known yet."""

    rows: int | None = None
    seconds: float | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of the data when a plan is drawn: from earlier stages or a quick count."""

    images: int | None = None  # all splits
    train_images: int | None = None
    num_classes: int | None = None
    bytes_per_image: float = 25_000.0
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What `run` receives."""

    config: Config
    workdir: Workdir
    out: pathlib.Path  # the directory to fill; holds finished units after a kill

    def path(self, stage: str, *parts: str) -> pathlib.Path:
        """A file of an earlier, complete stage."""
        return self.workdir.path(stage).joinpath(*parts)

    def units(self, name: str, total: int) -> UnitLog:
        """The log of a resumable loop of this stage."""
        return UnitLog(self.out / f"units_{name}", total)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One arrow of the flow."""

    name: str
    needs: tuple[str, ...]  # stages whose files `run` reads
    depends_on: tuple[str, ...]  # dotted configuration keys that change the result
    run: Callable[[StageContext], dict]  # returns facts for the marker (plain JSON)
    estimate: Callable[[Config, Facts], Estimate]
    version: int = 1  # raise it when the same settings give another result
    inputs: Callable[[Config], str] = lambda config: ""  # fingerprint of what is read from outside


def open_backbone(config: Config, **changes):
    """The backbone that `model` describes; `changes` are other keywords of `build_backbone`."""
    from urnet_tf.models.backbone import build_backbone

    model = config.model
    settings = {
        "name": model.backbone,
        "image_size_px": model.image_size_px,
        "weights": model.weights,
        "depth": model.resnext_depth,
        "cardinality": model.resnext_cardinality,
        "width_per_group": model.resnext_width_per_group,
        "small_stem": model.resnext_small_stem,
        "seed": config.seed,
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


def fit_settings(fit: FitConfig) -> dict:
    """A section `fit` as keywords of `training.fit_model`, without those that need the data."""
    settings = dataclasses.asdict(fit)
    return {name: value for name, value in settings.items() if name not in ("epochs", "batch_images")}


def images_per_step(fit: FitConfig, images: int) -> int:
    """`batch_images`, halved until a pass over `images` has four steps: small crawls need steps, too."""
    size = fit.batch_images
    while size > 1 and _STEPS_PER_PASS * size > images:
        size //= 2
    return size


_STEPS_PER_PASS = 4
FEATURE_DIMS = {"efficientnet_lite0": 1280, "resnext": 2048}  # of estimates, which import no network

# Core-seconds of one image through a network, forward, 224 px; measured on a small CPU machine.
_FORWARD_CORE_SECONDS = {"efficientnet_lite0": 0.015, "resnext": 0.2}
_TRAINING_FACTOR = 4.0  # forward and backward, with augmentation


def forward_seconds(config: Config, images: float, cores: int) -> float:
    """Estimated seconds to run the configured backbone once over `images`."""
    per_image = _FORWARD_CORE_SECONDS[config.model.backbone] * (config.model.image_size_px / 224) ** 2
    return images * per_image / cores


def training_seconds(config: Config, fit: FitConfig, images: float, cores: int) -> float:
    """Estimated seconds of one fit over `images` instances."""
    if config.model.mode == "frozen":
        return 4.0 + 0.012 * fit.epochs * images / fit.batch_images * max(1.0, fit.batch_images / 255)
    return 30.0 + _TRAINING_FACTOR * forward_seconds(config, fit.epochs * images, cores)
