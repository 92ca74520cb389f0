"""Stage report: one page that shows what the crawl holds, what was noisy, and what it changed.

In: the tables, arrays and metadata of all stages. Out: index.html, see `urnet_tf.explain`.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from absl import logging

from urnet_tf import config as config_lib, schema, store
from urnet_tf.config import Config
from urnet_tf.images.image_store import ImageStore
from urnet_tf.reweighting import is_literal
from urnet_tf.stages.effects import resolve
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext

if TYPE_CHECKING:
    from urnet_tf.explain.summary import ReportInputs
    from urnet_tf.reweighting.cluster_weight import Members

_COMPARED = ("baseline", "urnet")
_CLUSTER_SECONDS = 2e-4  # a row; measured on one core with 1,280 features as they are
_PLACES = (
    ("report/index.html", "this page"),
    ("train/weights.parquet", "the weight of each training image, and its factors"),
    ("pack/instances.parquet", "all images that are used"),
    ("pack/quarantine.parquet", "files that are not used, and why"),
    ("ingest/duplicates.parquet", "files that occur more than once, and near copies"),
    ("reweight/target_ids.npy, target_probs.npy", "the soft labels"),
    ("evaluate/metrics.json, per_class.parquet", "accuracy of all models, and class by class"),
    ("evaluate/confusion.json", "what the models confuse on images with trusted labels"),
)


def run(context: StageContext) -> dict:
    """Reads columns, renders, writes."""
    from urnet_tf.explain import build_page

    settings = context.config.report
    inputs = read_inputs(context)
    page = build_page(
        inputs,
        title=settings.title,
        classes=settings.classes,
        images_per_class=settings.images_per_class,
        thumbnail_px=settings.thumbnail_px,
        grouped_classes=settings.grouped_classes,
    )
    store.write_text(context.out / "index.html", page)
    logging.info("The report has %.1f MB.", len(page.encode()) / 1e6)
    return {"bytes": len(page.encode()), "path": "index.html"}


def read_inputs(context: StageContext) -> "ReportInputs":
    """What the page is made of, from the work directory."""
    from urnet_tf.explain import ReportInputs

    metadata = {s: context.marker(s).get("metadata") or {} for s in STAGE.needs}
    classes = store.read_json(context.path("pack", "classes.json"))
    weight_columns = [
        name for name in schema.WEIGHT_COLUMNS if name not in ("instance_id", *schema.WEIGHT_TEXTS)
    ]
    weights = store.read_table(context.path("train", "weights.parquet"), weight_columns)
    table = store.read_table(context.path("pack", "instances.parquet"), ["label", "source", "rank"])
    table = table.slice(0, len(weights))  # training images come first
    source, source_names = store.codes_of(table.column("source"), ordered=True)
    marker = context.marker("train")
    place = metadata["export"].get("path")
    return ReportInputs(
        classes=classes,
        label=store.column(table, "label"),
        source=source,
        source_names=source_names,
        rank=store.column(table, "rank"),
        given_prob=store.read_array(context.path("extract", "given_prob.npy")),
        top_ids=store.read_array(context.path("extract", "topk_ids.npy")),
        top_probs=store.read_array(context.path("extract", "topk_probs.npy")),
        weights={name: store.column(weights, name) for name in weight_columns},
        quarantine=_read_columns(context.path("pack", "quarantine.parquet"), ("path", "status", "reason")),
        duplicates=_read_columns(
            context.path("ingest", "duplicates.parquet"), ("content_hash", "picture", "kind", "path")
        ),
        read_rows=lambda ids: _read_rows(context.path("pack", "instances.parquet"), ids),
        read_images=ImageStore(context.path("pack")).read,
        read_members=open_members(context, store.column(table, "label"), len(classes)),
        cluster_kind=resolve(context.config, "reweight.cluster_weight.kind"),
        folds=context.config.baseline.folds,
        counts={name: metadata["pack"].get(name, 0) for name in ("val_images", "test_images", "bytes")},
        reweighting=metadata["reweight"],
        settings=yaml.safe_dump(config_lib.to_dict(context.config), sort_keys=False, allow_unicode=True),
        versions=marker.get("versions") or {},
        places=(*_PLACES, *([(f"export/{place}/README.md", "the model card")] if place else [])),
        export=metadata["export"],
        **_read_evaluation(context, len(classes)),
    )


def open_members(context: StageContext, labels: np.ndarray, num_classes: int) -> "Callable[[int], Members]":
    """A function from a class to the members of its groups of look-alikes.

    The stage `reweight` keeps the groups of a class's own images at most, so the few classes that are shown
    are clustered again, with its seed and features: the same groups.

    Args:
      labels: int [N] of the training images.
    """
    from urnet_tf.reweighting.cluster_weight import find_members, join_neighbors

    settings = context.config.reweight.cluster_weight
    # As `reweight` reads them: literal formulas take the baseline as it is.
    name = "topk_ids" if is_literal(context.config.reweight.formulas) else "balanced_topk_ids"
    predicted = np.asarray(store.read_array(context.path("extract", f"{name}.npy")))[:, 0]
    slices = join_neighbors(
        labels, predicted, num_classes=num_classes, neighbors=settings.neighbors, confusion=settings.confusion
    )
    features = context.path(*context.marker("extract")["metadata"]["features"].split("/"))
    kmeans = {name: getattr(settings, name) for name in ("clusters", "pca_dim", "n_init", "normalize")}

    def read_members(label: int) -> "Members":
        return find_members(
            label, slices[label], features=os.fspath(features), seed=context.config.seed, settings=kmeans
        )

    return read_members


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """One pass over a few columns, and some hundred thumbnails."""
    if plan.train_images is None:
        return Estimate()
    shown = config.report.classes * config.report.images_per_class
    memory = 5 * 10**8 + 300 * plan.train_images
    joined = 1 + config.reweight.cluster_weight.neighbors
    clustered = config.report.grouped_classes * joined * plan.train_images / plan.classes
    seconds = 5 + shown / 100 + plan.train_images / 1e6 + clustered * _CLUSTER_SECONDS
    return Estimate(shown, seconds, 5 * 10**6, memory)


def _read_evaluation(context: StageContext, num_classes: int) -> dict[str, Any]:
    metrics = store.read_json(context.path("evaluate", "metrics.json"))
    if not metrics["models"]:
        return {}
    table = store.read_table(context.path("evaluate", "per_class.parquet"))
    labels = store.column(table, "label")
    per_class, reliability = {}, {}
    held = np.zeros(num_classes, np.int64)
    held[labels] = store.column(table, "n")
    for model in _COMPARED:
        per_class[model] = np.full(num_classes, np.nan)
        per_class[model][labels] = store.column(table, f"{model}_top1").astype(float)
        reliability[model] = _read_reliability(context, model, metrics["split"])
    return {
        "metrics": metrics["models"],
        "per_class": per_class,
        "reliability": reliability,
        "evaluated_on": metrics["split"],
        "evaluation": {name: value for name, value in metrics.items() if name != "models"},
        "held": held,
    }


def _read_reliability(context: StageContext, model: str, split: str) -> dict[str, np.ndarray]:
    import pyarrow.compute as pc

    from urnet_tf.evaluation.metrics import reliability_curve

    with np.load(context.path("evaluate", f"predictions_{model}.npz")) as arrays:
        ids, label = arrays["instance_id"], arrays["label"]
        confidence, predicted = arrays["top_probs"][:, 0], arrays["top_ids"][:, 0]
    path = context.path("pack", "instances.parquet")
    measured = store.read_table(path, ["instance_id"], where=pc.field("split") == split)
    known = np.isin(ids, store.column(measured, "instance_id")) & (label >= 0)
    bins = context.config.evaluate.ece_bins
    return reliability_curve(confidence[known], predicted[known] == label[known], bins)


def _read_columns(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    table = store.read_table(path, list(names))
    return {name: store.column(table, name) for name in names}


def _read_rows(path: pathlib.Path, ids: Sequence[int]) -> list[dict[str, str]]:
    import pyarrow.compute as pc

    wanted = pc.field("instance_id").isin(ids)
    rows = store.read_table(path, ["instance_id", "title", "path", "query"], where=wanted).to_pylist()
    by_id = {row.pop("instance_id"): row for row in rows}
    return [by_id[i] for i in ids]


STAGE = Stage(
    name="report",
    needs=("ingest", "pack", "features", "extract", "reweight", "train", "evaluate", "export"),
    depends_on=("report",),
    run=run,
    estimate=estimate,
)
