"""Suggestions: which are made, in which order, and whether their numbers are those of the columns."""

import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
from urnet_fixtures.reports import DUPLICATE_COLUMNS, make_inputs

from urnet_tf.config import load_config
from urnet_tf.explain import advice
from urnet_tf.explain.look_alikes import LookAlikes
from urnet_tf.explain.matrix import count_confusions


def suggest(inputs, groups=()):
    return advice.suggest(inputs, count_confusions(inputs), groups)


def only(kind, inputs, *more):
    return [(one.title, one.why, one.command) for one in kind(inputs, *more)]


def clean(**changes):
    """Labels that are all right, called by their names."""
    inputs = make_inputs(**changes)
    inputs.weights["right_prob"][:] = 0.95
    inputs.weights["predicted_label"][:] = inputs.label
    return inputs


def test_judging_comes_first_with_what_it_finds():
    inputs = clean(per_class=60)
    inputs.weights["right_prob"][:30] = 0.2
    first, *rest = suggest(inputs)
    assert first.title == "Judge the 30 most doubtful images, one key each"
    # 30 x .8 = 24 of 24 + 210 x .05 = 34.5
    assert first.why == "About 24 of them should be wrong: 70\xa0% of all wrong labels that are expected."
    assert first.command == "urnet review --workdir DIR --at queue/doubtful"
    assert len(rest) <= 2


def test_nothing_doubtful_is_judged_all_the_same():
    assert suggest(clean())[0].title == "Judge the 48 most doubtful images, one key each"


def test_a_class_that_is_mostly_wrong():
    inputs = clean(per_class=60, names=["a", "jaguar (cat)", "c", "d"], left_out={"exclude": ("old",)})
    inputs.weights["right_prob"][60:120] = 0.1
    ((title, why, command),) = only(advice._class, inputs)
    assert title == "Look at the class “jaguar (cat)” as a whole"
    assert why.startswith("90\xa0% of its 60 images look wrong (53\xa0% to 100\xa0%).")
    assert command.endswith("""--set 'ingest.exclude=["old", "jaguar (cat)"]'""")
    inputs = clean(per_class=60)
    inputs.weights["right_prob"][60:120] = 0.6
    assert only(advice._class, inputs) == []


def test_the_rank_behind_which_wrong_images_are_in_the_majority():
    inputs = clean(per_class=200, classes=2)
    late = (inputs.source == 1) & (inputs.rank > 50)
    inputs.weights["right_prob"][late] = 0.2
    ((title, why, command),) = only(advice._cut, inputs)
    cut = int(re.search(r"first (\d+) results of each search from google", title)[1])
    assert 45 <= cut <= 52
    behind = (inputs.source == 1) & (inputs.rank > cut)
    assert f"Of the {behind.sum()} images behind that, " in why
    assert json.loads(command.split("ingest.max_rank=")[1].rstrip("'")) == {"google": cut}
    inputs = clean(per_class=200, classes=2)
    inputs.weights["right_prob"][late] = 0.55
    assert only(advice._cut, inputs) == []


def test_a_source_that_is_mostly_wrong():
    inputs = clean(per_class=60)
    inputs.weights["right_prob"][inputs.source == 0] = 0.4
    ((title, why, command),) = only(advice._source, inputs)
    assert title == "Leave out what came from flickr"
    assert why == "60\xa0% of its 120 images look wrong, and 5\xa0% of all others."
    assert command.endswith("""'ingest.sources=["google"]'""")
    alone = dataclasses.replace(inputs, source=np.zeros(240, int), source_names=["flickr"])
    assert only(advice._source, alone) == []


def test_two_classes_that_are_taken_for_each_other():
    inputs = clean()
    inputs.weights["predicted_label"][:4] = 1  # 4 of 12, and 3 of 12 the other way round
    inputs.weights["predicted_label"][12:15] = 0
    ((title, why, command),) = only(advice._merge, inputs, count_confusions(inputs))
    assert title == "Decide whether “thing 1” and “thing 0” are two classes"
    assert "call 3 of 12 images of the one" in why and "and 4 of 12 the other way" in why
    assert command.endswith("""'ingest.merge={"thing 1": "thing 0"}'""")
    inputs.weights["predicted_label"][13:15] = 1  # 1 of 12
    assert only(advice._merge, inputs, count_confusions(inputs)) == []


def test_look_alikes_copies_and_small_classes():
    group = LookAlikes(1, np.arange(12, 20), (0.75, 0.4, 1.0), [(1, 5), (2, 3)])
    inputs = clean()
    ((title, why, _),) = only(advice._group, inputs, [group])
    assert title == "Judge eight look-alikes of “thing 1” at one stroke"
    assert why.endswith("(40\xa0% to 100\xa0%). The models call most of them “thing 2”.")
    columns = zip(*[("a", "a", "several_labels", "train", j, f"{j}") for j in range(3)], strict=True)
    duplicates = {
        name: np.array(values, object) for name, values in zip(DUPLICATE_COLUMNS, columns, strict=True)
    }
    ((title, why, _),) = only(advice._copies, clean(duplicates=duplicates))
    assert title == "Settle one picture under several labels"
    assert why.startswith("Three files hold this picture, byte by byte.")
    ((title, why, command),) = only(advice._small, inputs)
    assert title == "Collect more images for four small classes" and "thing 0 (11)" in why and command == ""
    assert only(advice._small, clean(per_class=60)) == []


@pytest.mark.parametrize(
    ("labels", "is_suggested"),
    [
        ({}, False),
        ({"val": "drawn"}, True),
        ({"val": "given"}, False),
        ({"val": "drawn", "test": "given"}, False),
        ({"val": "drawn", "judged": "judged"}, False),
    ],
)
def test_a_random_sample_where_the_crawl_is_measured_on_itself(labels, is_suggested):
    assert bool(only(advice._test, clean(held_labels=labels))) == is_suggested


def test_three_at_most_of_different_kinds_by_what_they_deal_with():
    inputs = clean(per_class=60, held_labels={"val": "drawn"})
    inputs.weights["right_prob"][:60] = 0.05  # 57 wrong labels in a class: half of them count
    titles = [one.title for one in suggest(inputs)]
    assert titles == [
        "Judge the 60 most doubtful images, one key each", "Look at the class “thing 0” as a whole",
        "Judge a random sample, for an honest test",
    ]  # fmt: skip
    assert [one.title for one in suggest(make_inputs(weights={}))] == []


def test_commands_can_be_pasted():
    """A shell gives back what was meant, and the configuration reads it."""
    names = ['it\'s "so" {a: b}', "no", "x, y", "3"]
    command = advice._setting("exclude", names)
    words = shlex.split(advice.fill_command(command, "my runs/it's"))
    assert words[:6] == [
        "urnet",
        "noise",
        "--config",
        "my runs/it's/config.yaml",
        "--workdir",
        "my runs/it's-2",
    ]
    config = load_config(None, [words[-1]])
    assert list(config.ingest.exclude) == names
    merged = shlex.split(advice._setting("merge", {"a: b": "#c"}))[-1]
    assert load_config(None, [merged]).ingest.merge == {"a: b": "#c"}
