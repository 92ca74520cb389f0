"""A new factor is a row of the table: what appears of it elsewhere, and the recipe that counts it."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from urnet_tf.reweighting.factors import FACTORS, OBSERVED, Instances, Prediction, Recipe, weighing
from urnet_tf.reweighting.recipe import apply_recipe, weigh

LABELS = np.array([0, 0, 0, 1, 1, 1])


def known(**columns):
    """Six images of two classes, which models predict with a probability of .9, .5, .1 of the label."""
    given = np.tile([0.9, 0.5, 0.1], 2)
    topk_ids = np.where(given[:, None] >= 0.5, [[0, 1]], [[1, 0]]) ^ LABELS[:, None]
    prediction = Prediction("baseline", given, topk_ids.astype(np.int32), np.tile([0.6, 0.4], (6, 1)))
    return Instances(LABELS, 2, prediction, np.zeros(6, int), np.zeros(6, int), np.arange(6), **columns)


def test_only_what_is_switched_on_enters_the_weight():
    factors, weight = weigh(known(), Recipe({"self_confidence": {"floor": 0.0}}))
    assert factors.keys() == {"self_confidence"}
    np.testing.assert_allclose(weight, np.tile([1.8, 1.0, 0.2], 2), rtol=1e-6)
    factors, weight = weigh(known(), Recipe({}))
    assert factors == {} and (weight == 1).all()


@pytest.mark.parametrize("name", ["page_text", "confidence", "cluster_weight"])
def test_a_factor_of_which_nothing_is_known_changes_nothing(name):
    factors, weight = weigh(known(), Recipe({name: {"floor": 0.3}}))
    assert factors == {} and (weight == 1).all()


def test_copies_in_a_class_count_once_where_the_recipe_says_so():
    # The labels are 0, 0, 0, 1, 1, 1: one picture twice in class 0 and once in class 1; two without copies.
    pictures = np.array([4, 4, -1, 4, 7, -1])
    wanted = np.array([0.5, 0.5, 1, 1, 1, 1]) * 6 / 5
    _, weight = weigh(known(pictures=pictures), Recipe({}, copies_once=True))
    np.testing.assert_allclose(weight, wanted, rtol=1e-6)
    for instances, recipe in (
        (known(pictures=pictures), Recipe({})),
        (known(), Recipe({}, copies_once=True)),
    ):
        assert (weigh(instances, recipe)[1] == 1).all()


def test_a_second_round_asks_what_the_first_weights_made():
    seen = []

    def refit(weights):
        seen.append(weights)
        return Prediction("second_round", np.full(6, 0.5), LABELS[:, None], np.ones((6, 1)))

    recipe = Recipe({"self_confidence": {"floor": 0.0}})
    weighed = apply_recipe(known(), recipe, refit)
    np.testing.assert_allclose(seen, [np.tile([1.8, 1.0, 0.2], 2)], rtol=1e-6)
    assert (weighed.sample_weight == 1).all() and weighed.prediction.author == "second_round"
    assert (weighed.factors["rank_prior"] == 1).all(), "a factor that is off is a column of ones"
    np.testing.assert_allclose(weighed.target_probs, [[0.9, 0.1]] * 6, rtol=1e-6)


@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: factor.name)
def test_every_row_is_complete(factor):
    assert factor.holds.endswith(".") and factor.question.endswith("?") and factor.origin
    assert factor.low != factor.high and not factor.low.endswith(".")
    assert (factor.compute is None) == (factor.role == OBSERVED)


TOY = """
    import dataclasses, json, pathlib, sys
    import numpy as np
    from urnet_tf.reweighting import factors

    toy = factors.Factor(
        name="parity", role=factors.EVIDENCE, origin="nowhere", holds="Whether the image's number is even.",
        question="Is its number even?", low="its number is odd", high="its number is even",
        compute=lambda instances, recipe: (np.arange(len(instances.labels)) % 2 + 0.5).astype(np.float32),
    )
    factors.FACTORS += (toy,)

    from urnet_tf import schema, store
    from urnet_tf.config import load_config
    from urnet_tf.explain import reasons, sections, why, why_text
    from urnet_tf.export import model_card
    from urnet_tf.flow import plan_text
    from urnet_tf.stages.reweight import STAGE, read_recipe
    sys.path.insert(0, "experiments")
    from ablations import rows

    assert schema.WEIGHT_COLUMNS["parity"] == "float32"
    best, off, sound = (load_config(None, settings) for settings in
                        ([], ["reweight.parity.enabled=false"], ["preset=sound"]))
    on = [list(read_recipe(config).factors) for config in (best, off, sound)]
    assert on[0][-1] == "parity" and "parity" not in on[1] + on[2], on
    assert any(word == "parity" and toy.holds in text for word, text in sections.GLOSSARY)
    assert "reweight.parity.enabled" in model_card._SETTINGS
    assert rows.BEST_OFF["parity"] == "reweight.parity.enabled=false" and "parity" not in rows.OFF
    assert reasons.find_reasons(2.0, {"parity": 1.5}, {"parity": 1.0}) == ["its number is even"]

    root = pathlib.Path(sys.argv[1])
    columns = {name: [""] * 4 if name in schema.WEIGHT_TEXTS else np.ones(4, "float32")
               for name in schema.WEIGHT_COLUMNS}
    columns |= {"instance_id": np.arange(4), "label": np.zeros(4, int), "path": ["0.jpg", "1.jpg", "2", "3"],
                "cluster": -np.ones(4, int), "predicted_label": np.zeros(4, int),
                "parity": np.array([0.5, 1.5, 0.5, 1.5]), "sample_weight": np.array([0.5, 1.5, 0.5, 1.5])}
    for stage in ("pack", "reweight"):
        (root / stage).mkdir(parents=True)
    store.write_table(root / "reweight" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    text = {name: [""] * 4 if kind == "string" else np.ones(4, int)
            for name, kind in schema.INSTANCE_COLUMNS.items()}
    store.write_table(root / "pack" / "instances.parquet", text | {"instance_id": np.arange(4),
                      "split": ["train"] * 4, "label": np.zeros(4, int), "path": columns["path"]},
                      schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"label": 0, "id": "a", "name": "a"}])
    print(why_text.format_image(why.describe_image(root, "0.jpg")))
"""


def test_a_toy_factor_appears_everywhere(tmp_path, urnet_command):
    command = urnet_command() | {"args": [sys.executable, "-c", textwrap.dedent(TOY), str(tmp_path)]}
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "since its number is odd" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "Is its number even?" in line)
    assert "0.500" in line


def test_the_rows_that_weigh_are_in_the_order_of_the_table():
    assert [factor.name for factor in weighing()] == [f.name for f in FACTORS if f.role != OBSERVED]
