"""`urnet clean`: our own readers read each format back, with the right labels; nothing is overwritten."""

import collections
import csv
import json
import os
import zipfile

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import urnet_tf
from urnet_tf import schema, store
from urnet_tf.crawl import corrections
from urnet_tf.errors import UsageError
from urnet_tf.flow import runner
from urnet_tf.flow.clean import clean
from urnet_tf.flow.plan import find_stage, identify_stages
from urnet_tf.store import Workdir

# Class → P(right) of its training images; =1+1 is a name that a spreadsheet takes for a formula.
CRAWL = {"=1+1": [0.9, 0.8, 0.2, 0.9], "cat": [0.9, 0.9], "red fox": [0.9, 0.1, 0.7]}
READ_BACK = ("folder", "list", "imagefolder", "webdataset", "fiftyone")


@pytest.fixture(scope="module", params=["files", "zip"])
def workdir(request, tmp_path_factory):
    """A run up to `pack`, with weights by hand; of images that lie as files or in an archive."""
    root = tmp_path_factory.mktemp(request.param)
    generator = np.random.default_rng(0)
    listed = [("path", "label", "split", "title", "rank")]
    (root / "crawl").mkdir()
    names = {}
    for label, (name, probabilities) in enumerate(CRAWL.items()):
        for number, probability in enumerate([*probabilities, None]):
            path = f"{label}-{number % 2}/{number}{'' if number == 0 else '.png'}"
            (root / "crawl" / path).parent.mkdir(exist_ok=True)
            image = Image.fromarray(generator.integers(0, 255, (24, 24, 3), np.uint8))
            image.save(root / "crawl" / path, "PNG")
            split = "train" if probability is not None else "val"
            listed.append((path, name, split, '=HYPERLINK("x")\n', number + 1))
            names[path] = (name, probability)
    if request.param == "zip":
        with zipfile.ZipFile(root / "all.zip", "w") as archive:
            for path in names:
                archive.write(root / "crawl" / path, path)
        listed = [listed[0], *((f"all.zip/{row[0]}", *row[1:]) for row in listed[1:])]
        names = {f"all.zip/{path}": known for path, known in names.items()}
    base = root if request.param == "zip" else root / "crawl"
    with open(base / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(listed)
    config = urnet_tf.load_config(None, [f"ingest.path={base / 'list.csv'}"])
    directory = Workdir(root / "run")
    directory.root.mkdir()
    identities = identify_stages(config, directory)
    for stage in ("ingest", "pack"):
        runner.run_stage(find_stage(stage), config, directory, identities[stage])
    store.write_text(directory.root / "config.yaml", json.dumps({"ingest": {"path": str(base / "list.csv")}}))
    rows = store.read_table(directory.checked("pack", "instances.parquet")).to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    weights = {name: [""] * len(train) for name in schema.WEIGHT_TEXTS}
    weights |= {name: np.ones(len(train)) for name in schema.WEIGHT_COLUMNS if name not in weights}
    weights["right_prob"] = np.array([names[row["path"]][1] for row in train])
    weights["predicted_label"] = np.zeros(len(train), int)
    out = directory.open_partial("reweight", "key")
    store.write_table(out / "weights.parquet", weights, schema.WEIGHT_COLUMNS)
    directory.finish("reweight", {"key": "key", "metadata": {}})
    return directory.root, {row["path"]: row for row in rows}, root


@pytest.fixture
def judged(workdir):
    """Two judgements: an image of class 0 is a fox, one is nothing."""
    root, rows, _ = workdir
    paths = [path for path, row in rows.items() if row["label"] == 0 and row["split"] == "train"]
    log = root / "corrections.parquet"
    corrections.append(
        log,
        [
            {"content_hash": rows[paths[0]]["content_hash"], "old_label": "=1+1", "verdict": "wrong_class",
             "new_label": "red fox"},
            {"content_hash": rows[paths[1]]["content_hash"], "old_label": "=1+1", "verdict": "none_of_these"},
        ],
    )  # fmt: skip
    yield paths
    log.unlink()


def digests(folder):
    """content hash → label, by our own readers."""
    from urnet_tf.images.probe import hash_image

    crawl = urnet_tf.read_crawl(folder)
    assert not len(crawl.rejected)
    found = {}
    for row in crawl.rows.to_pylist():
        path = os.path.join(crawl.root, row["path"])
        found[hash_image(path, 10**6)] = (crawl.classes[row["label"]]["name"], row["split"])
    return found


@pytest.mark.parametrize("layout", READ_BACK)
def test_our_own_readers_read_each_format(workdir, judged, tmp_path, layout):
    root, rows, _ = workdir
    lines = clean(root, tmp_path / "new", layout=layout)
    names = list(CRAWL)
    expected = {}
    probabilities = {path: probability for path, probability in _probabilities(root)}
    for path, row in rows.items():
        name = "red fox" if path == judged[0] else names[row["label"]]
        doubtful = probabilities.get(path, 1) < 0.5 and path != judged[0]
        if not doubtful and path != judged[1]:
            expected[row["content_hash"]] = (name, row["split"])
    place = tmp_path / "new" / ("list.csv" if layout == "list" else "")
    assert digests(place) == expected
    if layout == "list":
        assert digests(tmp_path / "new" / "list.parquet") == expected
    assert lines[-1].startswith("Cleaned: ")
    assert (tmp_path / "new" / "cleaning.txt").read_text() == "".join(f"{line}\n" for line in lines[:-1])


def _probabilities(root):
    table = store.read_table(root / "pack/instances.parquet").to_pylist()
    weights = store.read_table(root / "reweight/weights.parquet")["right_prob"].to_pylist()
    return [(row["path"], prob) for row, prob in zip(table, weights, strict=False)]


def test_changes_are_told_with_their_reasons(workdir, judged, tmp_path):
    root, _, _ = workdir
    lines = clean(root, tmp_path / "new", layout="cleanlab")
    with open(tmp_path / "new" / "cleaning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    told = collections.Counter(row["what"].split(":")[0] for row in rows)
    assert told == {"kept under the label that people gave it": 1, "dropped": 3}
    (relabeled,) = [row for row in rows if row["what"].startswith("kept under")]
    assert (relabeled["path"], relabeled["given_label"], relabeled["label"]) == (
        judged[0],
        "'=1+1",
        "red fox",
    )
    assert any("1 of them under the label" in line for line in lines)
    assert any("2 dropped, whose label is right with a probability below 0.5" in line for line in lines)
    assert any("1 dropped, which people judged" in line for line in lines)


def test_cleanlabs_table(workdir, judged, tmp_path):
    root, rows, _ = workdir
    clean(root, tmp_path / "new", layout="cleanlab")
    table = pyarrow.parquet.read_table(tmp_path / "new" / "issues.parquet")
    assert table.column_names == ["path", "is_label_issue", "label_score", "given_label", "predicted_label"]
    found = {row["path"]: row for row in table.to_pylist()}
    assert set(found) == {path for path, row in rows.items() if row["split"] == "train"}
    assert sum(row["is_label_issue"] for row in found.values()) == 4
    assert found[judged[0]]["predicted_label"] == "red fox" and found[judged[0]]["label_score"] == 0
    assert found[judged[1]]["predicted_label"] == ""
    for path, probability in _probabilities(root):
        if path not in judged:
            assert found[path]["label_score"] == pytest.approx(probability)
    with open(tmp_path / "new" / "issues.csv", newline="") as file:
        assert "'=1+1" in {row["given_label"] for row in csv.DictReader(file)}, "no formula"


def test_only_what_people_said(workdir, judged, tmp_path):
    root, rows, _ = workdir
    clean(root, tmp_path / "new", threshold=0.0, copy=True)
    assert len(digests(tmp_path / "new")) == len(rows) - 1
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_symlink()]


def test_nothing_is_overwritten(workdir, tmp_path):
    root, _, crawl = workdir
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("full", "file"):
        with pytest.raises(UsageError, match="does not exist or is empty"):
            clean(root, tmp_path / target)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UsageError, match="outside of the work directory"):
        clean(root, root / "new")
    config = root / "config.yaml"
    text = config.read_text()
    config.write_text(json.dumps({"ingest": {"path": str(crawl / "crawl")}}))
    with pytest.raises(UsageError, match="outside of the crawl"):
        clean(root, crawl / "crawl" / "new")
    config.write_text(text)
    (tmp_path / "empty").mkdir()
    clean(root, tmp_path / "empty")
    assert (tmp_path / "empty" / "train").is_dir()


def test_what_fails_leaves_nothing_behind(workdir, tmp_path, monkeypatch):
    root, _, _ = workdir
    from urnet_tf.cleaning import formats

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "place_image", fail)
    with pytest.raises(OSError, match="No space"):
        clean(root, tmp_path / "new")
    assert not list(tmp_path.iterdir())
    litter = tmp_path / ".new.999999999.tmp"  # of a process that was killed
    litter.mkdir()
    monkeypatch.undo()
    clean(root, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_nothing_left_and_no_run(workdir, tmp_path):
    root, _, _ = workdir
    with pytest.raises(UsageError, match="two classes or more"):
        clean_all_but_val(root, tmp_path)
    with pytest.raises(UsageError, match="work directory of a run"):
        clean(tmp_path, tmp_path / "new")


def clean_all_but_val(root, tmp_path):
    """Judges all to be nothing, and takes it back."""
    log = root / "corrections.parquet"
    rows = store.read_table(root / "pack/instances.parquet", ["content_hash"]).to_pylist()
    corrections.append(log, [row | {"verdict": "none_of_these"} for row in rows])
    try:
        clean(root, tmp_path / "new")
    finally:
        log.unlink()
