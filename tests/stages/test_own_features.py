"""Features of one's own: rows found by their paths, and a run of the whole flow without a backbone."""

import re

import numpy as np
import pytest
from PIL import Image

from urnet_tf import config as config_lib, store
from urnet_tf.errors import UsageError
from urnet_tf.stages import features as features_stage, own_features
from urnet_tf.stages.own_features import copy_features, match_rows, open_own_features

PATHS = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
SPLITS = ["train", "train", "val"]
VALUES = np.arange(12.0).reshape(4, 3).astype("float32")


def write(folder, values=VALUES, paths=("dog/1.jpg", "./cat/2.jpg", "more/9.jpg", "cat\\1.jpg"), splits=None):
    np.save(folder / "own.npy", values)
    if splits is None:
        (folder / "own.txt").write_text("\n".join(paths) + "\n", encoding="utf-8")
    else:
        table = {"path": list(paths), "split": list(splits)}
        store.write_table(folder / "own.parquet", table, dict.fromkeys(table, "string"))
    return opened(folder / "own.npy")


def opened(path):
    return open_own_features(config_lib.from_dict({"model": {"features": str(path)}}))


def test_rows_are_found_by_their_paths_in_any_order(tmp_path, caplog):
    own = write(tmp_path)
    rows = match_rows(own, PATHS, SPLITS)
    assert rows.tolist() == [3, 1, 0]
    assert "1 of 4 rows are of no image" in caplog.text
    out = np.empty((3, 3), "float32")
    copy_features(own, rows, PATHS, out)
    np.testing.assert_array_equal(out, VALUES[[3, 1, 0]])


def test_paths_may_count_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "crawl").mkdir()
    monkeypatch.chdir(tmp_path)
    paths = ["crawl/cat/1.jpg", str(tmp_path / "crawl/cat/2.jpg"), "dog/1.jpg", "elsewhere/cat/2.jpg"]
    own = write(tmp_path, paths=paths)
    assert match_rows(own, PATHS, SPLITS, [tmp_path / "crawl"]).tolist() == [0, 1, 2]


def test_one_path_in_two_splits_needs_the_splits(tmp_path):
    paths, splits = ["a.jpg", "a.jpg"], ["train", "test"]
    own = write(tmp_path, VALUES[:2], ("a.jpg", "b.jpg"))
    with pytest.raises(
        UsageError, match=r"own\.parquet with the columns path and split.*of train and one of"
    ):
        match_rows(own, paths, splits)
    (tmp_path / "own.txt").unlink()
    own = write(tmp_path, VALUES[:2], paths, ["test", "train"])
    assert match_rows(own, paths, splits).tolist() == [1, 0]


def test_images_without_a_row_are_named(tmp_path):
    own = write(tmp_path, paths=("cat/1.jpg", "x/2.jpg", "x/3.jpg", "x/4.jpg"))
    with pytest.raises(
        UsageError, match=r"3 images.*; 2 have none \('cat/2.jpg', 'dog/1.jpg'\)\. 3 rows are"
    ):
        match_rows(own, PATHS, SPLITS)


def test_two_rows_of_one_image(tmp_path):
    twice = ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "cat/1.jpg")
    with pytest.raises(UsageError, match=r"'cat/1.jpg' as rows 1 and 4, whose features differ"):
        match_rows(write(tmp_path, paths=twice), PATHS, SPLITS)
    same = VALUES[[0, 1, 2, 0]]
    assert match_rows(write(tmp_path, same, twice), PATHS, SPLITS).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_numbers_that_are_none(bad, tmp_path):
    values = VALUES.astype("float64")
    values[1, 2] = bad
    own = write(tmp_path, values)
    with pytest.raises(UsageError, match=r"Expected finite features.*for 'cat/2.jpg' \(row 2\)"):
        copy_features(own, np.array([3, 1, 0]), PATHS, np.empty((3, 3), own.dtype))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4), r"received the shape \(4,\)"),
        (np.zeros((4, 7, 7, 2)), r"\(4, 7, 7, 2\).*Average maps"),
        (np.zeros((4, 0)), r"the shape \(4, 0\)"),
        (np.array([["a"]]), "Expected numbers.*<U1"),
        (np.array([[None]], object), "Expected a .npy file of numbers"),
    ],
)
def test_arrays_that_are_no_features(values, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        write(tmp_path, values)


def test_files_that_are_missing_or_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="Cannot read the features.*No such file"):
        opened(tmp_path / "own.npy")
    (tmp_path / "own.npy").write_bytes(b"")
    with pytest.raises(UsageError, match="Expected a .npy file of numbers"):
        opened(tmp_path / "own.npy")
    np.save(tmp_path / "own.npy", VALUES)
    with pytest.raises(UsageError, match=r"own\.txt \(one path a line\).*there is neither"):
        opened(tmp_path / "own.npy")
    with pytest.raises(UsageError, match=r"for each of the 4 rows.*own\.txt has 2\."):
        match_rows(write(tmp_path, paths=("a", "b")), PATHS, SPLITS)
    store.write_table(tmp_path / "own.parquet", {"file": ["a"]}, {"file": "string"})
    with pytest.raises(UsageError, match="there is both"):
        opened(tmp_path / "own.npy")
    (tmp_path / "own.txt").unlink()
    with pytest.raises(UsageError, match="Cannot read the paths.*path"):
        match_rows(opened(tmp_path / "own.npy"), PATHS, SPLITS)


def test_float16_stays_and_other_numbers_become_float32(tmp_path):
    kinds = {"float16": "float16", "float32": "float32", "float64": "float32", "uint8": "float32"}
    for given, kept in kinds.items():
        assert write(tmp_path, VALUES.astype(given)).dtype == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"model": {"mode": "finetune"}}, "model.mode=frozen"), ({"evaluate": {"crops": "10"}}, "crops=1")],
)
def test_what_excludes_them(settings, message):
    tree = {**settings, "model": {"features": "own.npy", **settings.get("model", {})}}
    with pytest.raises(UsageError, match=message):
        config_lib.from_dict(tree)


def test_a_backbone_has_no_effect_beside_them(tmp_path):
    from urnet_tf.stages.effects import ignored_settings

    changed = {"backbone": "resnext", "image_size_px": 64}
    config = config_lib.from_dict({"model": {**changed, "features": "own.npy"}})
    assert set(ignored_settings(config)) == {"model.backbone", "model.image_size_px"}
    assert not ignored_settings(config_lib.from_dict({"model": changed}))


def test_changed_files_are_noticed(tmp_path):
    config = config_lib.from_dict({"model": {"features": str(tmp_path / "own.npy")}})
    write(tmp_path)
    before = features_stage.inputs(config)
    assert features_stage.inputs(config) == before
    write(tmp_path, paths=("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "other/9.jpg"))
    assert features_stage.inputs(config) != before


def test_folders_that_paths_start_from(tmp_path):
    (tmp_path / "images").mkdir()
    list_path = tmp_path / "list.csv"
    list_path.write_text("path,label\n")
    ingest = {"path": str(list_path), "val_path": str(tmp_path / "images")}
    config = config_lib.from_dict({"ingest": ingest})
    assert own_features.folders_of(config) == [str(tmp_path), str(tmp_path / "images")]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Forty gray images of two classes, which only features of one's own tell apart."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    paths, values = [], []
    for number, name in enumerate(("cat", "dog")):
        (root / "crawl" / name).mkdir(parents=True)
        for i in range(20):
            path = root / "crawl" / name / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
            paths.append(f"{name}/{i}.png")
            values.append(rng.normal(size=8) + 4 * number)
    order = rng.permutation(len(paths))
    np.save(root / "own.npy", np.array(values)[order])
    (root / "own.txt").write_text("".join(f"{paths[i]}\n" for i in order), encoding="utf-8")
    return root


def test_the_whole_flow_on_features_of_ones_own(crawl, urnet_here):
    runs = crawl / "run"
    arguments = ("--data", crawl / "crawl", "--features", crawl / "own.npy", "--workdir", runs)
    planned = urnet_here("run", *arguments, "--dry_run")
    assert planned.returncode == 0 and "Features: 8 an image, from " in planned.stdout
    done = urnet_here("run", *arguments, "--set", "baseline.folds=2", "--set", "ingest.val_fraction=0.2")
    assert done.returncode == 0
    assert "No model of images is exported" in done.stderr and done.stdout.strip().endswith(
        str(runs / "train")
    )
    kept = store.read_array(runs / "features" / "features.npy")
    assert kept.shape == (40, 8) and kept.dtype == np.float32
    paths = store.read_table(runs / "pack" / "instances.parquet", ["path"]).column("path").to_pylist()
    listed = (crawl / "own.txt").read_text().split()
    given = np.load(crawl / "own.npy").astype("float32")
    np.testing.assert_array_equal(kept, given[[listed.index(path) for path in paths]])
    metrics = store.read_json(runs / "evaluate" / "metrics.json")
    assert metrics["models"]["urnet"]["balanced_top1"] == 1.0
    assert (runs / "report" / "index.html").is_file() and not list((runs / "export").glob("*/"))
    for command in (("promote", "--workdir", runs), ("predict", crawl / "crawl", "--model", runs)):
        refused = urnet_here(*command)
        assert refused.returncode == 2 and re.search("there is none. No model of images", refused.stderr)
    again = urnet_here("run", *arguments, "--set", "baseline.folds=2", "--set", "ingest.val_fraction=0.2")
    assert again.stderr.count("complete, skipped") == 10


def test_an_image_that_came_to_another_split_keeps_its_features(tmp_path):
    """As after a judgement; where the list has the path in several splits, nothing tells which is meant."""
    own = write(tmp_path, paths=("cat/1.jpg", "cat/2.jpg", "cat/2.jpg", "dog/1.jpg"),
                splits=("train", "train", "val", "test"))  # fmt: skip
    assert match_rows(own, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], ["judged", "val", "test"]).tolist() == [
        0,
        2,
        3,
    ]
    with pytest.raises(UsageError, match="1 have none"):
        match_rows(own, ["cat/2.jpg"], ["judged"])
