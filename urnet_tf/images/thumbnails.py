"""Small pictures of images, by which copies of one picture are found though their bytes differ.

Input: the pixels of a picture. Output: uint8 [THUMBNAIL_BYTES]; brightness on a grid of 32 x 32, then the two
color differences of YCbCr on grids of 8 x 8. The whole picture is squeezed to a square, so that a copy of
another size or another compression has nearly the same thumbnail. It depends on the file alone, and not on
what is packed: small baseline JPEG files, which are packed as they are, are decoded at a reduced scale.
"""

import numpy as np

from urnet_tf.images import image_store, picture

SIDE, COLOR_SIDE = 32, 8
THUMBNAIL_BYTES = SIDE**2 + 2 * COLOR_SIDE**2
SHORT_SIDE_PX = 256  # thumbnails are made of pictures of at most this short side
KEPT_PX = 2 * SIDE  # ... and of files that can be packed as they are of at least this one, see `read_kept`


def read_thumbnail(data: bytes, max_pixels: int, *, by_pillow: bool = False) -> np.ndarray:
    """The thumbnail of an image file; arguments and errors are those of `picture.read_picture`."""
    if not by_pillow and image_store.plain_jpeg(data, SHORT_SIDE_PX):
        return make_thumbnail(read_kept(data, max_pixels))
    return make_thumbnail(picture.read_picture(data, max_pixels, SHORT_SIDE_PX, by_pillow=by_pillow))


def read_kept(data: bytes, max_pixels: int) -> np.ndarray:
    """What is looked at of a JPEG file that is packed as it is: uint8 [h, w, 3]; raises as `read_picture`."""
    return picture.read_picture(data, max_pixels, scaled_to_px=KEPT_PX)


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """The thumbnail of a picture, uint8 [h, w, 3], that `read_thumbnail` has decoded or another has alike."""
    small = picture.to_ycbcr(picture.squeeze(image, SIDE))
    colors = picture.squeeze(small, COLOR_SIDE)
    planes = small[..., 0], colors[..., 1], colors[..., 2]
    return np.concatenate([plane.ravel() for plane in planes])
