"""From what is known of the images to the `Instances` that a recipe weighs."""

from typing import Any

import numpy as np

from urnet_tf import schema
from urnet_tf.api import door
from urnet_tf.api.known import Known, given
from urnet_tf.config import Config
from urnet_tf.evaluation.metrics import top_k as best_classes
from urnet_tf.reweighting import cluster_weight, instance_weight, is_literal
from urnet_tf.reweighting.class_weight import compute_class_weight
from urnet_tf.reweighting.factors import Instances, Prediction, Recipe
from urnet_tf.reweighting.judge import Judgement


def to_prediction(author: str, judgement: Judgement, order: np.ndarray | None = None) -> Prediction:
    """A judgement as the core knows predictions, in another order where one is given."""
    return _ordered(author, order, judgement.given_prob, judgement.topk_ids, judgement.topk_probs)


def reduce_probs(
    probs: np.ndarray, known: Known, order: np.ndarray | None, top_k: int, formulas: str
) -> Prediction:
    """The best classes; unless formulas are literal, as if all classes were equally frequent.

    Args:
      probs: float [N, C], in the order of the caller.
      order: int [N], where each image of `known` stands there; None = in one order.

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
    return _ordered(author, order, given, ids, best)


def _ordered(
    author: str, order: np.ndarray | None, given: np.ndarray, ids: np.ndarray, probs: np.ndarray
) -> Prediction:
    if order is None:
        return Prediction(author, given, ids, probs)
    return Prediction(author, given[order], ids[order], probs[order])


def describe_instances(
    known: Known, prediction: Prediction, folds: np.ndarray, recipe: Recipe, seed: int, config: Config
) -> tuple[np.ndarray, Instances, dict[str, Any]]:
    """Groups of look-alikes int32 [N], the images with what their factors rest on, and metadata."""
    metadata: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    rows = len(known.labels)
    sources, source_names = _codes(known.sources, rows)
    ranks = np.ones(rows, np.int64) if known.ranks is None else known.ranks
    cluster = np.full(rows, -1, np.int32)
    if "cluster_weight" in recipe.factors:
        cluster, scores["cluster_score"] = cluster_weight.score_clusters(
            given(known.features), known.labels, prediction.label, prediction.given_prob,
            num_classes=known.num_classes, seed=seed,
            **_pick(
                recipe, "cluster_weight",
                ("kind", "clusters", "neighbors", "confusion", "normalize", "pca_dim", "n_init"),
            ),
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
            given(known.texts), given(known.classes), known.labels, encode
        )
    instances = Instances(
        known.labels, known.num_classes, prediction, folds, sources=sources, ranks=ranks, **scores
    )
    return cluster, instances, metadata


def _fit_words(
    known: Known, sources: np.ndarray, source_names: list, folds: np.ndarray, recipe: Recipe, seed: int
) -> tuple[np.ndarray, list[int]]:
    """The fit of picture and words float32 [N], and the classes whose words are not known."""
    from urnet_tf.text.word_vectors import class_text_vectors, open_text_vectors

    settings, rows = recipe.factors["confidence"], len(known.labels)
    source = open_text_vectors(settings["text_vectors"], dim=settings["text_dim"])
    text_vectors, unknown = class_text_vectors(given(known.classes), source)
    eligible = np.ones(rows, bool)
    if settings["source"] in source_names:
        eligible = sources == source_names.index(settings["source"])
    queries, query_names = _codes(known.queries, rows)
    ranks = np.random.default_rng(seed).permutation(rows) if known.ranks is None else known.ranks
    confidence, _ = instance_weight.compute_text_confidence(
        given(known.features), known.labels, text_vectors, queries=sources * len(query_names) + queries,
        ranks=ranks, eligible=eligible, folds=folds, seed=seed, formulas=recipe.formulas,
        **_pick(
            recipe, "confidence",
            (
                "top_rank", "loss", "temperature", "epochs", "network", "embedding_dim", "negatives",
                "normalize",
            ),
        ),
    )  # fmt: skip
    return confidence, unknown


def _pick(recipe: Recipe, factor: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: recipe.factors[factor][name] for name in names}


def _codes(values: np.ndarray | None, rows: int) -> tuple[np.ndarray, list]:
    """A column as numbers int64 [N] in the order of their first rows, and what they stand for."""
    if values is None:
        return np.zeros(rows, np.int64), [None]
    names, first, number = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number], names[order].tolist()
