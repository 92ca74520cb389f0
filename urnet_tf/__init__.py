"""urnet_tf: train image classifiers from noisy web images, and see why each image counted.

What others use is offered here; each name is imported when it is first asked for, so that importing this
package imports nothing heavy. Weights, reading and running need no TensorFlow until a network is made.

Importing it also switches oneDNN on for a TensorFlow that is loaded afterwards, see `urnet_tf.onednn`.
"""

from typing import TYPE_CHECKING, Any

from urnet_tf.onednn import switch_on_onednn

if TYPE_CHECKING:
    from urnet_tf.api.flow import read_crawl, run
    from urnet_tf.api.weights import compute_weights
    from urnet_tf.config import Config, load_config
    from urnet_tf.errors import RunError, UsageError
    from urnet_tf.export.classifier import export_classifier
    from urnet_tf.feed.targets import pack_targets
    from urnet_tf.models.backbone import build_backbone
    from urnet_tf.models.classifier import build_classifier
    from urnet_tf.models.urnet import build_urnet
    from urnet_tf.reweighting.factors import Recipe
    from urnet_tf.reweighting.judge import out_of_fold_predictions
    from urnet_tf.training.fit import FitOptions, fit_model as fit
    from urnet_tf.training.losses import SparseSoftCrossEntropy
    from urnet_tf.training.robust_losses import (
        EarlyLearningLoss,
        FocalLoss,
        GeneralizedCrossEntropy,
        SymmetricCrossEntropy,
    )
    from urnet_tf.training.saving import load_model

__version__ = "0.1.0"

# Name → the module that it comes from, and its name there where that differs.
_OFFERED = {
    "Config": "urnet_tf.config",
    "EarlyLearningLoss": "urnet_tf.training.robust_losses",
    "FitOptions": "urnet_tf.training.fit",
    "FocalLoss": "urnet_tf.training.robust_losses",
    "GeneralizedCrossEntropy": "urnet_tf.training.robust_losses",
    "Recipe": "urnet_tf.reweighting.factors",
    "RunError": "urnet_tf.errors",
    "SparseSoftCrossEntropy": "urnet_tf.training.losses",
    "SymmetricCrossEntropy": "urnet_tf.training.robust_losses",
    "UsageError": "urnet_tf.errors",
    "build_backbone": "urnet_tf.models.backbone",
    "build_classifier": "urnet_tf.models.classifier",
    "build_urnet": "urnet_tf.models.urnet",
    "compute_weights": "urnet_tf.api.weights",
    "export_classifier": "urnet_tf.export.classifier",
    "fit": "urnet_tf.training.fit:fit_model",
    "load_config": "urnet_tf.config",
    "load_model": "urnet_tf.training.saving",
    "out_of_fold_predictions": "urnet_tf.reweighting.judge",
    "pack_targets": "urnet_tf.feed.targets",
    "read_crawl": "urnet_tf.api.flow",
    "run": "urnet_tf.api.flow",
}

__all__ = [
    "Config",
    "EarlyLearningLoss",
    "FitOptions",
    "FocalLoss",
    "GeneralizedCrossEntropy",
    "Recipe",
    "RunError",
    "SparseSoftCrossEntropy",
    "SymmetricCrossEntropy",
    "UsageError",
    "build_backbone",
    "build_classifier",
    "build_urnet",
    "compute_weights",
    "export_classifier",
    "fit",
    "load_config",
    "load_model",
    "out_of_fold_predictions",
    "pack_targets",
    "read_crawl",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, _, other = _OFFERED[name].partition(":")
    value = getattr(importlib.import_module(module), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


switch_on_onednn()
