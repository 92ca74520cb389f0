"""Many views of each image for heads on frozen networks: seen by the network once, for all rows and seeds.

The stage `evaluate` shows every view to the network anew for each row, as it must when that is trained. Where
it is frozen, what it makes of the views is kept, in float16 like all features, in
OUT/features/<key>/views-<key>.npy. Only images with a label are looked at.
"""

import pathlib

import numpy as np

from urnet_tf import schema, store
from urnet_tf.config import Config, count_members
from urnet_tf.costs.network import count_network
from urnet_tf.evaluation import metrics
from urnet_tf.images.crops import num_views
from urnet_tf.images.image_store import ImageStore
from urnet_tf.stages.settings import open_backbone

_MOST_BYTES = 2 * 2**30  # of features that are kept
_KEPT, _BLOCK = 5, 256
_HEADS = {"urnet": ("train", "instance.keras"), "baseline": ("baseline", "model_full.keras")}


def are_shared(config: Config, model: str, images: int) -> bool:
    """Whether a row's views are kept: several of them, a frozen network, one head, and room.

    Args:
      model: whose figures the row shows.
      images: of the validation and the test list.
    """
    views = num_views(config.evaluate.crops, config.evaluate.scales)
    if config.model.mode != "frozen" or views == 1 or model not in _HEADS or config.evaluate.bag_branch:
        return False
    if count_members(config) > 1:
        return False
    width = count_network(config.model.backbone, config.model.image_size_px).feature_dim
    return 2 * images * views * width <= _MOST_BYTES


def predict(config: Config, workdir: store.Workdir, directory: pathlib.Path, key: str, model: str) -> dict:
    """The mean probability over the views: what `measure` keeps of a row.

    Args:
      directory: where the features of views are kept.
      key: of the features of plain views.
    """
    from urnet_tf.training.saving import load_model

    table = store.read_table(workdir.path("pack") / "instances.parquet", ["split", "label"])
    splits, labels = store.column(table, "split"), store.column(table, "label")
    ids = np.flatnonzero(metrics.labeled(labels) & (splits != schema.TRAIN))
    path = (
        directory / f"views-{store.fingerprint(key, config.evaluate.crops, config.evaluate.scales)[:12]}.npy"
    )
    if not path.exists():
        store.write_array(path, _extract(config, workdir, ids))
    features, (stage, name) = store.read_array(path), _HEADS[model]
    head, found = load_model(workdir.path(stage) / name), []
    for start in range(0, len(ids), _BLOCK):
        block = np.asarray(features[start : start + _BLOCK], np.float32)
        logits = np.asarray(head(block.reshape(-1, block.shape[2])), np.float64)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs = (exp / exp.sum(axis=1, keepdims=True)).reshape(*block.shape[:2], -1).mean(axis=1)
        found.append(metrics.top_k(probs.astype(np.float32), min(_KEPT, probs.shape[1])))
    return {
        "labels": labels[ids], "splits": splits[ids].astype(str),
        "top_ids": np.concatenate([best for best, _ in found]),
        "top_probs": np.concatenate([probs for _, probs in found]),
        "num_classes": len(store.read_json(workdir.path("pack") / "classes.json")),
    }  # fmt: skip


def _extract(config, workdir, ids):
    """float16 [n, V, D]."""
    from urnet_tf.evaluation import multi_view

    settings, model = config.evaluate, config.model
    see = multi_view.build_predictor([lambda x: x], open_backbone(config))
    batches = multi_view.stream_views(
        ImageStore(workdir.path("pack")), ids, model.image_size_px, model.crop_fraction, settings.crops,
        settings.scales, settings.batch_images,
    )  # fmt: skip
    found = []
    for views in batches:
        images, count = views.shape[:2]
        flat = np.asarray(see(views.numpy().reshape(images * count, *views.shape[2:])))[0]
        found.append(flat.reshape(images, count, -1).astype(np.float16))
    return np.concatenate(found)
