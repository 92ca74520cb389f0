"""The ablation: rows are what their names say, statistics by hand, resuming, failures, refusals."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from urnet_tf import store
from urnet_tf.config import load_config, to_dict
from urnet_tf.errors import RunError, UsageError
from urnet_tf.evaluation import metrics
from urnet_tf.stages.stage import StageContext

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from ablations import figure, look_alikes, measure, other_methods, rows, search, statistics, views  # noqa: E402

EVERY_ROW = {name: settings for group in rows.GROUPS.values() for name, settings in group.items()}


def _config(name):
    return load_config(None, rows.split_settings(EVERY_ROW[name])[0])


def _flat(config, prefix=""):
    tree = config if isinstance(config, dict) else to_dict(config)
    flat = {}
    for key, value in tree.items():
        inner = (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        )
        flat |= inner
    return flat


def _changed(name, other):
    one, two = _flat(_config(name)), _flat(_config(other))
    return {key for key in one | two if one.get(key) != two.get(key)}


@pytest.mark.parametrize("name", EVERY_ROW)
def test_every_row_is_a_valid_configuration(name):
    _config(name)


@pytest.mark.parametrize("form", rows.STEPS)
def test_each_rung_switches_one_step_on(form):
    for step in rows.STEPS[form]:
        key = rows.OFF[step].partition("=")[0]
        rung, before = f"{form}_to_{step}", rows.BEFORE[f"{form}_to_{step}"]
        changed = _changed(rung, before)
        assert changed == {key}
        assert _changed(f"{form}_without_{step}", f"{form}_to_label") == {key}
        assert len(_changed(f"{form}_only_{step}", f"{form}_to_label")) == len(rows.STEPS[form]) - 1


def test_the_whole_sound_ladder_is_the_preset():
    assert _changed("sound_to_label", "sound") == set()
    assert _changed("paper", "sound") >= {"reweight.formulas"}


@pytest.mark.parametrize("part", rows.BEST_OFF)
def test_what_is_left_out_of_best_was_a_part_of_it(part):
    assert _changed(f"best_without_{part}", "best") == {rows.BEST_OFF[part].partition("=")[0]}


@pytest.mark.parametrize("name", rows.METHODS)
def test_other_methods_change_one_thing_and_may_stand_beside_class_weights(name):
    method = rows.METHODS[name]
    keys = {method.key, *(setting.partition("=")[0] for setting in method.fixed)}
    own = {key for key in keys if key.startswith(("cleanlab.", "co_teaching.", "knn."))}
    kept = {rows.OFF[step].partition("=")[0] for step in method.kept}
    # A default may be the value that the configuration has anyway.
    assert _changed(name, "nothing") <= (keys - own) | kept
    assert set(rows.split_settings(EVERY_ROW[name])[1]) == own
    if method.with_class:
        assert _changed(f"{name}+class", name) == {"reweight.class_weight.enabled"}
    for settings in rows.candidates(name, EVERY_ROW[name]).values():
        load_config(None, rows.split_settings(settings)[0])


def test_choosing_rows():
    assert list(rows.choose_groups(["sce", "presets"])) == ["presets", "others"]
    assert list(rows.choose_groups(["nothing"], ["mine=a.b=1; c.d=2"])[rows.FREE].items()) == [
        ("mine", ("a.b=1", "c.d=2"))
    ]
    for names, free in ((["sec"], []), ([], ["no settings"]), ([], ["best=a.b=1"]), ([], ["../up=a.b=1"])):
        with pytest.raises(UsageError):
            rows.choose_groups(names, free)
    with pytest.raises(UsageError, match="cleanlab.filter"):
        rows.split_settings(("cleanlab.filtre=both",))


def test_the_paired_interval_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.302653, half width 4.302653 / sqrt(3).
    found = statistics.paired_interval([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found["mean"] == pytest.approx(2.0)
    assert found["low"] == pytest.approx(2.0 - 2.484138, abs=1e-5)
    assert found["high"] == pytest.approx(2.0 + 2.484138, abs=1e-5)
    assert np.isnan(statistics.paired_interval([1.0], [2.0])["low"])


def _unit(top1, steps=7, **more):
    listed = {"balanced_top1": top1, "balanced_top5": 0.9}
    return {
        "figures": {"test": listed, "val": {"balanced_top1": 0.25, "balanced_top5": 0.5}}, "steps": steps,
        "settings": [], "effective_share": 0.5, "auroc": {}, "seconds": {"reweight": 1.0, "train": 2.0},
        **more,
    }  # fmt: skip


def test_the_table_by_hand():
    units = {
        "baseline": {0: _unit(0.5, effective_share=None), 1: _unit(0.6)},
        "sound": {0: _unit(0.6, auroc={"confidence": 0.8}), 1: _unit(0.72, auroc={"confidence": 0.9})},
        "late": {1: _unit(0.7)},
        "broken": {0: {"error": "RunError: it broke"}},
    }
    summary = statistics.summarize(units, "baseline", {"late": "sound"})
    table = statistics.format_table("mine", summary, "baseline", 7, seeds=2)
    # 60 and 72: mean 66, deviation 8.49. Differences 10, 12: 11, deviation 1.414, t(0.975, 1) = 12.706.
    assert "| sound | 66.00 ± 8.49 | 90.00 ± 0.00 | +11.00 [-1.71, +23.71] |" in table
    assert "| late (1 seeds) | 70.00 | 90.00 | +10.00 | +0.00 | -2.00 | +0.00 | 25.00 / 50.00 |" in table
    assert "| sound | 0.850 |" in table and "7 steps" in table
    assert "broken was not measured with every seed: RunError: it broke" in table


def test_unequal_steps_have_no_table():
    good = {"baseline": {0: _unit(0.5)}, "sound": {0: _unit(0.6), 1: {"error": "it broke"}}}
    assert statistics.check_equal_steps(good) == 7
    with pytest.raises(RunError, match="7: baseline, sound; 8: long"):
        statistics.check_equal_steps(good | {"long": {0: _unit(0.6, steps=8)}})
    fitted = {"best": {0: _unit(0.6, steps=None)}}  # to convergence, beside what was trained
    assert statistics.check_equal_steps(fitted) is None and statistics.check_equal_steps(good | fitted) == 7


def test_unequal_budgets_are_refused_before_anything_is_computed(tmp_path):
    experiment, trained = measure.Experiment(tmp_path, ()), ("train.head=trained", "baseline.head=trained")
    with pytest.raises(UsageError, match="20 epochs of 255: bags; 40 epochs of 255: long"):
        measure.check_budgets(experiment, {"bags": trained, "long": (*trained, "train.fit.epochs=40")})
    short = measure.Experiment(tmp_path, ("train.fit.epochs=2",))
    with pytest.raises(UsageError, match="baseline"):
        measure.check_budgets(short, {"baseline": (*EVERY_ROW["baseline"], *trained), "bags": trained})
    # Heads that are fitted to convergence take no steps.
    measure.check_budgets(short, {"baseline": EVERY_ROW["baseline"], "best": (), "bags": trained})


def test_weights_of_a_method_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    # Kept are two of class 0 and one of class 1: class weights 3/4 and 3/2, their mean over these is 1.
    kept = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    assert other_methods.scale_weights(kept, labels, 2, True) == pytest.approx([0.75, 0.75, 0, 0, 1.5])
    quality = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    assert other_methods.scale_weights(quality, labels, 2, False) == pytest.approx([0.5, 1, 1.5, 1, 1])
    with pytest.raises(UsageError, match="every one"):
        other_methods.scale_weights(np.zeros(5), labels, 2, False)


def test_neighbors_agree_by_hand(tmp_path, mark_complete):
    # Directions of 0, 10, 20 and 100, 110, 125 degrees; the third has a label of the other three.
    angles = np.deg2rad([0.0, 10.0, 20.0, 100.0, 110.0, 125.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, 7)[:, None]
    for stage in ("pack", "features"):
        (tmp_path / stage).mkdir()
    columns = {"split": ["train"] * 6, "label": [0, 0, 1, 1, 1, 1]}
    store.write_table(tmp_path / "pack/instances.parquet", columns, {"split": "string", "label": "int32"})
    store.write_json(tmp_path / "pack/classes.json", [{}, {}])
    store.write_array(tmp_path / "features/features.npy", features.astype(np.float32))
    context = StageContext(load_config(), mark_complete(tmp_path), tmp_path)
    found = other_methods._neighbors_agree(context, None, 2)
    np.testing.assert_allclose(found, [0.5, 0.5, 1e-6, 1.0, 1.0, 1.0])


def test_the_best_of_a_search_enters_the_rows():
    found = {"mixup": {"chosen": "train.fit.mixup=0.4"}}
    chosen = search.with_found({"mixup": EVERY_ROW["mixup"], "best": ()}, found)
    assert load_config(None, list(chosen["mixup"])).train.fit.mixup == 0.4 and chosen["best"] == ()
    assert search.format_chosen(chosen)[0] == "Settings: mixup train.fit.mixup=0.4."


def test_the_figure_is_drawn_of_what_is_there(tmp_path):
    names = ["paper_nothing", *(f"paper_to_{step}" for step in rows.STEPS["paper"]), "best", "gce"]
    summary = statistics.summarize({name: {0: _unit(0.5), 1: _unit(0.6)} for name in names}, "best", {})
    assert figure.draw_figure(tmp_path / "a.png", summary, rows.STEPS, ["best", "gce", "not measured"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not figure.draw_figure(tmp_path / "b.png", {}, rows.STEPS, [])


@pytest.fixture(scope="module")
def small_experiment(drawn_crawl, tmp_path_factory):
    settings = (
        f"ingest.path={json.dumps(str(drawn_crawl))}", "pack.short_side_px=32", "model.image_size_px=32",
        "model.backbone=resnext", "model.weights=null", "model.resnext_depth=26", "ingest.first_classes=4",
        "model.resnext_cardinality=1", "baseline.folds=2", "baseline.fit.epochs=2", "train.fit.epochs=2",
    )  # fmt: skip
    truth = str(drawn_crawl.with_name("crawl_truth.csv"))
    return measure.Experiment(tmp_path_factory.mktemp("ablation"), settings, truth_path=truth)


@pytest.mark.slow
def test_views_that_are_kept_say_what_the_stage_says(small_experiment, monkeypatch):
    settings = (*EVERY_ROW["paper"], "evaluate.crops=5", "evaluate.scales=[1.0, 1.2]")
    rows_of = {"kept": settings, "stage": (*settings, "evaluate.batch_images=32")}
    measure.run_units(small_experiment, {"kept": rows_of["kept"]}, [0], print)
    monkeypatch.setattr(views, "_MOST_BYTES", 0)
    measure.run_units(small_experiment, {"stage": rows_of["stage"]}, [0], print)
    kept, stage = (dict(np.load(small_experiment.out / f"units/{name}.seed0.npz")) for name in rows_of)
    known = metrics.labeled(stage["labels"])
    np.testing.assert_array_equal(kept["labels"], stage["labels"][known])
    np.testing.assert_allclose(kept["top_probs"], stage["top_probs"][known], atol=2e-3)
    assert (kept["top_ids"][:, 0] == stage["top_ids"][known][:, 0]).mean() > 0.98
    assert list((small_experiment.out / "features").glob("*/views-*.npy"))


@pytest.mark.slow
def test_a_killed_ablation_goes_on_and_a_failing_row_stops_nothing(small_experiment):
    names = ("baseline", "best", "cleanlab_filter", "co_teaching", "oracle")
    wanted = {name: EVERY_ROW[name] for name in names}
    wanted |= {
        "broken": ("knn.neighbors=0",),
        "best+flickr_top15": EVERY_ROW["best+flickr_top15"],
    }
    wanted["best+ensemble"] = (*EVERY_ROW["best"], "ensemble.members=2")
    told = []
    measure.run_units(small_experiment, wanted, [0, 1], told.append)
    units = measure.read_units(small_experiment, wanted, [0, 1])
    failed = {name for name, by in units.items() if "error" in by[0] or "error" in by[1]}
    without_cleanlab = set() if importlib.util.find_spec("cleanlab") else {"cleanlab_filter"}
    assert failed == {"broken"} | without_cleanlab
    statistics.check_equal_steps(units)
    assert units["oracle"][0]["auroc"]["sample_weight"] == 1.0
    assert units["best+flickr_top15"][0]["steps"] == units["best"][0]["steps"]
    assert set(units["best+ensemble"][0]["figures"]) == {"val"}  # a test list without labels
    assert units["best+ensemble"][0]["model"] == "2 members"
    assert small_experiment.unit_path("best+ensemble.member", 1001).exists()

    page = look_alikes.write_figure(small_experiment, rows.PAPER, small_experiment.out, 0)
    assert "with a right label" in page and (small_experiment.out / "fig6.png").stat().st_size > 10_000

    good = {name: settings for name, settings in wanted.items() if name not in failed}
    told.clear()
    measure.run_units(small_experiment, good, [0, 1], told.append)
    assert told == []
    path = small_experiment.unit_path("oracle", 1)
    before = {p: p.stat().st_mtime_ns for p in path.parent.glob("*.json")}
    first = store.read_json(path)
    path.unlink()
    measure.run_units(small_experiment, good, [0, 1], told.append)
    assert [line.split(":")[0] for line in told[1:]] == ["seed 1, oracle"]
    assert store.read_json(path)["figures"] == first["figures"]
    assert {p for p, when in before.items() if p.stat().st_mtime_ns != when} == {path}


def test_the_script_tells_what_is_wrong(tmp_path):
    path = os.pathsep.join(filter(None, (str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / "ablation.py", f"--data={tmp_path}", "--rows=presetz"],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "presetz" in done.stderr and "Groups: presets" in done.stderr
