"""The ingest stage: from a folder, list or tree to its files; hostile input; killed and resumed."""

import json
import os
import re

import numpy as np
import pytest
from urnet_fixtures.ingests import draw_images, folder as folder, run

from urnet_tf.config import from_dict
from urnet_tf.errors import UsageError
from urnet_tf.images.inspection import Inspector
from urnet_tf.schema import DUPLICATE_COLUMNS, DUPLICATE_KINDS, INSTANCE_COLUMNS, QUARANTINE_COLUMNS
from urnet_tf.stages import crawl_files, ingest
from urnet_tf.stages.stage import PlanContext
from urnet_tf.store import Workdir, read_json, read_table


def dtypes_of(table):
    """As the schema names them: texts are large strings in memory."""
    return {f.name: str(f.type).removeprefix("large_") for f in table.schema}


def test_folder(folder, tmp_path):
    metadata, out = run(tmp_path / "work", path=folder)
    size = sum(path.stat().st_size for path in folder.rglob("*.png"))
    assert metadata == {
        "images": 41, "train_images": 37, "val_images": 4, "test_images": 0, "num_classes": 2,
        "quarantined": {"not_a_file": 1, "not_an_image": 1}, "root": str(folder),
        "duplicates": dict.fromkeys(DUPLICATE_KINDS, 0) | {"same_label": 2}, "bytes": size,
        "not_compared": 0, "held_labels": {"val": "drawn"},
    }  # fmt: skip
    assert sorted(os.listdir(out)) == [
        "ahead", "candidates.parquet", "classes.json", "duplicates.parquet", "files.parquet",
        "inspected_with.json", "key.txt", "quarantine.parquet", "thumbnails.npy", "units_files",
    ]  # fmt: skip
    table = read_table(out / "candidates.parquet")
    assert {"instance_id": "int64"} | dtypes_of(table) == INSTANCE_COLUMNS
    keys = [
        tuple(r[k] for k in ("label", "source", "rank", "path"))
        for r in table.to_pylist()
        if r["split"] == "train"
    ]
    assert keys == sorted(keys) and len(keys) == 37
    assert dtypes_of(read_table(out / "quarantine.parquet")) == QUARANTINE_COLUMNS
    assert dtypes_of(read_table(out / "duplicates.parquet")) == DUPLICATE_COLUMNS
    assert [c["name"] for c in read_json(out / "classes.json")] == ["cat", "dog"]
    assert json.loads(json.dumps(metadata)) == metadata


def test_a_killed_run_gives_the_same_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(crawl_files, "FILES_PER_UNIT", 7)
    _, whole = run(tmp_path / "whole", path=folder)
    calls, inspect = [], Inspector.inspect

    def dies_in_the_third_unit(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inspect(*arguments)

    monkeypatch.setattr(Inspector, "inspect", dies_in_the_third_unit)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", path=folder)
    _, resumed = run(tmp_path / "cut", path=folder)
    assert len(calls) == 3 + 4  # 42 files are 6 units, 2 were kept
    for name in [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_units_do_not_change_the_result(folder, tmp_path, monkeypatch):
    _, one = run(tmp_path / "one", path=folder)
    monkeypatch.setattr(crawl_files, "FILES_PER_UNIT", 3)
    _, many = run(tmp_path / "many", path=folder)
    assert (one / "candidates.parquet").read_bytes() == (many / "candidates.parquet").read_bytes()


def test_list_with_evaluation_images_from_elsewhere(folder, tmp_path):
    lines = [f"{name}/g/{n}.png,{name},{n}" for name in ("cat", "dog") for n in range(10)] + [
        "gone.png,cat,1"
    ]
    (tmp_path / "list.csv").write_text("path,label,rank\n" + "\n".join(lines))
    draw_images(tmp_path / "val", ["cat/v.png", "dog/v.png"], seed=9)
    (tmp_path / "val/dog/copy.png").write_bytes((folder / "cat/g/3.png").read_bytes())
    metadata, out = run(
        tmp_path / "work", path=tmp_path / "list.csv", image_root=str(folder), val_path=str(tmp_path / "val")
    )
    assert (metadata["train_images"], metadata["val_images"]) == (19, 3)
    assert metadata["quarantined"] == {"duplicate_of_evaluation": 1, "missing": 1}
    assert metadata["duplicates"]["train_and_evaluation"] == 2
    paths = read_table(out / "candidates.parquet")["path"].to_pylist()
    assert all(os.path.exists(os.path.join(metadata["root"], path)) for path in paths)


def test_sources_ranks_and_first_classes(folder, tmp_path):
    draw_images(folder, [f"owl/g/{n}.png" for n in range(3)], seed=5)
    metadata, _ = run(
        tmp_path / "work",
        path=folder,
        sources=["g"],
        max_rank={"g": 4},
        first_classes=2,
        rank="name",
        val_fraction=0,
    )
    assert (metadata["images"], metadata["num_classes"]) == (8, 2)
    assert metadata["quarantined"]["rank_cut"] == 14  # 10 + bad.jpg - 4, and 10 + copy.png - 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "ingest.path"),
        ({"path": "absent"}, "no such file or folder"),
        ({"path": "crawl", "kind": "webvision"}, "info/synsets.txt"),
        ({"path": "crawl", "kind": "list"}, "Expected a list"),
        ({"path": "crawl", "sources": ["bing"]}, "bing"),
        ({"path": "crawl", "max_rank": {"bing": 3}}, "bing"),
        ({"path": "crawl", "max_rank": {"g": 1}}, "search ranks of the source 'g' for ingest.max_rank"),
        (
            {"path": "crawl", "rank": "name", "max_rank": {"g": 1, "f": 0}},
            "'cat' .one image.* rejected as: .* rank_cut",
        ),
        ({"path": "crawl", "val_path": "crawl"}, "Expected val images|has no training"),
        ({"path": "crawl", "val_path": "absent"}, "absent"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(folder, tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    if settings.get("val_path") == "crawl":
        draw_images("crawl2", ["zebra/1.png"])
        settings = settings | {"val_path": "crawl2"}
    with pytest.raises(UsageError, match=words) as caught:
        run(tmp_path / "work", **settings)
    assert "\n" not in str(caught.value)


def test_the_quarantine_is_there_when_a_class_is_too_small(folder, tmp_path):
    draw_images(folder, ["owl/1.png"])
    (folder / "owl/2.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"30 usable .* 'cat' \(18 images\)"):
        run(tmp_path / "work", path=folder, min_class_images=30)
    assert "empty" in read_table(tmp_path / "work/ingest.partial/quarantine.parquet")["status"].to_pylist()


def test_classes_without_usable_images_are_left_out_and_counted(folder, tmp_path, caplog):
    draw_images(folder, ["owl/1.png", "ant/1.png", "ant/2.png"], seed=7)
    (folder / "owl/2.png").write_bytes(b"")
    (folder / "zebra").mkdir()
    (folder / "models").mkdir()
    (folder / "models/x.pth").write_bytes(b"weights")
    with caplog.at_level("WARNING"):
        metadata, out = run(tmp_path / "work", path=folder)
    assert [c["name"] for c in read_json(out / "classes.json")] == ["ant", "cat", "dog"]
    assert [c["label"] for c in read_json(out / "classes.json")] == [0, 1, 2]
    assert "2 classes with fewer than 2 usable training images are left out" in caplog.text
    assert "'owl' (1), 'zebra' (0)" in caplog.text
    assert metadata["quarantined"] == {"empty": 1, "not_a_file": 1, "not_an_image": 1, "small_class": 1}
    table = read_table(out / "candidates.parquet")
    assert sorted({(row["path"].split("/")[0], row["label"]) for row in table.to_pylist()}) == [
        ("ant", 0), ("cat", 1), ("dog", 2)
    ]  # fmt: skip
    rows = {row["path"]: row for row in read_table(out / "quarantine.parquet").to_pylist()}
    assert rows["owl/1.png"]["status"] == "small_class" and rows["owl/1.png"]["reason"].endswith("('owl': 1)")
    metadata, _ = run(tmp_path / "more", path=folder, min_class_images=5)
    assert metadata["num_classes"] == 2
    for least, classes in ((20, 2), (21, 0)):  # images that are drawn for validation count, too
        if classes:
            metadata, _ = run(tmp_path / str(least), path=folder, min_class_images=least, val_fraction=0.3)
            assert metadata["num_classes"] == 2 and metadata["train_images"] < 40
            continue
        with pytest.raises(UsageError, match="at least 21 usable training images in each of two classes"):
            run(tmp_path / str(least), path=folder, min_class_images=least)


def test_a_class_of_damaged_pictures_is_left_out(folder, tmp_path, caplog):
    """Found out by decoding them, so that neither splits nor packing stumble over it."""
    draw_images(folder, [f"owl/{n}.jpg" for n in range(5)], seed=7)
    for n in range(4):
        path = folder / f"owl/{n}.jpg"
        path.write_bytes(path.read_bytes()[:-150])
    with caplog.at_level("WARNING"):
        metadata, out = run(tmp_path / "work", path=folder)
    assert [c["name"] for c in read_json(out / "classes.json")] == ["cat", "dog"]
    assert "1 classes with fewer than 2 usable training images are left out" in caplog.text
    assert "'owl' (1)" in caplog.text
    counts = {"decode_error": 4, "not_a_file": 1, "not_an_image": 1, "small_class": 1}
    assert metadata["quarantined"] == counts


def test_inputs_follow_what_is_read(folder, tmp_path):
    def key():
        return ingest.inputs(from_dict({"ingest": {"path": str(folder)}}))

    before = key()
    assert key() == before
    draw_images(folder, ["cat/g/new.png"])
    assert key() != before
    (tmp_path / "l.csv").write_text("path,label\na,b\n")
    config = from_dict({"ingest": {"path": str(tmp_path / "l.csv")}})
    before = ingest.inputs(config)
    (tmp_path / "classes.txt").write_text("b\n")
    assert ingest.inputs(config) != before


def test_a_rescan_reads_contents(folder, tmp_path):
    metadata, _ = run(tmp_path / "work", path=folder)
    workdir, config = Workdir(tmp_path / "work"), from_dict({"ingest": {"path": str(folder)}})
    workdir.finish("ingest", {"key": "k", "metadata": metadata})
    before = ingest.inputs(config)
    assert ingest.STAGE.rescan(config, workdir) is None
    for name in ("cat/g/3.png", "dog/f/7.png"):
        status, data = (folder / name).stat(), (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingest.inputs(config) == before, "names, sizes and times are as they were"
    assert re.fullmatch(
        r"the contents of 2 images changed \((cat/g/3|dog/f/7)\.png, for one\)",
        ingest.STAGE.rescan(config, workdir),
    )


def test_the_estimate_is_of_what_has_to_be_decoded(folder):
    config = from_dict({"ingest": {"path": str(folder)}})
    assert ingest.estimate(config, PlanContext()).rows is None
    plans = [PlanContext(10_000, bytes_per_image=60_000, cores=2, new_images=new) for new in (None, 100)]
    whole, part = (ingest.estimate(config, plan) for plan in plans)
    assert whole.rows == part.rows == 10_000 and part.note == "100 to decode" and not whole.note
    # 1.6 ms an image, of two cores; records of 60 kB
    assert whole.seconds - part.seconds == pytest.approx(9900 * 1.62e-3 / 2)
    assert whole.disk_bytes - part.disk_bytes == pytest.approx(9900 * 60_000)


@pytest.mark.slow
def test_webtiny(webtiny, tmp_path):
    metadata, out = run(tmp_path, path=webtiny)
    assert metadata | {"root": ""} == {
        "images": 16873, "train_images": 7433, "val_images": 2950, "test_images": 6490, "num_classes": 59,
        "quarantined": {"near_copy_of_evaluation": 3}, "root": "", "bytes": 37482606,
        "duplicates": dict.fromkeys(DUPLICATE_KINDS, 0) | {
            "several_labels": 393, "same_label": 84, "near_train_and_evaluation": 5, "near_same_label": 2,
        },
        "not_compared": 0, "held_labels": {"val": "given", "test": "given"},
    }  # fmt: skip
    table = read_table(out / "candidates.parquet")
    labels = table["label"].to_numpy()[:7433]
    assert (np.diff(labels) >= 0).all()
    assert np.bincount(labels).max() == 330 and np.bincount(labels).min() == 30


def test_hostile_files_of_the_drawn_crawl(drawn_crawl, tmp_path):
    metadata, out = run(tmp_path, path=drawn_crawl)
    statuses = {
        os.path.basename(row["path"]): row["status"]
        for row in read_table(out / "quarantine.parquet").to_pylist()
        if "hostile" in row["path"]
    }
    assert statuses == {
        "hostile_empty.jpg": "empty",
        "hostile_html.jpg": "not_an_image",
        "hostile_bomb.jpg": "too_many_pixels",
        "hostile_animated.jpg": "unsupported",
        "hostile_loop.jpg": "symlink_loop",
        "hostile_caf\\xe9.jpg": "bad_name",
        "hostile_directory.jpg": "not_a_file",
        "hostile_truncated.jpg": "decode_error",
    }
    used = [p for p in read_table(out / "candidates.parquet")["path"].to_pylist() if "hostile" in p]
    assert len(used) == 4  # odd but good pictures
    assert metadata["num_classes"] == 12


def test_what_was_taken_for_granted_is_counted(tmp_path, caplog):
    root = tmp_path / "crawl"
    draw_images(root, [f"{label}/{n}.png" for label in "ab" for n in range(4)])
    draw_images(root, ["a/x.tiff", "b/y.tiff"], seed=1)
    (root / "a/0.png").write_bytes((root / "a/0.png").read_bytes()[:-12])
    with caplog.at_level("WARNING"):
        run(tmp_path / "work", path=root)
    assert "ingest: 2 files: TIFF, which is packed like others" in caplog.text
    assert "ingest: 1 file: PNG without its last chunk" in caplog.text
    assert caplog.text.count("ingest: ") == 2


def test_a_list_of_which_nothing_can_be_used_says_why(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,\n2.jpg,nan\n")
    with pytest.raises(
        UsageError, match="2 rows were set aside, the first as: line 2 of list.csv: the label is"
    ):
        run(tmp_path / "work", path=tmp_path / "list.csv")


def test_what_was_guessed_of_a_list_is_in_the_log(tmp_path, caplog):
    draw_images(tmp_path, [f"{n}.png" for n in range(4)])
    text = "file_name,label\n" + "".join(f"{n}.png,{'thé' if n % 2 else 'café'}\n" for n in range(4))
    (tmp_path / "list.csv").write_text(text, encoding="cp1252")
    with caplog.at_level("WARNING"):
        run(tmp_path / "work", path=tmp_path / "list.csv")
    assert "'file_name' of list.csv is read as the path" in caplog.text
    assert "is read as cp1252" in caplog.text and "name the encoding: ingest.encoding" in caplog.text
