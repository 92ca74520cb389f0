"""Draws a small noisy web crawl on disk: pictures, lists, meta data, and the truth beside it.

Input: sizes and noise rates. Output: a WebVision 1.0 tree, a class-folder tree or a CSV list, and
`<directory>_truth.csv` (`path,label,true_label,kind`; true_label -1 = belongs to no class). The
truth is for measuring only and never lies inside of the crawl. Each picture comes from its own
generator, so the bytes depend on the arguments and not on the number of processes.
"""

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf import store
from urnet_tf.drawn.hostile_files import USABLE, HostileFile, write_hostile_files
from urnet_tf.drawn.layouts import LAYOUTS, LIST_FILE, WRITE_LISTS, set_paths, write_truth
from urnet_tf.drawn.others import draw_other
from urnet_tf.drawn.plan import (
    AMBIGUOUS,
    CLEAN,
    CONFUSED,
    DEGRADED,
    HOSTILE,
    OUT_OF_VOCABULARY,
    RANDOM,
    class_sizes,
    plan_pictures,
)
from urnet_tf.drawn.scenes import SCENE_CLASSES, draw_scene
from urnet_tf.errors import UsageError
from urnet_tf.schema import TEST, TRAIN, UNLABELED, VAL

if TYPE_CHECKING:
    from PIL import Image

    from urnet_tf.drawn.plan import Picture
    from urnet_tf.drawn.scenes import SceneClass

_IMAGES_PER_TASK = 40
_SMALLEST_CLASS = 4


@dataclasses.dataclass(frozen=True)
class DrawnCrawl:
    """What was written."""

    path: pathlib.Path  # what `ingest.path` takes: the directory, or the list file
    truth_path: pathlib.Path
    class_names: tuple[str, ...]  # in label order
    train_images: int  # without the hostile files
    val_images: int
    test_images: int
    kinds: Mapping[str, int]  # training files of each kind
    hostile: tuple[HostileFile, ...]  # names relative to the directory

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return (
            f"Drew {self.train_images} training, {self.val_images} validation and {self.test_images} test "
            f"images of {len(self.class_names)} classes at {self.path} ({kinds}). The truth is in "
            f"{self.truth_path}."
        )


def draw_crawl(
    directory: str | os.PathLike,
    *,
    images: int = 1600,
    num_classes: int = 16,
    image_size_px: int = 128,
    seed: int = 0,
    imbalance: float = 8.0,
    confused: float = 0.13,
    out_of_vocabulary: float = 0.13,
    random_label: float = 0.06,
    ambiguous: float = 0.04,
    degraded: float = 0.08,
    val_per_class: int = 20,
    test_per_class: int = 10,
    layout: str = "webvision",
    hostile: bool = True,
    workers: int | None = None,
    sources: Sequence[str] = ("google", "flickr"),
) -> DrawnCrawl:
    """Draws a crawl into a new directory.

    Args:
      directory: does not exist yet; the truth is written beside it.
      images: training images, without the 12 hostile files.
      num_classes: 2 to 16; the first ones of the confusable pairs.
      image_size_px: middle of the range of side lengths.
      seed: equal arguments give equal bytes.
      imbalance: size of the largest class over that of the smallest.
      confused: share of the training images that show another class, mostly the partner.
      out_of_vocabulary: share that shows no class at all.
      random_label: share that shows any other class.
      ambiguous: share that shows two classes.
      degraded: share of bad representatives of their class.
      val_per_class, test_per_class: clean images; 0 = no such split.
      layout: "webvision", "folder" or "list".
      hostile: whether to plant the files of `hostile_files` in the largest class.
      workers: processes; None = one a core if that pays. More than one re-imports the main module.
      sources: names, the cleanest first; "webvision" knows google and flickr.

    Raises:
      UsageError: the directory exists, or an argument lies outside of its range.
    """
    directory = pathlib.Path(directory)
    rates = {
        CONFUSED: confused, OUT_OF_VOCABULARY: out_of_vocabulary, RANDOM: random_label,
        AMBIGUOUS: ambiguous, DEGRADED: degraded,
    }  # fmt: skip
    _check(
        images, num_classes, image_size_px, imbalance, rates, val_per_class, test_per_class, layout, sources
    )
    if os.path.lexists(directory):
        raise UsageError(f"Expected a new directory to draw into; {directory} exists already.")
    scenes, partners = _choose_scenes(num_classes)
    pictures = plan_pictures(
        scenes, partners, images=images, imbalance=imbalance, rates=rates, val_per_class=val_per_class,
        test_per_class=test_per_class, sources=sources, seed=seed,
    )  # fmt: skip
    set_paths(pictures, scenes, layout)

    directory.parent.mkdir(parents=True, exist_ok=True)
    truth_path = directory.with_name(directory.name + "_truth.csv")
    with store.atomic_path(directory) as root:
        for folder in {os.path.dirname(p.path) for p in pictures}:
            (root / folder).mkdir(parents=True, exist_ok=True)
        _draw_all(root, pictures, scenes, image_size_px, seed, workers)
        fates = _plant_hostile(root, pictures, scenes, image_size_px, seed) if hostile else []
        WRITE_LISTS[layout](root, pictures, scenes, sources)
        write_truth(truth_path, pictures, layout)
    splits = collections.Counter(p.split for p in pictures if p.kind != HOSTILE)
    kinds = collections.Counter(p.kind for p in pictures if p.split == TRAIN)
    return DrawnCrawl(
        path=directory / LIST_FILE if layout == "list" else directory,
        truth_path=truth_path,
        class_names=tuple(scene.name for scene in scenes),
        train_images=splits[TRAIN],
        val_images=splits[VAL],
        test_images=splits[TEST],
        kinds=dict(sorted(kinds.items())),
        hostile=tuple(fates),
    )


def _choose_scenes(num_classes: int) -> "tuple[tuple[SceneClass, ...], list[int | None]]":
    """The classes in label order, and of each the label of the one that it is confused with, or None."""
    chosen = SCENE_CLASSES[:num_classes]
    scenes = tuple(sorted(chosen, key=lambda scene: scene.name))
    pairs = {scene: chosen[i ^ 1] if i ^ 1 < num_classes else None for i, scene in enumerate(chosen)}
    return scenes, [scenes.index(pairs[scene]) if pairs[scene] else None for scene in scenes]


def _check(
    images: int,
    num_classes: int,
    image_size_px: int,
    imbalance: float,
    rates: Mapping[str, float],
    val_per_class: int,
    test_per_class: int,
    layout: str,
    sources: Sequence[str],
) -> None:
    if not 2 <= num_classes <= len(SCENE_CLASSES):
        raise UsageError(f"Expected num_classes from 2 to {len(SCENE_CLASSES)}; received {num_classes}.")
    if not 32 <= image_size_px <= 1024:
        raise UsageError(f"Expected image_size_px from 32 to 1024; received {image_size_px}.")
    if not imbalance >= 1:
        raise UsageError(
            f"Expected an imbalance (largest over smallest class) of at least 1; received {imbalance}."
        )
    if images < 1 or class_sizes(images, num_classes, imbalance).min() < _SMALLEST_CLASS:
        raise UsageError(
            f"Expected at least {_SMALLEST_CLASS} images in the smallest class; received images={images} for "
            f"{num_classes} classes and imbalance {imbalance}: take more images or less imbalance."
        )
    for kind, rate in rates.items():
        if not 0 <= rate <= 1:
            raise UsageError(f"Expected a share of {kind} images from 0 to 1; received {rate}.")
    if sum(rates.values()) > 0.95:
        raise UsageError(
            f"Expected shares of noise that sum to at most 0.95; received {sum(rates.values()):.2f}."
        )
    if val_per_class < 0 or test_per_class < 0:
        raise UsageError(
            f"Expected val_per_class and test_per_class from 0; received {val_per_class}, {test_per_class}."
        )
    _check_sources(layout, sources)


def _check_sources(layout: str, sources: Sequence[str]) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"Expected layout to be one of {', '.join(LAYOUTS)}; received {layout!r}.")
    known = (
        all(s in ("google", "flickr") for s in sources)
        if layout == "webvision"
        else all(map(str.isalnum, sources))
    )
    if isinstance(sources, str) or not sources or len(set(sources)) < len(sources) or not known:
        raise UsageError(
            f"Expected sources to be different names of letters and digits (webvision: google, flickr); "
            f"received {sources!r}."
        )


# ---------------------------------------------------------------------------------- pictures


def _draw_all(
    root: pathlib.Path,
    pictures: "list[Picture]",
    scenes: "Sequence[SceneClass]",
    image_size_px: int,
    seed: int,
    workers: int | None,
) -> None:
    names = [scene.name for scene in scenes]
    jobs = [(str(root / p.path), [seed, *p.drawn_as], p.shows) for p in pictures]
    tasks = [jobs[i : i + _IMAGES_PER_TASK] for i in range(0, len(jobs), _IMAGES_PER_TASK)]
    if workers is None:  # a process costs as much as some hundred pictures
        workers = min(os.cpu_count() or 1, 1 + len(jobs) // 300)
    if workers <= 1:
        for task in tasks:
            _draw_some(task, names, image_size_px)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of TensorFlow
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for done in [pool.submit(_draw_some, task, names, image_size_px) for task in tasks]:
            done.result()


def _draw_some(
    jobs: list[tuple[str, list[int], tuple[str, int, str]]], class_names: list[str], image_size_px: int
) -> None:
    by_name = {scene.name: scene for scene in SCENE_CLASSES}
    scenes = [by_name[name] for name in class_names]
    for path, key, shows in jobs:
        rng = np.random.default_rng(key)
        image = _draw(rng, shows, scenes, image_size_px)
        image.save(path, "JPEG", quality=int(rng.integers(35, 96)))


def _draw(
    rng: np.random.Generator,
    shows: tuple[str, int, str],
    scenes: "Sequence[SceneClass]",
    image_size_px: int,
) -> "Image.Image":
    width, height = (int(side) for side in np.rint(image_size_px * rng.uniform(0.75, 1.25, 2)))
    size = (width, height)
    kind, label, other = shows
    if kind == OUT_OF_VOCABULARY:
        return draw_other(other, rng, size)
    second = scenes[int(other)] if kind == AMBIGUOUS else None
    return draw_scene(scenes[label], rng, size, degraded=kind == DEGRADED, other=second)


def _plant_hostile(
    root: pathlib.Path,
    pictures: "list[Picture]",
    scenes: "Sequence[SceneClass]",
    image_size_px: int,
    seed: int,
) -> list[HostileFile]:
    """Writes the hostile files beside the first picture of the largest class and lists them."""
    sizes = collections.Counter(p.label for p in pictures if p.split == TRAIN)
    label = min(sizes, key=lambda j: (-sizes[j], j))
    host = next(p for p in pictures if p.label == label)
    folder = os.path.dirname(host.path)
    rng = np.random.default_rng([seed, 0xBAD])
    picture = _draw(rng, (CLEAN, label, ""), scenes, image_size_px)
    fates = write_hostile_files(root / folder, picture)
    group = [
        i for i, p in enumerate(pictures) if (p.source, p.label, p.query) == (host.source, label, host.query)
    ]
    rank = pictures[group[-1]].rank
    planted = [
        dataclasses.replace(
            host, true_label=label if fate.expectation == USABLE else UNLABELED, kind=HOSTILE, rank=rank + i,
            name=f"hostile{i:02d}", title=scenes[label].queries[host.query], description="", tags=(),
            path=f"{folder}/{fate.name}",
        )
        for i, fate in enumerate(fates, start=1)
    ]  # fmt: skip
    pictures[group[-1] + 1 : group[-1] + 1] = planted
    return [dataclasses.replace(fate, name=f"{folder}/{fate.name}") for fate in fates]
