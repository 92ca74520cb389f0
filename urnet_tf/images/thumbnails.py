"""Small pictures of images, by which copies of one picture are found though their bytes differ.

Input: the pixels of a picture. Output: uint8 [THUMBNAIL_BYTES]; brightness on a grid of 32 x 32, then the two
color differences of YCbCr on grids of 8 x 8. The whole picture is squeezed to a square, so that a copy of
another size or another compression has nearly the same thumbnail.
"""

import numpy as np

from urnet_tf.images import picture

SIDE, COLOR_SIDE = 32, 8
THUMBNAIL_BYTES = SIDE**2 + 2 * COLOR_SIDE**2
# Thumbnails are made of pictures of at most this short side, so that they do not depend on what is packed.
SHORT_SIDE_PX = 256


def read_thumbnail(data: bytes, max_pixels: int, *, by_pillow: bool = False) -> np.ndarray:
    """The thumbnail of an image file; arguments and errors are those of `picture.read_picture`."""
    return make_thumbnail(picture.read_picture(data, max_pixels, SHORT_SIDE_PX, by_pillow=by_pillow))


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """The thumbnail of a picture, uint8 [h, w, 3], that was reduced to a short side of SHORT_SIDE_PX."""
    small = picture.to_ycbcr(picture.squeeze(image, SIDE))
    colors = picture.squeeze(small, COLOR_SIDE)
    planes = small[..., 0], colors[..., 1], colors[..., 2]
    return np.concatenate([plane.ravel() for plane in planes])
