import subprocess
import sys

import numpy as np
import pytest
from urnet_fixtures.runs import make_workdir

from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.explain import why


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
        "Because the models find its label less probable than is usual in its class.",
        "The out-of-fold baseline would call it 1 (dog) with a probability of 98.0%.",
        "It gives the label 'cat' a probability of 2.0%.",
        "Its predicted label, by the weighted heads of the second round, is 1 (dog).",
        "It lies in group 1 of its class with 1 of 3 images.",
        "The predicted label of 0% of them is their label; of 67% in the whole class.",
    ):
        assert words in text
    assert "\x1b" not in text


def test_texts_from_the_web_do_not_steer_the_terminal(tmp_path):
    hostile = "x\x1b[2J\u202ey\x00\nz\u2066"
    root = make_workdir(tmp_path)
    store.write_json(root / "pack" / "classes.json", [{"name": hostile}, {"name": hostile}])
    tables = {
        "pack/instances": schema.INSTANCE_COLUMNS,
        "pack/quarantine": schema.QUARANTINE_COLUMNS,
        "ingest/duplicates": schema.DUPLICATE_COLUMNS,
    }
    for table, columns in tables.items():
        path = root / f"{table}.parquet"
        values = {name: store.read_table(path).column(name).to_pylist() for name in columns}
        for name in {"source", "query", "title", "reason"} & set(columns):
            values[name] = [hostile] * len(values[name])
        values["path"] = [f"{hostile}/{name}" for name in values["path"]]
        store.write_table(path, values, columns)
    for image in ("a.jpg", "12.jpg", "1", "4", "cat/bad.jpg"):
        text = why.explain(root, image)
        assert not [sign for sign in text if not sign.isprintable() and sign != "\n"], image
    text = why.explain(root, "a.jpg")
    assert "label 0 (x[2Jy z), x[2Jy z, rank 1, query 'x[2Jy z'\n  Title: x[2Jy z\n" in text
    assert "would call it 1 (x[2Jy z) with" in text and "is 1 (x[2Jy z)." in text


def test_what_people_judged_is_said_first(tmp_path):
    root = make_workdir(tmp_path)
    path = root / "pack" / "instances.parquet"
    rows = store.read_table(path).to_pylist()
    rows[0] |= {"judged": "wrong_class"}
    rows[4] |= {"judged": "none_of_these", "split": "judged", "label": -1}
    columns = {name: [row[name] for row in rows] for name in schema.INSTANCE_COLUMNS}
    store.write_table(path, columns, schema.INSTANCE_COLUMNS)
    twice = {"path": [rows[4]["path"]], "split": ["train"], "label": [0], "source": [""], "rank": [1],
             "status": ["judged_none_of_these"], "reason": ["judged"]}  # fmt: skip
    store.write_table(root / "pack" / "quarantine.parquet", twice, schema.QUARANTINE_COLUMNS)
    text = why.explain(root, "flickr/cat/a.jpg")
    assert "Its label is what a person judged it to be" in text
    assert "Because a person judged its label" in text
    text = why.explain(root, "val/c.jpg")
    assert "judged it to show none of the classes." in text and "kept out of training" in text


def test_duplicates_are_named(workdir):
    text = why.explain(workdir, "cat/12.jpg")
    assert "The same file occurs 1 more time:" in text and "google/dog/copy.jpg  (train, label 1)" in text
    assert "The out-of-fold baseline agrees with its label." in text
    assert "Its predicted label, by the weighted heads of the second round, is its label." in text


def test_near_copies_are_named(workdir):
    path = workdir / "ingest" / "duplicates.parquet"
    rows = store.read_table(path).to_pylist()
    near = {"content_hash": "n", "picture": "b", "kind": "near_several_labels", "split": "train"}
    rows += [near | {"label": 1, "path": "dog/small.jpg"}, *(row | {"kind": near["kind"]} for row in rows)]
    columns = {name: [row[name] for row in rows] for name in schema.DUPLICATE_COLUMNS}
    store.write_table(path, columns, schema.DUPLICATE_COLUMNS)
    text = why.explain(workdir, "cat/12.jpg")
    assert "The same file occurs 1 more time:\n    google/dog/copy.jpg  (train, label 1)\n" in text
    assert (
        "The same picture occurs in other files 1 more time:\n    dog/small.jpg  (train, label 1)\n" in text
    )
    assert "It stands under several labels, so at least one of them is wrong." in text
    rows = [row for row in rows if row["content_hash"] != "b" or row["label"] == 0]
    only_near = {name: [row[name] for row in rows] for name in schema.DUPLICATE_COLUMNS}
    store.write_table(path, only_near, schema.DUPLICATE_COLUMNS)
    assert "so at least one of them is wrong unless they only look alike." in why.explain(
        workdir, "cat/12.jpg"
    )


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
    # Where an average image counts 0.05, the heaviest may have 0.16.
    assert why.describe_amount(0.16, 0.05) == "counted 3.20 times as much as an average image"
    assert why.describe_amount(0.05, 0.05) == "counted as much as an average image"
    assert (
        why.describe_amount(-0.01, 0.05)
        == "counted against its label, 0.20 times as much as an average image"
    )
    assert why.describe_amount(-0.05, 0.05) == "counted against its label, as much as an average image"
    assert why.describe_amount(0.0002, 0.05) == "counted 0.004 times as much as an average image"


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
        "the models find its label less probable than is usual in its class",
        "the picture fits the words of the class badly",
    ]
    assert why.find_reasons(1.2, factors, means) == ["its class is small, so each of its images counts more"]


def test_a_negative_cosine_is_a_reason_whatever_is_usual_in_the_class():
    for mean in (0.4, 0.0, -0.2):
        (reason,) = why.find_reasons(-0.5, {"confidence": -0.1}, {"confidence": mean})
        assert reason == "the picture fits the words of the class badly"
    (reason,) = why.find_reasons(2.0, {"confidence": 0.1}, {"confidence": -0.2})
    assert reason == "the picture fits the words of the class well"
    assert why.find_reasons(2.0, {"confidence": -0.3}, {"confidence": -0.2}) == []


def test_needs_no_tensorflow():
    code = "import sys, urnet_tf.explain.why, urnet_tf.explain; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
