"""The benchmark of judgements: the simulated person, the orders, what is refitted, and the table."""

import importlib.util
import pathlib

import numpy as np
import pytest

from urnet_tf.config import load_config

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "bench_review.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_review", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(bench):
    """Three classes whose images lie apart, 30 % of them under a wrong label, some of none."""
    generator = np.random.default_rng(0)
    count, classes = 240, 3
    truth = generator.integers(0, classes, count)
    truth[:24] = -1
    means = 3 * np.eye(classes + 1, 12)
    wrong = (generator.random(count) < 0.3) & (truth >= 0)
    labels = np.where(truth < 0, generator.integers(0, classes, count), (truth + wrong) % classes)
    held = generator.integers(0, classes, 300)

    def look(kinds):
        return (means[kinds] + generator.normal(size=(len(kinds), 12))).astype(np.float32)

    config = load_config(None, ["reweight.page_text.enabled=false"])
    return bench.Run(
        config, look(truth), labels, truth, classes, np.arange(count) % 4, np.zeros(count, int),
        np.arange(count) % 9 + 1, None, look(held), held,
    )  # fmt: skip


def test_a_person_who_knows_and_one_who_errs(bench, run):
    order = np.arange(240)
    assert (bench.say(run, order, 0.0, 0) == run.truth).all()
    said = bench.say(run, order, 0.2, 0)
    erred = said != run.truth
    assert 0.1 < erred.mean() < 0.3
    wrong = run.labels != run.truth
    assert (said[erred & wrong] == run.labels[erred & wrong]).all(), "a wrong label is called right"
    assert (said[erred & ~wrong] != run.labels[erred & ~wrong]).all()
    assert said.min() == -1 and said.max() == 2


def test_orders_hold_each_image_once(bench, run):
    before = bench.fit(run, run.labels, np.zeros(240, bool), None)
    for name in ("queue", "random", "doubtful"):
        order, by_chance = bench.order_images(name, run, before, 1)
        assert sorted(order) == list(range(240))
        assert by_chance.sum() == {"queue": 24, "random": 240, "doubtful": 0}[name]
    wrong = run.labels != run.truth
    assert wrong[bench.order_images("doubtful", run, before, 0)[0][:40]].mean() > 0.9


def test_judging_all_leaves_no_wrong_label(bench, run):
    nobody = np.zeros(240, bool)
    nothing = bench.measure(run, np.empty(0, int), nobody, 0.0, 0)
    some = bench.measure(run, np.flatnonzero(run.labels != run.truth), nobody, 0.0, 0)
    assert some["wrong_left"] == 0 and some["wrong_among_judged"] == 100
    assert nothing["wrong_left"] == pytest.approx(100 * np.mean(run.labels != run.truth))
    assert some["balanced_top1"] >= nothing["balanced_top1"] - 0.5


def test_what_judgements_are_worth_in_random_ones(bench):
    means = {("none", 0): 50.0, ("random", 100): 51.0, ("random", 200): 50.5, ("random", 400): 53.0,
             ("queue", 100): 52.0, ("queue", 200): 60.0, ("queue", 50): 50.5}  # fmt: skip
    assert bench.worth(means, "queue", 50) == "50"
    assert bench.worth(means, "queue", 100) == "300", "halfway from 51 at 200, where it does not fall, to 53"
    assert bench.worth(means, "queue", 200) == "more than 400"
    assert bench.worth(means, "cleanlab", 100) is None
    rows = [{"order": o, "judgements": n, "error": 0.0, "balanced_top1": v} for (o, n), v in means.items()]
    text = bench.format_table(rows, [0.0])
    assert "errs in 0%" in text and "queue, in judgements at random: 50 for 50, 100 for 300" in text
