r"""Backbones at several sizes: accuracy of fitted heads on their features, against seconds per 1,000 images.

  python experiments/benchmarks/bench_backbones.py --data LIST.csv --test TEST.csv \
      --backbones efficientnet_lite0,efficientnet_lite2 --sizes 128,224,0

A size of 0 is the network's own. Without --test, rows of the list whose `split` is not train are the test
images; the labels of the training images are as given. Each head is linear discriminant analysis and logistic
regression, their mean, with the strengths that agree best with the given labels out of fold (`judge`):
`plain` of all images alike, `weighted` by each image's out-of-fold probability of its label. Features of an
image are float16, as in a run, and `mirrored` is the mean with those of its mirror image. Prints a table, and
appends its rows to --out as JSON lines. Seconds are of all cores together (user time).
"""

import csv
import json
import os
import pathlib
import resource

import numpy as np
from absl import app, flags
from PIL import Image

FLAGS = flags.FLAGS
_BATCH = 32


def define_flags() -> None:
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_string("data", None, "list with path, label and perhaps split", required=True)
    flags.DEFINE_string("test", None, "list of test images, path and label")
    flags.DEFINE_list(
        "backbones", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"], "what to compare"
    )
    flags.DEFINE_list("sizes", ["128", "224", "0"], "sides of the images in pixels; 0 = the network's")
    flags.DEFINE_float("crop_fraction", 0.875, "central part of the short side that is seen")
    flags.DEFINE_integer("limit", None, "at most so many images of each list, evenly")
    flags.DEFINE_string("out", None, "file that rows are appended to")


def main(_: list[str]) -> None:
    """Measures every backbone at every size."""
    from urnet_tf.models.variants import LITES

    train, test = read_lists(FLAGS.data, FLAGS.test, FLAGS.limit)
    classes = sorted({label for _, label in train})
    labels = [np.array([classes.index(label) for _, label in rows]) for rows in (train, test)]
    print(f"{len(train)} training and {len(test)} test images of {len(classes)} classes")
    print(
        f"{'network':<20}{'px':>5}{'views':>9}{'s/1000':>8}"
        + "".join(f"{n:>18}" for n in ("plain", "weighted"))
    )
    for name in FLAGS.backbones:
        sizes = dict.fromkeys(int(size) or LITES[name].image_size_px for size in FLAGS.sizes)
        for size in sizes:
            seen, seconds = measure_features(name, size, [path for path, _ in (*train, *test)])
            for mirrored in (False, True):
                features = seen.mean(axis=0) if mirrored else seen[0]
                row = {
                    "network": name,
                    "px": size,
                    "views": 1 + mirrored,
                    "seconds": seconds * (1 + mirrored),
                }
                row |= rate(features.astype(np.float16), labels)
                report(row)


def read_lists(
    data: str, test_list: str | None = None, limit: int | None = None
) -> tuple[list[tuple[pathlib.Path, str]], list[tuple[pathlib.Path, str]]]:
    """(path, label) of the training and of the test images, at most `limit` of each."""

    def read(path: str) -> list[dict[str, str]]:
        with open(path, newline="", encoding="utf-8") as file:
            root = pathlib.Path(path).parent
            return [row | {"path": str(root / row["path"])} for row in csv.DictReader(file)]

    listed = read(data)
    train = [row for row in listed if row.get("split", "train") == "train"]
    test = read(test_list) if test_list else [row for row in listed if row.get("split", "train") != "train"]
    result = []
    for rows in (train, test):
        count = min(len(rows), limit or len(rows))
        chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
        result.append([(pathlib.Path(rows[i]["path"]), rows[i]["label"]) for i in chosen])
    return result[0], result[1]


def measure_features(name: str, size: int, paths: list[pathlib.Path]) -> tuple[np.ndarray, float]:
    """Features float32 [2, N, D] of the images and of their mirror images; seconds of all cores per 1,000."""
    from urnet_tf.evaluation.inference import build_tflite_function
    from urnet_tf.models.backbone import build_backbone

    forward = build_tflite_function(build_backbone(name, size), _BATCH)
    found, seconds = [], 0.0
    for start in range(0, len(paths), _BATCH):
        images = np.stack(
            [read_square(path, size, FLAGS.crop_fraction) for path in paths[start : start + _BATCH]]
        )
        for view in (images, images[:, :, ::-1]):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            found.append(forward(np.ascontiguousarray(view)).copy())
            seconds += resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    features = np.stack([np.concatenate(found[view::2]) for view in (0, 1)])
    return features, 1000 * seconds / (2 * len(paths))


def read_square(path: pathlib.Path, size: int, crop_fraction: float) -> np.ndarray:
    """The central square as float32 [size, size, 3], 0..255; the short side is the size over the fraction."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = round(crop_fraction * min(image.size))
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = left, top, left + side, top + side
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=None)
    return np.asarray(resized, np.float32)


def rate(features: np.ndarray, labels: list[np.ndarray]) -> dict[str, float]:
    """Top-1 in percent of the plain and of the weighted head on the test images, by class and by image."""
    from urnet_tf.reweighting.judge import out_of_fold_predictions

    count = len(labels[0])
    plain = out_of_fold_predictions(features[:count], labels[0])
    weight = np.maximum(plain.given_prob, 0.05)
    weighted = out_of_fold_predictions(features[:count], labels[0], sample_weight=weight, trust=weight)
    row = {"agreement": 100 * plain.agreement}
    for name, judgement in (("plain", plain), ("weighted", weighted)):
        right = judgement.head.logits(features[count:]).argmax(axis=1) == labels[1]
        by_class = [right[labels[1] == label].mean() for label in np.unique(labels[1])]
        row |= {f"{name}_by_class": 100 * float(np.mean(by_class)), f"{name}_by_image": 100 * right.mean()}
    return row


def report(row: dict) -> None:
    """A line on the screen, and one in --out."""
    cells = [
        f"{row[f'{kind}_by_class']:.1f} / {row[f'{kind}_by_image']:.1f}" for kind in ("plain", "weighted")
    ]
    line = f"{row['network']:<20}{row['px']:>5}{row['views']:>9}{row['seconds']:>8.1f}"
    print(line + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if FLAGS.out:
        with open(FLAGS.out, "a", encoding="utf-8") as file:
            file.write(json.dumps({"data": os.path.basename(os.path.dirname(FLAGS.data))} | row) + "\n")


if __name__ == "__main__":
    define_flags()
    app.run(main)
