"""A crawl that grows: what is known of its images is used again, and nothing else.

The first stages run by their plan; what is read and decoded is counted, and every result is compared with
that of a fresh work directory, byte for byte. Variants of what is checked anyway are marked slow.
"""

import os
import shutil

import pytest
from urnet_fixtures.growing import CLASSES, IMAGES, crawl as crawl, flow as flow, move, paint

from urnet_tf import store
from urnet_tf.crawl import near_copies
from urnet_tf.images import image_store, known_records
from urnet_tf.stages import crawl_files


@pytest.fixture
def grown(flow):
    flow.run()
    assert len(flow.read) == len(flow.decoded) == 43
    return flow


def test_images_are_added(grown, crawl):
    assert grown.run() == {} and not grown.read and not grown.decoded, "nothing changed yet"
    new = [f"bee/new{n}.jpg" for n in range(3)]
    for n, name in enumerate(new):
        paint(crawl / name, 900 + n)
    assert set(grown.run()) == {"ingest", "pack"}
    assert sorted(grown.read) == new
    assert grown.assert_as_fresh() == (3, 3, 0)


@pytest.mark.slow
def test_images_are_removed(grown, crawl):
    for name in ("ant/x1.jpg", "bee/x6.png", "cat/x4.png", "cat/x13.jpg"):
        (crawl / name).unlink()
    grown.run()
    assert grown.assert_as_fresh() == (0, 0, 0)


def test_images_are_moved_to_other_classes_and_renamed(grown, crawl):
    """They are read, since their paths are new, and known by their bytes, the damaged one as well."""
    move(crawl, *((f"ant/x{n}.jpg", f"cat/y{n}.jpg") for n in (1, 3, 5)), ("bee/x0.png", "bee/renamed.png"),
         ("cat/x2.png", "dog/x2.png"), ("cat/x6.png", "dog/x6.png"))  # fmt: skip
    grown.run()
    assert grown.assert_as_fresh() == (6, 0, 0)


def test_an_image_is_changed_in_place(grown, crawl):
    paint(crawl / "ant/x5.jpg", 900)
    paint(crawl / "cat/x4.png", 901)  # mended
    grown.run()
    assert sorted(grown.read) == ["ant/x5.jpg", "cat/x4.png"]
    assert grown.assert_as_fresh() == (2, 2, 0)


def test_labels_in_a_list_are_changed(flow, crawl):
    rows = [(path.relative_to(crawl.parent), path.parent.name) for path in sorted(crawl.rglob("x*.*"))]

    def write(moved):
        lines = [f"{path},{'bee' if n in moved else label}" for n, (path, label) in enumerate(rows)]
        (crawl.parent / "list.csv").write_text("\n".join(["path,label", *lines]))

    write(())
    data = {"data": crawl.parent / "list.csv"}
    flow.run(**data)
    write((1, 2, 5, 40))
    os.utime(crawl.parent / "list.csv", ns=(1, 1))
    assert set(flow.run(**data)) == {"ingest", "pack"}
    assert flow.assert_as_fresh(**data) == (0, 0, 0)
    classes = store.read_table(flow.place / "grown/pack/instances.parquet", ["label"])["label"].to_pylist()
    assert sum(label == 1 for label in classes) == IMAGES + 4


@pytest.mark.slow
def test_another_validation_set_is_drawn(grown):
    assert set(grown.run("ingest.val_fraction=0.4")) == {"ingest", "pack"}
    assert grown.assert_as_fresh("ingest.val_fraction=0.4") == (0, 0, 0)


@pytest.mark.parametrize(
    ("setting", "decoded"),
    [
        ("ingest.max_pixels=9000", 43), ("pack.short_side_px=40", 41), ("ingest.mirrored_copies=false", 0),
        *(pytest.param(*values, marks=pytest.mark.slow) for values in (
            ("ingest.min_side_px=9", 43), ("pack.jpeg_quality=70", 41), ("pack.images_per_shard=9", 0),
            ("ingest.copy_similarity=0.95", 0), ("ingest.copy_similarity=null", 0),
        )),
    ],
)  # fmt: skip
def test_what_was_made_otherwise_does_not_count(grown, setting, decoded):
    grown.run(setting)
    assert len(grown.decoded) == decoded
    grown.assert_as_fresh(setting)


@pytest.mark.slow
def test_other_versions_of_the_decoders_look_at_all_again(grown, crawl, monkeypatch):
    paint(crawl / "ant/new.jpg", 900)
    monkeypatch.setattr(known_records, "_version", lambda package: "99")
    grown.run()
    assert grown.assert_as_fresh() == (44, 44, 0)


@pytest.mark.slow
def test_comparing_pictures_for_the_first_time_decodes_all(flow):
    flow.run("ingest.copy_similarity=null")
    flow.run()
    assert flow.assert_as_fresh() == (43, 43, 0)


def test_groups_of_copies_are_not_looked_for_again_among_the_same_images(grown, crawl, monkeypatch):
    monkeypatch.setattr(near_copies, "name_pictures", None)
    move(crawl, ("ant/x1.jpg", "cat/y1.jpg"))
    grown.run()
    monkeypatch.undo()
    grown.count(grown.patch)
    grown.assert_as_fresh()


def change_unseen(path):
    """Other bytes of the same size under the same time."""
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_rescan_trusts_no_time(grown, crawl):
    change_unseen(crawl / "ant/x2.png")
    assert grown.run() == {}
    assert set(grown.run(rescan=True)) == {"ingest", "pack"}
    assert len(grown.read) == 43 and len(grown.decoded) == 1
    grown.assert_as_fresh()
    change_unseen(crawl / "ant/x4.png")
    paint(crawl / "ant/new.jpg", 900)  # another reason to run
    grown.run(rescan=True)
    assert len(grown.read) == 44 and len(grown.decoded) == 2
    grown.assert_as_fresh()


@pytest.mark.slow
def test_from_a_stage_makes_it_again(grown):
    grown.run(first="ingest")
    assert (len(grown.read), len(grown.decoded)) == (43, 0), "reads all files, and decodes what is new"
    grown.run(first="pack")
    assert grown.assert_as_fresh() == (0, 41, 0)


def test_damaged_results_are_not_used(grown, crawl):
    paint(crawl / "ant/new.jpg", 900)
    shard = image_store.shard_path(grown.place / "grown/pack", 1)
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    status = shard.stat()
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    grown.run()
    read, decoded, _ = grown.assert_as_fresh()
    assert read == 1 and 1 < decoded <= 1 + 16
    paint(crawl / "ant/newer.jpg", 901)
    (grown.place / "grown/ingest/thumbnails.npy").unlink()
    grown.run()
    assert grown.assert_as_fresh() == (45, 45, 0)


@pytest.mark.parametrize(
    ("what", "at"),
    [
        ("decoded", 15), ("packed", 2), pytest.param("decoded", 2, marks=pytest.mark.slow),
        pytest.param("decoded", 29, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_kill_loses_the_unit_in_hand(grown, crawl, monkeypatch, what, at):
    """Of 30 new images; then more come, and what the killed run has found out is known."""
    for n in range(30):
        paint(crawl / f"{CLASSES[n % 3]}/a{n}.jpg", 900 + n)
    grown.dies_at[what] = at
    with pytest.raises(KeyboardInterrupt):
        grown.run()
    grown.dies_at.clear()
    killed = os.listdir(grown.place / "grown")
    assert any(name.endswith(".partial") for name in killed)
    if at == 15:
        paint(crawl / "ant/a90.jpg", 990)
        move(crawl, ("bee/x1.jpg", "ant/x99.jpg"))
    before = len(grown.decoded)
    grown.run()
    again = {2: 30, 15: 30 + 1 - 9, 29: 30 - 20}[at] if what == "decoded" else 0
    assert again - 10 <= len(grown.decoded) <= again and before <= 30
    grown.assert_as_fresh()


def test_what_is_ahead_of_pack_survives_a_change_of_the_crawl(flow, crawl):
    flow.dies_at["packed"] = 1
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert (flow.place / "grown/ingest" / store.AHEAD).is_dir()
    flow.dies_at.clear()
    paint(crawl / "ant/new.jpg", 900)
    flow.run()
    assert flow.assert_as_fresh() == (1, 1, 0)


def test_a_full_disk_keeps_nothing_ahead(flow, monkeypatch, caplog):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    monkeypatch.setattr(crawl_files.shutil, "disk_usage", lambda path: usage)
    with caplog.at_level("INFO"):
        flow.run()
    assert caplog.text.count("the disk has no room to keep what is decoded") == 1
    assert len(flow.decoded) == 43 + 41
    monkeypatch.undo()
    flow.count(flow.patch)
    flow.assert_as_fresh()
