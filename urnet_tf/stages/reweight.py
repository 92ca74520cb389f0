"""Stage `reweight`: what each training image counts, and its soft target.

Reads the instance table and the classes (pack), the folds (baseline), the features and out-of-fold
predictions (extract). Writes weights.parquet, target_ids.npy and target_probs.npy; beside these
confidence.npy, the cosine of image and class text before it became a weight. A factor that is switched off
is a column of ones.
"""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config, has_second_round
from urnet_tf.errors import UsageError, settings_named
from urnet_tf.reweighting import (
    LITERAL,
    bag_saliency,
    cluster_weight,
    combine,
    factors,
    instance_weight,
    recipe,
)
from urnet_tf.reweighting.judge import out_of_fold_predictions
from urnet_tf.reweighting.text_network import count_operations
from urnet_tf.reweighting.units import OpenUnits
from urnet_tf.stages.effects import resolve, trains
from urnet_tf.stages.literal_weights import describe_lacks, describe_scale
from urnet_tf.stages.settings import count_backbone, fit_settings, images_per_step, keys_of
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store.progress import progress
from urnet_tf.text_rules import show_path

if TYPE_CHECKING:
    import pyarrow as pa


# What `extract` wrote that is read here.
_SEEN = (
    "given_prob", "topk_ids", "topk_probs", "balanced_given_prob", "balanced_topk_ids", "balanced_topk_probs",
)  # fmt: skip

# Measured with 1,280 features on one core of a small machine.
_START_SECONDS = 15.0  # TensorFlow, for its text operations, and scikit-learn
_CLUSTER_SECONDS = 7e-5  # a row; a class is clustered with its neighbors
_WITHOUT_PCA = 2.3  # times as long
_TEXT_MAP_SECONDS = 2e-5  # a training image and epoch, of the linear map
_TEXT_NETWORK_SECONDS = 1.5e-11  # an operation of the two-sided network
_CONFIDENCE_SECONDS = 5e-5  # a row
_REFIT_SECONDS = 3e-5  # an image and pass of a linear head
_POOL_INSTANCES = 100_000  # fewer are clustered before processes have started


def run(context: StageContext) -> dict:
    """Computes all factors, combines them and writes the columns."""
    config = context.config.reweight
    table, labels, num_classes = _read_instances(context)
    seen = {name: np.asarray(store.read_array(context.path("extract", f"{name}.npy"))) for name in _SEEN}
    prediction, metadata = _first_prediction(config.formulas, seen), {}
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    known: dict[str, Any] = {
        "labels": labels, "num_classes": num_classes, "prediction": prediction, "folds": folds,
        "sources": _codes(table, "source")[0], "ranks": store.column(table, "rank"),
    }  # fmt: skip
    pictures, names = _codes(table, "picture")
    known["pictures"] = np.where(np.array([name == "" for name in names])[pictures], -1, pictures)
    # These do not change with the prediction of the second round, or too little for their price.
    cluster = np.full(len(labels), -1, np.int32)
    if config.cluster_weight.enabled:
        cluster, known["cluster_score"] = _cluster(context, labels, prediction, num_classes)
    if config.confidence.enabled:
        known["confidence"], text_metadata = _confidence(context, table, labels, num_classes)
        metadata.update(text_metadata)
    if config.page_text.enabled:
        known["page_score"], metadata["pages"] = _score_pages(context, table, labels)

    def refit(weights: np.ndarray) -> factors.Prediction:
        return _refit(context, labels, folds, weights, num_classes)

    weighed = recipe.apply_recipe(
        factors.Instances(**known), read_recipe(context.config),
        refit if has_second_round(context.config) else None,
    )  # fmt: skip
    metadata["notes"] = [*describe_scale(weighed.sample_weight), *describe_lacks(context.config)]
    for sentence in metadata["notes"]:
        logging.warning("%s", sentence)

    store.write_array(context.out / "target_ids.npy", weighed.target_ids)
    store.write_array(context.out / "target_probs.npy", weighed.target_probs)
    columns = weighed.factors | {
        "instance_id": np.arange(len(labels)), "label": labels, "cluster": cluster,
        "path": table.column("path").combine_chunks(), "saliency": np.ones(len(labels), np.float32),
        "predicted_label": weighed.prediction.label, "right_prob": weighed.right_prob,
        "sample_weight": weighed.sample_weight,
    }  # fmt: skip
    store.write_table(context.out / "weights.parquet", columns, schema.WEIGHT_COLUMNS)

    metadata |= _describe(context.config, weighed, labels)
    _log(metadata)
    return metadata


def _log(metadata: dict[str, Any]) -> None:
    wrong, between = 1 - metadata["clean_rate_estimate"], metadata["clean_rate_interval"]
    share = f"About {100 * wrong:.0f} %"
    note = "the models were trained on these very labels, so more may be wrong"
    if between is not None:
        note = f"95 % interval: {100 * (1 - between[1]):.0f} to {100 * (1 - between[0]):.0f} %"
    logging.info(
        "%s of the labels look wrong (%s). The weighted images are worth as much as %.0f equally weighted "
        "ones.",
        share, note, metadata["effective_sample_size"],
    )  # fmt: skip


def _describe(config: Config, weighed: recipe.Weighed, labels: np.ndarray) -> dict[str, Any]:
    bag_size = config.train.bag.size
    return {
        "rows": len(labels),
        "effective_sample_size": combine.effective_sample_size(weighed.sample_weight),
        "negative_weight_share": float(np.mean(weighed.sample_weight < 0)),
        "formulas": config.reweight.formulas,
        "predicted_by": weighed.prediction.author,
        **weighed.posterior.clean_rate(labels_seen=config.baseline.folds == 1),
        "bag_guarantee": bag_saliency.bag_guarantee(1 - weighed.posterior.wrong_share, bag_size),
        "bag_size": bag_size,
        "disagreement": float(np.mean(weighed.prediction.label != labels)),
        "factors": {
            name: {"mean": float(f.mean(dtype=float)), "min": float(f.min()), "max": float(f.max())}
            for name, f in (weighed.factors | {"sample_weight": weighed.sample_weight}).items()
        },
    }


def read_recipe(config: Config) -> factors.Recipe:
    """What the section `reweight` means to the core."""
    settings = config.reweight
    switched_on = {}
    for factor in factors.weighing():
        section = getattr(settings, factor.name)
        if resolve(config, factor.switch):
            switched_on[factor.name] = {
                field.name: resolve(config, f"reweight.{factor.name}.{field.name}")
                for field in dataclasses.fields(section)
            }
    target = settings.soft_label
    return factors.Recipe(
        factors=switched_on,
        formulas=settings.formulas,
        smallest=settings.combine.smallest,
        largest=settings.combine.largest,
        unit_mean=settings.combine.unit_mean,
        copies_once=settings.combine.copies_once,
        target=target.kind if target.enabled else None,
        beta=target.beta,
    )


def _first_prediction(formulas: str, seen: dict[str, np.ndarray]) -> factors.Prediction:
    """That of the baseline's folds, which believed every label alike."""
    if formulas == LITERAL:
        return factors.Prediction(schema.BASELINE, seen["given_prob"], seen["topk_ids"], seen["topk_probs"])
    # Raw predictions prefer the large classes; targets and weights made of them would do so again.
    balanced = (seen[f"balanced_{name}"] for name in ("given_prob", "topk_ids", "topk_probs"))
    return factors.Prediction(schema.BALANCED_BASELINE, *balanced)


def _refit(
    context: StageContext, labels: np.ndarray, folds: np.ndarray, weights: np.ndarray, num_classes: int
) -> factors.Prediction:
    """That of weighted heads on the features of the folds' networks."""
    config, fit = context.config, context.config.reweight.refit
    if not trains(config, "baseline"):
        judgement = out_of_fold_predictions(
            store.read_array(_features_path(context))[: len(labels)], labels, folds=folds,
            num_classes=num_classes, kind=config.baseline.head, top_k=config.extract.top_k,
            sample_weight=np.maximum(weights, 0.0),
        )  # fmt: skip
        return factors.Prediction(
            schema.SECOND_ROUND, judgement.given_prob, judgement.topk_ids, judgement.topk_probs
        )
    from urnet_tf.training import second_round as refit

    def features_of(fold: int) -> np.ndarray:
        if config.model.mode == "frozen":
            return store.read_array(_features_path(context))
        return store.read_array(context.path("extract", f"features_fold{fold}.npy"))

    batch_images = images_per_step(fit, len(labels))
    with settings_named(keys_of(config, "reweight.refit")):
        found = refit.refit_folds(
            features_of, labels, folds, weights, num_classes=num_classes,
            k=min(config.extract.top_k, num_classes), epochs=fit.epochs, batch_images=batch_images,
            fit_settings=lambda counts, images: fit_settings(
                fit, config.runtime, batch_images, counts, images
            ),
            dropout=config.model.dropout, seed=config.seed, directory=context.out / "second_round",
        )  # fmt: skip
    return factors.Prediction(schema.SECOND_ROUND, found.given_prob, found.topk_ids, found.topk_probs)


def _score_pages(
    context: StageContext, table: "pa.Table", labels: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """What each page says of its label: float32 [N], NaN without text; and metadata about the pages."""
    from urnet_tf.text.pages import score_pages
    from urnet_tf.text.sentence_encoder import open_sentence_encoder

    settings = context.config.reweight
    score, metadata = score_pages(
        [table.column(name).to_pylist() for name in ("title", "description", "tags")],
        store.read_json(context.path("pack", "classes.json")),
        labels,
        open_sentence_encoder(settings.page_text.encoder, dim=settings.confidence.text_dim),
        open_units=_keeping(context),
        report=lambda parts: progress(parts, "page text", unit="parts"),
    )
    store.write_array(context.out / "page_score.npy", score)
    return score, metadata


def _keeping(context: StageContext) -> OpenUnits:
    """The `open_units` of loops whose units survive when the stage is killed."""

    def open_units(
        name: str, column: str, total: int, shape: tuple[int, ...], dtype: Any
    ) -> tuple[np.ndarray, store.UnitLog]:
        kept = store.open_column(context.out / f"{column}.npy", shape, dtype)
        return kept, context.units(name, total, kept)

    return open_units


def _read_instances(context: StageContext) -> "tuple[pa.Table, np.ndarray, int]":
    path = context.path("pack", "instances.parquet")
    table = store.read_table(
        path, ["split", "label", "path", "picture", "source", "query", "rank", "title", "description", "tags"]
    )
    train_images = int((store.column(table, "split") == schema.TRAIN).sum())
    table = table.slice(0, train_images)  # training images come first
    classes = store.read_json(context.path("pack", "classes.json"))
    return table, store.column(table, "label"), len(classes)


def _features_path(context: StageContext) -> pathlib.Path:
    return context.path(*context.marker("extract")["metadata"]["features"].split("/"))


def _cluster(
    context: StageContext, labels: np.ndarray, prediction: factors.Prediction, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Groups int32 [N] and their scores float64 [N]."""
    settings = context.config.reweight.cluster_weight
    workers = context.config.runtime.workers or os.cpu_count() or 1
    with settings_named(keys_of(context.config, "runtime")):
        return cluster_weight.score_clusters(
            _features_path(context), labels, prediction.label, prediction.given_prob, num_classes=num_classes,
            kind=resolve(context.config, "reweight.cluster_weight.kind"), clusters=settings.clusters,
            neighbors=settings.neighbors, confusion=settings.confusion, normalize=settings.normalize,
            pca_dim=settings.pca_dim, n_init=settings.n_init,
            seed=context.config.seed, workers=workers if len(labels) >= _POOL_INSTANCES else 1,
            open_units=_keeping(context),
            report=lambda found, total: progress(found, "cluster", total=total, unit="classes"),
        )  # fmt: skip


def _confidence(
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

    source_codes, sources = _codes(table, "source")
    query_codes, queries = _codes(table, "query")
    eligible = np.ones(len(labels), bool)
    if settings.source in sources:
        eligible = source_codes == sources.index(settings.source)
    confidence, train_ids = instance_weight.compute_text_confidence(
        store.read_array(_features_path(context)), labels, text_vectors,
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


def _codes(table: "pa.Table", name: str) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers int64 [N], and the texts they stand for."""
    numbers, texts = store.codes_of(table.column(name))
    return numbers.astype(np.int64), texts


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Counts k-means, the image-text maps and their use, and about 100 bytes a row on disk."""
    rows = plan.train_images
    if rows is None:
        return Estimate()
    settings = config.reweight
    workers = min(config.runtime.workers or plan.cores, plan.cores) if rows >= _POOL_INSTANCES else 1
    seconds = _START_SECONDS
    if settings.cluster_weight.enabled:
        joined = 1 + settings.cluster_weight.neighbors
        slower = 1.0 if settings.cluster_weight.pca_dim else _WITHOUT_PCA
        seconds += rows * joined * slower * _CLUSTER_SECONDS / workers
    if settings.confidence.enabled:
        learned_from = min(rows, (plan.num_classes or 1) * settings.confidence.top_rank)
        maps = config.baseline.folds if settings.formulas != LITERAL else 1
        seconds += maps * _text_map_seconds(config, plan, learned_from)
        seconds += rows * _CONFIDENCE_SECONDS
    if has_second_round(config):
        seen = rows * (config.baseline.folds - 1)
        seconds += seen * settings.refit.epochs * _REFIT_SECONDS
    return Estimate(rows=rows, seconds=seconds, disk_bytes=rows * 100, memory_bytes=rows * 300 + 15 * 10**8)


def _text_map_seconds(config: Config, plan: PlanContext, images: int) -> float:
    """What learning one map from images to words takes."""
    settings = config.reweight.confidence
    if settings.network != instance_weight.TWO_SIDED:
        return images * settings.epochs * _TEXT_MAP_SECONDS
    operations = count_operations(
        images, plan.classes, feature_dim=count_backbone(config).feature_dim, text_dim=settings.text_dim,
        embedding_dim=settings.embedding_dim, loss=resolve(config, "reweight.confidence.loss"),
    )  # fmt: skip
    return settings.epochs * operations * _TEXT_NETWORK_SECONDS


def inputs(config: Config) -> dict:
    """Fingerprints of the files with text vectors and of the sentence encoder, if there are any.

    Raises:
      UsageError: a file is missing.
    """
    settings = config.reweight
    files: list[str | os.PathLike] = []
    if settings.confidence.enabled and settings.confidence.text_vectors != "hashed":
        files.append(settings.confidence.text_vectors)
    if settings.page_text.enabled:
        from urnet_tf.text.sentence_encoder import encoder_files

        files += encoder_files(settings.page_text.encoder)
    metadata = []
    for name in files:
        try:
            status = os.stat(name)
        except OSError as error:
            raise UsageError(
                f"Cannot read the text vectors {show_path(name)}: {error.strerror}; expected 'hashed', or a "
                "fastText .vec or .bin file."
            ) from None
        metadata.append((os.path.realpath(name), status.st_size, status.st_mtime_ns))
    return {"the files of text vectors": store.fingerprint(*metadata)} if metadata else {}


STAGE = Stage(
    name="reweight",
    needs=("pack", "features", "baseline", "extract"),
    depends_on=(
        "seed", "reweight", "model.mode", "model.dropout", "baseline.folds", "baseline.head", "extract.top_k",
        "train.bag.size", "runtime.precision",
    ),
    run=run,
    estimate=estimate,
    version=3,
    inputs=inputs,
)  # fmt: skip
