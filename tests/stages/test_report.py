"""The report stage on a small work directory written by hand."""

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from urnet_tf import config as config_lib, schema, store
from urnet_tf.images import image_store
from urnet_tf.reweighting.cluster_weight import score_clusters
from urnet_tf.stages import report
from urnet_tf.stages.stage import PlanContext, StageContext

TRAIN_LABELS = np.repeat(np.arange(3), 6)
N = len(TRAIN_LABELS)
TEST_LABELS = np.array([0, 1, 2, 2])

PARITY = {"max_difference": 2e-6, "relative_difference": 1e-6, "top1_agreement": 1.0}
EXPORT = {
    "name": "urnet", "version": 2, "path": "urnet/2", "machine": {"processor": "A <CPU>", "cores": 4},
    "check": {"images": 4, "labeled": 4, "split": "test"}, "reference": {"top1": 0.75, "top5": 1.0},
    "formats": {
        "saved_model": {
            "file": "saved_model.pb", "path": "urnet/2/saved_model.pb", "bytes": 7_000_000, "parity": PARITY,
            "accuracy": {"top1": 0.75, "top5": None}, "latency_ms": 12.34, "kept": True, "refused": None,
        },
        "tflite_int8": {
            "file": "urnet_int8.tflite", "path": "urnet/2/urnet_int8.tflite", "bytes": 2_000_000,
            "parity": PARITY, "accuracy": {"top1": 0.5, "top5": 1.0}, "latency_ms": 3.0, "kept": False,
            "refused": "25.00 points lost",
        },
        "onnx": {"file": None, "path": None, "kept": False, "refused": "it takes no <Custom>"},
    },
}  # fmt: skip


def draw_jpeg(number):
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (number * 10 % 256, 90, 60)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def context(tmp_path):
    workdir = store.Workdir(tmp_path)
    for stage in (*report.STAGE.needs, *report.STAGE.uses):
        workdir.path(stage).mkdir()
    write_pack(tmp_path)
    write_weights(tmp_path)
    write_evaluation(tmp_path / "evaluate")
    metadata = {
        "pack": {"images": N + 4, "train_images": N, "val_images": 0, "test_images": 4, "bytes": 12_345},
        "reweight": {"clean_rate_estimate": 0.71},
        "extract": {"features": "features/features.npy"},
        "export": EXPORT,
    }
    for stage in (*report.STAGE.needs, *report.STAGE.uses):
        marker = {
            "key": stage,
            "seconds": 1,
            "versions": {"keras": "3.15.1"},
            "metadata": metadata.get(stage, {}),
        }
        workdir.write_marker(workdir.path(stage), marker)
    out = workdir.open_partial("report", "key")
    config = config_lib.load_config(None, ["report.classes=2", "report.images_per_class=4"])
    return StageContext(config, workdir, out)


def write_pack(root):
    total = N + len(TEST_LABELS)
    paths = [f"{s}/{i}.jpg" for i, s in enumerate(["flickr", "google"] * (N // 2) + ["test"] * 4)]
    columns = {
        "instance_id": np.arange(total), "split": ["train"] * N + ["test"] * 4,
        "label": np.concatenate([TRAIN_LABELS, TEST_LABELS]), "source": ["google", "flickr"] * (total // 2),
        "rank": np.arange(total) % 6 + 1, "query": [""] * total,
        "title": [f"Title <{i}>" for i in range(total)], "description": [""] * total,
        "tags": [""] * total, "path": paths,
        "content_hash": [f"{i:032x}" for i in range(total)], "picture": [""] * total,
        "width_px": [24] * total, "height_px": [24] * total, "judged": [""] * total,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    bad = {
        "path": ["flickr/bad.jpg"], "split": ["train"], "label": [0], "source": ["flickr"], "rank": [9],
        "status": ["empty"], "reason": ["it has 0 bytes"],
    }  # fmt: skip
    store.write_table(root / "pack" / "quarantine.parquet", bad, schema.QUARANTINE_COLUMNS)
    none = {name: [] for name in schema.DUPLICATE_COLUMNS}
    store.write_table(root / "ingest" / "duplicates.parquet", none, schema.DUPLICATE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"label": j, "name": n} for j, n in enumerate("ABC")])
    image_store.write_shard(root / "pack", 0, [draw_jpeg(i) for i in range(total)])
    image_store.write_index(root / "pack", [total])


def write_weights(root):
    rng = np.random.default_rng(0)
    given = rng.uniform(0.2, 0.9, N).astype(np.float32)
    given[::3] = 0.001
    top = np.where(given < 0.01, (TRAIN_LABELS + 1) % 3, TRAIN_LABELS)
    store.write_array(root / "extract" / "balanced_topk_ids.npy", np.stack([top, top], 1).astype(np.int32))
    features = np.concatenate([np.eye(3, 40)[top], np.zeros((4, 40))]) + rng.normal(
        scale=0.01, size=(N + 4, 40)
    )
    store.write_array(root / "features" / "features.npy", features.astype(np.float16))
    settings = config_lib.Config().reweight.cluster_weight
    cluster, score = score_clusters(
        features.astype(np.float16), TRAIN_LABELS, top, given, num_classes=3, kind="purity",
        clusters=settings.clusters, neighbors=settings.neighbors, pca_dim=settings.pca_dim,
        n_init=settings.n_init, seed=0,
    )  # fmt: skip
    store.write_array(root / "extract" / "topk_ids.npy", np.stack([top, (top + 1) % 3], 1).astype(np.int32))
    ones = np.ones(N, np.float32)
    columns = {name: [""] * N for name in schema.WEIGHT_TEXTS} | {
        "instance_id": np.arange(N), "label": TRAIN_LABELS, "class_weight": ones,
        "cluster": cluster, "cluster_weight": score, "confidence": ones,
        "self_confidence": given / given.mean(), "saliency": ones, "page_text": ones, "other_score": ones,
        "zero_shot": ones, "page_fit": ones,
        "rank_prior": ones, "label_posterior": ones, "right_prob": given, "predicted_label": top,
        "sample_weight": given / given.mean(),
    }  # fmt: skip
    store.write_table(root / "train" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    before = columns | {"saliency": 2 * ones, "sample_weight": ones}
    store.write_table(root / "reweight" / "weights.parquet", before, schema.WEIGHT_COLUMNS)


def write_evaluation(directory):
    figures = {"top1": 0.5, "top5": 1.0, "balanced_top1": 0.5, "balanced_top5": 1.0, "ece": 0.1, "n": 4}
    models = {
        "baseline": figures,
        "urnet": {**figures, "balanced_top1": 0.75},
        "folds_rank": {**figures, "ece": None},
    }
    store.write_json(directory / "metrics.json", {"split": "test", "models": models, "views": 1})
    dtypes = {"label": "int32", "n": "int64", "baseline_top1": "float64", "urnet_top1": "float64"}
    columns = {
        "label": [0, 1, 2],
        "n": [1, 1, 2],
        "baseline_top1": [0.0, 1.0, 0.5],
        "urnet_top1": [1.0, 1.0, 0.0],
    }
    store.write_table(directory / "per_class.parquet", columns, dtypes)
    for model in ("baseline", "urnet"):
        np.savez(
            directory / f"predictions_{model}.npz", instance_id=np.arange(N, N + 4), label=TEST_LABELS,
            top_ids=np.array([[0], [1], [1], [2]]), top_probs=np.float32([[0.9], [0.8], [0.3], [0.9]]),
        )  # fmt: skip


def read_page(context):
    return (context.out / "index.html").read_text(encoding="utf-8")


def test_writes_the_page_and_what_lies_beside_it(context):
    metadata = report.run(context)
    page = read_page(context)
    beside = sorted(path.name for path in (context.out / "data").iterdir())
    assert beside == ["class-0.js", "class-1.js", "class-2.js", "classes.js", "matrix.js"]
    sizes = [len(page.encode()), *(path.stat().st_size for path in (context.out / "data").iterdir())]
    assert metadata["bytes"] == sum(sizes) and metadata["path"] == "index.html" and not metadata["missing"]
    assert metadata["lines"][0] == "About 29 % of the 18 labels look wrong."
    assert metadata["suggestions"][0]["command"] == "urnet review --workdir DIR --at queue/doubtful"
    for words in (
        "18 training images", "75.0\N{NO-BREAK SPACE}%", "+25.0 points", "flickr/bad.jpg", "Title &lt;0&gt;",
        "export/urnet/2/README.md", "about 71\N{NO-BREAK SPACE}% of the labels", "keras 3.15.1",
        "12.3 kB packed", "train/weights.parquet",
    ):  # fmt: skip
        assert words in page, words
    assert "reweight/weights.parquet" not in page and "Not here yet" not in page
    assert page.count('src="data:image/jpeg') >= 8
    report.run(context)
    assert page == read_page(context)


LATER = ("train", "evaluate", "export")


def test_without_a_final_network_the_page_shows_what_is_known(context):
    """Nothing of the missing stages is read, whatever lies there."""
    for stage in LATER:
        (context.workdir.path(stage) / store.MARKER).unlink()
    missing = dict.fromkeys(LATER, "it was not run yet")
    context = dataclasses.replace(context, missing=missing)
    metadata = report.run(context)
    page = read_page(context)
    assert metadata["missing"] == missing and len(metadata["lines"]) == 3
    assert "Not here yet:</b> the trained network, whether it helped, the files to use." in page
    assert "reweight/weights.parquet" in page and "train/weights.parquet" not in page
    assert 'id="help"' not in page and 'id="export"' not in page and 'id="wrong"' in page
    inputs = report.read_inputs(context)
    assert set(inputs.weights["saliency"]) == {2.0}, "of the stage reweight"


def test_before_the_weights_the_page_shows_what_the_files_say(context):
    stages = ("features", "extract", "reweight", *LATER)
    for stage in stages:
        (context.workdir.path(stage) / store.MARKER).unlink()
    context = dataclasses.replace(context, missing=dict.fromkeys(stages, "it was not run yet"))
    metadata = report.run(context)
    page = read_page(context)
    assert metadata["lines"] == [] and "Whether labels look wrong is not known yet" in page
    assert "flickr/bad.jpg" in page and "weights.parquet" not in page
    assert sorted(path.name for path in (context.out / "data").iterdir()) == ["classes.js"]


def test_texts_and_ids_of_images(context):
    inputs = report.read_inputs(context)
    assert inputs.read_rows([3, 1]) == [
        {"title": "Title <3>", "path": "google/3.jpg", "query": ""},
        {"title": "Title <1>", "path": "google/1.jpg", "query": ""},
    ]
    assert inputs.find_ids(["google/1.jpg", "nowhere.jpg", "test/18.jpg"]) == [1, -1, 18]


def test_look_alikes_are_found_among_the_images_of_a_class(context, monkeypatch):
    group_class = report.read_inputs(context).group_class
    members = group_class(1, 2)
    assert members.ids.tolist() == list(range(6, 12)) and members.num_own == 6
    # Every third image has the features of the next class.
    assert len({members.group[0], members.group[3]}) == 1 and members.group[0] != members.group[1]
    monkeypatch.setattr(report, "_GROUPED_IMAGES", 3)
    assert report.read_inputs(context).group_class(1, 2).ids.tolist() == [6, 8, 11]


def test_the_formats_of_the_export_are_shown(context):
    report.run(context)
    page = (context.out / "index.html").read_text(encoding="utf-8")
    section = page[page.index('<div id="export">') :].split("</table>")[0]
    rows = [
        [re.sub("<[^>]*>", "", cell).replace("\N{NO-BREAK SPACE}", " ") for cell in row.split("</td>")[:-1]]
        for row in section.split("<tr")[2:]
    ]
    assert [row[0].split(">", 1)[1] for row in rows] == [
        "Keras, before export", "SavedModel", "TFLite, int8refused: 25.00 points lost",
        "ONNXrefused: it takes no &lt;Custom&gt;",
    ]  # fmt: skip
    assert rows[0][1:] == ["", "–", "75.0 %", "–", "–", "–"]
    assert rows[1][1:] == ["saved_model.pb", "7.0 MB", "75.0 %", "2.0e-06", "100.0 %", "12.3 ms"]
    assert rows[2][1:] == ["", "2.0 MB", "50.0 %", "2.0e-06", "100.0 %", "3.0 ms"]
    assert "same 4 test images" in section and "2 of them were" in section
    assert "A &lt;CPU&gt;, 4 cores" in page and "Among five" not in section  # of three classes


def test_the_groups_of_a_class_are_those_that_its_images_were_weighed_by(context):
    context = dataclasses.replace(context, config=config_lib.load_config(None, ["preset=sound"]))
    report.run(context)
    page = (context.out / "index.html").read_text(encoding="utf-8")
    section = page[page.index('<div id="groups">') :].split("</section>")[0]
    assert "The more of a group belongs to the class" in section and section.count("<h4>") == 2
    # A third of the images of each class looks like the next class: purity is one there, and among the rest.
    table = store.read_table(context.path("train", "weights.parquet"))
    for entry in section.split("<h4>")[1:]:
        label = "ABC".index(re.sub("<[^>]*>", "", entry)[0])
        rows = store.column(table, "label") == label
        weights = store.column(table, "cluster_weight")[rows]
        said = [float(text) for text in re.findall(r'<b class="[a-z]+">([\d.]+)×</b>', entry)]
        expected = sorted(set(np.round(weights / weights.mean(), 2)), reverse=True)
        assert sorted(set(said), reverse=True) == pytest.approx(expected, abs=0.011)
        assert sum(map(int, re.findall(r"(\d+) of \d+ images have", entry))) == 6
        assert sum(map(int, re.findall(r"of (\d+) images have", entry))) == N
        assert "of these look wrong" in entry
        assert entry.count('class="other"') > 0
    literal = dataclasses.replace(
        context, config=config_lib.load_config(None, ["preset=paper", "report.grouped_classes=1", "seed=3"])
    )
    report.run(literal)  # k-means from another seed: not the groups of the columns
    page = (context.out / "index.html").read_text(encoding="utf-8")
    assert "Its groups came out differently" in page and "The larger a group" in page
    off = config_lib.load_config(None, ["report.grouped_classes=0"])
    report.run(dataclasses.replace(context, config=off))
    assert '<div id="groups">' not in (context.out / "index.html").read_text(encoding="utf-8")


def test_a_run_without_an_export_has_no_section(context):
    marker = {"key": "export", "seconds": 1, "versions": {}, "metadata": {}}
    context.workdir.write_marker(context.path("export"), marker)
    report.run(context)
    page = (context.out / "index.html").read_text(encoding="utf-8")
    assert "Files to use" not in page and "model card" not in page


def test_reliability_counts_the_measured_split(context):
    inputs = report.read_inputs(context)
    assert inputs.source_names == ["flickr", "google"]
    assert inputs.reliability["urnet"]["count"].tolist() == [1, 1, 2]
    assert inputs.reliability["urnet"]["accuracy"].tolist() == [0.0, 1.0, 1.0]
    assert inputs.read_rows([3, 1])[0]["title"] == "Title <3>"
    config = config_lib.load_config(None, ["evaluate.ece_bins=2"])
    found = report.read_inputs(dataclasses.replace(context, config=config)).reliability["urnet"]
    assert found["count"].tolist() == [1, 3]


def test_a_run_that_measured_nothing_has_a_page(context):
    path = context.path("evaluate", "metrics.json")
    store.write_json(path, {"split": None, "models": {}, "views": 0})
    context.workdir.write_marker(path.parent, {"metadata": {}})
    report.run(context)
    assert "Did it help?" not in (context.out / "index.html").read_text(encoding="utf-8")


def test_estimate():
    config = config_lib.Config()
    assert report.STAGE.estimate(config, PlanContext()).seconds is None
    small = report.STAGE.estimate(config, PlanContext(train_images=1000, num_classes=10))
    assert small.rows == 4 * 8 + 24 * 10 and small.seconds < 4 and small.disk_bytes < 7 * 10**6
    large = report.STAGE.estimate(config, PlanContext(train_images=10**6, num_classes=5000))
    assert large.rows == 60_032 and 60 < large.seconds < 180  # two minutes, at two cores
