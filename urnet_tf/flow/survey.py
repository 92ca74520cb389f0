"""What a plan knows of a crawl that will be listed: how many images it has, and how many of them are new.

Nothing is opened but lists, and a few images, to see how large they are when they are packed. Files are
compared with those of the last run of ingest by their paths, sizes, times and inodes.
"""

import os
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.config import Config
from urnet_tf.crawl.table import cut_ranks
from urnet_tf.errors import settings_named
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images.containers import size_of
from urnet_tf.images.probe import identify_file, map_in_threads, try_to_read
from urnet_tf.schema import TRAIN
from urnet_tf.stages import ingest
from urnet_tf.stages.known_files import FILES, file_keys_in, keys_of_files, was_alike
from urnet_tf.stages.settings import keys_of, open_packer
from urnet_tf.stages.stage import PlanContext
from urnet_tf.store import DamagedResult, Workdir, read_json, read_table
from urnet_tf.store.lookup import RowsByKey

if TYPE_CHECKING:
    from urnet_tf.crawl.table import Crawl

_SAMPLE = 1000  # images whose sizes are looked up
_PACKED, _PACKING_SECONDS = 24, 2.0  # images that are packed, at most
_AT_ONCE = 1 << 16
_THREADS = 16  # they wait for the disk


class Changes(NamedTuple):
    """How the files of a crawl differ from those of the last run, in files.

    decoded: how many will be decoded.
    """

    same: int
    new: int
    moved: int
    relabeled: int
    changed: int
    gone: int
    decoded: int

    def __str__(self) -> str:
        others = (
            (self.moved, "moved or renamed"), (self.relabeled, "under another label"),
            (self.changed, "changed"), (self.gone, "gone"),
        )  # fmt: skip
        found = [f"{self.new:,} new image{'s'[: self.new != 1]}"]
        found += [f"{count:,} {word}" for count, word in others if count]
        return ", ".join([*found, f"{self.same:,} as before"])


def survey_crawl(config: Config, workdir: Workdir) -> PlanContext:
    """Lists the crawl without its page texts, looks up sizes of some images, and packs a few.

    Raises:
      UsageError: it cannot be understood.
      RunError: the disk or network fails.
    """
    settings, crawl = config.ingest, ingest.read_crawl(config, texts=False)
    if settings.max_rank:
        with settings_named(keys_of(config, "ingest")):
            crawl = cut_ranks(crawl, settings.max_rank, settings.max_rank_per)
    trained = pc.equal(crawl.rows["split"], TRAIN).to_numpy()
    of_class = np.bincount(crawl.rows["label"].to_numpy()[trained], minlength=len(crawl.classes))
    changes = find_changes(config, workdir, crawl)
    return PlanContext(
        images=len(crawl.rows),
        train_images=int(trained.sum()),
        num_classes=int((of_class >= settings.min_class_images).sum()),
        new_images=len(crawl.rows) if changes is None else changes.decoded,
        changes="" if changes is None else str(changes),
        bytes_per_image=mean_size(crawl) or PlanContext.bytes_per_image,
        record_bytes=mean_record(config, crawl),
    )


def mean_size(crawl: "Crawl") -> float | None:
    """The mean size in bytes of some images of a crawl; None where none can be looked up."""
    found = map_in_threads(size_of, _some_paths(crawl, _SAMPLE), _THREADS, at_once=16)
    sizes = [size for size in found if size is not None]
    return float(np.mean(sizes)) if sizes else None


def mean_record(config: Config, crawl: "Crawl") -> float | None:
    """The mean size in bytes of a few images as they are packed; None where none can be."""
    sizes, start = [], time.monotonic()
    with CapturedLibraryOutput() as printed:
        packer = open_packer(config, printed.size)
        for path in _some_paths(crawl, _PACKED):
            try:
                data = try_to_read(path, config.ingest.max_bytes)
                packed = packer.pack(data) if isinstance(data, bytes) else None
            except (OSError, MemoryError):  # the run itself will tell
                packed = None
            if packed is not None and packed.record:
                sizes.append(len(packed.record))
            if time.monotonic() - start > _PACKING_SECONDS:
                break
    return float(np.mean(sizes)) if sizes else None


def _some_paths(crawl: "Crawl", most: int) -> list[str]:
    """Full paths of some images, from one end of the listing to the other but in no order."""
    if not len(crawl.rows):
        return []
    places = np.unique(np.linspace(0, len(crawl.rows) - 1, most).astype(np.int64))
    paths = crawl.rows["path"].take(pa.array(np.random.default_rng(0).permutation(places))).to_pylist()
    return [os.path.join(crawl.root, path) for path in paths]


def find_changes(config: Config, workdir: Workdir, crawl: "Crawl") -> Changes | None:
    """What differs from the last complete run of ingest; None where there was none."""
    place = workdir.path("ingest")
    try:
        workdir.bring("ingest/*.parquet", "ingest/*.json")
    except DamagedResult:
        return None
    if workdir.marker("ingest") is None or not (place / FILES).exists():
        return None
    before = read_table(place / FILES, ["path", "identity_key", "path_key"])
    old, now = file_keys_in(before), _keys_of(crawl)
    old = np.unique(old[old.any(axis=1)], axis=0)
    there, first = np.unique(now, axis=0, return_index=True)
    first = first[there.any(axis=1)]
    there = there[there.any(axis=1)]
    same = RowsByKey(old).find(there) >= 0
    changed = ~same & np.isin(there[:, 1], old[:, 1])
    left = old[~np.isin(old[:, 1], there[:, 1])]
    moved = ~same & ~changed & np.isin(there[:, 0], left[:, 0])
    new = ~same & ~changed & ~moved
    relabeled = _count_relabeled(workdir, crawl, first[same])
    decoded = int((new | changed).sum()) if was_alike(place, config) else len(there)
    counts = (same.sum(), new.sum(), moved.sum(), relabeled, changed.sum(), len(left) - moved.sum(), decoded)
    same_label = int(same.sum()) - relabeled
    return Changes(same_label, *map(int, counts[1:]))


def _keys_of(crawl: "Crawl") -> np.ndarray:
    """The keys of all listed files, uint64 [N, 2]."""
    parts = [np.zeros((0, 2), np.uint64)]
    for start in range(0, len(crawl.rows), _AT_ONCE):
        names = crawl.rows["path"].slice(start, _AT_ONCE).to_pylist()
        paths = [os.path.join(crawl.root, name) for name in names]
        parts.append(keys_of_files(names, list(map_in_threads(identify_file, paths, _THREADS, at_once=64))))
    return np.concatenate(parts)


def _count_relabeled(workdir: Workdir, crawl: "Crawl", rows: np.ndarray) -> int:
    """How many listed rows were used by the last run under another label."""
    place = workdir.path("ingest")
    before = read_table(place / "candidates.parquet", ["path", "label"])
    names = [entry["name"] for entry in read_json(place / "classes.json")]
    used = _labeled(before["path"], before["label"], names)
    listed = crawl.rows.select(["path", "label"]).take(pa.array(rows))
    listed = listed.filter(pc.is_in(listed["path"], value_set=before["path"]))
    now = _labeled(listed["path"], listed["label"], [entry["name"] for entry in crawl.classes])
    return int(pc.sum(pc.invert(pc.is_in(now, value_set=used))).as_py() or 0)


def _labeled(paths: pa.ChunkedArray, labels: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """Path and name of the class in one text."""
    texts = pa.array([*names, ""], pa.large_string()).take(pc.if_else(pc.less(labels, 0), len(names), labels))
    return pc.binary_join_element_wise(paths, texts, pa.scalar("\0", pa.large_string()))
