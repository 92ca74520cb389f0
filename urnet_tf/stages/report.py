"""Stage report: a page that shows what is wrong in the crawl, what to do about it, and what it changed.

In: the tables, arrays and metadata of the stages that are complete: of the others the page says that they are
missing. Out: index.html, and data/ beside it; see `urnet_tf.explain`.
"""

import dataclasses
import functools
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
    import pyarrow as pa

    from urnet_tf.explain.inputs import ReportInputs
    from urnet_tf.reweighting.cluster_weight import Members, Slice

_COMPARED = ("baseline", "urnet")
_CLUSTER_SECONDS = 2e-4  # a row; measured on one core with 1,280 features as they are
_GROUPED_CLASSES = 40
_THUMBNAIL_SECONDS, _THUMBNAIL_BYTES = 1e-3, 1500
_ROW_SECONDS = 3e-5
_GROUPED_IMAGES = 1500  # of a class, for groups of look-alikes
_PLACES = (
    ("report/index.html", "this page"),
    ("train/weights.parquet", "the weight of each training image, and its factors"),
    ("reweight/weights.parquet", "the weight of each training image, and its factors"),
    ("pack/instances.parquet", "all images that are used"),
    ("pack/quarantine.parquet", "files that are not used, and why"),
    ("ingest/duplicates.parquet", "files that occur more than once, and near copies"),
    ("reweight/target_ids.npy, target_probs.npy", "the soft labels"),
    ("evaluate/metrics.json, per_class.parquet", "accuracy of all models, and class by class"),
    ("evaluate/confusion.json", "what the models confuse on images with trusted labels"),
)


def run(context: StageContext) -> dict:
    """Reads columns, renders, writes."""
    from urnet_tf.explain import build_report

    settings = context.config.report
    built = build_report(
        read_inputs(context),
        context.out,
        title=settings.title,
        classes=settings.classes,
        images_per_class=settings.images_per_class,
        thumbnail_px=settings.thumbnail_px,
        grouped_classes=settings.grouped_classes,
        class_page_images=settings.class_page_images,
    )
    lacking = f", without {', '.join(context.missing)}" if context.missing else ""
    logging.info("The report has %.1f MB%s.", built.bytes / 1e6, lacking)
    suggestions = [dataclasses.asdict(one) for one in built.suggestions]
    return {
        "bytes": built.bytes, "path": "index.html", "missing": dict(context.missing), "lines": built.lines,
        "suggestions": suggestions,
    }  # fmt: skip


def read_inputs(context: StageContext) -> "ReportInputs":
    """What the page is made of, from those stages of the work directory that are complete."""
    from urnet_tf.explain import ReportInputs

    known = [name for name in (*STAGE.needs, *STAGE.uses) if name not in context.missing]
    metadata = {name: context.marker(name).get("metadata") or {} for name in known}
    classes = store.read_json(context.path("pack", "classes.json"))
    texts = _Texts(context.path("pack", "instances.parquet"))
    table = store.read_table(
        context.path("pack", "instances.parquet"), ["split", "label", "source", "rank", "query"]
    )
    table = table.slice(0, int(store.is_equal(table, "split", schema.TRAIN).sum()))  # training images first
    source, source_names = store.codes_of(table.column("source"), ordered=True)
    query, query_names = store.codes_of(table.column("query"), ordered=True)
    config = context.config
    names = ("content_hash", "picture", "kind", "split", "label", "path")
    return ReportInputs(
        classes=classes,
        label=store.column(table, "label"),
        source=source,
        source_names=source_names,
        query=query,
        query_names=query_names,
        rank=store.column(table, "rank"),
        quarantine=_read_columns(context.path("pack", "quarantine.parquet"), ("path", "status", "reason")),
        duplicates=_read_columns(context.path("ingest", "duplicates.parquet"), names),
        read_rows=texts.read,
        find_ids=texts.find,
        read_images=ImageStore(context.path("pack")).read,
        folds=config.baseline.folds,
        counts={name: metadata["pack"].get(name, 0) for name in ("val_images", "test_images", "bytes")},
        held_labels=metadata["ingest"].get("held_labels", {}),
        left_out={name: getattr(config.ingest, name) for name in ("exclude", "merge", "max_rank")},
        settings=yaml.safe_dump(config_lib.to_dict(config), sort_keys=False, allow_unicode=True),
        versions=context.marker("pack").get("versions") or {},
        places=_places(context, metadata.get("export", {}).get("path")),
        missing=context.missing,
        export=metadata.get("export", {}),
        reweighting=metadata.get("reweight", {}),
        **_read_opinions(context, store.column(table, "label"), len(classes)),
        **_read_evaluation(context, len(classes)),
    )


def _places(context: StageContext, export: str | None) -> list[tuple[str, str]]:
    """Where things are, of the stages that are complete; the weights of the last one that has them."""
    found = [(path, what) for path, what in _PLACES if path.partition("/")[0] not in context.missing]
    weights = [entry for entry in found if entry[0].endswith("/weights.parquet")]
    found = [entry for entry in found if entry not in weights[1:]]
    return found + ([(f"export/{export}/README.md", "the model card")] if export else [])


def _read_opinions(context: StageContext, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """What models and weights say of the training images; {} before the stage reweight."""
    if not {"features", "extract", "reweight"}.isdisjoint(context.missing):
        return {}
    path = context.path("reweight" if "train" in context.missing else "train", "weights.parquet")
    # A factor that is newer than the run has no column.
    there = set(store.read_column_names(path)) - {"instance_id", *schema.WEIGHT_TEXTS}
    columns = [name for name in schema.WEIGHT_COLUMNS if name in there]
    weights = store.read_table(path, columns)
    return {
        "weights": {name: store.column(weights, name) for name in columns},
        "read_members": open_members(context, labels, num_classes),
        "group_class": open_grouping(context, labels),
        "cluster_kind": resolve(context.config, "reweight.cluster_weight.kind"),
    }


def _features_path(context: StageContext) -> pathlib.Path:
    return context.path(*context.marker("extract")["metadata"]["features"].split("/"))


def open_grouping(context: StageContext, labels: np.ndarray) -> "Callable[[int, int], Members]":
    """A function from a class and a number of groups to the groups of look-alikes among its own images.

    Of a large class as many images as are quickly grouped, evenly spread over its searches.

    Args:
      labels: int [N] of the training images, rising.
    """
    from urnet_tf.reweighting.cluster_weight import find_members

    features = store.read_array(_features_path(context))
    settings = {"pca_dim": 64, "n_init": 1, "normalize": True}

    def group_class(label: int, clusters: int) -> "Members":
        start, stop = np.searchsorted(labels, (label, label + 1))
        ids = np.unique(np.linspace(start, stop - 1, min(stop - start, _GROUPED_IMAGES)).astype(np.int64))
        members = find_members(
            label, [(0, len(ids))], features=np.asarray(features[ids]), seed=context.config.seed,
            settings={**settings, "clusters": clusters},
        )  # fmt: skip
        return dataclasses.replace(members, ids=ids)

    return group_class


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
    kmeans = {name: getattr(settings, name) for name in ("clusters", "pca_dim", "n_init", "normalize")}

    @functools.cache
    def join() -> list[list["Slice"]]:
        predicted = np.asarray(store.read_array(context.path("extract", f"{name}.npy")))[:, 0]
        return join_neighbors(
            labels, predicted, num_classes=num_classes, neighbors=settings.neighbors,
            confusion=settings.confusion,
        )  # fmt: skip

    def read_members(label: int) -> "Members":
        features = os.fspath(_features_path(context))
        return find_members(
            label, join()[label], features=features, seed=context.config.seed, settings=kmeans
        )

    return read_members


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """A pass over a few columns and all titles, and thumbnails for the pages of the classes."""
    from urnet_tf.explain.data_files import MOST_PICTURES

    if plan.train_images is None:
        return Estimate()
    settings = config.report
    shown = settings.classes * settings.images_per_class
    shown += min(settings.class_page_images * plan.classes, MOST_PICTURES, plan.train_images)
    joined = 1 + config.reweight.cluster_weight.neighbors
    clustered = settings.grouped_classes * joined * plan.train_images / plan.classes
    clustered += min(plan.train_images, _GROUPED_CLASSES * plan.train_images / plan.classes)
    seconds = 2 + shown * _THUMBNAIL_SECONDS + plan.train_images * _ROW_SECONDS + clustered * _CLUSTER_SECONDS
    disk = 5 * 10**6 + shown * (_THUMBNAIL_BYTES + settings.thumbnail_px**2 // 3)
    return Estimate(shown, seconds, disk, 5 * 10**8 + 600 * plan.train_images)


def _read_evaluation(context: StageContext, num_classes: int) -> dict[str, Any]:
    if "evaluate" in context.missing:
        return {}
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


class _Texts:
    """Titles, paths and queries of all images, by id; read once, when they are first asked for."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    @functools.cached_property
    def _table(self) -> "pa.Table":
        return store.read_table(self._path, ["title", "path", "query"])

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {path: i for i, path in enumerate(self._table.column("path").to_pylist())}

    def read(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """A row an id: title, path and query."""
        return self._table.take(ids).to_pylist()

    def find(self, paths: Sequence[str]) -> list[int]:
        """The id of each path; -1 where there is no such image."""
        return [self._ids.get(path, -1) for path in paths]


STAGE = Stage(
    name="report",
    needs=("ingest", "pack"),
    depends_on=("report",),
    run=run,
    estimate=estimate,
    starts_tensorflow=False,
    uses=("features", "extract", "reweight", "train", "evaluate", "export"),
    version=3,
)
