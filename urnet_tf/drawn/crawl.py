"""Draws a small noisy web crawl on disk: pictures, lists, meta data, and the truth beside it.

Input: sizes and noise rates. Output: a WebVision 1.0 tree, a class-folder tree or a CSV list, and
`<directory>_truth.csv` (`path,label,true_label,kind`; true_label -1 = belongs to no class). The
truth is for measuring only and never lies inside of the crawl. Each picture comes from its own
generator, so the bytes depend on the arguments and not on the number of processes.
"""

import collections
import concurrent.futures
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from urnet_tf import store
from urnet_tf.drawn.hostile_files import USABLE, HostileFile, write_hostile_files
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

LAYOUTS = ("webvision", "folder", "list")
LIST_FILE = "images.csv"
_LIST_COLUMNS = ("path", "label", "source", "rank", "query", "title", "description", "tags", "split")
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

    def __str__(self):
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
    _set_paths(pictures, scenes, layout)

    directory.parent.mkdir(parents=True, exist_ok=True)
    truth_path = directory.with_name(directory.name + "_truth.csv")
    with store.atomic_path(directory) as root:
        for folder in {os.path.dirname(p.path) for p in pictures}:
            (root / folder).mkdir(parents=True, exist_ok=True)
        _draw_all(root, pictures, scenes, image_size_px, seed, workers)
        fates = _plant_hostile(root, pictures, scenes, image_size_px, seed) if hostile else []
        _WRITE_LISTS[layout](root, pictures, scenes, sources)
        _write_truth(truth_path, pictures, layout)
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


def _choose_scenes(num_classes):
    """The classes in label order, and of each the label of the one that it is confused with, or None."""
    chosen = SCENE_CLASSES[:num_classes]
    scenes = tuple(sorted(chosen, key=lambda scene: scene.name))
    pairs = {scene: chosen[i ^ 1] if i ^ 1 < num_classes else None for i, scene in enumerate(chosen)}
    return scenes, [scenes.index(pairs[scene]) if pairs[scene] else None for scene in scenes]


def _check(
    images, num_classes, image_size_px, imbalance, rates, val_per_class, test_per_class, layout, sources
):
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


def _check_sources(layout, sources):
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


def _draw_all(root, pictures, scenes, image_size_px, seed, workers):
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


def _draw_some(jobs, class_names, image_size_px):
    by_name = {scene.name: scene for scene in SCENE_CLASSES}
    scenes = [by_name[name] for name in class_names]
    for path, key, shows in jobs:
        rng = np.random.default_rng(key)
        image = _draw(rng, shows, scenes, image_size_px)
        image.save(path, "JPEG", quality=int(rng.integers(35, 96)))


def _draw(rng, shows, scenes, image_size_px):
    size = tuple(int(side) for side in np.rint(image_size_px * rng.uniform(0.75, 1.25, 2)))
    kind, label, other = shows
    if kind == OUT_OF_VOCABULARY:
        return draw_other(other, rng, size)
    second = scenes[int(other)] if kind == AMBIGUOUS else None
    return draw_scene(scenes[label], rng, size, degraded=kind == DEGRADED, other=second)


def _plant_hostile(root, pictures, scenes, image_size_px, seed):
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


# ----------------------------------------------------------------------------------- layouts


def _set_paths(pictures, scenes, layout):
    """Gives every picture its path in the crawl."""
    first = np.cumsum([0, *(len(scene.queries) for scene in scenes)])
    number = collections.Counter()
    for p in pictures:
        number[p.split] += 1
        if layout == "webvision" and p.split == TRAIN:
            p.path = f"{p.source}/q{first[p.label] + p.query + 1:04d}/{p.name}.jpg"
        elif layout == "webvision":
            p.path = f"{p.split}_images_256/{p.split}{number[p.split]:06d}.jpg"
        elif layout == "list":
            p.path = f"{p.split}/{p.name or format(number[p.split], '06d')}.jpg"
        elif p.split == TRAIN:
            place = number[p.source, p.label] = number[p.source, p.label] + 1
            p.path = f"train/{scenes[p.label].name}/{p.source}/{place:04d}_{p.name}.jpg"
        else:
            p.path = f"{p.split}/{scenes[p.label].name}/{number[p.split]:06d}.jpg"


def _write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _write_webvision(root, pictures, scenes, sources):
    info = root / "info"
    queries = [(label, words) for label, scene in enumerate(scenes) for words in scene.queries]
    _write_lines(info / "synsets.txt", (f"{s.synset} {', '.join(s.words)}" for s in scenes))
    _write_lines(info / "queries_synsets_map.txt", (f"{i} {q[0] + 1}" for i, q in enumerate(queries, 1)))
    everything = {"file": [], "meta": []}
    for source in sources:
        lines = (f"{i} {words.replace(' ', '+')}" for i, (_, words) in enumerate(queries, 1))
        _write_lines(info / f"queries_{source}.txt", lines)
        records, files, metas = collections.defaultdict(list), [], []
        for p in pictures:
            if p.split == TRAIN and p.source == source:
                folder = os.path.dirname(p.path)
                records[folder].append(_meta_record(p))
                files.append(f"{p.path} {p.label}")
                metas.append(f"{folder}.json {len(records[folder])}")
        for folder, content in records.items():
            _write_lines(root / "meta" / f"{folder}.json", [json.dumps(content)])
        _write_lines(info / f"train_filelist_{source}.txt", files)
        _write_lines(info / f"train_meta_list_{source}.txt", metas)
        everything["file"] += files
        everything["meta"] += metas
    _write_lines(info / "train_filelist_all.txt", everything["file"])
    _write_lines(info / "train_meta_list_all.txt", everything["meta"])
    for split, given in ((VAL, True), (TEST, False)):
        rows = [p for p in pictures if p.split == split]
        if rows:
            lines = (
                f"{os.path.basename(p.path)} {p.label}" if given else os.path.basename(p.path) for p in rows
            )
            _write_lines(info / f"{split}_filelist.txt", lines)


def _meta_record(p):
    record = {"id": p.name, "title": p.title}
    if p.source == "flickr":
        return record | {"description": p.description, "tags": list(p.tags)}
    site = {"rank": str(p.rank), "url": f"http://example.org/{p.name}", "site": "example.org"}
    return record | site | ({"description": p.description} if p.description else {})


def _write_list(root, pictures, scenes, sources):
    rows = [
        (p.path, scenes[p.label].name, p.source, p.rank or "",
         scenes[p.label].queries[p.query] if p.split == TRAIN else "",
         p.title, p.description, ", ".join(p.tags), p.split)
        for p in pictures
    ]  # fmt: skip
    _write_csv(root / LIST_FILE, _LIST_COLUMNS, rows)


def _write_truth(path, pictures, layout):
    hidden = layout == "webvision"  # its test list has no labels
    rows = [
        (p.path, UNLABELED if hidden and p.split == TEST else p.label, p.true_label, p.kind) for p in pictures
    ]
    with store.atomic_path(path) as temporary:
        _write_csv(temporary, ("path", "label", "true_label", "kind"), rows)


def _write_csv(path, header, rows):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


_WRITE_LISTS = {
    "webvision": _write_webvision,
    "folder": lambda root, pictures, scenes, sources: None,  # the folders say it
    "list": _write_list,
}
