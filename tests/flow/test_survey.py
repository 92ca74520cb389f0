"""What a plan says of a crawl before anything of it is opened, and of one that has changed since."""

import re

import pytest
from urnet_fixtures.growing import IMAGES, SETTINGS, TWO, crawl as crawl, flow as flow, move, paint

from urnet_tf.config import load_config
from urnet_tf.crawl.table import cut_ranks
from urnet_tf.flow import plan, plan_text, runner
from urnet_tf.flow.survey import Changes, survey_crawl
from urnet_tf.images import image_store
from urnet_tf.stages import ingest
from urnet_tf.store import Workdir


def survey(crawl, workdir="none", *settings):
    config = load_config(None, [*settings, f"ingest.path={crawl}"])
    return survey_crawl(config, Workdir(crawl.parent / workdir))


def test_a_crawl_that_was_never_listed(crawl):
    found = survey(crawl)
    assert (found.images, found.train_images, found.num_classes) == (3 * IMAGES + 1, 3 * IMAGES + 1, 3)
    sizes = [path.stat().st_size for path in crawl.rglob("*.*")]
    assert found.bytes_per_image == pytest.approx(sum(sizes) / len(sizes))
    assert (found.new, found.changes) == (found.images, "")
    (crawl / "few").mkdir()
    paint(crawl / "few/1.png", 1)
    assert survey(crawl).num_classes == 3, "it will be left out"
    assert survey(crawl, "none", "ingest.exclude=[ant]").num_classes == 2


def test_splits_and_ranks_count(drawn_crawl):
    found = survey(drawn_crawl)
    assert (found.images, found.train_images) == (360 + 11 + 12 * 10, 360 + 11)
    settings = "ingest.max_rank={google: 5}", "ingest.sources=[google]", "ingest.first_classes=4"
    found = survey(drawn_crawl, "none", *settings)
    crawl = ingest.read_crawl(load_config(None, [*settings, f"ingest.path={drawn_crawl}"]))
    left = cut_ranks(crawl, {"google": 5}).rows["split"].to_pylist().count("train")
    assert found.num_classes == 4 and left / 2 < found.train_images < 2 * left


def test_what_has_changed_is_counted(flow, crawl):
    flow.run()
    for n in range(3):
        paint(crawl / f"bee/new{n}.jpg", 900 + n)
    move(crawl, ("ant/x1.jpg", "cat/y1.jpg"), ("ant/x5.jpg", "ant/renamed.jpg"))
    paint(crawl / "bee/x2.png", 950)
    for name in ("cat/x8.png", "cat/x9.jpg", "cat/x10.png", "cat/x11.jpg"):
        (crawl / name).unlink()
    found = survey(crawl, "grown")
    assert found.changes == "3 new images, 2 moved or renamed, 1 changed, 4 gone, 36 as before"
    assert (found.images, found.new) == (43 + 3 - 4, 3 + 1)
    assert survey(crawl, "grown", "ingest.min_side_px=9").new == found.images, "all are decoded again"


def test_other_labels_are_counted(flow, crawl):
    rows = [(path.relative_to(crawl.parent), path.parent.name) for path in sorted(crawl.rglob("x*.*"))]
    table = crawl.parent / "list.csv"

    def write(**others):
        lines = [f"{path},{others.get(path.stem + label, label)}" for path, label in rows]
        table.write_text("\n".join(["path,label", *lines]))

    write()
    flow.run(data=table)
    write(x1ant="bee", x2ant="cat", x7bee="dog", x8bee="dog")
    found = survey_crawl(load_config(None, [f"ingest.path={table}"]), Workdir(crawl.parent / "grown"))
    assert found.changes == "0 new images, 4 under another label, 38 as before"
    assert (found.new, found.num_classes) == (0, 4)


def test_the_plan_and_the_log_tell_them(flow, crawl, caplog):
    flow.run()
    paint(crawl / "bee/new.jpg", 900)
    config = load_config(None, [*SETTINGS, f"ingest.path={crawl}"])
    flow.patch.setattr(plan, "STAGES", TWO)
    workdir = Workdir(crawl.parent / "grown")
    steps = plan.make_plan(config, workdir)
    text = plan_text.format_plan(config, steps, workdir)
    line = next(line for line in text.splitlines() if line.startswith("ingest has to run"))
    assert "the files of the crawl changed (43 files before, 44 files now)" in line
    assert line.endswith(": 1 new image, 43 as before.")
    assert re.search(r"^ingest +run +44 .* 1 to decode$", text, re.M)
    assert re.search(r"^pack +run +44 .* taken over from ingest and earlier runs$", text, re.M)
    assert not list(workdir.root.glob("*.partial"))
    with caplog.at_level("INFO"):
        runner.run(config, workdir, steps)
    assert "1 new image, 43 as before" in caplog.text
    assert "ingest: 43 files are known from before, 1 is new." in caplog.text


def test_what_a_stage_has_to_make_again_is_in_its_plan(flow, crawl):
    flow.run()
    flow.patch.setattr(plan, "STAGES", TWO)
    workdir = Workdir(crawl.parent / "grown")

    def notes(*settings):
        config = load_config(None, ["pack.short_side_px=48", *settings, f"ingest.path={crawl}"])
        return {
            s.stage.name: s.estimate.note for s in plan.make_plan(config, workdir) if s.action != plan.SKIP
        }

    settings = "pack.images_per_shard=16", "ingest.val_fraction=0.2"
    assert notes(*settings) == {}
    assert notes(*settings, "pack.jpeg_quality=50") == {"pack": "41 to decode"}
    paint(crawl / "bee/new.jpg", 900)
    assert notes(*settings, "pack.jpeg_quality=50") == {"ingest": "1 to decode", "pack": "43 to decode"}
    assert notes(*settings)["pack"] == "taken over from ingest and earlier runs"


def test_counts_in_words():
    assert str(Changes(5, 1, 0, 0, 0, 0, 1)) == "1 new image, 5 as before"
    assert str(Changes(1000, 11, 2, 3, 4, 5, 0)) == (
        "11 new images, 2 moved or renamed, 3 under another label, 4 changed, 5 gone, 1,000 as before"
    )


@pytest.mark.parametrize("settings", [(), ("pack.short_side_px=40",)])
def test_the_disk_that_was_planned_is_taken(flow, crawl, settings):
    """Within a factor of two; a small crawl has files of the least size that ArrayRecord writes."""
    flow.run(*settings)
    config = load_config(None, ["pack.short_side_px=48", *settings, f"ingest.path={crawl}"])
    store = image_store.ImageStore(crawl.parent / "grown" / "pack")
    taken = sum(map(len, store.read(range(len(store)))))
    planned = next(s for s in TWO if s.name == "pack").estimate(config, survey(crawl)).disk_bytes
    assert taken / 2 < planned < 2 * taken
