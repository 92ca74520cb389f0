"""Time of ingest and pack an image, beside Pillow and img2dataset's resizer: same files and threads, one run.

python experiments/benchmarks/bench_pack.py [--data PHOTOS] [--images 300] [--rounds 5]

`ours` reads the bytes as ingest does (header, hash) and packs; `pack` is the second half of it. `and copies`
decodes once more for the thumbnails by which near copies are found (ingest.copy_similarity). The resizer of
img2dataset is `cv2.imdecode`, `cv2.resize` by areas and `cv2.imencode`, as its `resizer.py` (1.47) calls them
with resize_mode=keep_ratio and resize_only_if_bigger, written out here since the package pins old libraries.
It stores colors at half the resolution, all others at the full one, and so does a second row of it. All write
JPEG of quality 95 with a short side of 256 px. Without --data, files of three sizes are drawn.
"""

import io
import os
import pathlib
import statistics
import tempfile
import time

import cv2
import numpy as np
from absl import app, flags
from PIL import Image, ImageOps

from urnet_tf.config import from_dict
from urnet_tf.crawl.readers import walk
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images.probe import map_in_threads, probe_file
from urnet_tf.stages import pack

_DATA = flags.DEFINE_string("data", None, "a folder of images; None = drawn ones of three sizes")
_IMAGES = flags.DEFINE_integer("images", 300, "files at most")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "each row is measured as often, in turns; the median counts")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "files taken at once")
_SHORT_SIDE_PX, _QUALITY = 256, 95
_FULL_COLOR = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
_SIZES = ((240, 180), (500, 375), (1600, 1200))


def draw(folder: pathlib.Path, size: tuple[int, int], count: int) -> None:
    """Writes JPEG files of about as many bytes a pixel as photographs have."""
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
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=88)


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


def measure(title: str, paths: list[str]) -> None:
    """Prints for each method how long an image takes, and its speed by that of img2dataset."""
    limits = from_dict({}).ingest
    config = from_dict({"pack": {"short_side_px": _SHORT_SIDE_PX, "jpeg_quality": _QUALITY}})
    candidates = pack._Candidates("", paths, [""] * len(paths))
    with CapturedLibraryOutput() as printed:
        packer = pack._Packer(candidates, config, printed)

        def ours(row: int, thumbnail: bool = False) -> bytes:
            probe_file(paths[row], limits.max_bytes, limits.max_pixels, limits.min_side_px, thumbnail)
            return packer.pack(row).record

        rows = {
            "img2dataset": lambda row: by_img2dataset(paths[row]),
            "its 4:4:4": lambda row: by_img2dataset(paths[row], _FULL_COLOR),
            "Pillow": lambda row: by_pillow(paths[row]),
            "pack": lambda row: packer.pack(row).record,
            "ours": ours,
            "and copies": lambda row: ours(row, thumbnail=True),
        }
        cpu, wall = {name: [] for name in rows}, {name: [] for name in rows}
        for _ in range(_ROUNDS.value + 1):
            for name, function in rows.items():
                start = time.process_time(), time.perf_counter()
                for _ in map_in_threads(function, range(len(paths)), _THREADS.value):
                    pass
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
    if _DATA.value is not None:
        names = [name for name, problem in walk(_DATA.value) if problem is None]
        measure(_DATA.value, [os.path.join(_DATA.value, name) for name in names[: _IMAGES.value]])
        return
    with tempfile.TemporaryDirectory() as folder:
        for width, height in _SIZES:
            place = pathlib.Path(folder, f"{width}")
            place.mkdir()
            draw(place, (width, height), max(1, _IMAGES.value // (1 if width < 1000 else 4)))
            paths = sorted(map(str, place.iterdir()))
            num_bytes = statistics.mean(os.path.getsize(path) for path in paths)
            measure(f"{width} x {height} px, {num_bytes / 1e3:.0f} kB", paths)


if __name__ == "__main__":
    app.run(main)
