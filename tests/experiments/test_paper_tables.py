"""The paper's tables and figures of a crawl: their rows, figures by hand, what is refused, what is drawn."""

import csv
import io
import pathlib
import sys

import numpy as np
import pytest

from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.explain.groups import Group

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))

from ablations import look_alikes, measure, members, panels, paper, rows, statistics, tables  # noqa: E402


def _config(settings, path=None):
    return load_config(path, rows.split_settings(settings)[0])


def test_the_ladder_has_the_steps_of_the_paper_in_its_order():
    (ladder,) = paper.plan_parts(["fig7"], 3)
    assert list(ladder.words.values()) == [
        "plain training", "+ class weights", "+ cluster weights", "+ instance confidence", "+ bag attention",
        "+ soft targets",
    ]  # fmt: skip
    configs = [_config(settings) for settings in ladder.rows.values()]
    on = [
        (
            c.reweight.class_weight.enabled, c.reweight.cluster_weight.enabled, c.reweight.confidence.enabled,
            c.train.bag.loss_weight > 0, c.reweight.soft_label.enabled,
        )
        for c in configs
    ]  # fmt: skip
    assert on == [tuple(place < steps for place in range(5)) for steps in range(6)]
    assert {c.reweight.formulas for c in configs} == {"literal"} and {c.train.fit for c in configs} == {
        configs[0].train.fit
    }
    # A configuration of the whole paper has the tricks of Table 1; the ladder has none.
    whole = [_config(settings, "paper_webvision") for settings in ladder.rows.values()]
    assert {(str(c.ingest.max_rank), c.evaluate.crops, c.evaluate.scales) for c in whole} == {
        ("{}", "1", (1.0,))
    }
    assert {c.model.resnext_depth for c in whole} == {101} and whole[-1].train.bag.target == "label"
    assert list(ladder.papers.values()) == [71.7, 72.8, 75.3, 76.0, 76.3, 76.5]


@pytest.mark.parametrize("form", ["paper", "best"])
def test_tricks_are_stacked_on_both_forms(form):
    part = {p.name: p for p in paper.plan_parts(["table1"], 5)}[f"table1_{form}"]
    configs = [_config(settings, "paper_webvision") for settings in part.rows.values()]
    assert {c.preset for c in configs} == {form}
    own = [rows.split_settings(settings)[1] for settings in part.rows.values()]
    assert own == [{}, {}, *[{"ensemble.members": "5"}] * 3]
    ranks = [c.ingest.max_rank for c in configs]
    assert ranks == [{}, *[{"flickr": 15}] * 4]
    views = [(c.evaluate.crops, len(c.evaluate.scales)) for c in configs]
    assert views == [("1", 1)] * 3 + [("10", 1), ("10", 3)]
    assert bool(part.papers) == (form == "paper")


def test_unknown_parts_too_few_seeds_and_lonely_ensembles_are_refused(tmp_path):
    with pytest.raises(UsageError, match="fig8"):
        paper.plan_parts(["fig8"], 3)
    experiment = measure.Experiment(tmp_path, ())
    for seeds, count, words in (([0, 1], 3, "3 seeds or more"), ([0, 1, 2], 1, "2 members")):
        with pytest.raises(UsageError, match=words):
            paper.run(experiment, ["fig7"], seeds, count, dict, print)


def test_members_are_averaged_and_no_two_ensembles_share_one():
    assert members.seeds_of(2, 3) == [2, 1002, 2002]
    common = {"labels": np.array([0]), "splits": np.array(["val"]), "num_classes": 4}
    files = [
        {"top_ids": np.array([[2, 0]]), "top_probs": np.float32([[0.6, 0.4]]), **common},
        {"top_ids": np.array([[0, 3]]), "top_probs": np.float32([[0.5, 0.1]]), **common},
    ]
    fused = members.fuse(files)
    assert fused["top_ids"][0, :3].tolist() == [0, 2, 3]
    np.testing.assert_allclose(fused["top_probs"][0, :3], [0.45, 0.3, 0.05], rtol=1e-6)
    assert fused["labels"] is common["labels"]


def _unit(top1):
    figures = {"balanced_top1": top1, "balanced_top5": 0.9, "top1": top1 / 2, "top5": 0.8}
    return {
        "figures": {"test": figures}, "steps": 7, "settings": [], "effective_share": 0.25, "auroc": {},
        "seconds": {},
    }  # fmt: skip


def _lines():
    units = {
        "a": dict(enumerate(map(_unit, (0.5, 0.52, 0.54)))),
        "b": dict(enumerate(map(_unit, (0.6, 0.63, 0.66)))),
        "c": {0: {"error": "RunError: no Flickr"}},
    }  # fmt: skip
    summary = statistics.summarize(units, "a", {"b": "a"})
    lines = tables.make_lines(summary, {"a": "plain", "b": "+ more", "c": "+ most"}, {"a": 71.7}, "step")
    return summary, lines


def test_a_table_as_markdown_and_csv():
    """Differences .10, .11, .12: mean .11, deviation .01, t(0.975, 2) = 4.302653 over the root of 3."""
    summary, lines = _lines()
    page = tables.format_page("Fig. 7: steps", "It shows steps.", lines, summary, 583, 3, "More.")
    assert (
        "| plain | 52.00 ± 2.00 | 90.00 ± 0.00 | 26.00 ± 1.00 | 80.00 ± 0.00 | – | – | 0.25 | 71.7 |" in page
    )
    assert (
        "| + more | 63.00 ± 3.00 | 90.00 ± 0.00 | 31.50 ± 1.50 | 80.00 ± 0.00 | +11.00 [+8.52, +13.48]"
        in page
    )
    assert (
        "583 optimizer steps" in page
        and "c was not measured: RunError: no Flickr" in page
        and "More." in page
    )
    first, second = csv.DictReader(io.StringIO(tables.format_csv(lines)))
    assert (first["balanced_top1_values"], first["paper_top5"]) == ("50.00;52.00;54.00", "71.7")
    assert (second["top1_mean"], second["balanced_top1_change"]) == ("31.50", "11.00")
    assert (second["balanced_top1_change_low"], second["paper_top5"], second["seeds"]) == ("8.52", "", "3")


def test_plots_are_drawn_of_what_was_measured(tmp_path):
    _, lines = _lines()
    for ladder in (True, False):
        assert panels.draw_panels(tmp_path / "a.png", "Steps", "It shows steps.", lines, ladder)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not panels.draw_panels(tmp_path / "b.png", "Steps", "", [], True)


def test_without_labels_of_a_test_list_there_is_no_second_table(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "has_labels", lambda experiment, split: False)
    experiment = measure.Experiment(tmp_path, ())
    page = paper.run(experiment, ["fig7", "table2"], [0, 1, 2], 3, dict, print, compute=False)
    assert "no image of a test list has a label" in page and "Fig. 7" in page
    assert not (tmp_path / "paper" / "table2.csv").exists()
    assert (tmp_path / "paper" / "paper.md").read_text() == page


def test_the_class_of_figure_6_is_the_one_that_loses_most():
    labels = np.repeat([0, 1, 2, 3], [10, 10, 10, 2])
    predicted = labels.copy()
    predicted[:3], predicted[10:15], predicted[30:] = 1, 0, 0
    assert look_alikes.choose_class(labels, predicted, 4) == 1  # 3 loses all, but is small


def test_groups_as_a_table():
    group = Group(number=1, weight=0.34, size=50, own=20, others=[(2, 25), (0, 5)], ids=np.array([1]))
    none = Group(number=0, weight=None, size=3, own=0, others=[(2, 3)], ids=np.array([2]))
    lines = [look_alikes._describe(g, ["cat", "dog", "owl"], [0, 12]) for g in (group, none)]
    assert look_alikes._format_csv(lines).splitlines() == [
        "group,weight,images,own,others,own_right", "1,0.340,50,20,25 owl; 5 cat,12", "2,–,3,0,3 owl,0"
    ]  # fmt: skip
    assert "| 1 | 0.340 | 50 | 20 | 12 | 25 owl; 5 cat |" in look_alikes._format_page("Fig. 6", "", lines)
