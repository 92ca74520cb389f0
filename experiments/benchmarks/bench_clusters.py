r"""What k-means of all classes takes, of classes as large as those of a large crawl.

    python experiments/benchmarks/bench_clusters.py [--classes 100] [--images 3200] [--workers 2]

Features [classes x images, 1280] of float16 are drawn and written to a temporary file (0.8 GB), and
`score_clusters` reads them as stage `reweight` does, each class with the four that it is most confused with.
Prints the seconds, the start of the processes included, and how long 5,000 such classes would take.
"""

import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from urnet_tf.executors import InProcess, Processes
from urnet_tf.reweighting.cluster_weight import score_clusters

_CLASSES = flags.DEFINE_integer("classes", 100, "classes that are clustered", lower_bound=2)
_IMAGES = flags.DEFINE_integer("images", 3200, "images a class; 16 million of 5,000 classes have 3,200")
_WIDTH = flags.DEFINE_integer("width", 1280, "numbers a row of features")
_WORKERS = flags.DEFINE_integer("workers", 2, "processes")
_ALL = 5000


def write_features(path: pathlib.Path, classes: int, images: int, width: int) -> None:
    """Writes rows about four centers a class, none below 0; their spread falls from number to number."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    column = np.lib.format.open_memmap(path, "w+", np.float16, (classes * images, width))
    for label in range(classes):
        centers = rng.standard_normal((4, width), np.float32)
        rows = centers[rng.integers(0, 4, images)] + rng.standard_normal((images, width), np.float32)
        column[label * images : (label + 1) * images] = np.maximum(rows * spread, 0.0)
    column.flush()


def main(_) -> None:
    classes, images = _CLASSES.value, _IMAGES.value
    labels = np.repeat(np.arange(classes), images)
    predicted = (labels + np.random.default_rng(1).integers(0, 3, len(labels))) % classes
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "features.npy")
        write_features(path, classes, images, _WIDTH.value)
        started = time.perf_counter()
        score_clusters(
            path, labels, predicted, np.ones(len(labels)), num_classes=classes, kind="purity", clusters=5,
            neighbors=4, pca_dim=32, n_init=3, seed=0,
            executor=Processes(_WORKERS.value) if _WORKERS.value > 1 else InProcess(),
        )  # fmt: skip
        seconds = time.perf_counter() - started
    print(
        f"{classes} classes of {images} images, {_WORKERS.value} processes: {seconds:.1f} s; "
        f"{_ALL} of them: {seconds * _ALL / classes / 60:.0f} minutes"
    )


if __name__ == "__main__":
    app.run(main)
