"""Work directories by hand."""

import numpy as np

from urnet_tf import schema, store

WEIGHTS = np.array([0.1, 2.0, 0.9, 1.0], np.float32)


def make_workdir(root, weights=True):
    """Three images of class 0 and one of class 1, one validation image, one quarantined file."""
    for stage in ("pack", "ingest", "train", "extract"):
        (root / stage).mkdir()
    paths = ["flickr/cat/a.jpg", "google/cat/12.jpg", "google/cat/b.jpg", "google/dog/12.jpg", "val/c.jpg"]
    columns = {
        "instance_id": np.arange(5), "split": ["train"] * 4 + ["val"], "label": [0, 0, 0, 1, 1],
        "source": ["flickr", "google", "google", "google", ""], "rank": [1, 1, 2, 1, 0],
        "query": ["cat", "cat", "cat", "dog", ""], "title": ["A \x1b[31mcat", "", "", "", ""],
        "description": [""] * 5, "tags": [""] * 5, "path": paths, "content_hash": list("abcde"),
        "picture": list("abcde"),
        "width_px": [640] * 5, "height_px": [480] * 5, "judged": [""] * 5,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"name": "cat"}, {"name": "dog"}])
    bad = {
        "path": ["google/cat/bad.jpg"], "split": ["train"], "label": [0], "source": ["google"], "rank": [3],
        "status": ["decode_error"], "reason": ["17 bytes are missing"],
    }  # fmt: skip
    store.write_table(root / "pack" / "quarantine.parquet", bad, schema.QUARANTINE_COLUMNS)
    twice = {
        "content_hash": ["b", "b"], "picture": ["b", "b"], "kind": ["several_labels"] * 2,
        "split": ["train"] * 2, "label": [0, 1],
        "path": ["google/cat/12.jpg", "google/dog/copy.jpg"],
    }  # fmt: skip
    store.write_table(root / "ingest" / "duplicates.parquet", twice, schema.DUPLICATE_COLUMNS)
    write_opinions(root, [1, 0, 0, 1], [0.98, 0.9, 0.5, 0.5], [0.02, 0.9, 0.5, 0.5], schema.SECOND_ROUND)
    if weights:
        ones = np.ones(4, np.float32)
        columns = {name: [""] * 4 for name in schema.WEIGHT_TEXTS} | {
            "instance_id": np.arange(4), "label": [0, 0, 0, 1], "path": paths[:4], "class_weight": ones,
            "cluster": [1, 0, 0, 0], "cluster_weight": ones, "confidence": ones,
            "self_confidence": np.array([0.1, 1.9, 1.0, 1.0], np.float32), "saliency": ones,
            "page_text": ones, "other_score": ones, "rank_prior": ones, "label_posterior": ones,
            "zero_shot": ones, "page_fit": ones,
            "right_prob": np.array([0.02, 0.9, 0.6, 0.6], np.float32),
            "predicted_label": [1, 0, 0, 1], "sample_weight": WEIGHTS,
        }  # fmt: skip
        store.write_table(root / "train" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    return root


def write_opinions(root, top, top_prob, given_prob, author, out_of_fold=0.6):
    """What the baseline says, and the metadata of who said what."""
    top_ids, top_probs = np.array(top, np.int32)[:, None], np.array(top_prob, np.float32)[:, None]
    for name, values in (("topk_ids", top_ids), ("topk_probs", top_probs), ("given_prob", given_prob)):
        store.write_array(root / "extract" / f"{name}.npy", np.asarray(values, np.asarray(values).dtype))
    (root / "reweight").mkdir(exist_ok=True)
    metadata = {"extract": {"accuracy_out_of_fold": out_of_fold}, "reweight": {"predicted_by": author}}
    for stage, told in metadata.items():
        store.Workdir(root).write_marker(root / stage, {"key": "k", "metadata": told})
