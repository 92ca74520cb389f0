import json
import subprocess
import sys

import numpy as np
import pytest
from urnet_fixtures.runs import make_workdir

from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.explain import why
from urnet_tf.explain.why_text import format_image


def explain(root, image):
    return format_image(why.describe_image(root, image))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run"))


def test_explains_an_image_by_path_end_id_or_absolute_path(workdir):
    text = explain(workdir, "a.jpg")
    assert text == explain(workdir, "0") == explain(workdir, "/data/crawl/flickr/cat/a.jpg")
    assert text.splitlines()[:4] == [
        "flickr/cat/a.jpg  (id 0, 640 x 480 px)",
        "  It counted next to nothing, since models that never saw it call it 'dog'.",
        "  In training it counted 0.10 times as much as an average image (in its class of 3: lowest, as 33%",
        "  are); its label is right with a probability of 2.0%.",
    ]
    for words in (
        "train image, label 0 (cat), flickr, rank 1, query 'cat'",
        "  How probable do the models find its label?                   0.100  lowest, as 33% are",
        "  Equal for all images here: class, cluster, confidence, label posterior, ",
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
        text = explain(root, image)
        assert not [sign for sign in text if not sign.isprintable() and sign != "\n"], image
    text = explain(root, "a.jpg")
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
    text = explain(root, "flickr/cat/a.jpg")
    assert "Its label is what a person judged it to be" in text
    assert "since a person judged its label" in text
    text = explain(root, "val/c.jpg")
    assert "judged it to show none of the classes." in text and "kept out of training" in text


def test_duplicates_are_named(workdir):
    text = explain(workdir, "cat/12.jpg")
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
    text = explain(workdir, "cat/12.jpg")
    assert "The same file occurs 1 more time:\n    google/dog/copy.jpg  (train, label 1)\n" in text
    assert (
        "The same picture occurs in other files 1 more time:\n    dog/small.jpg  (train, label 1)\n" in text
    )
    assert "It stands under several labels, so at least one of them is wrong." in text
    rows = [row for row in rows if row["content_hash"] != "b" or row["label"] == 0]
    only_near = {name: [row[name] for row in rows] for name in schema.DUPLICATE_COLUMNS}
    store.write_table(path, only_near, schema.DUPLICATE_COLUMNS)
    assert "so at least one of them is wrong unless they only look alike." in explain(workdir, "cat/12.jpg")


def test_several_matches_are_listed(workdir):
    text = explain(workdir, "12.jpg")
    assert text.startswith("2 images are called '12.jpg'")
    assert "google/cat/12.jpg" in text and "google/dog/12.jpg" in text


def test_quarantined_file(workdir):
    text = explain(workdir, "cat/bad.jpg")
    assert "Not used: decode_error, the image data is damaged." in text and "17 bytes are missing" in text


def test_validation_image_has_no_weight(workdir):
    assert "it has no weight" in explain(workdir, "val/c.jpg")


def test_names_the_nearest(workdir):
    with pytest.raises(UsageError, match=r"called 'bd\.jpg'.*Nearest: .*google/cat/(b|bad)\.jpg"):
        explain(workdir, "bd.jpg")
    with pytest.raises(UsageError, match="from 0 to 4"):
        explain(workdir, "77")
    with pytest.raises(UsageError, match="empty"):
        explain(workdir, " ")


def test_run_without_images_or_weights(tmp_path):
    with pytest.raises(UsageError, match="urnet run"):
        explain(tmp_path, "a.jpg")
    assert "no weights yet" in explain(make_workdir(tmp_path, weights=False), "a.jpg")


def test_plain_values_for_programs(workdir):
    told = why.describe_image(workdir, "a.jpg")
    assert (told["found"], told["instance_id"], told["class"], told["right_prob"]) == (
        "image", 0, "cat", pytest.approx(0.02)
    )  # fmt: skip
    assert told["relative_weight"] == pytest.approx(0.1) and told["weight"] == pytest.approx(0.1)
    factors = {factor["name"]: factor for factor in told["factors"]}
    assert factors["self_confidence"]["value"] == pytest.approx(0.1)
    assert factors["self_confidence"]["differs"] and not factors["page_text"]["differs"]
    assert told["predicted"] == {"label": 1, "class": "dog", "by": "the weighted heads of the second round"}
    assert told == json.loads(json.dumps(told))
    told = why.describe_image(workdir, "bad.jpg")
    assert (told["found"], told["status"], told["reason"]) == (
        "set_aside",
        "decode_error",
        "17 bytes are missing",
    )
    told = why.describe_image(workdir, "12.jpg")
    assert told["found"] == "several" and [match["instance_id"] for match in told["matches"]] == [1, 3]
    assert "weight" not in why.describe_image(workdir, "val/c.jpg")


def test_look_alikes_are_the_nearest_that_are_trusted(tmp_path):
    root = make_workdir(tmp_path)
    store.Workdir(root).write_marker(
        root / "extract", {"metadata": {"features": "extract/features.npy", "accuracy_out_of_fold": 0.5}}
    )
    # By the angle from image 0: 2 is at 0, 1 at 45 and 3 at 90 degrees.
    features = np.array([[1, 0], [1, 1], [5, 0], [0, 3], [9, 9]], np.float16)
    store.write_array(root / "extract" / "features.npy", features)
    found = why.describe_image(root, "a.jpg")["look_alikes"]
    assert [entry["path"] for entry in found] == [
        "google/cat/b.jpg",
        "google/cat/12.jpg",
        "google/dog/12.jpg",
    ]
    assert [entry["similarity"] for entry in found] == pytest.approx([1.0, 0.7071, 0.0], abs=1e-3)
    text = explain(root, "a.jpg")
    assert (
        "Look-alikes that were trusted:\n    google/cat/b.jpg  (cat, similarity 1.00, label right with 60.0%)"
        in text
    )
    # The image itself is doubtful, so it is no look-alike of others; nor is a copy.
    found = why.describe_image(root, "b.jpg")["look_alikes"]
    assert [entry["instance_id"] for entry in found] == [1]  # of its own class: nobody calls it a dog
    path = root / "pack" / "instances.parquet"
    table = store.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in schema.INSTANCE_COLUMNS}
    columns["picture"][2] = columns["picture"][0]
    store.write_table(path, columns, schema.INSTANCE_COLUMNS)
    found = why.describe_image(root, "a.jpg")["look_alikes"]
    assert [entry["instance_id"] for entry in found] == [1, 3]


def test_a_work_directory_without_a_final_network(tmp_path):
    root = make_workdir(tmp_path)
    (root / "train" / "weights.parquet").rename(root / "reweight" / "weights.parquet")
    assert "It counted next to nothing, since models that never saw it call it 'dog'." in explain(
        root, "a.jpg"
    )


def test_tiny_values_are_not_told_by_exponents(tmp_path):
    root = make_workdir(tmp_path)
    table = store.read_table(root / "train" / "weights.parquet")
    columns = {name: table.column(name).to_pylist() for name in schema.WEIGHT_COLUMNS}
    columns["saliency"] = [1e-7, 2.0, 1.0, 1.0]
    columns["confidence"] = [-1e-7, 0.5, 0.5, 0.5]
    store.write_table(root / "train" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    text = explain(root, "a.jpg")
    assert "e-07" not in text and " <0.001  lowest" in text and " -0.000  lowest" in text


def test_needs_no_tensorflow():
    code = "import sys, urnet_tf.explain.why, urnet_tf.explain; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_of_an_earlier_reweighting_or_another_version(tmp_path, mark_complete):
    root = make_workdir(tmp_path)
    (root / "reweight").mkdir(exist_ok=True)
    table = store.read_table(root / "train" / "weights.parquet")
    columns = {name: table.column(name).to_numpy(zero_copy_only=False).copy() for name in table.column_names}
    columns["right_prob"][:] = 0.25
    now = {name: dtype for name, dtype in schema.WEIGHT_COLUMNS.items() if name != "other_score"}
    store.write_table(root / "reweight" / "weights.parquet", {name: columns[name] for name in now}, now)
    workdir = mark_complete(root, extract={"accuracy_out_of_fold": 0.5})
    told = why.describe_image(root, "a.jpg")
    assert told["right_prob"] == 0.25, "those of training were made of other ones"
    (unknown,) = [factor for factor in told["factors"] if factor["name"] == "other_score"]
    assert unknown["value"] == 1 and not unknown["differs"]
    results = workdir.marker("reweight")["results"]
    workdir.write_marker(root / "train", {**workdir.marker("train"), "needs": {"reweight": results}})
    assert why.describe_image(root, "a.jpg")["right_prob"] != 0.25
    del now["right_prob"]
    store.write_table(root / "train" / "weights.parquet", {name: columns[name] for name in now}, now)
    with pytest.raises(UsageError, match="Expected the column right_prob in .*train"):
        why.describe_image(root, "a.jpg")
