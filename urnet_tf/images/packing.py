"""What becomes of the bytes of an image file when it is decoded: the record that is packed, and a thumbnail.

Both come from one decoding. A baseline JPEG file that is small enough stays as it is, less its metadata;
everything else is reduced and encoded anew.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from urnet_tf.images import headers, image_store, picture
from urnet_tf.images.headers import Refused
from urnet_tf.images.thumbnails import SHORT_SIDE_PX, make_thumbnail, read_kept, read_thumbnail


class Packed(NamedTuple):
    """What became of one file.

    record: what the image store keeps; b"" where `refused` says why there is none.
    thumbnail: see `thumbnails`; None = not asked for, or there is no record.
    suspect: whether a library printed warnings meanwhile, of this image or of another one.
    """

    record: bytes = b""
    thumbnail: np.ndarray | None = None
    refused: Refused | None = None
    suspect: bool = False


class Packer:
    """Packs files, in several threads at once.

    Args:
      short_side_px: longer short sides are reduced to this.
      jpeg_quality: of what is encoded anew.
      max_pixels: what a header may promise.
      printed: how many bytes libraries have printed so far, see `export.quiet`.
    """

    def __init__(
        self, *, short_side_px: int, jpeg_quality: int, max_pixels: int, printed: Callable[[], int]
    ) -> None:
        self._short_side_px, self._jpeg_quality = short_side_px, jpeg_quality
        self._max_pixels, self._printed = max_pixels, printed

    def pack(self, data: bytes, *, thumbnail: bool = False) -> Packed:
        """Decodes a file and packs it.

        Raises:
          MemoryError: it does not fit into memory.
        """
        before = self._printed()
        packed = self._packed(data, thumbnail)
        return packed._replace(suspect=bool(packed.record) and self._printed() > before)

    def pack_alone(self, data: bytes, *, thumbnail: bool = False) -> Packed:
        """Packs a file anew while no other is packed; Pillow decodes it if that makes a library print.

        Such a file is damaged. Pillow decides whether it is read, and it is not stored as it is: it would
        make libjpeg complain in every pass of every later stage.
        """
        packed = self.pack(data, thumbnail=thumbnail)
        return self._packed(data, thumbnail, damaged=True) if packed.suspect else packed

    def _packed(self, data: bytes, thumbnail: bool, damaged: bool = False) -> Packed:
        try:
            plain = None if damaged else image_store.plain_jpeg(data, self._short_side_px)
            if plain:
                pixels = read_kept(plain, self._max_pixels)  # kept bytes must be readable, too
            else:
                pixels = picture.read_picture(data, self._max_pixels, self._short_side_px, by_pillow=damaged)
            small = self._thumbnail(data, pixels, damaged, plain is not None) if thumbnail else None
            return Packed(plain or picture.encode_jpeg(pixels, self._jpeg_quality), small)
        except Refused as refused:
            return Packed(refused=refused)

    def _thumbnail(self, data: bytes, pixels: np.ndarray, damaged: bool, kept: bool) -> np.ndarray:
        """Of these pixels, or decoded anew where they were reduced otherwise than for a thumbnail."""
        if kept and min(headers.read_size(data)) <= SHORT_SIDE_PX:
            return make_thumbnail(pixels)
        limit = min(self._short_side_px, SHORT_SIDE_PX)
        is_usual = self._short_side_px == SHORT_SIDE_PX or min(pixels.shape[:2]) < limit
        if kept or (not is_usual and min(headers.read_size(data)) > limit):
            return read_thumbnail(data, self._max_pixels, by_pillow=damaged)
        return make_thumbnail(pixels)
