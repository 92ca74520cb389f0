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
from urnet_tf.config import PRESETS, Config, from_dict, has_second_round
from urnet_tf.errors import UsageError
from urnet_tf.evaluation.metrics import top_k as best_classes
from urnet_tf.reweighting import cluster_weight, combine, instance_weight, is_literal, self_confidence
from urnet_tf.reweighting.class_moments import check_folds, deal_folds
from urnet_tf.reweighting.class_weight import compute_class_weight
from urnet_tf.reweighting.factors import Instances, Prediction, Recipe, weighing
from urnet_tf.reweighting.judge import Judgement, out_of_fold_predictions
from urnet_tf.reweighting.recipe import apply_recipe
from urnet_tf.stages.reweight import read_recipe
from urnet_tf.text_rules import quote

if TYPE_CHECKING:
    import pyarrow

# What a factor needs beside labels and predictions, by the names of arguments.
_NEEDS = {
    "cluster_weight": ("features",),
    "confidence": ("features", "class_names"),
    "page_text": ("texts", "class_names"),
    "rank_prior": ("ranks",),
}


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
      [1.5, 1.33, 0.17, 1.33, 1.5, 0.17]
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
      groups: [N], equal for copies of one picture: these share a fold.
      folds: how many, or int [N]: the fold whose model predicted the image. None = those of a judgement, or
        4. They say who did not see whom, for what is learned from the images here.
      recipe: "best", "sound" or "paper", see the setting `preset`; or a `Recipe` of your own, like
        `dataclasses.replace(urnet_tf.api.weights.named_recipe("sound"), beta=0.9)`.
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
      `predicted_label` int32, `given_prob` float32 (the probability of the given label behind the last
      weights), `target_ids` and `target_probs` (lists int32 and float32; an id may occur twice and adds)
      and `sample_weight` float32: 0 or more with the mean 1 but for "paper", whose weights can be negative.
      `.to_pandas()` turns it into a data frame where pandas is installed. The metadata `urnet_tf` is JSON:
      `left_out` (factor → what it needs), `predicted_by`, `clean_rate_estimate`, `effective_sample_size`,
      `formulas`.

    Raises:
      UsageError: what is given does not fit together, is no probability, no label, no rank; or a factor that
        a recipe of your own switches on needs what is not given.

    Source: Sec. 4.1-4.5, Eq. 1-10; factors not in the paper say so.
    """
    if pred_probs is None and features is None:
        raise UsageError("Expected `pred_probs`, or `features` to predict from; received neither.")
    judged = pred_probs is None or isinstance(pred_probs, Judgement)
    shape = () if pred_probs is None or isinstance(pred_probs, Judgement) else np.shape(pred_probs)
    known = _check(
        labels, shape[1] if len(shape) == 2 else None, num_classes, features, texts, class_names, sources,
        queries, ranks,
    )  # fmt: skip
    probs = None if judged else door.check_probs(pred_probs, len(known.labels))
    config, opened, own = _open_recipe(recipe)
    used, left_out = _leave_out(_change(opened, alpha, beta), known, own)
    top_k = min(config.extract.top_k if top_k is None else top_k, known.num_classes)
    if isinstance(pred_probs, Judgement):
        door.check_length("pred_probs", len(pred_probs.folds), len(known.labels))
    dealt = _open_folds(folds, groups, known.labels, pred_probs, config)
    rounds = _count_rounds(rounds, known, dealt, config, own)

    order: np.ndarray | None = None  # no copy of the features where they are in the order of the labels
    if (np.diff(known.labels) < 0).any():
        order = np.argsort(known.labels, kind="stable")
        known, dealt = known.take(order), dealt[order]

    def judge(weights=None):
        return out_of_fold_predictions(
            known.features, known.labels, folds=dealt, num_classes=known.num_classes, top_k=top_k,
            sample_weight=weights, kind=config.baseline.head,
        )  # fmt: skip

    def refit(weights):
        return _prediction(schema.SECOND_ROUND, judge(np.maximum(weights, 0.0)))

    if pred_probs is None:
        prediction = _prediction(schema.BALANCED_BASELINE, judge())
    elif isinstance(pred_probs, Judgement):
        prediction = _prediction(schema.BALANCED_BASELINE, pred_probs, order)
    else:
        prediction = _reduce(probs, known, order, top_k, used.formulas)
    cluster, instances, metadata = _look(known, prediction, dealt, used, seed, config)
    weighed = apply_recipe(instances, used, refit if rounds == 2 else None)
    metadata |= {
        "left_out": left_out,
        "formulas": used.formulas,
        "predicted_by": weighed.prediction.author,
        "clean_rate_estimate": self_confidence.estimate_clean_rate(
            prediction.given_prob, prediction.topk_ids, prediction.topk_probs, known.labels,
            num_classes=known.num_classes,
        ),
        "effective_sample_size": combine.effective_sample_size(weighed.sample_weight),
    }  # fmt: skip
    columns = {
        "label": known.labels.astype(np.int32),
        "cluster": cluster,
        **weighed.factors,
        "predicted_label": weighed.prediction.label.astype(np.int32),
        "given_prob": weighed.prediction.given_prob.astype(np.float32),
        "target_ids": weighed.target_ids,
        "target_probs": weighed.target_probs,
        "sample_weight": weighed.sample_weight,
    }
    return _table(columns, order, metadata)


def named_recipe(name: str) -> Recipe:
    """The recipe that a preset stands for: "best", "sound" or "paper".

    Example:
      >>> named_recipe("sound").beta
      0.8

    Raises:
      UsageError: another name.
    """
    return _open_recipe(name)[1]


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of the images, checked."""

    labels: np.ndarray
    num_classes: int
    features: np.ndarray | None
    texts: list[list[str]] | None  # columns
    classes: list[dict] | None
    sources: np.ndarray | None
    queries: np.ndarray | None
    ranks: np.ndarray | None

    def take(self, order):
        """In another order."""
        columns = {
            name: None if getattr(self, name) is None else getattr(self, name)[order]
            for name in ("labels", "features", "sources", "queries", "ranks")
        }
        texts = None if self.texts is None else [[column[i] for i in order] for column in self.texts]
        return dataclasses.replace(self, texts=texts, **columns)

    def lacks(self, factor):
        """The arguments that a factor needs and that were not given."""
        given = {
            "features": self.features, "texts": self.texts, "class_names": self.classes, "ranks": self.ranks
        }  # fmt: skip
        return [name for name in _NEEDS.get(factor, ()) if given[name] is None]


def _check(labels, width, num_classes, features, texts, class_names, sources, queries, ranks):
    class_names = None if class_names is None else list(class_names)
    found = [count for count in (num_classes, width, class_names and len(class_names)) if count]
    labels, num_classes = door.check_labels(labels, found[0] if found else None)
    if len(set(found)) > 1:
        raise UsageError(
            f"Expected one number of classes in `num_classes`, `pred_probs` and `class_names`; received "
            f"{' and '.join(map(str, found))}. Give all classes, in the order of the labels."
        )
    rows = len(labels)

    def unless_none(value, check, *arguments):
        return None if value is None else check(*arguments)

    return _Known(
        labels,
        num_classes,
        features=unless_none(features, door.check_features, features, rows),
        texts=unless_none(texts, door.check_texts, texts, rows),
        classes=unless_none(class_names, door.check_names, class_names, num_classes),
        sources=unless_none(sources, door.check_column, "sources", sources, rows),
        queries=unless_none(queries, door.check_column, "queries", queries, rows),
        ranks=unless_none(ranks, door.check_ranks, ranks, rows),
    )


def _open_recipe(recipe):
    """(configuration, complete recipe, whether it is the caller's own)."""
    if isinstance(recipe, Recipe):
        factors = [factor.name for factor in weighing()]
        unknown = sorted(set(recipe.factors) - set(factors))
        if unknown:
            raise UsageError(f"Expected factors of {', '.join(factors)}; received {quote(unknown[0])}.")
        is_literal(recipe.formulas)  # raises where there are no such formulas
        switches = {name: {"enabled": True} for name in recipe.factors}
        usual = read_recipe(from_dict({"reweight": {"formulas": recipe.formulas, **switches}}))
        complete = {name: {**usual.factors[name], **own} for name, own in recipe.factors.items()}
        return Config(), dataclasses.replace(recipe, factors=complete), True
    if recipe not in PRESETS:
        raise UsageError(f"Expected a recipe of {', '.join(PRESETS)}, or a Recipe; received {quote(recipe)}.")
    config = from_dict({"preset": recipe})
    return config, read_recipe(config), False


def _change(recipe, alpha, beta):
    if alpha is not None:
        usual = read_recipe(from_dict({"reweight": {"class_weight": {"enabled": True}}}))
        settings = recipe.factors.get("class_weight", usual.factors["class_weight"])
        settings = {**settings, "kind": "inverse", "alpha": alpha}
        recipe = dataclasses.replace(recipe, factors={**recipe.factors, "class_weight": settings})
    if beta is not None:
        recipe = dataclasses.replace(recipe, beta=beta)
    door.check_share("beta", recipe.beta)
    if "class_weight" in recipe.factors:
        door.check_share("alpha", recipe.factors["class_weight"]["alpha"])
    return recipe


def _leave_out(recipe, known, own):
    """The recipe without the factors that nothing is known for, and what these need."""
    left_out = {name: known.lacks(name) for name in recipe.factors if known.lacks(name)}
    if left_out and own:
        name, needs = next(iter(left_out.items()))
        raise UsageError(
            f"Expected {' and '.join(f'`{need}`' for need in needs)} for the factor {name} of your recipe; "
            "received none. Give them, or leave the factor out."
        )
    kept = {name: settings for name, settings in recipe.factors.items() if name not in left_out}
    return dataclasses.replace(recipe, factors=kept), left_out


def _open_folds(folds, groups, labels, pred_probs, config):
    """int64 [N]; copies of one picture in one."""
    groups = None if groups is None else door.check_column("groups", groups, len(labels))
    if folds is None and isinstance(pred_probs, Judgement):
        folds = pred_probs.folds
    folds = config.baseline.folds if folds is None else folds
    if np.ndim(folds) == 0:
        if not (isinstance(folds, int | np.integer) and folds >= 1):
            raise UsageError(
                f"Expected `folds` as a number from 1, or one an image; received {quote(folds)}."
            )
        return deal_folds(labels, int(folds), groups)
    folds = check_folds(folds, len(labels))
    if groups is not None:
        door.check_groups_share_folds(groups, folds)
    return folds


def _count_rounds(rounds, known, folds, config, own):
    several = known.features is not None and np.ptp(folds) > 0
    if rounds is None:
        return 2 if several and not own and has_second_round(config) else 1
    if rounds not in (1, 2) or (rounds == 2 and not several):
        raise UsageError(
            f"Expected `rounds` of 1, or 2 with `features` and several folds; received {quote(rounds)}."
        )
    return rounds


def _prediction(author, judgement, order=None):
    columns = (judgement.given_prob, judgement.topk_ids, judgement.topk_probs)
    return Prediction(author, *(column if order is None else column[order] for column in columns))


def _reduce(probs, known, order, top_k, formulas):
    """The best classes; unless formulas are literal, as if all classes were equally frequent.

    Source: see `evaluation.predictions.BalancedPredictions`.
    """
    literal, rows = is_literal(formulas), len(known.labels)
    scale = compute_class_weight(known.labels, num_classes=known.num_classes, alpha=1.0)
    labels = np.empty(rows, np.int64)
    labels[slice(None) if order is None else order] = known.labels
    given = np.empty(rows, np.float32)
    ids, best = np.empty((rows, top_k), np.int32), np.empty((rows, top_k), np.float32)
    for start, block in door.blocks_of(probs):
        here = slice(start, start + len(block))
        if not literal:
            balanced = block * scale
            total = balanced.sum(axis=1, keepdims=True)  # 0: sure of a class that no image has
            block = np.divide(balanced, total, out=block.astype(balanced.dtype), where=total > 0)
        ids[here], best[here] = best_classes(block, top_k)
        given[here] = block[np.arange(len(block)), labels[here]]
    author = schema.BASELINE if literal else schema.BALANCED_BASELINE
    columns = (given, ids, best)
    return Prediction(author, *(column if order is None else column[order] for column in columns))


def _look(known, prediction, folds, recipe, seed, config):
    """Groups of look-alikes, the images with all that is known of them, and metadata."""
    rows, metadata = len(known.labels), {}
    sources, source_names = _codes(known.sources, rows)
    ranks = np.ones(rows, np.int64) if known.ranks is None else known.ranks
    cluster, scores = np.full(rows, -1, np.int32), {}
    if "cluster_weight" in recipe.factors:
        cluster, scores["cluster_score"] = cluster_weight.score_clusters(
            known.features, known.labels, prediction.label, prediction.given_prob,
            num_classes=known.num_classes, seed=seed,
            **_pick(recipe, "cluster_weight", ("kind", "clusters", "neighbors", "pca_dim", "n_init")),
        )  # fmt: skip
    if "confidence" in recipe.factors:
        scores["confidence"], metadata["classes_without_known_words"] = _fit_words(
            known, sources, source_names, folds, recipe, seed
        )
    if "page_text" in recipe.factors:
        from urnet_tf.text.pages import score_pages
        from urnet_tf.text.sentence_encoder import open_sentence_encoder

        text_dim = recipe.factors.get("confidence", {}).get("text_dim", config.reweight.confidence.text_dim)
        encode = open_sentence_encoder(recipe.factors["page_text"]["encoder"], dim=text_dim)
        scores["page_score"], metadata["pages"] = score_pages(
            known.texts, known.classes, known.labels, encode
        )
    instances = Instances(
        known.labels, known.num_classes, prediction, folds, sources=sources, ranks=ranks, **scores
    )
    return cluster, instances, metadata


def _fit_words(known, sources, source_names, folds, recipe, seed):
    """The fit of picture and words float32 [N], and the classes whose words are not known."""
    from urnet_tf.text.word_vectors import class_text_vectors, open_text_vectors

    settings, rows = recipe.factors["confidence"], len(known.labels)
    source = open_text_vectors(settings["text_vectors"], dim=settings["text_dim"])
    text_vectors, unknown = class_text_vectors(known.classes, source)
    eligible = np.ones(rows, bool)
    if settings["source"] in source_names:
        eligible = sources == source_names.index(settings["source"])
    queries, query_names = _codes(known.queries, rows)
    ranks = np.random.default_rng(seed).permutation(rows) if known.ranks is None else known.ranks
    confidence, _ = instance_weight.compute_text_confidence(
        known.features, known.labels, text_vectors, queries=sources * len(query_names) + queries,
        ranks=ranks, eligible=eligible, folds=folds, seed=seed, formulas=recipe.formulas,
        **_pick(recipe, "confidence", ("top_rank", "loss", "temperature", "epochs")),
    )  # fmt: skip
    return confidence, unknown


def _pick(recipe, factor, names):
    return {name: recipe.factors[factor][name] for name in names}


def _codes(values, rows):
    """A column as numbers int64 [N] in the order of their first rows, and what they stand for."""
    if values is None:
        return np.zeros(rows, np.int64), [None]
    names, first, number = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number], names[order].tolist()


def _table(columns, order, metadata):
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
