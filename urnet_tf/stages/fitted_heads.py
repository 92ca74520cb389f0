"""Linear heads on stored features, fitted to convergence: what `baseline` and `train` share of them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.config import Config
from urnet_tf.costs.units import format_seconds
from urnet_tf.reweighting.judge import AUTO, out_of_fold_predictions, settle_kind
from urnet_tf.stages.settings import count_backbone
from urnet_tf.stages.stage import Estimate, PlanContext, StageContext

if TYPE_CHECKING:
    from urnet_tf.reweighting.judge import Judgement
    from urnet_tf.reweighting.linear_head import LinearHead

CHOOSING_FOLDS = 5  # where the baseline has one fold: the strength of regularization still needs some
# Measured with 1,280 features on two cores, with 100, 1,000 and 5,000 classes: operations a second, of the
# sums in float64 and of the products in float32; and what a pass takes for each number of a row besides.
_FITTING_FLOPS, _PRODUCT_FLOPS = 1.5e10, 4e10
_READING_SECONDS = 1.6e-8
_STRENGTHS_AND_FOLDS = 24  # factorizations of a covariance
_LOGISTIC_PASSES = 225  # over the features: strengths, folds and steps together
_DISCRIMINANT_PASSES = 0.75  # logits alone, of all images and of those by which a strength is chosen
_LONG = 3600.0  # seconds; from here on a plan names the shorter way


def fit_heads(
    context: StageContext,
    labels: np.ndarray,
    folds: np.ndarray,
    num_classes: int,
    *,
    kind: str,
    description: str,
    **weights: Any,
) -> "Judgement":
    """Fits heads to the features of stage `features`, and reports how they were regularized.

    Args:
      labels: int [N].
      folds: int [N]; where the baseline has one fold only, others are dealt.
      kind: see `judge.KINDS`.
      description: names the fit in logs.
      weights: `sample_weight` and `trust` of `judge.out_of_fold_predictions`.
    """
    judgement = out_of_fold_predictions(
        store.read_array(context.path("features", "features.npy"))[: len(labels)], labels,
        folds=folds if context.config.baseline.folds > 1 else CHOOSING_FOLDS, num_classes=num_classes,
        kind=kind, **weights,
    )  # fmt: skip
    if kind == AUTO and "logistic" not in judgement.strengths:
        logging.info(
            "%s: discriminants alone, as logistic regression of %d classes on %d images takes hours; "
            "head=mean fits both", description, num_classes, len(labels),
        )  # fmt: skip
    words = {"discriminant": "shrinkage", "logistic": "penalty"}
    chosen = ", ".join(f"{kind} ({words[kind]} {value:g})" for kind, value in judgement.strengths.items())
    logging.info(
        "%s: %s; out of fold it agrees with %.1f %% of the labels as given, classes counted alike",
        description, chosen, 100 * judgement.agreement,
    )  # fmt: skip
    return judgement


def fit_weighted_heads(
    context: StageContext,
    labels: np.ndarray,
    sample_weight: np.ndarray,
    num_classes: int,
    description: str,
) -> "Judgement":
    """The heads of `train.head`, fitted to weighted images; what counts against its class counts nothing.

    Where `train.head` is trained by steps, the usual kind.
    """
    kind, trust = context.config.train.head, np.maximum(sample_weight, 0.0)
    return fit_heads(
        context, labels, np.asarray(store.read_array(context.path("baseline", "fold.npy"))), num_classes,
        kind="mean" if kind == "trained" else kind, description=description, sample_weight=trust, trust=trust,
    )  # fmt: skip


def save_head(
    context: StageContext, head: "LinearHead", file_name: str, prior: np.ndarray | float = 0.0
) -> None:
    """Writes a head as a Keras model of features.

    Args:
      prior: float [C], added to the logits.
    """
    from urnet_tf.models.classifier import build_classifier
    from urnet_tf.training.saving import save_model

    model = build_classifier(*head.kernel.shape, dropout=context.config.model.dropout)
    model.set_weights([head.kernel, head.bias + prior])
    save_model(model, context.out / file_name)


def estimate_fitting(config: Config, plan: PlanContext, heads: int, kind: str) -> Estimate:
    """What fitting costs, of which `heads` are kept; `kind`: see `judge.KINDS`."""
    rows, width, classes = plan.train_images, count_backbone(config).feature_dim, plan.classes
    if rows is None:
        return Estimate()
    kind = settle_kind(kind, rows, width, classes)
    operations = 2 * rows * width**2 + _STRENGTHS_AND_FOLDS * width**3
    count = _DISCRIMINANT_PASSES if kind == "discriminant" else _LOGISTIC_PASSES
    passes = count * rows * width * (4 * classes / _PRODUCT_FLOPS + _READING_SECONDS)
    held = 2 * 4 * min(rows * width, 300_000_000) + 8 * (config.baseline.folds + 3) * width**2
    # Sums by fold and class in float64, a head a fold, and ten steps and gradients of L-BFGS.
    held += (8 * config.baseline.folds + 4 * (config.baseline.folds + 1) + 26 * 8) * width * classes
    note = f"{heads} fitted head{'s' if heads > 1 else ''}{plan.guess}"
    if kind != "discriminant" and passes > _LONG:
        saved = (1 - _DISCRIMINANT_PASSES / _LOGISTIC_PASSES) * passes
        note += f"; discriminants alone (head=discriminant) would save {format_seconds(saved)}"
    disk = 4 * heads * (width + 1) * classes + 8 * rows
    return Estimate(rows, 1.5 + operations / _FITTING_FLOPS + passes, disk, 10**9 + held, note)
