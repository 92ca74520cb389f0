"""Pictures for the page: thumbnails and large views, decoded and encoded anew.

No byte of a file from the web reaches the browser: metadata goes, and what is hidden behind a picture.
"""

import collections
import contextlib
import os
import threading
from collections.abc import Callable

import numpy as np

from urnet_tf.images import picture
from urnet_tf.images.headers import Refused
from urnet_tf.images.probe import content_hash, read_file
from urnet_tf.review.reviewed_run import ReviewedRun

THUMBNAIL_SIDES = (160, 320)  # px, of the longer side
LARGE_PX = 2048  # the longer side of a large view at most
_CACHE_BYTES = 96 << 20
_QUALITY, _LARGE_QUALITY = 82, 92


class Pictures:
    """JPEG files for the page, by id; several threads may ask at once.

    Args:
      run: whose pictures.
    """

    def __init__(self, run: ReviewedRun):
        self._run = run
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[tuple[int, int], bytes] = collections.OrderedDict()
        self._cached_bytes = 0

    def thumbnail(self, row: int, side_px: int) -> bytes:
        """A small picture from the packed store.

        Args:
          side_px: of the longer side at most; one of THUMBNAIL_SIDES.

        Raises:
          Refused: the packed picture is damaged.
        """
        return self._kept((row, side_px), lambda: self._encode_packed(row, side_px))

    def _encode_packed(self, row: int, side_px: int) -> bytes:
        (data,) = self._run.images.read([row])
        pixels = picture.read_picture(data, self._run.limits[1], side_px)
        return picture.encode_jpeg(shrink(pixels, side_px), _QUALITY)

    def large(self, row: int) -> bytes:
        """A JPEG file of the original, if it is still there and the same; else of the packed picture.

        Raises:
          Refused: neither can be decoded.
        """
        data, _ = self._read_original(row)
        if data is not None:
            with contextlib.suppress(Refused):
                return self._encode_large(data)
        (packed,) = self._run.images.read([row])
        return self._encode_large(packed)

    def why_packed(self, row: int) -> str:
        """Why the original cannot be shown; "" where it can."""
        return self._read_original(row)[1]

    def _read_original(self, row: int) -> tuple[bytes | None, str]:
        path = os.path.join(self._run.image_root, self._run.text("path", row))
        try:
            data = read_file(path, self._run.limits[0])
        except Refused as refused:
            return None, f"the file cannot be read: {refused.reason}"
        except OSError as error:
            return None, f"the file cannot be read: {error.strerror or 'no reason given'}"
        known = self._run.text("content_hash", row)
        if known and content_hash(data) != known:
            return None, "the file holds other bytes now"
        return data, ""

    def _encode_large(self, data: bytes) -> bytes:
        pixels = picture.read_picture(data, self._run.limits[1])
        return picture.encode_jpeg(shrink(pixels, LARGE_PX), _LARGE_QUALITY)

    def _kept(self, key: tuple[int, int], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        data = make()
        with self._lock:
            if key not in self._cache:
                self._cache[key] = data
                self._cached_bytes += len(data)
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return data


def shrink(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """An image whose longer side has at most `side_px`; keeps its shape, never enlarges: uint8 [h, w, 3]."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side_px:
        return pixels
    short = max(round(min(height, width) * side_px / max(height, width)), 1)
    small = picture.reduce_short_side(pixels, short)
    return small[:side_px, :side_px]
