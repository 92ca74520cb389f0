"""Why an image counted as much as it did, in words: for `urnet why` and the cards of the report."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from urnet_tf.reweighting.factors import FACTORS

CLEARLY = 1.15  # a factor this many times its class's mean, or less than one such part, is worth a clause
_AS_USUAL = (0.95, 1.05)
# What the models say is told in a clause of its own, and what the page says, too.
_OF_MODELS = ("self_confidence", "label_posterior")
_PAGE = "page_text"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is known of one image; names of classes are ready to be shown."""

    relative: float  # its weight, in average images; below 0 it counts against its label
    given: str
    predicted: str  # the first guess of the models
    agrees: bool  # whether that is the given class
    out_of_fold: bool  # whether they never saw it
    factors: Mapping[str, float]  # those that differ between images
    means: Mapping[str, float]  # of its class; of `class_weight` over all images


def describe_standing(values: np.ndarray, value: float) -> str:
    """Where `value` stands among `values` [n], in words."""
    values = np.asarray(values)
    below, above = float((values < value).mean()), float((values > value).mean())
    if below == above == 0:
        return "same for all"
    if below == 0 or above == 0:
        name = "lowest" if below == 0 else "highest"
        return name if 1 - below - above < 0.015 else f"{name}, as {1 - below - above:.0%} are"
    return f"higher than {below:.0%}" if below >= 0.5 else f"lower than {above:.0%}"


def describe_amount(weight: float, average: float = 1.0) -> str:
    """A final weight in words.

    Args:
      weight: of the image; below 0 it counts against its label.
      average: what an average image counts, see `combine.average_amount`.
    """
    share = abs(weight) / average
    if share == 0:
        return "did not count"
    much = "" if _is_usual(share) else f"{format_weight(share)} times "
    against = " against its label," if weight < 0 else ""
    return f"counted{against} {much}as much as an average image"


def find_reasons(weight: float, factors: Mapping[str, float], means: Mapping[str, float]) -> list[str]:
    """Why a weight is below or above 1: clauses about the factors that pull that way, strongest first.

    Args:
      weight: the final weight of the image, divided by what an average image counts.
      factors: its value of each factor that enters the weight, by name.
      means: what to compare with: the mean of each factor in its class, and of `class_weight`
        over all images.
    """
    found = [(pull, clause) for _, pull, clause in _pulls(factors, means) if (pull > 0) == (weight >= 1)]
    return [clause for _, clause in sorted(found, key=lambda item: -abs(item[0]))]


def _pulls(factors: Mapping[str, float], means: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """Factors that differ clearly from what is usual: (name, log of the ratio, clause)."""
    found = []
    for factor in FACTORS:
        value, mean = factors.get(factor.name), means.get(factor.name)
        if value is None or mean is None or not max(value, mean) > 0:
            if value is not None and value < 0:
                found.append((factor.name, -np.inf, factor.low))
            continue
        pull = float(np.log(max(value, 1e-6) / max(mean, 1e-6)))
        if abs(pull) >= np.log(CLEARLY):
            found.append((factor.name, pull, factor.low if pull < 0 else factor.high))
    return found


def say_why(image: Judgement) -> str:
    """One sentence without subject and full stop: how much the image counted, and why.

    >>> say_why(Judgement(0.2, "cup", "mug", False, True, {"page_text": 1.0}, {"page_text": 1.0}))
    "counted little, since models that never saw it call it 'mug' and its page says nothing"
    """
    since: list[str] = []
    although: list[str] = []
    says = f"models that never saw it call it {image.predicted!r}"
    if not image.out_of_fold:
        says = f"the models, which were trained on it, call it {image.predicted!r}"
    low = image.relative < _AS_USUAL[0]
    (although if image.agrees == low else since).append(says + (" as well" if image.agrees else ""))
    for name, pull, clause in sorted(_pulls(image.factors, image.means), key=lambda found: -abs(found[1])):
        if name not in (*_OF_MODELS, _PAGE):
            (since if (pull < 0) == low else although).append(clause)
    if _PAGE in image.factors:
        value = image.factors[_PAGE]
        against = value < 1 / CLEARLY
        if against or value > CLEARLY:
            clause = f"its page speaks {'against' if against else 'for'} {image.given!r}"
            (since if against == low else although).append(clause)
        elif low:
            since.append("its page says nothing")
    amount = name_amount(image.relative)
    text = f"{amount}, since {join(since)}" if since else amount
    return f"{text}, although {join(although)}" if although else text


def name_amount(relative: float) -> str:
    """How much an image counted, without a number.

    Args:
      relative: its weight, in average images.
    """
    if relative < 0:
        return "counted against its label"
    if relative == 0:
        return "did not count"
    if _is_usual(relative):
        return "counted as much as an average image"
    if relative < 1:
        return next(
            words
            for limit, words in ((0.15, "counted next to nothing"), (0.6, "counted little"),
                                 (1.0, "counted less than an average image"))
            if relative < limit
        )  # fmt: skip
    return "counted more than an average image" if relative <= 2 else "counted much"


def join(clauses: Sequence[str]) -> str:
    """Clauses as a list in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(clauses[:-1]), *clauses[-1:]]))


def format_weight(weight: float) -> str:
    """A weight with two or three digits."""
    if 0 < abs(weight) < 0.095:
        return f"{weight:.2g}"
    return f"{weight:.2f}" if abs(weight) < 10 else f"{weight:.0f}"


def _is_usual(share: float) -> bool:
    return _AS_USUAL[0] <= share <= _AS_USUAL[1]
