"""Features of known images in a crawl that grows: taken over, or computed again where they would differ."""

import pytest
from urnet_fixtures.growing import THREE, crawl as crawl, flow as flow, move, paint
from urnet_fixtures.squares import tiny as tiny

from urnet_tf.evaluation import engines, inference
from urnet_tf.store import UnitLog


def test_features_of_known_images_are_taken_over(flow, tiny, crawl):
    flow.run(stages=THREE)
    assert sorted(flow.passed) == list(range(41))
    paint(crawl / "bee/new.jpg", 900)
    move(crawl, ("ant/x1.jpg", "cat/y1.jpg"), ("bee/x3.jpg", "ant/a3.jpg"))
    (crawl / "cat/x8.png").unlink()
    assert set(flow.run(stages=THREE)) == {"ingest", "pack", "features"}
    assert flow.assert_as_fresh(stages=THREE) == (3, 1, 1)
    move(crawl, ("cat/y1.jpg", "ant/x1.jpg"))
    flow.run(stages=THREE)
    assert flow.assert_as_fresh(stages=THREE) == (1, 0, 0)


@pytest.mark.slow
def test_features_of_another_network_or_view_are_not(flow, tiny, crawl):
    flow.run(stages=THREE)
    for settings in (
        ["seed=5"], ["model.image_size_px=40"], ["model.crop_fraction=0.7"], ["model.backbone=resnext"],
    ):  # fmt: skip
        assert set(flow.run(*settings, stages=THREE)) == {"features"}
        assert len(flow.passed) == 41, settings
    flow.run(*settings, first="features", stages=THREE)
    assert len(flow.passed) == 41
    flow.run(*settings, "pack.jpeg_quality=50", stages=THREE)
    assert 0 < len(flow.passed) < 41, "records that are kept as they are did not change"
    flow.assert_as_fresh(*settings, "pack.jpeg_quality=50", stages=THREE)


@pytest.mark.slow
def test_another_engine_computes_all_again(flow, tiny, crawl, monkeypatch):
    flow.run(stages=THREE)
    monkeypatch.setattr(engines, "TFLITE_FROM_IMAGES", 42)
    paint(crawl / "bee/new.jpg", 900)
    flow.run(stages=THREE)
    assert len(flow.passed) == 42


@pytest.mark.slow
def test_killed_features_go_on(flow, tiny, crawl, monkeypatch):
    monkeypatch.setattr(inference, "_UNIT_ROWS", 64)
    flow.run(stages=THREE)
    for n in range(100):
        paint(crawl / f"bee/new{n}.jpg", 900 + n)
    complete, done = UnitLog.complete, []

    def dies(log, unit, metadata=None):
        complete(log, unit, metadata)
        if log.directory.name.startswith("units_features"):
            done.append(unit)
            if unit == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(UnitLog, "complete", dies)
    with pytest.raises(KeyboardInterrupt):
        flow.run(stages=THREE)
    flow.run(stages=THREE)
    assert done == [0, 1], "none twice, and of the new ones alone"
    monkeypatch.setattr(UnitLog, "complete", complete)
    flow.assert_as_fresh(stages=THREE)
