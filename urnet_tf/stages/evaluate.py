"""Stage evaluate: the baseline, the URNet and ensembles on the test or validation images.

In: pack/, features/ (frozen), baseline/ (heads of the full set and of the folds), train/. Out: metrics.json,
per_class.parquet, confusion.json, predictions_<model>.npz, submission.txt.

    baseline          trained on the labels as given
    urnet             the instance branch (evaluate.bag_branch: its mean with the bag branch)
    folds             mean probability of the fold models; folds_rank: rank fusion
    ensemble          all URNets together, where there are several; evaluate.ensemble: with the folds;
                      ensemble_rank: rank fusion
    distilled         what was trained on the ensemble's probabilities

Predictions are kept in parts of a fixed number of images, so a killed run redoes one part.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf.config import Config, count_members, judges_features
from urnet_tf.crawl import submission
from urnet_tf.evaluation import ensemble, metrics, wording
from urnet_tf.evaluation.predictions import Predictions
from urnet_tf.images.crops import num_views
from urnet_tf.images.image_store import ImageStore
from urnet_tf.schema import JUDGED, TEST, TRAIN
from urnet_tf.stages.held_images import choose_split as choose_split, describe_labels, drawn_splits, held_rows
from urnet_tf.stages.members import DISTILLED, distills, load_member, load_members
from urnet_tf.stages.settings import (
    BACKBONE_SETTINGS,
    forward_seconds,
    inference_bytes,
    open_backbone,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import atomic_path, column, read_array, read_json, read_table, write_json, write_table
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT = 5  # predictions kept of an image: what the figures and the submission need
_PART_FEATURES = 16384  # images of a part: the unit of resuming
_PART_IMAGES = 1024
_CONFUSED_PAIRS = 200
_PER_CLASS_COLUMNS = {
    "label": "int32",
    "name": "string",
    "n_train": "int64",
    "n": "int64",
    "baseline_top1": "float64",
    "baseline_top5": "float64",
    "urnet_top1": "float64",
    "urnet_top5": "float64",
}


def run(context: StageContext) -> dict:
    """Predicts, measures, writes."""
    config, out = context.config, context.out
    classes = read_json(context.path("pack", "classes.json"))
    table = read_table(context.path("pack", "instances.parquet"), ["split", "label", "rank", "path"])
    splits, labels = column(table, "split"), column(table, "label")
    split, ids, wanted = held_rows(splits, labels, config.evaluate.split, drawn_splits(context))
    if not wanted.size:
        logging.warning("There is no validation or test image; nothing can be measured.")
        write_json(out / "metrics.json", {"split": None, "models": {}, "views": 0})
        return {"split": None, "models": {}}

    predictions, views = _predict(context, wanted, labels[wanted])
    write_predictions(out, predictions, wanted, labels[wanted])
    measured = np.flatnonzero(labels[ids] >= 0) if split else np.empty(0, np.int64)
    figures = summarize(predictions, labels[wanted], measured, len(classes), config.evaluate.ece_bins)
    if measured.size:
        n_train = np.bincount(labels[splits == TRAIN], minlength=len(classes))
        _write_classes(out, predictions, labels[ids[measured]], measured, classes, n_train)
    write_submissions(context, table, predictions, wanted)
    told: dict[str, Any] = {"split": split, "num_classes": len(classes), "models": figures, "views": views}
    told |= describe_labels(context, split)
    judged = np.flatnonzero((splits[wanted] == JUDGED) & (labels[wanted] >= 0))
    if judged.size and split != JUDGED:
        bins = config.evaluate.ece_bins
        models = summarize(predictions, labels[wanted], judged, len(classes), bins)
        told[JUDGED] = {"split": JUDGED, "labels": JUDGED, "num_classes": len(classes), "models": models}
    write_json(out / "metrics.json", told)
    logging.info("%s", format_figures(split, figures, views, len(classes)))
    if note := wording.whose_labels(told):
        logging.warning("%s", note)
    if JUDGED in told:
        logging.info("%s", format_figures(JUDGED, told[JUDGED]["models"], views, len(classes)))
    context.remove("parts")
    return {"split": split, "views": views, "models": figures}


def format_figures(split: str | None, figures: dict, views: int | str, num_classes: int) -> str:
    """A short table for a person, in percent."""
    if not figures:
        return "No image of the test or validation split has a label: predictions only."
    shown = (*wording.shown_accuracies(num_classes), "ece")
    names = [name for name in ("balanced_top1", "balanced_top5", "top1", "top5", "ece") if name in shown]
    lines = [f"On {next(iter(figures.values()))['n']} {split} images, {views} view(s) each, in percent:"]
    lines.append(f"{'model':<16}" + "".join(f"{name:>15}" for name in names))
    for model, values in figures.items():
        cells = ("" if values[name] is None else f"{100 * values[name]:.2f}" for name in names)
        lines.append(f"{model:<16}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Heads on cached features cost next to nothing; images cost one pass of the network a view."""
    if plan.images is None or plan.train_images is None:
        return Estimate()
    rows = plan.images - plan.train_images
    models = 1 + count_members(config) + distills(config)
    models += config.baseline.folds if config.baseline.folds > 1 else 0
    kept = rows * (8 * _KEPT + 12) * (models + 4)
    if uses_cached_features(config):
        return Estimate(rows, 1.0 + rows * models / 20_000, kept, 95 * 10**7)
    views = num_views(config.evaluate.crops, config.evaluate.scales)
    passes = 1 if config.model.mode == "frozen" else models
    if config.model.mode != "frozen" and judges_features(config):
        passes = 1 + count_members(config) + distills(config)  # the network as it starts, and ours
    seconds = 30 + forward_seconds(config, rows * views * passes, plan)
    memory = inference_bytes(config, plan, passes, config.evaluate.batch_images)
    return Estimate(rows, seconds, kept, memory, f"{views} view(s) an image")


def uses_cached_features(config: Config) -> bool:
    """Whether the features of stage `features` are all that the models have to see."""
    plain = config.evaluate.crops == "1" and tuple(config.evaluate.scales) == (1.0,)
    return config.model.mode == "frozen" and plain


def count_views(config: Config) -> int:
    """Views of an image that are averaged."""
    return 1 if uses_cached_features(config) else num_views(config.evaluate.crops, config.evaluate.scales)


def _predict(
    context: StageContext, ids: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, Predictions], int]:
    """Predictions by model name of all ids, and the number of views."""
    cached = uses_cached_features(context.config)
    predictor, groups = _build_predictor(context, cached)
    return predict_parts(
        context.out / "parts",
        labels,
        groups,
        lambda part: stream_probs(context, predictor, ids[part], cached),
        part_size=_PART_FEATURES if cached else _PART_IMAGES,
        views=count_views(context.config),
    )


def predict_parts(
    parts: pathlib.Path,
    labels: np.ndarray,
    groups: dict[str, tuple[list[int], str]],
    stream: Callable[[slice], Iterable[np.ndarray]],
    *,
    part_size: int,
    views: int,
) -> tuple[dict[str, Predictions], int]:
    """Predictions by model name, and the number of views; what an earlier call has finished is read.

    Args:
      parts: the directory of finished parts; the caller removes it.
      labels: int [n], -1 = not known.
      groups: model name → (numbers of its members, how they are fused); one member needs no fusion.
      stream: of the images of a slice, yields probabilities float32 [M, b, C] of all members in order.
      part_size: images of a part, the unit of resuming.
      views: kept beside the predictions.
    """
    parts.mkdir(exist_ok=True)
    starts = range(0, len(labels), part_size)
    for start in progress(starts, "evaluate", unit="parts"):
        path = parts / f"{start:09d}.npz"
        if path.exists():  # put there in one piece
            continue
        blocks: dict[str, list[Predictions]] = {name: [] for name in groups}
        row = start
        for probs in stream(slice(start, start + part_size)):
            block_labels = labels[row : row + probs.shape[1]]
            row += probs.shape[1]
            for name, (members, fusion) in groups.items():
                fused = probs[members[0]] if len(members) == 1 else ensemble.fuse(probs[members], fusion)
                blocks[name].append(Predictions.from_probs(fused, block_labels, _KEPT))
        _write_part(path, {name: Predictions.concatenate(b) for name, b in blocks.items()}, views)
    loaded = [_read_part(parts / f"{start:09d}.npz", groups) for start in starts]
    return {name: Predictions.concatenate(p[name] for p, _ in loaded) for name in groups}, loaded[0][1]


def _build_predictor(
    context: StageContext, cached: bool
) -> tuple[Callable, dict[str, tuple[list[int], str]]]:
    """The graph function → float32 [M, n, C], and model name → (member numbers, fusion)."""
    from urnet_tf.evaluation import multi_view
    from urnet_tf.training.saving import load_model

    config = context.config
    names = ["model_full", *(f"model_fold{fold}" for fold in range(config.baseline.folds))]
    plain = names if config.baseline.folds > 1 else names[:1]
    members = [
        multi_view.instance_member(load_model(context.path("baseline", f"{name}.keras"))) for name in plain
    ]
    ours = load_members(context)
    folds = list(range(1, len(plain)))
    urnets = list(range(len(members), len(members) + len(ours)))
    groups: dict[str, tuple[list[int], str]] = {"baseline": ([0], ""), "urnet": (urnets[:1], "")}
    joined = urnets + (folds if config.evaluate.ensemble == "urnets_and_folds" else [])
    for name, numbers in (("folds", folds), ("ensemble", joined)):
        if len(numbers) > 1:  # one member needs no fusion
            groups |= {name: (numbers, "mean_probability"), f"{name}_rank": (numbers, "rank")}
    if distills(config):
        groups["distilled"] = ([len(members) + len(ours)], "")
        ours.append(load_member(context, DISTILLED))
    backbone = None if cached or not judges_features(config) else open_backbone(config)
    if config.model.mode == "frozen":
        return multi_view.build_predictor([*members, *ours], backbone), groups
    return multi_view.build_predictor(members, backbone, whole=ours), groups


def stream_probs(
    context: StageContext, predictor: Callable, ids: np.ndarray, cached: bool
) -> Iterator[np.ndarray]:
    """Yields float32 [M, b, C] over the ids in order."""
    from urnet_tf.evaluation import multi_view

    settings, model = context.config.evaluate, context.config.model
    if cached:
        features = read_array(context.path("features", "features.npy"))
        for start in range(0, len(ids), 1024):
            rows = np.asarray(features[ids[start : start + 1024]], np.float32)
            yield predictor(rows).numpy()
        return
    batches = multi_view.stream_views(
        ImageStore(context.path("pack")), ids, model.image_size_px, model.crop_fraction,
        settings.crops, settings.scales, settings.batch_images,
    )  # fmt: skip
    yield from multi_view.predict_views(predictor, batches)


def _write_part(path: pathlib.Path, predictions: dict[str, Predictions], views: int) -> None:
    arrays: dict[str, Any] = {"views": np.int64(views)}
    for name, p in predictions.items():
        arrays |= {f"{name}.ids": p.topk_ids, f"{name}.probs": p.topk_probs, f"{name}.given": p.given_prob}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _read_part(path: pathlib.Path, names: Iterable[str]) -> tuple[dict[str, Predictions], int]:
    with np.load(path) as part:
        fields = ("ids", "probs", "given")
        kept = {name: Predictions(*(part[f"{name}.{field}"] for field in fields)) for name in names}
        return kept, int(part["views"])


def write_predictions(
    out: pathlib.Path, predictions: dict[str, Predictions], ids: np.ndarray, labels: np.ndarray
) -> None:
    """predictions_<model>.npz of the images `ids`."""
    for name, p in predictions.items():
        with atomic_path(out / f"predictions_{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(
                file, instance_id=ids, label=labels, top_ids=p.topk_ids, top_probs=p.topk_probs,
                given_prob=p.given_prob,
            )  # fmt: skip


def summarize(
    predictions: dict[str, Predictions], labels: np.ndarray, rows: np.ndarray, num_classes: int, bins: int
) -> dict[str, Any]:
    """The figures of each model on the rows that have a label; {} where none has."""
    figures: dict[str, Any] = {}
    first = predictions.get("baseline") if rows.size else None
    for name, p in predictions.items() if rows.size else ():
        figures[name] = metrics.summarize(
            labels[rows], p.topk_ids[rows], p.topk_probs[rows], num_classes, bins
        )
        if name.endswith("_rank"):
            figures[name]["ece"] = None  # fused ranks are no probabilities
        if first is not None and p is not first:
            ids = first.topk_ids[rows], p.topk_ids[rows]
            figures[name]["change"] = metrics.summarize_change(labels[rows], *ids, num_classes)
    return figures


def _write_classes(
    out: pathlib.Path,
    predictions: dict[str, Predictions],
    labels: np.ndarray,
    rows: np.ndarray,
    classes: list[dict[str, Any]],
    n_train: np.ndarray,
) -> None:
    """per_class.parquet and confusion.json of the baseline and the URNet."""
    columns: dict[str, Any] = {}
    num_classes, confusion = len(classes), {}
    for name in ("baseline", "urnet"):
        top_ids = predictions[name].topk_ids[rows]
        per_class = metrics.per_class_table(labels, top_ids, num_classes)
        columns |= {"label": per_class["label"], "n": per_class["n"]}
        columns |= {f"{name}_{k}": per_class[k] for k in ("top1", "top5")}
        confusion[name] = _confused_pairs(labels, top_ids[:, 0], classes, per_class["n"])
    columns |= {"name": [c["name"] for c in classes], "n_train": n_train}
    write_table(out / "per_class.parquet", columns, _PER_CLASS_COLUMNS)
    write_json(out / "confusion.json", confusion)


def _confused_pairs(
    labels: np.ndarray, predicted: np.ndarray, classes: list[dict[str, Any]], n: np.ndarray
) -> list[dict[str, Any]]:
    """The most frequent mistakes: label, prediction, how often, share of the class."""
    true, predicted, count = metrics.confusion_counts(labels, predicted, len(classes))
    wrong = np.flatnonzero(true != predicted)[:_CONFUSED_PAIRS]
    return [
        {
            "label": int(true[i]),
            "name": classes[true[i]]["name"],
            "predicted": int(predicted[i]),
            "predicted_name": classes[predicted[i]]["name"],
            "count": int(count[i]),
            "share": float(count[i] / n[true[i]]),
        }
        for i in wrong
    ]


def write_submissions(
    context: StageContext, table: "pa.Table", predictions: dict[str, Predictions], wanted: np.ndarray
) -> None:
    """submission.txt (urnet) and submission_ensemble.txt for the test images, in list order."""
    is_test = column(table, "split")[wanted] == TEST
    if not is_test.any():
        return
    ids = wanted[is_test]
    paths = column(table, "path")[ids]
    quarantine = read_table(context.path("pack", "quarantine.parquet"), ["split", "path", "rank"])
    lost = column(quarantine, "split") == TEST
    lost_paths, lost_ranks = column(quarantine, "path")[lost], column(quarantine, "rank")[lost]
    ranks = column(table, "rank")[ids]
    if len(np.unique([*ranks, *lost_ranks])) < len(ids) + len(lost_ranks):
        # Ranks count inside classes, or were not given; WebVision's lists are in path order.
        ranks, lost_ranks = np.zeros(len(ids), np.int64), np.zeros(len(lost_paths), np.int64)
    train_labels = column(table, "label")[column(table, "split") == TRAIN]
    for name, file in (("urnet", "submission.txt"), ("ensemble", "submission_ensemble.txt")):
        if name not in predictions:
            continue
        top_ids = predictions[name].topk_ids[is_test]
        guess = np.argsort(-np.bincount(train_labels, minlength=_KEPT), kind="stable")[: top_ids.shape[1]]
        names, rows = submission.with_unreadable(paths, ranks, top_ids, lost_paths, lost_ranks, guess)
        submission.write_submission(context.out / file, names, rows)


STAGE = Stage(
    name="evaluate",
    needs=("ingest", "pack", "features", "baseline", "reweight", "train"),
    depends_on=(
        "evaluate", "model.mode", "model.crop_fraction", "baseline.folds", "baseline.networks",
        "train.head", "train.members", "train.distill", *BACKBONE_SETTINGS,
    ),
    run=run,
    estimate=estimate,
    version=3,
)  # fmt: skip
