"""Why an image counted as it did, in words."""

import dataclasses

import numpy as np

from urnet_tf.explain import reasons
from urnet_tf.explain.reasons import Judgement

USUAL = {"class_weight": 1.0, "cluster_weight": 1.0, "page_text": 1.0, "rank_prior": 1.0}
IMAGE = Judgement(0.2, "cup", "mug", False, True, dict(USUAL), dict(USUAL))


def say(**changes):
    factors = USUAL | changes.pop("factors", {})
    return reasons.say_why(dataclasses.replace(IMAGE, factors=factors, **changes))


def test_amounts_in_words():
    assert reasons.describe_amount(1.02) == "counted as much as an average image"
    assert reasons.describe_amount(0.31) == "counted 0.31 times as much as an average image"
    assert reasons.describe_amount(0.0) == "did not count"
    # Where an average image counts 0.05, the heaviest may have 0.16.
    assert reasons.describe_amount(0.16, 0.05) == "counted 3.20 times as much as an average image"
    assert reasons.describe_amount(0.05, 0.05) == "counted as much as an average image"
    assert (
        reasons.describe_amount(-0.01, 0.05)
        == "counted against its label, 0.20 times as much as an average image"
    )
    assert reasons.describe_amount(-0.05, 0.05) == "counted against its label, as much as an average image"
    assert reasons.describe_amount(0.0002, 0.05) == "counted 0.004 times as much as an average image"
    named = [reasons.name_amount(x) for x in (-0.1, 0, 0.1, 0.4, 0.8, 1.02, 1.5, 3)]
    assert named == [
        "counted against its label", "did not count", "counted next to nothing", "counted little",
        "counted less than an average image", "counted as much as an average image",
        "counted more than an average image", "counted much",
    ]  # fmt: skip


def test_standing_in_words():
    values = np.arange(100)
    assert reasons.describe_standing(values, 80) == "higher than 80%"
    assert reasons.describe_standing(values, 20) == "lower than 79%"
    assert reasons.describe_standing(values, 0) == "lowest"
    assert reasons.describe_standing(np.array([1, 2, 2, 2]), 2) == "highest, as 75% are"
    assert reasons.describe_standing(np.ones(3), 1) == "same for all"


def test_reasons_pull_in_the_direction_of_the_weight():
    means = {"class_weight": 1.0, "confidence": 1.0, "self_confidence": 1.0}
    factors = {"class_weight": 1.5, "confidence": 0.5, "self_confidence": 0.1}
    assert reasons.find_reasons(0.1, factors, means) == [
        "the models find its label less probable than is usual in its class",
        "the picture fits the words of the class badly",
    ]
    assert reasons.find_reasons(1.2, factors, means) == [
        "its class is small, so each of its images counts more"
    ]


def test_a_negative_cosine_is_a_reason_whatever_is_usual_in_the_class():
    for mean in (0.4, 0.0, -0.2):
        (reason,) = reasons.find_reasons(-0.5, {"confidence": -0.1}, {"confidence": mean})
        assert reason == "the picture fits the words of the class badly"
    (reason,) = reasons.find_reasons(2.0, {"confidence": 0.1}, {"confidence": -0.2})
    assert reason == "the picture fits the words of the class well"
    assert reasons.find_reasons(2.0, {"confidence": -0.3}, {"confidence": -0.2}) == []


def test_what_speaks_for_the_amount_comes_first_and_what_does_not_behind_although():
    assert say() == "counted little, since models that never saw it call it 'mug' and its page says nothing"
    assert say(factors={"page_text": 0.4}).endswith("call it 'mug' and its page speaks against 'cup'")
    assert say(factors={"page_text": 1.4, "cluster_weight": 0.5}) == (
        "counted little, since models that never saw it call it 'mug' and its look-alikes are not typical of "
        "the class, although its page speaks for 'cup'"
    )
    assert say(agrees=True, predicted="cup", factors={"rank_prior": 0.5}) == (
        "counted little, since results of its source and rank are wrong more often than others and its page "
        "says nothing, although models that never saw it call it 'cup' as well"
    )


def test_an_image_that_counted_much_is_told_the_other_way_round():
    much = {"relative": 1.4, "factors": {"page_text": 2.0}}
    assert say(**much) == (
        "counted more than an average image, since its page speaks for 'cup', although models that never saw "
        "it call it 'mug'"
    )
    assert say(relative=1.0, agrees=True, predicted="cup") == (
        "counted as much as an average image, since models that never saw it call it 'cup' as well"
    )


def test_models_that_saw_the_image_are_not_called_strangers():
    assert "since the models, which were trained on it, call it 'mug'" in say(out_of_fold=False)
    bare = Judgement(0.5, "cup", "mug", False, True, {}, {})
    assert reasons.say_why(bare) == "counted little, since models that never saw it call it 'mug'"


def test_lists_of_clauses():
    assert [reasons.join(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
