"""Stage `reweight`: what each training image counts, and its soft target.

Reads the instance table and the classes (pack), the folds (baseline), the features and out-of-fold
predictions (extract). Writes weights.parquet, target_ids.npy and target_probs.npy; beside these
confidence.npy, the cosine of image and class text before it became a weight. A factor that is switched off
is a column of ones.
"""

import os

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import PAPER, Config
from urnet_tf.errors import UsageError
from urnet_tf.progress import progress
from urnet_tf.reweighting import (
    bag_saliency,
    class_weight,
    cluster_weight,
    combine,
    instance_weight,
    self_confidence,
    soft_label,
)
from urnet_tf.stages.stage import Estimate, Facts, Stage, StageContext

# Measured with 1,280 features on one core of a small machine.
_START_SECONDS = 15.0  # TensorFlow, for its text operations, and scikit-learn
_CLUSTER_SECONDS = 7e-5  # a row; a class is clustered with its neighbours
_TEXT_MAP_SECONDS = 2e-5  # a training image and epoch
_CONFIDENCE_SECONDS = 5e-5  # a row
_POOL_INSTANCES = 100_000  # fewer are clustered before processes have started


def run(context: StageContext) -> dict:
    """Computes all factors, combines them and writes the columns."""
    config = context.config.reweight
    fidelity = config.fidelity
    table, labels, num_classes = _read_instances(context)
    paper = fidelity == PAPER
    seen = {
        name: np.asarray(store.read_array(context.path("extract", f"{name}.npy")))
        for name in ("given_prob", "topk_ids", "topk_probs", "balanced_given_prob", "balanced_id")
    }
    # Raw predictions prefer the large classes; targets and weights made of them would do so again.
    supposed = seen["topk_ids"][:, 0] if paper else seen["balanced_id"]
    given_prob = seen["given_prob"] if paper else seen["balanced_given_prob"]
    ones = np.ones(len(labels), np.float32)
    factors = dict.fromkeys(("class_weight", "cluster_weight", "confidence", "self_confidence"), ones)
    evidence, facts = [], {}

    if config.class_weight.enabled:
        alpha = config.class_weight.alpha
        if alpha is None:
            alpha = 0.5 if paper else 1.0
        factors["class_weight"] = class_weight.compute_class_weight(
            labels, num_classes=num_classes, alpha=alpha, fidelity=fidelity
        )[labels]

    cluster = np.full(len(labels), -1, np.int32)
    if config.cluster_weight.enabled:
        cluster, factors["cluster_weight"] = _cluster(context, labels, supposed, given_prob, num_classes)
        evidence.append("cluster_weight")

    if config.confidence.enabled:
        factors["confidence"], text_facts = _confidence(context, table, labels, num_classes)
        facts.update(text_facts)
        evidence.append("confidence")

    self_on = config.self_confidence.enabled
    if self_on or (self_on is None and not paper):
        factors["self_confidence"] = self_confidence.compute_self_confidence_weight(
            given_prob, labels, num_classes=num_classes, floor=config.self_confidence.floor
        )
        evidence.append("self_confidence")

    sample_weight = combine.combine_weights(
        [factors["class_weight"]], [factors[name] for name in evidence], smallest=config.combine.smallest,
        largest=config.combine.largest, fidelity=fidelity,
    )  # fmt: skip

    soft = config.soft_label
    target_ids, target_probs = soft_label.compute_soft_targets(
        labels, supposed, beta=soft.beta if soft.enabled else 1.0, fidelity=fidelity
    )
    store.write_array(context.out / "target_ids.npy", target_ids)
    store.write_array(context.out / "target_probs.npy", target_probs)
    columns = {
        "instance_id": np.arange(len(labels)), "label": labels,
        "path": table.column("path").combine_chunks(), **factors, "cluster": cluster, "saliency": ones,
        "supposed_label": supposed, "sample_weight": sample_weight,
    }  # fmt: skip
    store.write_table(context.out / "weights.parquet", columns, schema.WEIGHT_COLUMNS)

    clean_rate = self_confidence.estimate_clean_rate(
        seen["given_prob"], seen["topk_ids"], seen["topk_probs"], labels, num_classes=num_classes
    )
    guarantee = bag_saliency.bag_guarantee(clean_rate, context.config.train.bag.size)
    facts |= {
        "rows": len(labels),
        "effective_sample_size": combine.effective_sample_size(sample_weight),
        "clean_rate_estimate": clean_rate,
        "bag_guarantee": guarantee,
        "bag_size": context.config.train.bag.size,
        "disagreement": float(np.mean(supposed != labels)),
        "factors": {
            name: {"mean": float(f.mean(dtype=float)), "min": float(f.min()), "max": float(f.max())}
            for name, f in {**factors, "sample_weight": sample_weight}.items()
        },
    }
    # A weak model doubts right labels; one that was trained on the labels doubts too few.
    bound, cases = ("At least", "more") if context.config.baseline.folds > 1 else ("At most", "less")
    logging.info(
        "%s about %.0f %% of the labels look right. A bag of %d then holds at least one right image "
        "in %.1f %% of cases or %s. The weighted images are worth %.0f equal ones.",
        bound, 100 * clean_rate, context.config.train.bag.size, 100 * guarantee, cases,
        facts["effective_sample_size"],
    )  # fmt: skip
    return facts


def _read_instances(context):
    path = context.path("pack", "instances.parquet")
    table = store.read_table(path, ["split", "label", "path", "source", "query", "rank"])
    train_images = int((store.column(table, "split") == schema.TRAIN).sum())
    table = table.slice(0, train_images)  # training images come first
    classes = store.read_json(context.path("pack", "classes.json"))
    return table, store.column(table, "label"), len(classes)


def _features_path(context):
    return context.workdir.root / context.workdir.marker("extract")["facts"]["features"]


def _cluster(context, labels, supposed, given_prob, num_classes):
    """Groups and weights; the groups of complete classes are kept when the stage is killed."""
    settings = context.config.reweight.cluster_weight
    fidelity = context.config.reweight.fidelity
    kind = settings.kind or ("size" if fidelity == PAPER else "purity")
    confusion = cluster_weight.confusion_from_predictions(labels, supposed, num_classes=num_classes)
    neighbours = cluster_weight.most_confused(confusion, neighbours=settings.neighbours)
    bounds = np.searchsorted(labels, np.arange(num_classes + 1)).tolist()
    rows = [(bounds[label], bounds[label + 1]) for label in range(num_classes)]

    group_column = store.open_column(context.out / "groups.npy", (len(labels),), np.int32)
    log = context.units("cluster", num_classes)
    pending = log.pending()
    workers = context.config.runtime.workers or os.cpu_count() or 1
    found = cluster_weight.cluster_classes(
        pending,
        [[rows[label], *(rows[other] for other in neighbours[label])] for label in pending],
        features_path=str(_features_path(context)),
        seed=context.config.seed,
        settings={"clusters": settings.clusters, "pca_dim": settings.pca_dim, "n_init": settings.n_init},
        workers=workers if len(labels) >= _POOL_INSTANCES else 1,
    )
    for label, groups in progress(found, "cluster", total=len(pending), unit="classes"):
        group_column[slice(*rows[label])] = groups.group
        log.complete(label, {"size": groups.size, "own": groups.own, "spread": groups.spread})

    group = np.array(group_column)
    scores = np.empty(len(labels))
    for label, facts in enumerate(log.facts()):
        own = slice(*rows[label])
        groups = cluster_weight.Groups(
            group[own], *(np.array(facts[name]) for name in ("size", "own", "spread"))
        )
        of_group = cluster_weight.compute_group_score(groups, kind=kind, quality=given_prob[own])
        scores[own] = of_group[groups.group]
    weight = cluster_weight.compute_cluster_weight(scores, labels, num_classes=num_classes, fidelity=fidelity)
    return group, weight


def _confidence(context, table, labels, num_classes):
    """The image-text factor and what is to be told about it."""
    from urnet_tf.data import text

    settings, fidelity = context.config.reweight.confidence, context.config.reweight.fidelity
    paper = fidelity == PAPER
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
    train_ids = instance_weight.select_top_rank(
        labels, source_codes * len(queries) + query_codes, store.column(table, "rank"), eligible,
        top_rank=settings.top_rank,
    )  # fmt: skip
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    confidence = instance_weight.cross_fit_confidence(
        store.read_array(_features_path(context)),
        labels,
        text_vectors,
        train_ids,
        np.zeros_like(folds) if paper else folds,
        loss=settings.loss or ("pairwise" if paper else "contrastive"),
        temperature=settings.temperature,
        epochs=settings.epochs,
        seed=context.config.seed,
        report=lambda chunks: progress(chunks, "image-text confidence", unit="chunks"),
    )
    store.write_array(context.out / "confidence.npy", confidence)
    weight = instance_weight.compute_instance_weight(
        confidence, labels, num_classes=num_classes, floor=settings.floor, fidelity=fidelity
    )
    facts = {
        "negative_confidence_share": float(np.mean(confidence < 0)),
        "text_training_images": len(train_ids),
        "classes_without_known_words": unknown,
    }
    return weight, facts


def _codes(table, name):
    """A text column as numbers, and the texts they stand for."""
    import pyarrow.compute

    encoded = pyarrow.compute.dictionary_encode(table.column(name).combine_chunks())
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def estimate(config: Config, facts: Facts) -> Estimate:
    """Counts k-means, the image-text maps and their use, and about 100 bytes a row on disk."""
    rows = facts.train_images
    if rows is None:
        return Estimate()
    settings = config.reweight
    workers = min(config.runtime.workers or facts.cores, facts.cores) if rows >= _POOL_INSTANCES else 1
    seconds = _START_SECONDS
    if settings.cluster_weight.enabled:
        joined = 1 + settings.cluster_weight.neighbours
        seconds += rows * joined * _CLUSTER_SECONDS / workers
    if settings.confidence.enabled:
        learned_from = min(rows, (facts.num_classes or 1) * settings.confidence.top_rank)
        maps = config.baseline.folds if settings.fidelity != PAPER else 1
        seconds += learned_from * settings.confidence.epochs * maps * _TEXT_MAP_SECONDS
        seconds += rows * _CONFIDENCE_SECONDS
    return Estimate(rows=rows, seconds=seconds, disk_bytes=rows * 100, memory_bytes=rows * 300 + 15 * 10**8)


def inputs(config: Config) -> str:
    """Fingerprint of the file with text vectors, if there is one.

    Raises:
      UsageError: the file is missing.
    """
    confidence = config.reweight.confidence
    if not confidence.enabled or confidence.text_vectors == "hashed":
        return ""
    try:
        status = os.stat(confidence.text_vectors)
    except OSError as error:
        raise UsageError(
            f"Cannot read reweight.confidence.text_vectors {confidence.text_vectors!r}: {error.strerror}; "
            "expected 'hashed', or a fastText .vec or .bin file."
        ) from None
    return store.fingerprint(os.path.abspath(confidence.text_vectors), status.st_size, status.st_mtime_ns)


STAGE = Stage(
    name="reweight",
    needs=("pack", "baseline", "extract"),
    depends_on=("seed", "reweight"),
    run=run,
    estimate=estimate,
    inputs=inputs,
)
