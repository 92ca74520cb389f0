"""What near copies are found at which limit: copies of known kinds against other images of the same class.

    python experiments/near_copies.py --images CRAWL [--images ANOTHER] [--most 1000] [--sheet pairs.png]

Of each image (JPEG, PNG and WebP below the folder, of equal files one; at most --most, evenly chosen) copies
are made: saved again at quality 80 and 40, at half size, with another comment, cropped to 90 % of its sides
anywhere, with a line of text on it, and mirrored. Says for each limit of similarity the share of each kind
that is found (recall), the pairs found among different files of one class and of several, and precision as if
all pairs in a class were false. In a crawl from the web most of them are copies: --sheet draws them in the
order of their similarity, to be counted by eye. Times are CPU seconds of this process.
"""

import contextlib
import io
import os
import pathlib
import time

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

from urnet_tf.crawl import near_copies
from urnet_tf.images.headers import Refused
from urnet_tf.images.probe import content_hash
from urnet_tf.images.thumbnails import read_thumbnail

LIMITS = (0.95, 0.925, 0.9, 0.875, 0.85, 0.8)
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_MAX_PIXELS = 50_000_000
_SIDE_PX, _PAIRS_IN_ROW, _MOST_SHOWN = 120, 6, 240


def define_flags():
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_multi_string("images", None, "folder of images in class folders", required=True)
    flags.DEFINE_integer("most", 1000, "images of each folder", lower_bound=2)
    flags.DEFINE_string("sheet", None, "where to draw the pairs found among files of the last folder")


def main(_):
    chosen = flags.FLAGS
    for folder in chosen.images:
        files = find_images(folder, chosen.most)
        start = time.process_time()
        originals = np.stack([read_thumbnail(file.read_bytes(), _MAX_PIXELS) for file in files])
        seconds = [time.process_time() - start]
        kinds = copies_of(files)
        start = time.process_time()
        near_copies.group_copies(originals, np.arange(len(files)), similarity=0.9)
        seconds.append(time.process_time() - start)
        pairs = compare_all(originals)
        found = {kind: best_of(originals, copies) for kind, copies in kinds.items()}
        print(format_table(folder, [file.parent.name for file in files], pairs, found))
        for what, amount in zip(("thumbnails", "grouping"), seconds, strict=True):
            print(f"{what}: {1000 * amount / len(files):.2f} s for 1,000 images")
        if chosen.sheet and folder == chosen.images[-1]:
            draw_pairs(files, pairs, LIMITS[-1]).save(chosen.sheet)


def find_images(folder, most):
    """Up to `most` images below a folder, evenly chosen."""
    files = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.suffix.lower() in _ENDINGS and path.is_file():
            data = path.read_bytes()
            with contextlib.suppress(Refused):
                if read_thumbnail(data, _MAX_PIXELS).any():
                    files.setdefault(content_hash(data), path)
    files = list(files.values())
    places = np.unique(np.linspace(0, len(files) - 1, min(most, len(files))).astype(int))
    return [files[place] for place in places]


def copies_of(files):
    """{kind: thumbnails uint8 [N, B] of such copies}."""
    generator, kinds = np.random.default_rng(0), {}
    for file in files:
        with Image.open(file) as image:
            for kind, copy, options in make_copies(on_white(image), generator):
                encoded = io.BytesIO()
                copy.save(encoded, "JPEG", **options)
                kinds.setdefault(kind, []).append(read_thumbnail(encoded.getvalue(), _MAX_PIXELS))
    return {kind: np.stack(thumbnails) for kind, thumbnails in kinds.items()}


def on_white(image):
    """The image in RGB, transparent parts white."""
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def make_copies(image, generator):
    """(kind, image, how to save it) of each kind of copy."""
    width, height = image.size
    yield "quality 80", image, {"quality": 80}
    yield "quality 40", image, {"quality": 40}
    yield "half size", image.resize((max(width // 2, 1), max(height // 2, 1))), {"quality": 90}
    yield "comment", image, {"quality": 95, "comment": b"another"}
    new = int(0.9 * width), int(0.9 * height)
    left, top = (
        int(generator.integers(0, old - side + 1)) for old, side in zip(image.size, new, strict=True)
    )
    yield "crop", image.crop((left, top, left + new[0], top + new[1])), {"quality": 90}
    marked, size = image.copy(), max(8, height // 14)
    place = 0.1 * width, generator.uniform(0.05, 0.85) * height
    look = {
        "font": ImageFont.load_default(size=size),
        "stroke_width": max(1, size // 16),
        "stroke_fill": "black",
    }
    ImageDraw.Draw(marked).text(place, "www.example.com", fill="white", **look)
    yield "watermark", marked, {"quality": 90}
    yield "mirrored", image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {"quality": 85}


def best_of(originals, copies):
    """The similarity of each image with its copy, as grouping sees it: float32 [N]; 0 where colors differ."""
    best = np.zeros(len(originals), np.float32)
    mirrored = near_copies.mirror(copies)
    pairs = (originals, copies), (copies, originals), (originals, mirrored), (mirrored, originals)
    for window in near_copies.WINDOWS:
        for one, other in pairs:
            likeness, color = near_copies.compare(one, other, window)
            best = np.maximum(best, np.where(color <= near_copies.COLOR_DIFFERENCE, likeness, 0))
    return best


def compare_all(thumbnails):
    """Pairs of images and their similarity: int64 [P], int64 [P], float32 [P]; unlike ones are left out."""
    whole = near_copies.describe(thumbnails, near_copies.WHOLE)
    mirrored = near_copies.describe(near_copies.mirror(thumbnails), near_copies.WHOLE)
    windows = [near_copies.describe(thumbnails, window) for window in near_copies.WINDOWS]
    rough = np.maximum.reduce([seen @ some.T for seen in windows for some in (whole, mirrored)])
    one, other = np.nonzero(np.triu(np.maximum(rough, rough.T) >= LIMITS[-1] - 0.15, 1))
    return one, other, best_of(thumbnails[one], thumbnails[other])


def format_table(folder, classes, pairs, found):
    """The table of a folder, in Markdown."""
    one, other, likeness = pairs
    classes = np.array(classes)
    same = classes[one] == classes[other]
    columns = " | ".join(found)
    lines = [
        f"\n{os.path.basename(os.path.normpath(folder))}: {len(classes)} images\n",
        f"| limit | {columns} | mean recall | pairs in a class | across classes | precision, at least |",
        "|---" * (len(found) + 5) + "|",
    ]
    for limit in LIMITS:
        recall = [float((values >= limit).mean()) for values in found.values()]
        within, across = ((likeness[mask] >= limit).sum() for mask in (same, ~same))
        right = sum(recall) * len(classes)
        shown = " | ".join(f"{part:.3f}" for part in (*recall, np.mean(recall)))
        lines.append(f"| {limit} | {shown} | {within} | {across} | {right / (right + within):.3f} |")
    return "\n".join(lines)


def draw_pairs(files, pairs, limit):
    """The pairs at or above a limit side by side, least alike first."""
    order = [i for i in np.argsort(pairs[2], kind="stable") if pairs[2][i] >= limit][:_MOST_SHOWN]
    rows = -(-len(order) // _PAIRS_IN_ROW)
    sheet = Image.new("RGB", (_PAIRS_IN_ROW * (2 * _SIDE_PX + 20), max(rows, 1) * (_SIDE_PX + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, pair in enumerate(order):
        x, y = place % _PAIRS_IN_ROW * (2 * _SIDE_PX + 20), place // _PAIRS_IN_ROW * (_SIDE_PX + 16)
        names = [files[side[pair]].parent.name for side in pairs[:2]]
        pen.text((x, y), f"{pairs[2][pair]:.3f} {' / '.join(names)}", fill="red")
        for column, side in enumerate(pairs[:2]):
            with Image.open(files[side[pair]]) as image:
                small = on_white(image)
            small.thumbnail((_SIDE_PX, _SIDE_PX))
            sheet.paste(small, (x + column * (_SIDE_PX + 4), y + 13))
    return sheet


if __name__ == "__main__":
    define_flags()
    app.run(main)
