"""Every factor in one table: all that the rest of the program knows of a factor it reads here.

A factor is a new file that computes it and a new row. With the row come its column of weights.parquet, its
switch `reweight.<name>.enabled`, its words in `urnet why` and in the report, its line in the model card and
its rows in the ablation. A factor with settings of its own also has a section in `config/fields.py`.

Source: Sec. 4.1-4.4, as `origin` says of each row.
Differs: rows that are not in the paper, and a mean instead of the product where formulas are repaired.
Reading: a factor of which nothing is known of any image is left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from urnet_tf.reweighting import (
    REPAIRED,
    class_weight,
    cluster_weight,
    instance_weight,
    label_posterior,
    other_score,
    page_fit,
    page_text,
    rank_prior,
    self_confidence,
    zero_shot,
)
from urnet_tf.reweighting.evidence import update_right_prob
from urnet_tf.reweighting.judged_labels import Anchors

# What a factor does to the weight: it multiplies it; or it is one of several guesses whether the label is
# right, which share a mean (see `combine`); or it is observed afterwards and changes nothing.
FACTOR, EVIDENCE, OBSERVED = "factor", "evidence", "observed"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What models that did not see an image predict for it."""

    author: str  # of `schema.PREDICTED_BY`
    given_prob: np.ndarray  # float [N], of the given label
    topk_ids: np.ndarray  # int32 [N, k], best first
    topk_probs: np.ndarray  # float [N, k]
    anchors: Anchors | None = None  # the same of images that people judged; None = nobody did

    @property
    def label(self) -> np.ndarray:
        """The likeliest class: int32 [N]."""
        return self.topk_ids[:, 0]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of all factors, and how they are combined into one weight and one target.

    Example:
      >>> import urnet_tf
      >>> urnet_tf.Recipe({"self_confidence": {}}, beta=0.9).formulas
      'repaired'
    """

    factors: Mapping[str, Mapping]  # the names of those that are switched on → their settings
    formulas: str = REPAIRED
    smallest: float = 0.05  # bounds of the combined weight, see `combine.combine_weights`
    largest: float = 10.0
    unit_mean: bool = False
    copies_once: bool = False  # where the instances have `pictures`, see `combine.share_of_picture`
    target: str | None = "distribution"  # or "predicted" (Eq. 10); None = the given label alone
    beta: float = 0.8  # share of the given label in the target


@dataclasses.dataclass(frozen=True)
class Instances:
    """What is known of N training images of C classes. None stands for "not known of any image"."""

    labels: np.ndarray  # int [N], the given ones
    num_classes: int
    prediction: Prediction
    folds: np.ndarray  # int [N]: who did not see whom
    sources: np.ndarray  # int [N], a number for each search engine
    ranks: np.ndarray  # int [N], 1 = the first result of its query
    cluster_score: np.ndarray | None = None  # float [N], see `cluster_weight.compute_group_score`
    confidence: np.ndarray | None = None  # float [N], cosine of image and class text
    page_score: np.ndarray | None = None  # float [N], see `page_text.compute_page_score`; NaN without text
    other_score: np.ndarray | None = (
        None  # float [N], of someone else, more = more probably right; NaN = none
    )
    image_text: zero_shot.ImageText | None = None  # images and classes by a network of images and texts
    page_fit: np.ndarray | None = None  # float [N], see `page_fit.beyond_class`; NaN without text
    pictures: np.ndarray | None = None  # int [N], equal for copies of one picture, -1 = there are none
    trusted: np.ndarray | None = None  # bool [N], labels that people found right or put right

    @functools.cached_property
    def posterior(self) -> label_posterior.LabelPosterior:
        """What the pictures alone say of the labels."""
        seen = self.prediction
        return label_posterior.compute_label_posterior(
            seen.given_prob, seen.topk_ids, seen.topk_probs, self.labels, num_classes=self.num_classes,
            trusted=self.trusted, anchors=seen.anchors,
        )  # fmt: skip

    @functools.cached_property
    def by_texts(self) -> tuple[np.ndarray, tuple[float, float]]:
        """P(right) of the pictures and the texts of the classes, float [N]; and the weights of both.

        See `zero_shot.update_by_texts`. Trusted labels keep theirs, and nothing is learned from them.
        """
        prob, seen = np.array(self.posterior.prob, np.float64), self.prediction
        rows = np.arange(len(prob)) if self.trusted is None else np.flatnonzero(~self.trusted)
        if self.image_text is None or not len(rows):
            return prob, (1.0, 0.0)
        beside = self.image_text.compare(self.labels, seen.topk_ids)
        pairs = label_posterior.score_pairs(
            seen.given_prob[rows], seen.topk_ids[rows], seen.topk_probs[rows], self.labels[rows],
            self.num_classes,
        )  # fmt: skip
        prob[rows], weights = zero_shot.update_by_texts(
            prob[rows], pairs, beside.margin[rows], beside.planted[rows]
        )
        return prob, weights

    @functools.cached_property
    def _known_right_probs(self) -> dict[tuple[str, ...], dict[str, np.ndarray]]:
        return {}

    def right_probs(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """P(the label is right), float [N], after each kind of evidence of a recipe, the pictures first."""
        kinds = "zero_shot", "rank_prior", "page_text", "page_fit", "other_score"
        used = tuple(name for name in kinds if name in recipe.factors)
        if used not in self._known_right_probs:  # each of its factors asks
            self._known_right_probs[used] = self._update_right_probs(used)
        return self._known_right_probs[used]

    def _update_right_probs(self, used: tuple[str, ...]) -> dict[str, np.ndarray]:
        found = {"label_posterior": self.posterior.prob}
        if "zero_shot" in used and self.image_text is not None:
            found["zero_shot"] = self.by_texts[0]
        if "rank_prior" in used:
            found["rank_prior"] = self._update(rank_prior.rank_column(self.ranks), found, compared=False)
        if "page_text" in used and self.page_score is not None:
            found["page_text"] = self._update(self.page_score, found, compared=True)
        if "page_fit" in used and self.page_fit is not None:
            found["page_fit"] = self._update(self.page_fit, found, compared=True)
        if "other_score" in used and self.other_score is not None:
            found["other_score"] = self._update(self.other_score, found, compared=True)
        return found

    def _update(self, column: np.ndarray, found: Mapping[str, np.ndarray], *, compared: bool) -> np.ndarray:
        """P with one more column; of trusted labels nothing is asked or learned, since these were chosen."""
        *_, before = found.values()
        open_rows = slice(None) if self.trusted is None else np.flatnonzero(~self.trusted)
        prob = np.array(before, np.float64)
        if prob[open_rows].size:
            prob[open_rows] = update_right_prob(
                prob[open_rows], column[open_rows], self.sources[open_rows], self.folds[open_rows],
                relative_to_group=compared,
            )  # fmt: skip
        return prob

    def share_of_evidence(self, name: str, recipe: Recipe) -> np.ndarray:
        """By how much one kind of evidence changes P(right): float32 [N], so that their product is P."""
        probs = self.right_probs(recipe)
        order = list(probs)
        before = probs[order[order.index(name) - 1]]
        return (probs[name] / before).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Factor:
    """One row. A value is low or high beside those of its class, so the words say no more than that."""

    name: str  # the column of weights.parquet
    role: str  # FACTOR, EVIDENCE or OBSERVED
    origin: str  # the paper's section and equation, or where else it comes from
    holds: str  # a sentence for the glossary
    question: str  # what the factor asks of an image
    low: str  # a clause for why an image counted little
    high: str  # a clause for why it counted much
    # float32 [N], or None where nothing is known; a row without it is filled later.
    compute: Callable[[Instances, Recipe], np.ndarray | None] | None = None
    in_sound: bool = False  # whether `preset: sound` has it
    ablation: str = ""  # its step in the ablation's tables; "" = its name

    @property
    def switch(self) -> str:
        """The dotted key that switches it on and off."""
        return f"reweight.{self.name}.enabled"

    @property
    def step(self) -> str:
        """Its name in the ablation."""
        return self.ablation or self.name


FACTORS: tuple[Factor, ...] = (
    Factor(
        name="class_weight",
        role=FACTOR,
        origin="Sec. 4.1, Eq. 2-4",
        holds="More in small classes, less in large ones.",
        question="Is the class small or large?",
        low="its class is large, so each of its images counts less",
        high="its class is small, so each of its images counts more",
        compute=class_weight.weigh,
        in_sound=True,
        ablation="class",
    ),
    Factor(
        name="cluster_weight",
        role=EVIDENCE,
        origin="Sec. 4.2, Eq. 5-7",
        holds="How well the group of look-alikes in `cluster` stands for the class.",
        question="Does its group of look-alikes stand for the class?",
        low="its look-alikes are not typical of the class",
        high="its look-alikes are typical of the class",
        compute=cluster_weight.weigh,
        in_sound=True,
        ablation="cluster",
    ),
    Factor(
        name="confidence",
        role=EVIDENCE,
        origin="Sec. 4.3, Eq. 8-9",
        holds="How well the picture fits the words of its class.",
        question="Does the picture fit the words of the class?",
        low="the picture fits the words of the class badly",
        high="the picture fits the words of the class well",
        compute=instance_weight.weigh,
        in_sound=True,
        ablation="instance",
    ),
    Factor(
        name="self_confidence",
        role=EVIDENCE,
        origin="not in the paper",
        holds="How probable the models find its label, compared with its class.",
        question="How probable do the models find its label?",
        low="the models find its label less probable than is usual in its class",
        high="the models find its label more probable than is usual in its class",
        compute=self_confidence.weigh,
        in_sound=True,
        ablation="self",
    ),
    Factor(
        name="label_posterior",
        role=EVIDENCE,
        origin="not in the paper",
        holds="The probability that the label is right, as far as the picture tells.",
        question="Is the label right, by what the models see?",
        low="by what the models see in it, its label is probably wrong",
        high="by what the models see in it, its label is probably right",
        compute=label_posterior.weigh,
        ablation="posterior",
    ),
    Factor(
        # What follows changes the probability above, so it needs no share of a mean.
        name="zero_shot",
        role=FACTOR,
        origin="not in the paper",
        holds="What a text tower that knows the words of all classes says about the label.",
        question="Does the picture fit the words of this class better than those of others?",
        low="beside the words of other classes those of its own fit the picture badly",
        high="beside the words of other classes those of its own fit the picture well",
        compute=zero_shot.weigh,
    ),
    Factor(
        name="rank_prior",
        role=FACTOR,
        origin="not in the paper",
        holds="How often results of this source and search rank are right.",
        question="Are results of its source and rank mostly right?",
        low="results of its source and rank are wrong more often than others",
        high="results of its source and rank are right more often than others",
        compute=rank_prior.weigh,
    ),
    Factor(
        name="page_text",
        role=FACTOR,
        origin="not in the paper",
        holds="What title, description and tags of the page say about the label.",
        question="Does the text of its page fit the class?",
        low="the text of its page fits the class worse than is usual",
        high="the text of its page fits the class better than is usual",
        compute=page_text.weigh,
    ),
    Factor(
        name="page_fit",
        role=FACTOR,
        origin="not in the paper",
        holds="What the fit of the picture and the text of its own page says about the label.",
        question="Does the picture fit the text of its page?",
        low="the picture fits the text of its own page worse than is usual",
        high="the picture fits the text of its own page better than is usual",
        compute=page_fit.weigh,
    ),
    Factor(
        name="other_score",
        role=FACTOR,
        origin="not in the paper",
        holds="What the scores that were given for the images say about the label.",
        question="Do the scores that were given speak for the label?",
        low="the score that was given for it speaks against the label",
        high="the score that was given for it speaks for the label",
        compute=other_score.weigh,
    ),
    Factor(
        name="saliency",
        role=OBSERVED,
        origin="Sec. 4.4, Fig. 4",
        holds="Attention that the trained network gives the image in a bag of its class; 1 is neutral.",
        question="Does the trained network look at it in a bag of its class?",
        low="beside others of its class the network looks past it",
        high="beside others of its class the network looks at it",
    ),
)


def weighing() -> tuple[Factor, ...]:
    """The factors that enter the weight, in the order in which they are multiplied."""
    return tuple(factor for factor in FACTORS if factor.compute is not None)
