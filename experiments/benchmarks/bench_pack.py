"""Time of ingest and pack an image, beside Pillow and img2dataset's resizer: same files and threads, one run.

python experiments/benchmarks/bench_pack.py [--data PHOTOS] [--images 1000] [--rounds 5]

`a file` is what ingest does with each file: it reads, hashes and decodes it once, for the record that is
packed and for the thumbnail by which near copies are found; `no copies` leaves the thumbnail out. `both
stages` are ingest and pack from the folder to the finished image store, with listing, tables, files written
and flushed, and the search for near copies; `no search` is that with ingest.copy_similarity=null.

The resizer of img2dataset is `cv2.imdecode`, `cv2.resize` by areas and `cv2.imencode`, as its `resizer.py`
(1.47) calls them with resize_mode=keep_ratio and resize_only_if_bigger, written out here since the package
pins old libraries; `into a tar` writes what it makes as its webdataset writer does. It stores colors at half
the resolution, all others at the full one, and so does a row of it. All write JPEG of quality 95 with a short
side of 256 px. Without --data, files of three sizes and PNG files are drawn.
"""

import io
import json
import os
import pathlib
import statistics
import tarfile
import tempfile
import threading
import time

import cv2
import numpy as np
from absl import app, flags, logging
from PIL import Image, ImageOps

from urnet_tf.config import from_dict
from urnet_tf.crawl.readers import walk
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images.inspection import Inspector
from urnet_tf.images.packing import Packer
from urnet_tf.images.probe import map_in_threads
from urnet_tf.stages import ingest, pack
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import Workdir

_DATA = flags.DEFINE_string("data", None, "a folder of images; None = drawn ones of three sizes")
_IMAGES = flags.DEFINE_integer("images", 1000, "drawn files at most")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "each row is measured as often, in turns; the median counts")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "files taken at once")
_SCRATCH = flags.DEFINE_string("scratch", None, "where files are drawn and written; None = temporary")
_SHORT_SIDE_PX, _QUALITY = 256, 95
_FULL_COLOR = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
# Width, height, kind, and which part of --images.
_SIZES = ((240, 180, "jpg", 1), (500, 375, "jpg", 2), (1600, 1200, "jpg", 8), (500, 375, "png", 4))


def draw(folder: pathlib.Path, size: tuple[int, int], kind: str, count: int) -> None:
    """Writes files of two classes, with about as many bytes a pixel as photographs have."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((size[1], size[0], 3), np.float32)
        for scale in (8, 32, 128):
            small = rng.normal(0, 3.2 * 128 / scale, (size[1] // scale + 2, size[0] // scale + 2, 3))
            resized = Image.fromarray((small * 2 + 128).clip(0, 255).astype(np.uint8)).resize(
                size, Image.BICUBIC
            )
            image += np.asarray(resized, np.float32) - 128
        image += rng.normal(128, 3, image.shape)
        place = folder / f"class {number % 2}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(place / f"{number:04d}.{kind}", quality=88)


def by_pillow(path: str) -> bytes:
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
        short = min(image.size)
        if short > _SHORT_SIDE_PX:
            image = image.resize(
                [round(side * _SHORT_SIDE_PX / short) for side in image.size], Image.BILINEAR
            )
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def by_img2dataset(path: str, options: tuple[int, ...] = ()) -> bytes:
    image = cv2.imdecode(np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return b""
    if image.ndim == 3 and image.shape[-1] == 4:
        alpha = image[:, :, 3:].astype(np.float32) / 255
        image = (
            np.rint(image[:, :, :3].astype(np.float32) * alpha + 255 * (1 - alpha))
            .clip(0, 255)
            .astype(np.uint8)
        )
    short = min(image.shape[:2])
    if short > _SHORT_SIDE_PX:
        size = [round(side * _SHORT_SIDE_PX / short) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *options])[1].tobytes()


class TarOfImg2dataset:
    """Resizes files and writes them, with what is known of each, into a tar."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file, self._lock = tarfile.open(path, "w"), threading.Lock()

    def add(self, row: int, path: str) -> None:
        files = ("jpg", by_img2dataset(path)), ("json", json.dumps({"key": row, "url": path}).encode())
        with self._lock:
            for suffix, data in files:
                info = tarfile.TarInfo(f"{row:09d}.{suffix}")
                info.size = len(data)
                self._file.addfile(info, io.BytesIO(data))


def both_stages(data: str, **settings) -> None:
    """Ingest and pack of a folder, in a new work directory."""
    pack_settings = {"short_side_px": _SHORT_SIDE_PX, "jpeg_quality": _QUALITY}
    config = from_dict({"ingest": {"path": data, **settings}, "pack": pack_settings,
                        "runtime": {"workers": _THREADS.value}})  # fmt: skip
    with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as root:
        workdir = Workdir(root)
        for stage in (ingest, pack):
            out = workdir.open_partial(stage.STAGE.name, "key")
            metadata = stage.run(StageContext(config, workdir, out))
            workdir.finish(stage.STAGE.name, {"key": "key", "metadata": metadata})


def measure(title: str, data: str, paths: list[str]) -> None:
    """Prints for each method how long an image takes, and its speed by that of img2dataset."""
    limits = {"max_bytes": 2**26, "max_pixels": 50_000_000, "min_side_px": 8, "decoders": _THREADS.value}

    def each(function):
        return lambda: [None for _ in map_in_threads(function, range(len(paths)), _THREADS.value)]

    with CapturedLibraryOutput() as printed, tempfile.TemporaryDirectory(dir=_SCRATCH.value) as scratch:
        packer = Packer(
            short_side_px=_SHORT_SIDE_PX, jpeg_quality=_QUALITY, max_pixels=limits["max_pixels"],
            printed=printed.size,
        )  # fmt: skip
        inspectors = [Inspector(packer, **limits, thumbnails=thumbnails) for thumbnails in (True, False)]
        tar = TarOfImg2dataset(pathlib.Path(scratch, "images.tar"))
        rows = {
            "img2dataset": each(lambda row: by_img2dataset(paths[row])),
            "its 4:4:4": each(lambda row: by_img2dataset(paths[row], _FULL_COLOR)),
            "into a tar": each(lambda row: tar.add(row, paths[row])),
            "Pillow": each(lambda row: by_pillow(paths[row])),
            "a file": lambda: inspectors[0].inspect(paths, _THREADS.value),
            "no copies": lambda: inspectors[1].inspect(paths, _THREADS.value),
            "both stages": lambda: both_stages(data),
            "no search": lambda: both_stages(data, copy_similarity=None),
        }
        cpu, wall = {name: [] for name in rows}, {name: [] for name in rows}
        for _ in range(_ROUNDS.value + 1):
            for name, function in rows.items():
                start = time.process_time(), time.perf_counter()
                function()
                cpu[name].append((time.process_time() - start[0]) / len(paths) * 1e3)
                wall[name].append((time.perf_counter() - start[1]) / len(paths) * 1e3)
    # The first round warms up. Ratios are of one round, since other work on the machine comes and goes.
    print(f"{title}: {len(paths)} files, {_THREADS.value} threads")
    for name in rows:
        ratio = statistics.median(a / b for a, b in zip(cpu["img2dataset"][1:], cpu[name][1:], strict=True))
        print(
            f"  {name:<12}{statistics.median(cpu[name][1:]):>7.2f} ms CPU, "
            f"{statistics.median(wall[name][1:]):>7.2f} ms by the clock; {ratio:.2f} times its speed"
        )


def main(_) -> None:
    cv2.setNumThreads(1)
    logging.set_verbosity(logging.ERROR)
    if _DATA.value is not None:
        names = [name for name, problem in walk(_DATA.value) if problem is None]
        measure(_DATA.value, _DATA.value, [os.path.join(_DATA.value, name) for name in names])
        return
    with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as folder:
        for width, height, kind, part in _SIZES:
            place = pathlib.Path(folder, f"{width} {kind}")
            place.mkdir()
            draw(place, (width, height), kind, max(4, _IMAGES.value // part))
            paths = sorted(map(str, place.glob("*/*")))
            num_bytes = statistics.mean(os.path.getsize(path) for path in paths)
            measure(f"{kind}, {width} x {height} px, {num_bytes / 1e3:.0f} kB", str(place), paths)


if __name__ == "__main__":
    app.run(main)
