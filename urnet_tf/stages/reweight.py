"""Stage `reweight`: what each training image counts, and its soft target.

Reads the instance table and the classes (pack), the folds (baseline), the features and out-of-fold
predictions (extract). Writes weights.parquet, target_ids.npy and target_probs.npy; beside these
confidence.npy, the cosine of image and class text before it became a weight. A factor that is switched off
is a column of ones.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config, has_second_round, judges_features
from urnet_tf.errors import UsageError, settings_named
from urnet_tf.reweighting import (
    LITERAL,
    bag_saliency,
    combine,
    factors,
    instance_weight,
    recipe,
)
from urnet_tf.reweighting.cluster_weight import PCA_ROWS
from urnet_tf.reweighting.judge import out_of_fold_predictions, predict_others
from urnet_tf.reweighting.text_network import count_operations
from urnet_tf.stages import image_text
from urnet_tf.stages.effects import resolve, trains
from urnet_tf.stages.fitted_heads import estimate_fitting
from urnet_tf.stages.image_evidence import (
    POOL_INSTANCES,
    features_path,
    fit_words,
    group_look_alikes,
    numbers_of,
)
from urnet_tf.stages.judgements import JudgedImages, describe_judged, read_judged_images
from urnet_tf.stages.literal_weights import describe_lacks, describe_scale
from urnet_tf.stages.other_scores import describe_scores, fingerprint_scores, read_scores
from urnet_tf.stages.settings import (
    count_backbone,
    fit_settings,
    images_per_step,
    keys_of,
    training_seconds,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.text_rules import show_path

if TYPE_CHECKING:
    import pyarrow as pa


# What `extract` wrote that is read here.
_SEEN = (
    "given_prob", "topk_ids", "topk_probs", "balanced_given_prob", "balanced_topk_ids", "balanced_topk_probs",
)  # fmt: skip

# Measured with 1,280 features on one core of a small machine.
_START_SECONDS = 2.0  # TensorFlow's text operations, and scikit-learn
_CLUSTER_SECONDS = 1.5e-5  # a row; a class is clustered with its neighbors
_PCA_SECONDS = 4.5e-5  # a row that PCA sees
_WHOLE_CLUSTER_SECONDS = 1.6e-4  # a row, without PCA
_TEXT_MAP_SECONDS = 2e-5  # a training image and epoch, of the linear map
_TEXT_NETWORK_SECONDS = 1.5e-11  # an operation of the two-sided network
_CONFIDENCE_SECONDS = 5e-5  # a row
_TEXTS_A_PAGE, _NAMES_A_CLASS = 2, 2  # a guess
_HASHED_TEXT_SECONDS, _NAME_SECONDS = 3.5e-4, 9e-8
_ENCODED_TEXT_SECONDS = 2e-3  # of a sentence encoder; a guess
_ROW_BYTES = 800  # mostly of weights.parquet, of which all texts are held while it is written
_DISK_BYTES = 140


def run(context: StageContext) -> dict:
    """Computes all factors, combines them and writes the columns."""
    config = context.config.reweight
    table, labels, num_classes = _read_instances(context)
    seen = {name: np.asarray(store.read_array(context.path("extract", f"{name}.npy"))) for name in _SEEN}
    metadata: dict[str, Any] = {}
    judged = read_judged_images(context, labels)
    prediction = _first_prediction(config.formulas, seen)
    if config.formulas != LITERAL:  # whose predictions prefer the large classes
        prediction = judged.with_anchors(prediction, judged.first_predictions(context), num_classes)
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    known: dict[str, Any] = {
        "labels": labels, "num_classes": num_classes, "prediction": prediction, "folds": folds,
        "sources": numbers_of(table, "source")[0], "ranks": store.column(table, "rank"),
        "trusted": judged.trusted,
    }  # fmt: skip
    known["pictures"] = store.number_groups(table.column("picture"))
    # These do not change with the prediction of the second round, or too little for their price.
    cluster = np.full(len(labels), -1, np.int32)
    if config.cluster_weight.enabled:
        cluster, known["cluster_score"] = group_look_alikes(context, labels, prediction, num_classes)
    if config.confidence.enabled:
        known["confidence"], text_metadata = fit_words(context, table, labels, num_classes)
        metadata.update(text_metadata)
    of_texts, text_metadata = image_text.read_texts(context, labels)
    known, metadata = known | of_texts, metadata | text_metadata
    if config.other_score.enabled and config.other_score.path is not None:
        known["other_score"], metadata["other_score"] = read_scores(
            context, _read_rows(context, ("path", "content_hash"), len(labels))
        )

    def refit(weights: np.ndarray) -> factors.Prediction:
        return _refit(context, labels, folds, weights, judged, prediction, num_classes)

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
        "saliency": np.ones(len(labels), np.float32),
        "predicted_label": weighed.prediction.label, "right_prob": weighed.right_prob,
        "sample_weight": weighed.sample_weight,
    }  # fmt: skip
    columns |= _texts(context, labels, weighed.prediction.label)
    metadata_of_file = {"format": schema.WEIGHTS_FORMAT}
    store.write_table(context.out / "weights.parquet", columns, schema.WEIGHT_COLUMNS, metadata_of_file)

    metadata |= _describe(context.config, weighed, labels) | judged.describe(weighed.posterior)
    if "image_text" in known:
        metadata["zero_shot"] |= image_text.describe_texts(weighed)
    if "other_score" in known:
        metadata["other_score"] |= describe_scores(known["other_score"], weighed)
    _log(metadata)
    return metadata


def _texts(context: StageContext, labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """The columns of weights.parquet that are texts; they are read last, since they take the most memory."""
    import pyarrow as pa

    entries = store.read_json(context.path("pack", "classes.json"))
    names = pa.array([entry["name"] for entry in entries], pa.large_string())
    read = ("path", "content_hash", "judged", "split", "picture")
    columns = store.columns_of(_read_rows(context, read, len(labels)))
    return columns | {
        "class_name": names.take(pa.array(labels)), "predicted_class": names.take(pa.array(predicted)),
        "group": columns["picture"],
    }  # fmt: skip


def _log(metadata: dict[str, Any]) -> None:
    wrong, between = 1 - metadata["clean_rate_estimate"], metadata["clean_rate_interval"]
    share = f"About {100 * wrong:.0f} %"
    note = "the models were trained on these very labels, so more may be wrong"
    if between is not None:
        note = f"95 % interval: {100 * (1 - between[1]):.0f} to {100 * (1 - between[0]):.0f} %"
    logging.info(
        "%s of the labels%s look wrong (%s). The weighted images are worth as much as %.0f equally weighted "
        "ones.",
        share, " that are left to train on" if "judged" in metadata else "", note,
        metadata["effective_sample_size"],
    )  # fmt: skip
    for sentence in describe_judged(metadata):
        logging.info("%s", sentence)


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
    given, ids, probs = (seen[f"balanced_{name}"] for name in ("given_prob", "topk_ids", "topk_probs"))
    return factors.Prediction(schema.BALANCED_BASELINE, given, ids, probs)


def _refit(
    context: StageContext,
    labels: np.ndarray,
    folds: np.ndarray,
    weights: np.ndarray,
    judged: JudgedImages,
    first: factors.Prediction,
    num_classes: int,
) -> factors.Prediction:
    """That of weighted heads on the features of the folds' networks."""
    config, fit = context.config, context.config.reweight.refit
    if not trains(config, "baseline"):
        features = store.read_array(features_path(context))
        judgement = out_of_fold_predictions(
            features[: len(labels)], labels, folds=folds,
            num_classes=num_classes, kind=config.baseline.head, top_k=config.extract.top_k,
            sample_weight=np.maximum(weights, 0.0),
        )  # fmt: skip
        found = factors.Prediction(
            schema.SECOND_ROUND, judgement.given_prob, judgement.topk_ids, judgement.topk_probs
        )
        others = predict_others(judgement, features[judged.held_ids], top_k=config.extract.top_k)
        return judged.with_anchors(found, others, num_classes)
    from urnet_tf.training import second_round as refit

    def features_of(fold: int) -> np.ndarray:
        if judges_features(config):
            return store.read_array(features_path(context))
        return store.read_array(context.path("extract", f"features_fold{fold}.npy"))

    batch_images = images_per_step(fit, len(labels))
    with settings_named(keys_of(config, "reweight.refit")):
        refitted = refit.refit_folds(
            features_of, labels, folds, weights, num_classes=num_classes,
            k=min(config.extract.top_k, num_classes), epochs=fit.epochs, batch_images=batch_images,
            fit_settings=lambda counts, images: fit_settings(
                fit, config.runtime, batch_images, counts, images
            ),
            dropout=config.model.dropout, seed=config.seed, directory=context.out / "second_round",
        )  # fmt: skip
    columns = refitted.given_prob, refitted.topk_ids, refitted.topk_probs
    return factors.Prediction(schema.SECOND_ROUND, *columns, anchors=first.anchors)


def _read_rows(context: StageContext, names: Sequence[str], rows: int) -> "pa.Table":
    """Columns of the first rows of the instance table: the training images."""
    return store.read_table(context.path("pack", "instances.parquet"), names).slice(0, rows)


def _read_instances(context: StageContext) -> "tuple[pa.Table, np.ndarray, int]":
    path = context.path("pack", "instances.parquet")
    names = ["split", "label", "picture", "source", "query", "rank"]
    table = store.read_table(path, names)
    train_images = int(store.is_equal(table, "split", schema.TRAIN).sum())
    table = table.slice(0, train_images)  # training images come first
    classes = store.read_json(context.path("pack", "classes.json"))
    return table, store.column(table, "label"), len(classes)


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Counts k-means, image-text maps, pages, heads of the second round, and the table that is written."""
    rows = plan.train_images
    if rows is None:
        return Estimate()
    settings = config.reweight
    workers = min(config.runtime.workers or plan.cores, plan.cores) if rows >= POOL_INSTANCES else 1
    seconds = _START_SECONDS
    if settings.cluster_weight.enabled:
        seconds += _cluster_seconds(config, plan, rows) / workers
    if settings.confidence.enabled:
        learned_from = min(rows, (plan.num_classes or 1) * settings.confidence.top_rank)
        maps = config.baseline.folds if settings.formulas != LITERAL else 1
        seconds += maps * _text_map_seconds(config, plan, learned_from)
        seconds += rows * _CONFIDENCE_SECONDS
    if has_second_round(config):
        seconds += _refit_seconds(config, plan, rows)
    if settings.page_text.enabled:
        seconds += rows * _page_seconds(config, plan)
    memory = 11 * 10**8 + rows * _ROW_BYTES
    if has_second_round(config) and not trains(config, "baseline"):
        memory = max(
            memory, estimate_fitting(config, plan, heads=0, kind=config.baseline.head).memory_bytes or 0
        )
    found = Estimate(rows=rows, seconds=seconds, disk_bytes=rows * _DISK_BYTES, memory_bytes=memory)
    return image_text.add_texts(found, config, plan)


def _cluster_seconds(config: Config, plan: PlanContext, rows: int) -> float:
    """What k-means of all classes takes on one core."""
    joined = rows * (1 + config.reweight.cluster_weight.neighbors)
    if not config.reweight.cluster_weight.pca_dim:
        return joined * _WHOLE_CLUSTER_SECONDS
    return joined * _CLUSTER_SECONDS + min(joined, plan.classes * PCA_ROWS) * _PCA_SECONDS


def _refit_seconds(config: Config, plan: PlanContext, rows: int) -> float:
    """What the heads of the second round take, fitted or trained."""
    if not trains(config, "baseline"):
        return estimate_fitting(config, plan, heads=0, kind=config.baseline.head).seconds or 0.0
    seen = rows * (config.baseline.folds - 1)
    return training_seconds(config, config.reweight.refit, seen, plan, whole=False)


def _page_seconds(config: Config, plan: PlanContext) -> float:
    """What a page takes: its texts are encoded, and compared with the names of all classes."""
    encoder = config.reweight.page_text.encoder
    encoding = _HASHED_TEXT_SECONDS if encoder == "hashed" else _ENCODED_TEXT_SECONDS
    return _TEXTS_A_PAGE * (encoding + plan.classes * _NAMES_A_CLASS * _NAME_SECONDS)


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
    scores = fingerprint_scores(config) | image_text.fingerprint_texts(config)
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
    return scores | ({"the files of text vectors": store.fingerprint(*metadata)} if metadata else {})


STAGE = Stage(
    name="reweight",
    needs=("ingest", "pack", "features", "baseline", "extract"),
    depends_on=(
        "seed", "reweight", "model.mode", "model.dropout", "baseline.folds", "baseline.networks",
        "baseline.head", "extract.top_k", "train.bag.size", "runtime.precision",
    ),
    run=run,
    estimate=estimate,
    version=6,
    inputs=inputs,
)  # fmt: skip
