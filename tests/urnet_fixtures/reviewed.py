"""A run that came as far as `reweight`, by hand: colored pictures, hostile names, contradicting copies."""

import io

import numpy as np
from PIL import Image

from urnet_tf import schema, store
from urnet_tf.images import image_store
from urnet_tf.images.probe import content_hash

HOSTILE = (
    '<img src=x onerror="document.title=1">',
    '"><script>alert(1)</script>',
    "javascript:alert(1)//\u202egnp.exe",
    "=cmd|' /C calc'!A1/..%2f#?&",
)
NAMES = ("red", "green", "blue", HOSTILE[0], HOSTILE[3])
COLORS = ((200, 40, 40), (40, 170, 60), (50, 70, 200), (200, 190, 60), (150, 60, 170))
FEATURES = 24


def draw_picture(color, number, side=40):
    """A JPEG file, different for each number."""
    pixels = np.full((side * 3 // 4, side, 3), color, np.uint8)
    pixels[2:6, 2:6] = (number * 7 % 256, number // 256 * 40 % 256, number * 13 % 256)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def make_reviewed_run(root, mark_complete, per_class=24, names=NAMES, pictures=True, seed=0):
    """Writes a work directory `root`, and the crawl beside it as `root`_crawl.

    Of each class every fourth label is wrong (its picture has the next class's color), and the models mostly
    say so. The last image of class 0 is the first of class 1, byte by byte.

    Args:
      pictures: whether images are drawn; else all of them are one, for runs of many.

    Returns:
      the true class of each training image: int [N].
    """
    rng = np.random.default_rng(seed)
    classes = len(names)
    label = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    count = len(label)
    is_wrong = np.arange(count) % 4 == 3
    truth = np.where(is_wrong, (label + 1) % classes, label)
    right_prob = np.clip(np.where(is_wrong, 0.25, 0.8) + rng.uniform(-0.2, 0.19, count), 0.01, 0.99)
    sees = np.where(rng.random(count) < 0.9, truth, (label + 2) % classes).astype(np.int32)
    crawl = root.with_name(f"{root.name}_crawl")
    for stage in ("ingest", "pack", "features", "extract", "reweight"):
        (root / stage).mkdir(parents=True)
    files, paths = _draw(crawl, label, truth, COLORS) if pictures else ([draw_picture(COLORS[0], 0)], None)
    twin = per_class - 1, per_class  # one picture under the first two labels
    if pictures:
        files[twin[0]] = files[twin[1]]
        (crawl / paths[twin[0]]).write_bytes(files[twin[1]])
        truth[twin[0]] = truth[twin[1]]
    hashes = [content_hash(data) for data in files] if pictures else [f"{i:032x}" for i in range(count)]
    paths = paths or [f"c/{i}.jpg" for i in range(count)]
    _write_pack(root, label, paths, hashes, files if pictures else files * count, names)
    _write_duplicates(root, twin if pictures else (), label, paths, hashes)
    features = rng.normal(0, 0.3, (count, FEATURES))
    features[np.arange(count), truth % FEATURES] += 2
    store.write_array(root / "features" / "features.npy", features.astype(np.float16))
    _write_opinions(root, label, sees, classes)
    _write_weights(root, label, paths, right_prob.astype(np.float32), sees)
    between = {"clean_rate_interval": [0.6, 0.9], "clean_rate_estimate": 0.75, "formulas": "repaired"}
    mark_complete(
        root,
        ingest={"root": str(crawl)},
        extract={"features": "features/features.npy"},
        reweight={**between, "predicted_by": "second_round"},
    )
    return truth


def _draw(crawl, label, truth, colors):
    files, paths = [], []
    for number, (given, true) in enumerate(zip(label.tolist(), truth.tolist(), strict=True)):
        files.append(draw_picture(colors[true % len(colors)], number, side=40 + number % 3 * 200))
        paths.append(f"class {given}/{number:04d}.jpg")
        (crawl / f"class {given}").mkdir(parents=True, exist_ok=True)
        (crawl / paths[-1]).write_bytes(files[-1])
    return files, paths


def _write_pack(root, label, paths, hashes, files, names):
    count = len(label)
    texts = [HOSTILE[i % len(HOSTILE)] for i in range(count)]
    columns = {
        "instance_id": np.arange(count), "split": ["train"] * count, "label": label,
        "source": ["flickr<b>" if i % 2 else "google" for i in range(count)],
        "rank": np.arange(count) % 50 + 1,
        "query": texts, "title": texts, "description": [t * 3 for t in texts], "tags": texts, "path": paths,
        "content_hash": hashes, "picture": hashes, "width_px": [40] * count, "height_px": [30] * count,
        "judged": [""] * count,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(
        root / "pack" / "classes.json", [{"label": j, "id": f"n{j}", "name": n} for j, n in enumerate(names)]
    )
    image_store.write_shard(root / "pack", 0, files)
    image_store.write_index(root / "pack", [count])


def _write_duplicates(root, twin, label, paths, hashes):
    rows = list(twin)
    columns = {
        "content_hash": [hashes[i] for i in rows], "picture": [hashes[i] for i in rows],
        "kind": ["several_labels"] * len(rows), "split": ["train"] * len(rows),
        "label": [int(label[i]) for i in rows], "path": [paths[i] for i in rows],
    }  # fmt: skip
    store.write_table(root / "ingest" / "duplicates.parquet", columns, schema.DUPLICATE_COLUMNS)


def _write_opinions(root, label, sees, classes):
    count, kept = len(label), min(classes, 5)
    ids = (sees[:, None] + np.arange(kept)) % classes
    probs = np.tile(np.array([0.6, 0.2, 0.1, 0.05, 0.05], np.float32)[:kept], (count, 1))
    for prefix in ("", "balanced_"):
        store.write_array(root / "extract" / f"{prefix}topk_ids.npy", ids.astype(np.int32))
        store.write_array(root / "extract" / f"{prefix}topk_probs.npy", probs)


def _write_weights(root, label, paths, right_prob, sees):
    count = len(label)
    ones = np.ones(count, np.float32)
    texts = {name: [""] * count for name in schema.WEIGHT_TEXTS}
    columns = {name: ones for name in schema.WEIGHT_COLUMNS} | texts | {
        "instance_id": np.arange(count), "label": label, "path": paths, "cluster": np.full(count, -1),
        "label_posterior": right_prob, "right_prob": right_prob, "predicted_label": sees,
        "sample_weight": right_prob / right_prob.mean(),
    }  # fmt: skip
    store.write_table(root / "reweight" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
