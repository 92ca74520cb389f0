"""Instance weights from image-text correlation (Sec. 4.3, Eq. 8-9).

A map learns from the best search results of each class that an image lies near the text of its class; the
confidence of an instance says how well it does. The map is the network of Fig. 5 (`text_network`), or a
linear one from image features into the space of text vectors. Numpy only: that has D x T numbers.

  linear: u = W^T x / |W^T x|, s_c = u . t_c (cosine with the text of class c)
  pairwise (Eq. 8):   loss = -(s_y - s_n), n one random other class
  contrastive:        loss = -log softmax(s / temperature)_y over all classes
  confidence (Eq. 9): s_y
"""

import concurrent.futures
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.reweighting import REPAIRED, is_literal
from urnet_tf.reweighting.combine import scale_to_class_mean
from urnet_tf.reweighting.text_network import (
    EACH_STEP,
    descend,
    fit_two_sided,
    softmax,
    steps_per_epoch,
    stream_batches,
    through_unit,
    unit_rows,
)

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

LINEAR, TWO_SIDED = "linear", "two_sided"  # the map
_CHUNK = 4096  # rows scored at a time
_TINY = 1e-12
_CACHED_ROWS = 256  # normalized at once: what is computed in between stays in the cache


def select_top_rank(
    labels: np.ndarray, queries: np.ndarray, ranks: np.ndarray, eligible: np.ndarray, *, top_rank: int
) -> np.ndarray:
    """The best `top_rank` results of each class, taken in turn from its queries by rank.

    Ranks may have gaps: what counts is the place among the eligible results of the query. Results
    of the same place are taken by query number. A class without eligible instances offers all of its
    instances.

    Args:
      labels: int [N].
      queries: int [N], a number for each query of each source.
      ranks: int [N].
      eligible: bool [N], say, the instances from one source.

    Returns:
      int64 ids, rising.

    Source: Sec. 4.3, the top 30 results of Google of each class.
    Reading: the paper does not say how the queries of a class share these places, nor what a class without
    such results does.
    """
    labels, queries = np.asarray(labels), np.asarray(queries)
    offered = np.flatnonzero(eligible | ~np.isin(labels, labels[eligible]))
    order = offered[np.lexsort((offered, ranks[offered], queries[offered], labels[offered]))]
    place = _place_in_run(labels[order], queries[order])
    order = order[np.lexsort((queries[order], place, labels[order]))]
    return np.sort(order[_place_in_run(labels[order]) < top_rank])


def fit_text_map(
    features: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    *,
    loss: str,
    temperature: float,
    epochs: int,
    seed: int,
    learning_rate: float = 0.03,
    negatives: str = EACH_STEP,
    normalize: bool = True,
) -> np.ndarray:
    """Trains the linear map from image features to text vectors with Adam.

    Args:
      features: float [n, D].
      labels: int [n].
      text_vectors: float32 [C, T], L2-normalized.
      loss: "pairwise" or "contrastive".
      temperature: of the contrastive softmax.
      learning_rate: at the start, relative to the size of the map's numbers (the cosine does not
        depend on their scale); it falls linearly to 0.
      negatives: of the pairwise loss, see `text_network.stream_batches`.
      normalize: whether features are L2-normalized.

    Returns:
      float32 [D, T].

    Raises:
      ValueError: fewer than two classes, no images, or an unknown loss.

    Source: Eq. 8, Sec. 4.3.
    Differs: one linear map on the side of the images replaces two layers on each side (Fig. 5);
    "contrastive" compares with the texts of all classes instead of one random one.
    """
    _check_learnable(features, text_vectors, loss)
    num_classes, text_dim = text_vectors.shape
    generator = np.random.default_rng(seed)
    dim = features.shape[1]
    text_map = (generator.standard_normal((dim, text_dim)) / np.sqrt(dim)).astype(np.float32)

    def gradients_of(batch: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
        images = normalized(features[batch]) if normalize else np.asarray(features[batch], np.float32)
        return [
            text_map_gradient(
                text_map, images, labels[batch], text_vectors, other=other if loss == "pairwise" else None,
                temperature=temperature,
            )
        ]  # fmt: skip

    batches = stream_batches(labels, num_classes, epochs=epochs, negatives=negatives, generator=generator)
    descend(
        [text_map], gradients_of, batches, total=epochs * steps_per_epoch(len(features)),
        learning_rate=learning_rate / np.sqrt(dim),
    )  # fmt: skip
    return text_map


def _check_learnable(features: np.ndarray, text_vectors: np.ndarray, loss: str) -> None:
    if len(text_vectors) < 2 or len(features) == 0 or loss not in ("pairwise", "contrastive"):
        raise ValueError(
            "Expected images of two or more classes and the loss pairwise or contrastive; received "
            f"{len(features)} images, {len(text_vectors)} classes, {loss!r}."
        )


def text_map_gradient(
    text_map: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    *,
    other: np.ndarray | None,
    temperature: float,
) -> np.ndarray:
    """The gradient of the mean loss: pairwise with negatives `other`, contrastive when that is None."""
    unit, length = unit_rows(images @ text_map)
    if other is None:
        error = softmax(unit @ text_vectors.T / temperature)
        error[np.arange(len(labels)), labels] -= 1.0
        to_unit = error @ text_vectors / temperature
    else:
        to_unit = text_vectors[other] - text_vectors[labels]
    to_unit = to_unit / len(labels)
    return images.T @ through_unit(to_unit, unit, length)


def compute_confidence(
    features: np.ndarray, labels: np.ndarray, text_vectors: np.ndarray, text_map: np.ndarray
) -> np.ndarray:
    """The cosine of each image and the text of its given label, by a linear map: float32 [N].

    It does not depend on the length of the features.

    Source: Eq. 9, Sec. 4.3.
    """
    mapped = normalized(features) @ text_map
    length = np.linalg.norm(mapped, axis=1) + _TINY
    return np.einsum("nt,nt->n", mapped, text_vectors[labels]) / length


def cross_fit_confidence(
    features: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    train_ids: np.ndarray,
    folds: np.ndarray,
    *,
    loss: str,
    temperature: float,
    epochs: int,
    seed: int,
    network: str = LINEAR,
    embedding_dim: int = 300,
    negatives: str = EACH_STEP,
    normalize: bool = True,
    report: Callable[[range], Iterable[int]] = lambda chunks: chunks,
) -> np.ndarray:
    """Trains one map a fold, without the fold, and asks it about the fold.

    A map repeats the labels that it was trained on. With all `folds` equal there is one map for all,
    trained on all of `train_ids`: the paper's form.

    Args:
      features: float [N, D], may be a memory map; read once, in order.
      train_ids: int, the instances to learn from.
      folds: int [N].
      network: "two_sided", the network of Fig. 5, or "linear".
      embedding_dim: of the two-sided network, see `text_network.fit_two_sided`.
      negatives, normalize: see `fit_text_map`.
      report: wraps the loop over chunks, for a progress bar.

    Returns:
      float32 [N], see `compute_confidence`.

    Source: Eq. 8-9, Sec. 4.3.
    Differs: cross-fitted when there are several folds.
    """
    import threadpoolctl

    labels, folds = np.asarray(labels), np.asarray(folds)
    names = np.unique(folds)

    def fit_without(fold: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        ids = train_ids[folds[train_ids] != fold] if len(names) > 1 else train_ids
        ids = ids if len(ids) else train_ids
        settings: dict[str, Any] = {
            "loss": loss, "temperature": temperature, "epochs": epochs, "seed": seed,
            "negatives": negatives if loss == "pairwise" else EACH_STEP,  # others have none: any will do
        }  # fmt: skip
        if network == TWO_SIDED:
            _check_learnable(ids, text_vectors, loss)
            images = normalized(features[ids]) if normalize else features[ids]
            fitted = fit_two_sided(images, labels[ids], text_vectors, embedding_dim=embedding_dim, **settings)
            return lambda rows, of: fitted.confidence(normalized(rows) if normalize else rows, of)
        text_map = fit_text_map(features[ids], labels[ids], text_vectors, normalize=normalize, **settings)
        return lambda rows, of: compute_confidence(rows, of, text_vectors, text_map)

    confidence = np.empty(len(labels), np.float32)
    # One thread a product: the products are small, and the result does not depend on the machine's
    # cores. The maps are trained side by side instead.
    with threadpoolctl.threadpool_limits(1), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        maps = dict(zip(names, pool.map(fit_without, names), strict=True))
        for start in report(range(0, len(labels), _CHUNK)):
            chunk = features[start : start + _CHUNK]
            chunk_folds = folds[start : start + _CHUNK]
            for fold in np.unique(chunk_folds):
                rows = np.flatnonzero(chunk_folds == fold)
                confidence[start + rows] = maps[fold](chunk[rows], labels[start + rows])
    return confidence


def compute_text_confidence(
    features: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    *,
    queries: np.ndarray,
    ranks: np.ndarray,
    eligible: np.ndarray,
    folds: np.ndarray,
    top_rank: int,
    loss: str,
    temperature: float,
    epochs: int,
    seed: int,
    network: str = LINEAR,
    embedding_dim: int = 300,
    negatives: str = EACH_STEP,
    normalize: bool = True,
    formulas: str = REPAIRED,
    report: Callable[[range], Iterable[int]] = lambda chunks: chunks,
) -> tuple[np.ndarray, np.ndarray]:
    """How well each image fits the text of its class, by maps learned from the best search results.

    Args:
      features: float [N, D], may be a memory map.
      labels: int [N].
      text_vectors: float32 [C, T], L2-normalized.
      queries, ranks, eligible, top_rank: see `select_top_rank`.
      folds: int [N]; "literal" has one map for all.
      loss, temperature, epochs, seed: see `fit_text_map`.
      network, embedding_dim, negatives, normalize: see `cross_fit_confidence`.
      report: wraps the loop over chunks, for a progress bar.

    Returns:
      The cosines float32 [N], and the ids of the images that the maps learned from, int64.

    Source: Eq. 8-9, Sec. 4.3.
    Reading: the network that was trained on the best results judges these, too.
    """
    train_ids = select_top_rank(labels, queries, ranks, eligible, top_rank=top_rank)
    confidence = cross_fit_confidence(
        features, labels, text_vectors, train_ids, np.zeros_like(folds) if is_literal(formulas) else folds,
        loss=loss, temperature=temperature, epochs=epochs, seed=seed, network=network,
        embedding_dim=embedding_dim, negatives=negatives, normalize=normalize, report=report,
    )  # fmt: skip
    return confidence, train_ids


def compute_instance_weight(
    confidence: np.ndarray, labels: np.ndarray, *, num_classes: int, floor: float = 0.05,
    formulas: str = REPAIRED,
) -> np.ndarray:  # fmt: skip
    """The weight of every instance from its confidence: float32 [N].

    Args:
      confidence: float [N], cosines.
      floor: "repaired": smallest value, as a share of the class mean.

    Source: Eq. 9, Sec. 4.3.
    Differs: the paper's weight is the cosine itself, which can be negative: cross entropy is then
    raised without bound. "repaired" counts negative ones as 0, lifts all to the floor and has mean 1
    inside each class. (The softmax probability of the text tells right from wrong labels a little
    better, but its weights are so unequal that training on them came out worse.)
    """
    if is_literal(formulas):
        return np.asarray(confidence, np.float32)
    return scale_to_class_mean(confidence, labels, num_classes=num_classes, floor=floor)


def normalized(features: np.ndarray) -> np.ndarray:
    """L2-normalized rows, float32."""
    rows = np.empty(features.shape, np.float32)
    for start in range(0, len(rows), _CACHED_ROWS):
        block = rows[start : start + _CACHED_ROWS]
        block[...] = features[start : start + _CACHED_ROWS]
        block /= np.linalg.norm(block, axis=1, keepdims=True) + _TINY
    return rows


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where no confidence is known; setting floor."""
    if instances.confidence is None:
        return None
    return compute_instance_weight(
        instances.confidence, instances.labels, num_classes=instances.num_classes,
        floor=recipe.factors["confidence"]["floor"], formulas=recipe.formulas,
    )  # fmt: skip


def _place_in_run(*keys: np.ndarray) -> np.ndarray:
    """The place of each element inside its run of equal keys: 0, 1, 2, ..., 0, 1, ..."""
    count = len(keys[0])
    new = np.zeros(count, bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(new)
    return np.arange(count) - np.repeat(starts, np.diff(np.append(starts, count)))
