import subprocess
import sys

import numpy as np
import pytest

from urnet_tf import schema, store, why
from urnet_tf.errors import UsageError

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
        "width_px": [640] * 5, "height_px": [480] * 5,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"name": "cat"}, {"name": "dog"}])
    bad = {
        "path": ["google/cat/bad.jpg"], "split": ["train"], "label": [0], "source": ["google"], "rank": [3],
        "status": ["decode_error"], "reason": ["17 bytes are missing"],
    }  # fmt: skip
    store.write_table(root / "pack" / "quarantine.parquet", bad, schema.QUARANTINE_COLUMNS)
    twice = {
        "content_hash": ["b", "b"], "kind": ["several_labels"] * 2, "split": ["train"] * 2, "label": [0, 1],
        "path": ["google/cat/12.jpg", "google/dog/copy.jpg"],
    }  # fmt: skip
    store.write_table(root / "ingest" / "duplicates.parquet", twice, schema.DUPLICATE_COLUMNS)
    store.write_array(root / "extract" / "given_prob.npy", np.array([0.02, 0.9, 0.5, 0.5], np.float32))
    if weights:
        ones = np.ones(4, np.float32)
        columns = {
            "instance_id": np.arange(4), "label": [0, 0, 0, 1], "path": paths[:4], "class_weight": ones,
            "cluster": [1, 0, 0, 0], "cluster_weight": ones, "confidence": ones,
            "self_confidence": np.array([0.1, 1.9, 1.0, 1.0], np.float32), "saliency": ones,
            "page_text": ones, "rank_prior": ones,
            "supposed_label": [1, 0, 0, 1], "sample_weight": WEIGHTS,
        }  # fmt: skip
        store.write_table(root / "train" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    return root


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run"))


def test_explains_an_image_by_path_end_id_or_absolute_path(workdir):
    text = why.explain(workdir, "a.jpg")
    assert text == why.explain(workdir, "0") == why.explain(workdir, "/data/crawl/flickr/cat/a.jpg")
    for words in (
        "flickr/cat/a.jpg  (id 0, 640 x 480 px)",
        "train image, label 0 (cat), flickr, rank 1, query 'cat'",
        "counted 0.10 times as much as an average image (in its class of 3: lowest, as 33% are)",
        "Because models that never saw it would hardly give it this label.",
        "The baseline would call it 1 (dog)",
        "It gives the label 'cat' a probability of 2.0%.",
        "It lies in group 1 of its class with 1 of 3 images.",
        "The baseline agrees with the label of 0% of them; of 67% in the whole class.",
    ):
        assert words in text
    assert "\x1b" not in text


def test_duplicates_are_named(workdir):
    text = why.explain(workdir, "cat/12.jpg")
    assert "The same file occurs 1 more time:" in text and "google/dog/copy.jpg  (train, label 1)" in text
    assert "The baseline agrees with its label." in text


def test_several_matches_are_listed(workdir):
    text = why.explain(workdir, "12.jpg")
    assert text.startswith("2 images are called '12.jpg'")
    assert "google/cat/12.jpg" in text and "google/dog/12.jpg" in text


def test_quarantined_file(workdir):
    text = why.explain(workdir, "cat/bad.jpg")
    assert "Not used: decode_error, the image data is damaged." in text and "17 bytes are missing" in text


def test_validation_image_has_no_weight(workdir):
    assert "it has no weight" in why.explain(workdir, "val/c.jpg")


def test_names_the_nearest(workdir):
    with pytest.raises(UsageError, match=r"called 'bd\.jpg'.*Nearest: .*google/cat/(b|bad)\.jpg"):
        why.explain(workdir, "bd.jpg")
    with pytest.raises(UsageError, match="from 0 to 4"):
        why.explain(workdir, "77")
    with pytest.raises(UsageError, match="empty"):
        why.explain(workdir, " ")


def test_run_without_images_or_weights(tmp_path):
    with pytest.raises(UsageError, match="urnet run"):
        why.explain(tmp_path, "a.jpg")
    assert "no weights yet" in why.explain(make_workdir(tmp_path, weights=False), "a.jpg")


def test_amounts_in_words():
    assert why.describe_amount(1.02) == "counted as much as an average image"
    assert why.describe_amount(0.31) == "counted 0.31 times as much as an average image"
    assert why.describe_amount(0.0) == "did not count"


def test_standing_in_words():
    values = np.arange(100)
    assert why.describe_standing(values, 80) == "higher than 80%"
    assert why.describe_standing(values, 20) == "lower than 79%"
    assert why.describe_standing(values, 0) == "lowest"
    assert why.describe_standing(np.array([1, 2, 2, 2]), 2) == "highest, as 75% are"
    assert why.describe_standing(np.ones(3), 1) == "same for all"


def test_reasons_pull_in_the_direction_of_the_weight():
    means = {"class_weight": 1.0, "confidence": 1.0, "self_confidence": 1.0}
    factors = {"class_weight": 1.5, "confidence": 0.5, "self_confidence": 0.1}
    assert why.find_reasons(0.1, factors, means) == [
        "models that never saw it would hardly give it this label",
        "the picture fits the words of the class badly",
    ]
    assert why.find_reasons(1.2, factors, means) == ["its class is small, so each of its images counts more"]


def test_needs_no_tensorflow():
    code = "import sys, urnet_tf.why, urnet_tf.report; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
