"""What look-alikes, words and pages say of images: the costly columns of the stage reweight."""

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.errors import settings_named
from urnet_tf.executors import Processes
from urnet_tf.reweighting import cluster_weight, factors, instance_weight
from urnet_tf.reweighting.units import OpenUnits
from urnet_tf.stages.effects import resolve
from urnet_tf.stages.settings import keys_of
from urnet_tf.stages.stage import StageContext
from urnet_tf.store.progress import progress
from urnet_tf.store.table_rows import TableRows

if TYPE_CHECKING:
    import pyarrow as pa

POOL_INSTANCES = 100_000  # fewer are clustered before processes have started


def group_look_alikes(
    context: StageContext, labels: np.ndarray, prediction: factors.Prediction, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Groups int32 [N] and their scores float64 [N]."""
    settings = context.config.reweight.cluster_weight
    workers = context.config.runtime.workers or os.cpu_count() or 1
    executor, features = context.open_executor(), features_path(context)
    if not executor.elsewhere and len(labels) >= POOL_INSTANCES and workers > 1:
        executor = Processes(workers)
    with settings_named(keys_of(context.config, "runtime")):
        return cluster_weight.score_clusters(
            features, labels, prediction.label, prediction.given_prob, num_classes=num_classes,
            kind=resolve(context.config, "reweight.cluster_weight.kind"), clusters=settings.clusters,
            neighbors=settings.neighbors, confusion=settings.confusion, normalize=settings.normalize,
            pca_dim=settings.pca_dim, n_init=settings.n_init,
            seed=context.config.seed, executor=executor, shared=(context.out, features),
            open_units=keeping(context),
            report=lambda found, total: progress(found, "cluster", total=total, unit="classes"),
        )  # fmt: skip


def fit_words(
    context: StageContext, table: "pa.Table", labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The image-text confidence float32 [N], and what to report about it."""
    from urnet_tf.text import word_vectors as text

    settings = context.config.reweight.confidence
    classes = store.read_json(context.path("pack", "classes.json"))
    source = text.open_text_vectors(settings.text_vectors, dim=settings.text_dim)
    text_vectors, unknown = text.class_text_vectors(classes, source)
    if unknown:
        logging.warning(
            "%d classes have no word that %s knows; their text vectors are hashed instead.",
            len(unknown), settings.text_vectors,
        )  # fmt: skip

    source_codes, sources = numbers_of(table, "source")
    query_codes, queries = numbers_of(table, "query")
    eligible = np.ones(len(labels), bool)
    if settings.source in sources:
        eligible = source_codes == sources.index(settings.source)
    confidence, train_ids = instance_weight.compute_text_confidence(
        store.read_array(features_path(context)), labels, text_vectors,
        queries=source_codes * len(queries) + query_codes, ranks=store.column(table, "rank"),
        eligible=eligible, folds=np.asarray(store.read_array(context.path("baseline", "fold.npy"))),
        top_rank=settings.top_rank, loss=resolve(context.config, "reweight.confidence.loss"),
        temperature=settings.temperature, epochs=settings.epochs, seed=context.config.seed,
        network=settings.network, embedding_dim=settings.embedding_dim, negatives=settings.negatives,
        normalize=settings.normalize,
        formulas=context.config.reweight.formulas,
        report=lambda chunks: progress(chunks, "image-text confidence", unit="chunks"),
    )  # fmt: skip
    store.write_array(context.out / "confidence.npy", confidence)
    metadata = {
        "negative_confidence_share": float(np.mean(confidence < 0)),
        "text_training_images": len(train_ids),
        "classes_without_known_words": unknown,
    }
    return confidence, metadata


def score_page_texts(context: StageContext, labels: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """What each page says of its label: float32 [N], NaN without text; and metadata about the pages."""
    from urnet_tf.text.pages import score_pages
    from urnet_tf.text.sentence_encoder import open_sentence_encoder

    settings = context.config.reweight
    # Training images come first.
    texts = TableRows(context.path("pack", "instances.parquet"), ("title", "description", "tags"))
    return score_pages(
        lambda start, stop: [column.to_pylist() for column in texts.read(start, stop).columns],
        store.read_json(context.path("pack", "classes.json")),
        labels,
        open_sentence_encoder(settings.page_text.encoder, dim=settings.confidence.text_dim),
        open_units=keeping(context),
        report=lambda parts: progress(parts, "page text", unit="parts"),
    )


def keeping(context: StageContext) -> OpenUnits:
    """The `open_units` of loops whose units survive when the stage is killed."""

    def open_units(
        name: str, column: str, total: int, shape: tuple[int, ...], dtype: Any
    ) -> tuple[np.ndarray, store.UnitLog]:
        kept = store.open_column(context.out / f"{column}.npy", shape, dtype)
        return kept, context.units(name, total, kept)

    return open_units


def features_path(context: StageContext) -> pathlib.Path:
    return context.path(*context.marker("extract")["metadata"]["features"].split("/"))


def numbers_of(table: "pa.Table", name: str) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers int64 [N], and the texts they stand for."""
    numbers, texts = store.codes_of(table.column(name))
    return numbers.astype(np.int64), texts
