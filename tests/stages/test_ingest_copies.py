"""Near copies in the stage ingest: found, told, kept out of training; killed and resumed."""

import io

import pyarrow as pa
import pytest
from PIL import Image
from urnet_fixtures.blobs import draw_blobs

from urnet_tf.config import from_dict
from urnet_tf.images import packing
from urnet_tf.schema import DUPLICATE_KINDS
from urnet_tf.stages import baseline, crawl_files, ingest
from urnet_tf.stages.copies import tell_copies
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import Workdir, column, fingerprint, number_groups, read_table


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def crawl(tmp_path):
    """Two classes of 20 images: of 5 pictures, one saved again, one at half size, one in the other class."""
    root = tmp_path / "crawl"
    for label, name in enumerate(("cat", "dog")):
        for n in range(17):
            save(root / name / f"{n}.png", draw_blobs(100 * label + n))
    save(root / "cat/again.jpg", draw_blobs(3), quality=60)
    save(root / "cat/again.webp", draw_blobs(3), quality=80)
    save(root / "cat/half.jpg", draw_blobs(7).resize((96, 72)), quality=90)
    save(root / "dog/cropped.jpg", draw_blobs(105).crop((5, 3, 178, 132)), quality=90)
    save(root / "dog/a cat.jpg", draw_blobs(0), quality=70)
    save(root / "dog/white.png", Image.new("RGB", (50, 50), "white"))
    return root


def run(workdir, root, **settings):
    config = from_dict({"ingest": {"path": str(root), **settings}})
    out = Workdir(workdir).open_partial("ingest", fingerprint(ingest.inputs(config)))
    return ingest.run(StageContext(config, Workdir(workdir), out, False)), out


def paths_by_picture(table):
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["picture"], set()).add(row["path"])
    return sorted(sorted(paths) for paths in found.values() if len(paths) > 1)


GROUPS = [["cat/0.png", "dog/a cat.jpg"], ["cat/3.png", "cat/again.jpg", "cat/again.webp"],
          ["cat/7.png", "cat/half.jpg"], ["dog/5.png", "dog/cropped.jpg"]]  # fmt: skip


def test_planted_copies(crawl, tmp_path):
    metadata, out = run(tmp_path / "work", crawl, val_fraction=0.3)
    assert metadata["duplicates"] == dict.fromkeys(DUPLICATE_KINDS, 0) | {
        "near_several_labels": 2, "near_same_label": 7,
    }  # fmt: skip
    assert metadata["not_compared"] == 1
    candidates = read_table(out / "candidates.parquet")
    assert paths_by_picture(candidates) == paths_by_picture(read_table(out / "duplicates.parquet")) == GROUPS
    split = dict(zip(candidates["path"].to_pylist(), candidates["split"].to_pylist(), strict=True))
    assert all(len({split[path] for path in group}) == 1 for group in GROUPS)
    assert split["cat/0.png"] == "train" and metadata["val_images"] > 8

    pictures = number_groups(candidates["picture"])
    folds = baseline.assign_folds(column(candidates, "label"), pictures, 5, seed=1)
    fold = dict(zip(candidates["path"].to_pylist(), folds.tolist(), strict=True))
    assert all(len({fold[path] for path in group}) == 1 for group in GROUPS)


def test_only_equal_files_where_pictures_are_not_compared(crawl, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "make_thumbnail", None)  # is not called
    metadata, out = run(tmp_path / "work", crawl, copy_similarity=None)
    assert set(metadata["duplicates"].values()) == {0} and metadata["not_compared"] == 0
    candidates = read_table(out / "candidates.parquet")
    assert candidates["picture"].to_pylist() == candidates["content_hash"].to_pylist()


def test_mirror_images_are_other_pictures_where_the_user_says_so(crawl, tmp_path):
    save(crawl / "cat/mirrored.jpg", draw_blobs(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=90)
    groups = [sorted([*group, "cat/mirrored.jpg"]) if "cat/3.png" in group else group for group in GROUPS]
    for mirrored, expected in ((True, groups), (False, GROUPS)):
        _, out = run(tmp_path / f"{mirrored}", crawl, mirrored_copies=mirrored)
        assert paths_by_picture(read_table(out / "candidates.parquet")) == expected


def test_copies_of_given_images_leave_training(crawl, tmp_path):
    save(tmp_path / "val/cat/v.jpg", draw_blobs(3).resize((100, 75)), quality=85)
    save(tmp_path / "val/dog/v.jpg", draw_blobs(999), quality=85)
    metadata, out = run(tmp_path / "work", crawl, val_path=str(tmp_path / "val"))
    assert metadata["quarantined"] == {"near_copy_of_evaluation": 3}
    left = {row["path"]: row["reason"] for row in read_table(out / "quarantine.parquet").to_pylist()}
    assert {path.split("crawl/")[-1] for path in left} == set(GROUPS[1])
    assert all(reason.endswith("val/cat/v.jpg") for reason in left.values())


def test_a_killed_run_gives_the_same_groups(crawl, tmp_path, monkeypatch):
    monkeypatch.setattr(crawl_files, "FILES_PER_UNIT", 7)
    _, whole = run(tmp_path / "whole", crawl)
    decode, calls = packing.make_thumbnail, []

    def dies_in_the_third_unit(data):
        calls.append(data)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return decode(data)

    monkeypatch.setattr(packing, "make_thumbnail", dies_in_the_third_unit)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", crawl)
    assert len(calls) < 40
    _, resumed = run(tmp_path / "cut", crawl)
    assert len(calls) < 40 + 26  # two units of seven were kept
    for name in ("candidates.parquet", "duplicates.parquet"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    assert paths_by_picture(read_table(resumed / "candidates.parquet")) == GROUPS


def test_a_file_that_cannot_be_decoded_is_set_aside(crawl, tmp_path):
    file = io.BytesIO()
    draw_blobs(50).save(file, "PNG")
    (crawl / "cat/damaged.png").write_bytes(file.getvalue()[:-500])
    metadata, out = run(tmp_path / "work", crawl)
    assert metadata["not_compared"] == 1 and metadata["quarantined"] == {"decode_error": 1}
    assert read_table(out / "quarantine.parquet")["path"].to_pylist() == ["cat/damaged.png"]


def test_a_class_of_pictures_too_long_to_be_stored_is_left_out(crawl, tmp_path):
    """They can be decoded, and ended the run when they were to be packed."""
    for n in range(3):
        save(crawl / f"long/{n}.png", Image.new("RGB", (66_000, 8), (n, 9, 99)))
    metadata, out = run(tmp_path / "work", crawl)
    assert metadata["quarantined"] == {"unsupported": 3} and metadata["num_classes"] == 2
    reasons = set(read_table(out / "quarantine.parquet")["reason"].to_pylist())
    assert reasons == {"66000 x 8 pixels; a side of at most 65500 can be stored as JPEG"}


def test_the_log_tells_of_copies_and_of_contradicting_labels(caplog):
    rows = [("a", "a", "several_labels"), ("a", "a", "several_labels"), ("b", "b", "same_label"),
            ("b", "b", "same_label"), ("b", "b", "same_label"), ("c", "p", "near_same_label"),
            ("d", "p", "near_same_label")]  # fmt: skip
    names = ("content_hash", "picture", "kind")
    table = pa.table(
        {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    )
    with caplog.at_level("INFO"):
        tell_copies(table, 0)
        tell_copies(table.slice(2), 3)
        tell_copies(table.slice(7), 0)
    none = "None of these is under several labels."
    assert [record.getMessage() for record in caplog.records] == [
        "ingest: 5 files are equal to others, byte by byte: 2 pictures. 1 of these, with 2 files, are under "
        "several labels: at least one label of each is wrong. duplicates.parquet lists all.",
        f"ingest: 2 images are near copies, of 1 picture. {none}",
        f"ingest: 3 files are equal to others, byte by byte: 1 picture. {none}",
        f"ingest: 2 images are near copies, of 1 picture. {none}",
        "ingest: 3 images were not compared with others: too plain, or Pillow cannot decode them.",
    ]
