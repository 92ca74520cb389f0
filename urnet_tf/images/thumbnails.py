"""Small pictures of images, by which copies of one picture are found though their bytes differ.

Input: the bytes of a file. Output: uint8 [THUMBNAIL_BYTES]; brightness on a grid of 32 x 32, then the two
color differences of YCbCr on grids of 8 x 8. The whole image is squeezed to a square, so that a copy of
another size or another compression has nearly the same thumbnail. Pillow decodes JPEG at an eighth of its
size where that is enough.
"""

import numpy as np
from PIL import Image

from urnet_tf.images import headers
from urnet_tf.images.orientation import exif_orientation

SIDE, COLOR_SIDE = 32, 8
THUMBNAIL_BYTES = SIDE**2 + 2 * COLOR_SIDE**2
_DRAFT_SIDE_PX = 2 * SIDE  # a picture decoded at this size or more gives the thumbnail of the whole one
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def make_thumbnail(data: bytes) -> np.ndarray:
    """The thumbnail of an image; zeros where Pillow cannot decode it, which says nothing about the image.

    Transparent parts are white, and the EXIF orientation is honored.
    """
    try:
        with headers.opened_by_pillow(data) as image:
            turn = _TURNS.get(exif_orientation(data))
            image.draft("RGB", (_DRAFT_SIDE_PX, _DRAFT_SIDE_PX))
            small = _on_white(image)
    except (
        Exception
    ):  # a damaged or hostile file can fail in any way; the stage pack says what is wrong with it
        return np.zeros(THUMBNAIL_BYTES, np.uint8)
    if turn is not None:
        small = small.transpose(turn)
    brightness, *colors = small.convert("YCbCr").split()
    colors = [color.resize((COLOR_SIDE, COLOR_SIDE), Image.Resampling.BOX) for color in colors]
    return np.concatenate([np.asarray(plane, np.uint8).ravel() for plane in (brightness, *colors)])


def _on_white(image: Image.Image) -> Image.Image:
    """The image in RGB on the grid of brightness."""
    if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if has_alpha else "RGB")
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    if not has_alpha:
        return small
    white = Image.new("RGBA", small.size, "white")
    white.alpha_composite(small)
    return white.convert("RGB")
