"""What MediaPipe's and TFLite's task libraries make of a picture before a `.tflite` classifier sees it.

Both stretch the whole picture, or the region of interest that they are given, to the model's input; neither
averages over the pixels that it skips. Here are two copies in NumPy, so that the accuracy that people get
through the libraries is measured without installing them: of MediaPipe 1.2, to the last bit for whole
pictures, and of the Task Library 0.4.4, to 1 of 255, on x86. tests/export/test_task_libraries.py compares.
Phones that prepare pictures on their GPU, or have ARM processors, round a little differently.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.images.crops import PADDING
from urnet_tf.schema import PADDED, CropFraction

if TYPE_CHECKING:
    from urnet_tf.export.preparation import Preparation

_STEPS = 32  # between two pixels, MediaPipe's OpenCV knows so many places
_IMAGES = 200  # labeled ones that files are asked about through libraries, at most
_BATCH = 32
_ONE = 1 << 16  # libyuv counts places in 1/65536 of a pixel


class Region(NamedTuple):
    """Sides of a rectangle, as shares of a picture's width and height; the names of MediaPipe's `RectF`."""

    left: float
    top: float
    right: float
    bottom: float

    def in_pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in whole pixels, as the Task Library's `BoundingBox` takes them."""
        size = (self.right - self.left) * width, (self.bottom - self.top) * height
        across, down = (max(1, round(round(s, 6))) for s in size)  # halves alike, whatever was lost before
        left, top = (self.left + self.right) * width, (self.top + self.bottom) * height
        return int((left - across) / 2 + 1e-6), int((top - down) / 2 + 1e-6), across, down


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


def region_of_interest(height: int, width: int, crop_fraction: CropFraction) -> Region:
    """What part of a picture a model of this preparation is to be shown; of a padded one, `padded_square`."""
    if crop_fraction is None or crop_fraction == PADDED:
        return WHOLE
    side = crop_fraction * min(height, width)
    left, top = (1 - side / width) / 2, (1 - side / height) / 2
    return Region(left, top, 1 - left, 1 - top)


def padded_square(image: np.ndarray) -> np.ndarray:
    """A picture uint8 [h, w, 3] in the middle of a gray square, which libraries then only make smaller."""
    height, width = _check(image)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = (top, side - height - top), (left, side - width - left), (0, 0)
    return np.pad(image, around, constant_values=PADDING)


def mediapipe_pixels(image: np.ndarray, image_size_px: int, region: Region = WHOLE) -> np.ndarray:
    """What MediaPipe hands to a model of images.

    Args:
      image: uint8 [h, w, 3].
      region: of interest.

    Returns:
      uint8 [S, S, 3].
    """
    # OpenCV's warpPerspective from corners to corners: the pixel x of the answer is the place x * w / S, not
    # the one half a pixel on, and places are rounded to 1/32 of a pixel.
    height, width = _check(image)
    rows, down = _thirty_seconds(height, image_size_px, region.top, region.bottom)
    columns, across = _thirty_seconds(width, image_size_px, region.left, region.right)
    flat, down, across = _rows(image), down[:, None], np.repeat(across, 3)
    left, right = (_channels(np.clip(c, 0, width - 1)) for c in (columns, columns + 1))
    above, below = (
        flat.take(left, 1)[row] * (_STEPS - across) + flat.take(right, 1)[row] * across
        for row in (np.clip(r, 0, height - 1) for r in (rows, rows + 1))
    )
    mixed = (above * (_STEPS - down) + below * down + _STEPS**2 // 2) // _STEPS**2
    return _image(mixed, image_size_px)


def task_library_pixels(image: np.ndarray, image_size_px: int, region: Region = WHOLE) -> np.ndarray:
    """What the TFLite Task Library hands to a model of images; see `mediapipe_pixels`."""
    # libyuv's ARGBScale with kFilterBilinear.
    left, top, across, down = region.in_pixels(*_check(image))
    pixels = _rows(image[top : top + down, left : left + across])
    if (down, across) == (image_size_px, image_size_px):
        return _image(pixels, image_size_px)
    y, step_y = _slope(down, image_size_px)
    x, step_x = _slope(across, image_size_px)
    if not (step_y % _ONE or step_x % _ONE or step_y // _ONE % 2 != step_x // _ONE % 2):
        return _image(_by_whole_pixels(pixels, y, step_y, x, step_x, image_size_px), image_size_px)
    at_x = x + np.arange(image_size_px) * step_x
    at_y = np.minimum(y + np.arange(image_size_px) * step_y, (down - 1) * _ONE)
    if step_y >= _ONE:  # downwards first where it gets smaller, which decides how it is rounded
        return _image(_mix_columns(_mix_rows(pixels, at_y), at_x, step_x), image_size_px)
    return _image(_mix_rows(_mix_columns(pixels, at_x, step_x), at_y), image_size_px)


LIBRARIES: dict[str, Callable[[np.ndarray, int, Region], np.ndarray]] = {
    "mediapipe": mediapipe_pixels,
    "task_library": task_library_pixels,
}


def measure_libraries(
    files: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    images: Sequence[bytes],
    labels: np.ndarray,
    reference: np.ndarray,
    preparation: "Preparation",
    read: Callable[[bytes], np.ndarray],
) -> dict[str, dict[str, Any]]:
    """How often files are right about pictures that a task library prepares.

    Args:
      files: name → function of images float32 [n, S, S, 3] to their best classes int [n].
      images: n encoded ones.
      labels: int [n], -1 = not known.
      reference: the best classes of the model that the files were made from, int [n], on images that were
        prepared as it wants them.
      preparation: where it crops, libraries are given the region of interest; where it pads, padded pictures.
      read: an encoded image → uint8 [h, w, 3].

    Returns:
      for each file `through`: library → `images` (how many were asked about), `top1`, `reference` (its top1
      on the same images), `lost` and `gained` (images that only one of both is right about), and `whole`:
      library → top1 of plain pictures, or None where nothing else is given. Nothing without labels.
    """
    known = np.flatnonzero(np.asarray(labels) >= 0)
    if not known.size or not files:
        return {}
    rows = known[np.linspace(0, known.size - 1, min(known.size, _IMAGES)).round().astype(np.int64)]
    labels, right = np.asarray(labels)[rows], (np.asarray(reference) == np.asarray(labels))[rows]
    asked = _ask(files, (read(images[row]) for row in rows), preparation)
    result: dict[str, dict[str, Any]] = {name: {"through": {}, "whole": None} for name in files}
    for library, plain, name in asked:
        hits = asked[library, plain, name] == labels
        if plain:
            result[name]["whole"] = (result[name]["whole"] or {}) | {library: float(hits.mean())}
        else:
            result[name]["through"][library] = {
                "images": len(rows),
                "top1": float(hits.mean()),
                "reference": float(right.mean()),
                "lost": int((right & ~hits).sum()),
                "gained": int((hits & ~right).sum()),
            }
    return result


def _ask(
    files: Mapping[str, Callable], pictures: Iterator[np.ndarray], preparation: "Preparation"
) -> dict[tuple[str, bool, str], np.ndarray]:
    """Best classes int [n] by library, whether it gets plain pictures, and file.

    Plain ones are shown where the preparation wants others, to the first file: what the rest would say is
    much the same.
    """
    fraction, side = preparation.crop_fraction, preparation.image_size_px
    first = dict(itertools.islice(files.items(), 1))
    ways = [(False, fraction, files), *([(True, None, first)] if fraction is not None else [])]
    answers = collections.defaultdict(list)
    while some := list(itertools.islice(pictures, _BATCH)):
        for plain, part, asked in ways:
            shown = [padded_square(p) for p in some] if part == PADDED else some
            regions = [region_of_interest(len(p), p.shape[1], part) for p in shown]
            for library, prepare in LIBRARIES.items():
                pixels = np.stack([prepare(p, side, r) for p, r in zip(shown, regions, strict=True)])
                for name, file in asked.items():
                    answers[library, plain, name].append(file(pixels.astype(np.float32)))
    return {key: np.concatenate(parts) for key, parts in answers.items()}


def _check(image: np.ndarray) -> tuple[int, int]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UsageError(f"Expected an image uint8 [h, w, 3]; received {image.dtype} {list(image.shape)}.")
    return image.shape[:2]


def _thirty_seconds(length: int, size: int, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before each of `size` places, and how many 1/32 the place is behind it."""
    places = np.rint(_STEPS * (start * length + np.arange(size) * ((end - start) * length / size)))
    return np.divmod(places.astype(np.int64), _STEPS)


def _rows(image: np.ndarray) -> np.ndarray:
    """int32 [h, w * 3], which NumPy picks from in a tenth of the time."""
    return image.reshape(len(image), -1).astype(np.int32)


def _channels(columns: np.ndarray) -> np.ndarray:
    """Where the three channels of columns are in `_rows`."""
    return (3 * columns[:, None] + np.arange(3)).ravel()


def _image(rows: np.ndarray, image_size_px: int) -> np.ndarray:
    return rows.astype(np.uint8).reshape(image_size_px, image_size_px, 3)


def _slope(length: int, size: int) -> tuple[int, int]:
    """The first place, and the step to the next: from center to center, or from end to end where it grows."""
    if size <= length:
        step = (length << 16) // size
        return (step >> 1) - _ONE // 2, step
    return 0, ((length << 16) - _ONE - 1) // (size - 1)


def _by_whole_pixels(pixels: np.ndarray, y: int, step_y: int, x: int, step_x: int, size: int) -> np.ndarray:
    """Steps of whole pixels: the means of 2 x 2 where steps are even, single pixels where they are odd."""
    rows, columns = ((start + np.arange(size) * step) >> 16 for start, step in ((y, step_y), (x, step_x)))
    if step_x // _ONE % 2:
        return pixels[rows][:, _channels(columns)]
    four = [pixels[rows + i][:, _channels(columns + j)] for i in (0, 1) for j in (0, 1)]
    return (sum(four) + 2) >> 2


def _mix_rows(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
    rows, share = places >> 16, ((places >> 8) & 255)[:, None]
    below = np.minimum(rows + 1, len(pixels) - 1)
    return (pixels[rows] * (256 - share) + pixels[below] * share + 128) >> 8


def _mix_columns(pixels: np.ndarray, places: np.ndarray, step: int) -> np.ndarray:
    if step == _ONE:
        return pixels
    columns, share = places >> 16, np.repeat((places >> 9) & 127, 3)
    left, right = (_channels(np.minimum(c, pixels.shape[1] // 3 - 1)) for c in (columns, columns + 1))
    # Its weights sum up to 127 of 128: pictures get a little darker.
    return (pixels.take(left, 1) * (127 - share) + pixels.take(right, 1) * share) >> 7
