"""Weights and soft targets from arrays: the stage `reweight` without a work directory or TensorFlow.

In: labels, what models that did not see an image predict for it, and whatever else is known. Out: a table.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf import schema
from urnet_tf.api import door
from urnet_tf.api.instances import describe_instances, reduce_probs, to_prediction
from urnet_tf.api.known import Known, check_known, given
from urnet_tf.api.recipes import change_recipe, leave_out, open_recipe
from urnet_tf.config import Config, has_second_round
from urnet_tf.errors import UsageError
from urnet_tf.reweighting import combine, is_literal
from urnet_tf.reweighting.class_moments import check_folds, deal_folds
from urnet_tf.reweighting.factors import Prediction, Recipe
from urnet_tf.reweighting.judge import Judgement, out_of_fold_predictions, seen_predictions
from urnet_tf.reweighting.recipe import Weighed, apply_recipe
from urnet_tf.stages.effects import trains
from urnet_tf.stages.fitted_heads import CHOOSING_FOLDS
from urnet_tf.text_rules import quote

if TYPE_CHECKING:
    import pyarrow


def compute_weights(
    labels: Sequence[int] | np.ndarray,
    pred_probs: np.ndarray | Judgement | None = None,
    *,
    features: np.ndarray | None = None,
    texts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    class_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
    sources: Sequence | np.ndarray | None = None,
    queries: Sequence | np.ndarray | None = None,
    ranks: Sequence[int] | np.ndarray | None = None,
    groups: Sequence | np.ndarray | None = None,
    folds: int | np.ndarray | None = None,
    recipe: str | Recipe = "best",
    alpha: float | None = None,
    beta: float | None = None,
    rounds: int | None = None,
    top_k: int | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> "pyarrow.Table":
    """What each image should count in training, and its soft target: what `urnet run` computes, from arrays.

    Factors that need what is not given are left out: their columns are ones. Images in the order of their
    labels save a copy of the features.

    Example:
      >>> import numpy as np, urnet_tf
      >>> labels = np.array([0, 0, 0, 1, 1, 1])
      >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]])
      >>> table = urnet_tf.compute_weights(labels, pred_probs, folds=2)
      >>> [round(weight, 2) for weight in table["sample_weight"].to_pylist()]
      [1.67, 1.28, 0.05, 1.28, 1.67, 0.05]
      >>> table["predicted_label"].to_pylist()
      [0, 0, 1, 1, 1, 0]

    Args:
      labels: int [N] from 0, the given ones, partly wrong.
      pred_probs: float [N, C], probabilities by models that did not see the image, in whatever proportions
        the classes have; or what `out_of_fold_predictions` gives; None = it is asked, about the features.
      features: float16, float32 or float64 [N, D], of a network that was trained on other images; for look-
        alikes (`cluster_weight`), for the fit of picture and words (`confidence`) and for a second round.
      texts: what the page of each image says: a text, or a row of texts (title, description, tags); with
        class names, for `page_text`. Latin, Greek, Cyrillic, Chinese, Japanese and Korean letters need no
        TensorFlow; words of other scripts need tensorflow-text.
      class_names: a name of each class, or several names; for `confidence` and `page_text`.
      sources: [N], where each image comes from: a search engine, a site. None = all from one place.
      queries: [N], the query that found it. None = one a class.
      ranks: int [N], its place in the results of that query, from 1; for `rank_prior`, and the images that
        `confidence` learns from, which are drawn at random without ranks.
      groups: [N], equal for copies of one picture: these share a fold, and count once where the recipe
        says so (`copies_once`).
      folds: how many, or int [N]: the fold whose model predicted the image. None = those of a judgement, or
        4; for "paper" 1, so without `pred_probs` a head is asked about the images that it was fitted to. They
        say who did not see whom, for what is learned from the images here.
      recipe: "best", "sound" or "paper", see the setting `preset`; or a `Recipe` of your own, like
        `dataclasses.replace(urnet_tf.api.recipes.named_recipe("sound"), beta=0.9)`.
      alpha: 0 to 1, in place of the recipe's strength of class weights by inverse class size (Eq. 4).
      beta: 0 to 1, in place of the recipe's share of the given label in the target (Eq. 10).
      rounds: 2 = predictions of models that were fitted with the weights of the first round replace
        `pred_probs`, and all is computed again. None = 2 for "best" with features, else 1.
      top_k: classes kept of each prediction, and so of soft targets; None = 5.
      num_classes: C; None = as many as `pred_probs` has, or else class names, or else labels.
      seed: of k-means, of the maps from pictures to words, and of images drawn.

    Returns:
      A table of N rows in the order of the labels, with `label` int32, `cluster` int32 (the group of look-
      alikes inside its class, -1 without), a float32 column a factor (see `reweighting.factors`),
      `right_prob` float32 (P(the label is right) by all evidence of the recipe), `predicted_label` int32,
      `given_prob` float32 (the probability of the given label behind the last weights), `target_ids` and
      `target_probs` (lists int32 and float32; an id may occur twice and adds)
      and `sample_weight` float32: 0 or more with the mean 1 but for "paper", whose weights can be negative.
      `.to_pandas()` turns it into a data frame where pandas is installed. The metadata `urnet_tf` is JSON:
      `left_out` (factor → what it needs), `predicted_by`, `clean_rate_estimate` (the share of right
      labels) and its 95 % `clean_rate_interval` (null where `labels_seen`: the models were trained on these
      very labels), `effective_sample_size`, `formulas`.

    Raises:
      UsageError: what is given does not fit together, is no probability, no label, no rank; or a factor that
        a recipe of your own switches on needs what is not given.

    Source: Sec. 4.1-4.5, Eq. 1-10; factors not in the paper say so.
    """
    # Long because of its arguments, which take a third of it.
    if pred_probs is None and features is None:
        raise UsageError("Expected `pred_probs`, or `features` to predict from; received neither.")
    if isinstance(pred_probs, Judgement):
        judgement, probs = pred_probs, None
    else:
        judgement, probs = None, pred_probs
    shape = () if probs is None else np.shape(probs)
    known = check_known(
        labels, shape[1] if len(shape) == 2 else None, num_classes, features=features, texts=texts,
        class_names=class_names, sources=sources, queries=queries, ranks=ranks,
    )  # fmt: skip
    if judgement:
        door.check_length("pred_probs", len(judgement.folds), len(known.labels))
    if probs is not None:
        probs = door.check_probs(probs, len(known.labels))
    config, opened, own = open_recipe(recipe)
    used, left_out = leave_out(change_recipe(opened, alpha, beta), known, own)
    copies = None if groups is None else door.check_column("groups", groups, len(known.labels))
    top_k = min(config.extract.top_k if top_k is None else top_k, known.num_classes)
    dealt = _open_folds(folds, copies, known.labels, judgement, config)
    rounds = _count_rounds(rounds, known, dealt, config, own)

    order: np.ndarray | None = None  # no copy of the features where they are in the order of the labels
    if (np.diff(known.labels) < 0).any():
        order = np.argsort(known.labels, kind="stable")
        known, dealt = known.take(order), dealt[order]
        copies = None if copies is None else copies[order]
    literal = is_literal(used.formulas)

    def judge(weights: np.ndarray | None = None) -> Judgement:
        # The paper's baseline has seen its images; the strength of its regularization needs some it has not.
        seen = literal and np.ptp(dealt) == 0
        found = out_of_fold_predictions(
            given(known.features), known.labels, num_classes=known.num_classes, top_k=top_k,
            folds=deal_folds(known.labels, CHOOSING_FOLDS, copies) if seen else dealt, sample_weight=weights,
            kind="mean" if trains(config, "baseline") else config.baseline.head,
            priors="empirical" if literal else "equal",
        )  # fmt: skip
        return seen_predictions(found, given(known.features), known.labels, top_k=top_k) if seen else found

    def refit(weights: np.ndarray) -> Prediction:
        return to_prediction(schema.SECOND_ROUND, judge(np.maximum(weights, 0.0)))

    if probs is not None:
        prediction = reduce_probs(probs, known, order, top_k, used.formulas)
    elif judgement:
        prediction = to_prediction(schema.BALANCED_BASELINE, judgement, order)
    else:
        prediction = to_prediction(schema.BASELINE if literal else schema.BALANCED_BASELINE, judge())
    cluster, instances, metadata = describe_instances(known, prediction, dealt, used, seed, config)
    instances = dataclasses.replace(instances, pictures=_numbered(copies))
    weighed = apply_recipe(instances, used, refit if rounds == 2 else None)
    seen = probs is None and not judgement and np.ptp(dealt) == 0
    metadata |= {"left_out": left_out, "formulas": used.formulas, **_describe(weighed, bool(seen))}
    return _table(
        {"label": known.labels.astype(np.int32), "cluster": cluster} | _columns(weighed), order, metadata
    )


def _describe(weighed: Weighed, labels_seen: bool) -> dict[str, object]:
    return {
        "predicted_by": weighed.prediction.author,
        **weighed.posterior.clean_rate(labels_seen=labels_seen),
        "effective_sample_size": combine.effective_sample_size(weighed.sample_weight),
    }


def _numbered(copies: np.ndarray | None) -> np.ndarray | None:
    return None if copies is None else np.unique(copies, return_inverse=True)[1]


def _columns(weighed: Weighed) -> dict[str, np.ndarray]:
    return {
        **weighed.factors,
        "predicted_label": weighed.prediction.label.astype(np.int32),
        "right_prob": weighed.right_prob,
        "given_prob": weighed.prediction.given_prob.astype(np.float32),
        "target_ids": weighed.target_ids,
        "target_probs": weighed.target_probs,
        "sample_weight": weighed.sample_weight,
    }


def _open_folds(
    folds: int | np.ndarray | None,
    groups: np.ndarray | None,
    labels: np.ndarray,
    judgement: Judgement | None,
    config: Config,
) -> np.ndarray:
    """int64 [N]; copies of one picture in one."""
    if folds is None and judgement:
        folds = judgement.folds
    folds = config.baseline.folds if folds is None else folds
    if np.ndim(folds) == 0:
        if not (isinstance(folds, int | np.integer) and folds >= 1):
            raise UsageError(
                f"Expected `folds` as a number from 1, or one an image; received {quote(folds)}."
            )
        return deal_folds(labels, int(folds), groups)
    folds = check_folds(np.asarray(folds), len(labels))
    if groups is not None:
        door.check_groups_share_folds(groups, folds)
    return folds


def _count_rounds(rounds: int | None, known: Known, folds: np.ndarray, config: Config, own: bool) -> int:
    several = known.features is not None and np.ptp(folds) > 0
    if rounds is None:
        return 2 if several and not own and has_second_round(config) else 1
    if rounds not in (1, 2) or (rounds == 2 and not several):
        raise UsageError(
            f"Expected `rounds` of 1, or 2 with `features` and several folds; received {quote(rounds)}."
        )
    return rounds


def _table(columns: dict[str, np.ndarray], order: np.ndarray | None, metadata: dict) -> "pyarrow.Table":
    """The columns in the order of the caller's images."""
    import pyarrow as pa

    arrays = {}
    for name, values in columns.items():
        if order is not None:
            restored = np.empty_like(values)
            restored[order] = values
            values = restored
        if values.ndim == 2:
            starts = np.arange(0, values.size + 1, values.shape[1], dtype=np.int64)
            arrays[name] = pa.LargeListArray.from_arrays(starts, np.ascontiguousarray(values).ravel())
        else:
            arrays[name] = pa.array(values)
    return pa.table(arrays).replace_schema_metadata({"urnet_tf": json.dumps(metadata)})
