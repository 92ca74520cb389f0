"""What a report is made of, drawn."""

import io
import pathlib
import tempfile

import numpy as np
from PIL import Image

from urnet_tf.evaluation.metrics import reliability_curve
from urnet_tf.explain import ReportInputs, build_report

DUPLICATE_COLUMNS = ("content_hash", "picture", "kind", "split", "label", "path")


def build_page(inputs, **options):
    """The text of index.html."""
    return build_files(inputs, **options)["index.html"]


def build_files(inputs, **options):
    """Name → text of all files of a report."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory)
        build_report(inputs, out, **options)
        return {
            path.relative_to(out).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(out.rglob("*.*"))
        }


def no_rows(names):
    """Columns without a row."""
    return {name: np.array([], object) for name in names}


def draw_jpeg(color=(200, 30, 30), comment=b"from the web"):
    out = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(out, "JPEG", comment=comment)
    return out.getvalue()


def make_inputs(per_class=12, classes=4, names=None, seed=0, **changes):
    """C classes of `per_class` images, two sources; every third image is called the next class."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    n = len(label)
    wrong = np.arange(n) % 3 == 2
    top = np.where(wrong, (label + 1) % classes, label)
    given = np.where(wrong, 0.01, 0.8).astype(np.float32) + rng.random(n, dtype=np.float32) / 1000
    weight = np.where(wrong, 0.2, 1.4).astype(np.float32)
    weight /= weight.mean()
    ones = np.ones(n, np.float32)
    measured = {"top1": 0.5, "top5": 0.8, "balanced_top1": 0.4, "balanced_top5": 0.7, "ece": 0.05, "n": 90}
    values = {
        "classes": [{"label": j, "name": names[j] if names else f"thing {j}"} for j in range(classes)],
        "label": label,
        "source": (np.arange(n) % per_class >= per_class // 2).astype(np.int64),
        "source_names": ["flickr", "google"],
        "rank": (np.arange(n) % (per_class // 2) + 1).astype(np.int32),
        "weights": {
            "class_weight": ones, "cluster": np.zeros(n, np.int32), "cluster_weight": rng.random(n) + 0.5,
            "confidence": ones, "self_confidence": given, "saliency": ones, "page_text": ones,
            "rank_prior": ones, "label_posterior": ones, "predicted_label": top,
            "right_prob": np.where(wrong, 0.1, 0.9).astype(np.float32),
            "sample_weight": weight,
        },
        "quarantine": no_rows(("path", "status", "reason")),
        "duplicates": no_rows(DUPLICATE_COLUMNS),
        "read_rows": lambda ids: [{"title": f"title {i}", "path": f"{i}.jpg", "query": ""} for i in ids],
        "read_images": lambda ids: [draw_jpeg() for _ in ids],
        "folds": 4,
        "metrics": {"baseline": measured, "urnet": {**measured, "balanced_top1": 0.45, "top1": 0.55}},
        "per_class": {"baseline": np.full(classes, 0.4), "urnet": np.linspace(0.3, 0.6, classes)},
        "reliability": {"baseline": reliability_curve(np.array([0.2, 0.9]), np.array([False, True]))},
        "evaluated_on": "test",
        "reweighting": {"clean_rate_estimate": 0.7},
        "settings": "seed: 0\n",
        "versions": {"keras": "3"},
        "places": (("report/index.html", "this page"),),
    }  # fmt: skip
    return ReportInputs(**(values | changes))
