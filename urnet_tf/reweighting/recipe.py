"""The recipe: from what is known of each image to its weight and its target.

Arrays in, columns out; no files, no configuration. The factors are those of the table in `factors`.

  1. every factor that is switched on, from the predictions of models that did not see the image
  2. one weight of them, see `combine`
  3. with a second round, models are trained again with these weights, and 1 and 2 repeated
  4. the target: the given label beside what these models predict (Eq. 10)

Source: Sec. 4, its steps in their order.
Differs: a second round, and evidence that is not in the paper, where a recipe has them.
Reading: the paper does not say whose predictions each step has: all have those of one baseline.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from urnet_tf.reweighting import combine, soft_label
from urnet_tf.reweighting.factors import EVIDENCE, FACTOR, Instances, Prediction, Recipe, weighing
from urnet_tf.reweighting.label_posterior import LabelPosterior


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What `apply_recipe` found for N images."""

    factors: dict[str, np.ndarray]  # name → float32 [N]; ones where it is switched off
    sample_weight: np.ndarray  # float32 [N]
    right_prob: np.ndarray  # float32 [N], P(the label is right) by all evidence of the recipe
    posterior: LabelPosterior  # by the pictures alone
    prediction: Prediction  # behind the last weights and the targets
    target_ids: np.ndarray  # int32 [N, K]
    target_probs: np.ndarray  # float32 [N, K]


def apply_recipe(
    instances: Instances, recipe: Recipe, refit: Callable[[np.ndarray], Prediction] | None = None
) -> Weighed:
    """Computes factors, weights and targets.

    Args:
      instances: with the first prediction.
      refit: weights float32 [N] → what models that were trained with them predict: the second round.

    Raises:
      RunError, ValueError: see `combine.combine_weights`.
    """
    factors, sample_weight = weigh(instances, recipe)
    if refit is not None:
        instances = dataclasses.replace(instances, prediction=refit(sample_weight))
        factors, sample_weight = weigh(instances, recipe)
    ones = np.ones(len(instances.labels), np.float32)
    every = {factor.name: factors.get(factor.name, ones) for factor in weighing()}
    target_ids, target_probs = make_targets(instances.labels, instances.prediction, recipe)
    if instances.trusted is not None:  # nothing is likelier than what people saw
        target_probs[instances.trusted] = np.eye(1, target_probs.shape[1])
    *_, right_prob = instances.right_probs(recipe).values()
    return Weighed(
        every, sample_weight, right_prob.astype(np.float32), instances.posterior, instances.prediction,
        target_ids, target_probs,
    )  # fmt: skip


def weigh(instances: Instances, recipe: Recipe) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The factors {name: float32 [N]} that are switched on, and the sample weights float32 [N]."""
    found: dict[str, dict[str, np.ndarray]] = {FACTOR: {}, EVIDENCE: {}}
    for factor in weighing():
        if factor.name in recipe.factors and factor.compute is not None:
            values = factor.compute(instances, recipe)
            if values is not None:  # nothing is known that it could weigh by
                found[factor.role][factor.name] = values
    ones, share = np.ones(len(instances.labels), np.float32), None
    if recipe.copies_once and instances.pictures is not None:
        share = combine.share_of_picture(instances.labels, instances.pictures)
    sample_weight = combine.combine_weights(
        [ones, *found[FACTOR].values()], list(found[EVIDENCE].values()), smallest=recipe.smallest,
        largest=recipe.largest, formulas=recipe.formulas, unit_mean=recipe.unit_mean,
        share=share, labels=instances.labels, trusted=instances.trusted,
    )  # fmt: skip
    return found[FACTOR] | found[EVIDENCE], sample_weight


def make_targets(labels: np.ndarray, prediction: Prediction, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Target ids int32 [N, K] and probabilities float32 [N, K]."""
    if recipe.target == "distribution":
        return soft_label.compute_distribution_targets(
            labels, prediction.given_prob, prediction.topk_ids, prediction.topk_probs, beta=recipe.beta
        )
    predicted_prob = prediction.topk_probs[:, 0] / np.sum(prediction.topk_probs, axis=1)
    return soft_label.compute_soft_targets(
        labels, prediction.label, predicted_prob, beta=1.0 if recipe.target is None else recipe.beta,
        formulas=recipe.formulas,
    )  # fmt: skip
