"""A small crawl that grows, and runs of the first stages on it that count what they do."""

import os
import shutil

import pytest

from urnet_fixtures.blobs import draw_blobs
from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.flow import plan, runner
from urnet_tf.images import image_store, inspection, packing
from urnet_tf.stages import crawl_files, features, ingest, pack

TWO = (ingest.STAGE, pack.STAGE)
THREE = (*TWO, features.STAGE)
SETTINGS = ("pack.short_side_px=48", "pack.images_per_shard=16", "ingest.val_fraction=0.2",
            "model.image_size_px=32", "model.weights=null")  # fmt: skip
CLASSES, IMAGES = ("ant", "bee", "cat"), 14


def move(crawl, *pairs):
    """Moves files in a crawl."""
    for source, target in pairs:
        (crawl / target).parent.mkdir(exist_ok=True)
        os.rename(crawl / source, crawl / target)


def paint(path, seed, **options):
    """Writes a picture like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_blobs(seed).resize((64, 48 + seed % 9)).save(path, **options)


@pytest.fixture
def crawl(tmp_path):
    """42 images, some kept as they are and some encoded anew, two of them damaged, one there twice."""
    root = tmp_path / "crawl"
    for label, name in enumerate(CLASSES):
        for n in range(IMAGES):
            paint(root / name / f"x{n}.{'jpg' if n % 2 else 'png'}", 100 * label + n)
    for path in (root / "ant/x3.jpg", root / "cat/x4.png"):
        path.write_bytes(path.read_bytes()[:-300])
    shutil.copyfile(root / "bee/x6.png", root / "bee/again.png")
    return root


class Flow:
    """Runs the first stages on a crawl, and counts what they do."""

    def __init__(self, crawl, place, patch):
        self.crawl, self.place, self.patch = crawl, place, patch
        self.read, self.decoded, self.packed, self.passed = [], [], [], []
        self.dies_at, self.planning = {}, False
        self.count(patch)

    def count(self, patch):
        look, extract = inspection.try_to_read, features._extract
        decode, write = packing.Packer.pack, image_store.write_shard

        def reads(path, max_bytes):
            self.read.append(os.path.relpath(path, self.crawl))
            self.die("read", self.read)
            return look(path, max_bytes)

        def decodes(packer, data, **options):
            if not self.planning:  # which packs a few to see how large they become
                self.decoded.append(data)
                self.die("decoded", self.decoded)
            return decode(packer, data, **options)

        def writes(directory, shard, records):
            if directory.name == "pack.partial":
                self.packed.append(shard)
                self.die("packed", self.packed)
            write(directory, shard, records)

        def passes(context, ids, images):
            self.passed += ids.tolist()
            return extract(context, ids, images)

        patch.setattr(inspection, "try_to_read", reads)
        patch.setattr(packing.Packer, "pack", decodes)
        patch.setattr(image_store, "write_shard", writes)
        patch.setattr(features, "_extract", passes)
        patch.setattr(crawl_files, "FILES_PER_UNIT", 10)

    def die(self, what, done):
        if self.dies_at.get(what) == len(done):
            raise KeyboardInterrupt

    def run(self, *settings, workdir="grown", stages=TWO, data=None, **options):
        """Runs a plan; returns stage → its reason to run, and what was read, decoded and passed."""
        for done in (self.read, self.decoded, self.packed, self.passed):
            done.clear()
        self.patch.setattr(plan, "STAGES", stages)
        config = load_config(None, [*SETTINGS, *settings, f"ingest.path={data or self.crawl}"])
        directory = store.Workdir(self.place / workdir)
        self.planning = True
        steps = plan.make_plan(config, directory, **options)
        self.planning = False
        runner.run(config, directory, steps)
        assert not list(directory.root.rglob(store.AHEAD)), "what was made ahead is used up"
        return {step.stage.name: step.reason for step in steps if step.action != plan.SKIP}

    def assert_as_fresh(self, *settings, stages=TWO, **options):
        """What was found and made is what a work directory without a past gives."""
        counts = len(self.read), len(self.decoded), len(self.passed)
        store.remove(self.place / "fresh", self.place)
        self.run(*settings, workdir="fresh", stages=stages, **options)
        for stage in stages:
            grown, fresh = (
                store.Workdir(self.place / name).marker(stage.name) for name in ("grown", "fresh")
            )
            assert grown["metadata"] == fresh["metadata"]
            assert {n: f["hash"] for n, f in grown["files"].items()} == {
                n: f["hash"] for n, f in fresh["files"].items()
            }
        return counts


@pytest.fixture
def flow(crawl, tmp_path, monkeypatch):
    return Flow(crawl, tmp_path, monkeypatch)
