"""Stage export: the URNet's instance branch as SavedModel and `.tflite`, checked against Keras.

In: pack/, train/instance.keras, baseline/ (frozen: the backbone stands before the head). Out:
<name>/<version>/, <name>.tflite, labels.txt, export.json; see `urnet_tf.serving`.

An export directory is replaced as a whole; its version is one above that of the export before it,
so a server that watches a copy of it sees a newer model.
"""

import shutil

import numpy as np

from urnet_tf import serving
from urnet_tf.config import Config
from urnet_tf.data.image_store import ImageStore
from urnet_tf.models.network_cost import count_classifier
from urnet_tf.schema import TEST, TRAIN, VAL
from urnet_tf.stages.stage import (
    Estimate,
    Facts,
    Stage,
    StageContext,
    count_backbone,
    forward_seconds,
    inference_bytes,
    open_backbone,
)
from urnet_tf.store import column, read_json, read_table

_CHECK_BATCH = 64  # images that the export is compared on at once, at most
_CONVERTER_BYTES = 10**9  # of the graphs that are written; measured with EfficientNet-Lite0


def run(context: StageContext) -> dict:
    """Builds the model image → logits, exports it, checks it on images of the store."""
    config, settings = context.config, context.config.export
    if (context.out / settings.name).is_dir():
        shutil.rmtree(context.out / settings.name)  # of a killed run: the version must not grow with it
    classes = read_json(context.path("pack", "classes.json"))
    splits = column(read_table(context.path("pack", "instances.parquet"), ["split"]), "split")
    ids = choose_check_ids(splits, settings.check_images)
    facts = serving.export_classifier(
        _image_model(context),
        [c["name"] for c in classes],
        context.out,
        settings.name,
        ImageStore(context.path("pack")).read(ids),
        image_size_px=config.model.image_size_px,
        crop_fraction=config.model.crop_fraction,
        short_side_px=config.pack.short_side_px,
        max_pixels=config.ingest.max_pixels,
        top_k=settings.top_k,
        tolerance=settings.tolerance,
        saved_model=settings.saved_model,
        tflite=settings.tflite,
        first_version=serving.next_version(context.path("export", settings.name)),
    )
    kinds = [kind for kind in ("saved_model", "tflite") if kind in facts]
    return {
        "version": facts["version"],
        **{kind: {key: facts[kind][key] for key in ("path", "bytes", "parity")} for kind in kinds},
    }


def choose_check_ids(splits: np.ndarray, count: int) -> np.ndarray:
    """At most `count` ids, evenly over the validation images, else test, else training images."""
    ids = next(i for i in (np.flatnonzero(splits == s) for s in (VAL, TEST, TRAIN)) if i.size)
    return ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(np.int64)]


def estimate(config: Config, facts: Facts) -> Estimate:
    """Tracing, converting and two passes over the check images."""
    network = count_backbone(config)
    heads = count_classifier(network.feature_dim, facts.classes)
    files = config.export.saved_model + config.export.tflite
    weights = 4 * (network.parameters + heads.parameters)
    seconds = 20.0 + 0.5 * network.layers * files
    seconds += 3 * forward_seconds(config, config.export.check_images, facts)
    memory = inference_bytes(config, facts, 1, _CHECK_BATCH) + _CONVERTER_BYTES + 4 * weights
    return Estimate(config.export.check_images, seconds, files * weights, memory)


def _image_model(context):
    import keras

    from urnet_tf.models import urnet  # noqa: F401  registers its layers for load_model
    from urnet_tf.models.classifier import compose

    head = keras.saving.load_model(context.path("train", "instance.keras"), compile=False)
    if context.config.model.mode == "finetune":
        return head
    return compose(open_backbone(context.config), head)


STAGE = Stage(
    name="export",
    needs=("pack", "baseline", "train"),
    depends_on=(
        "export", "model.image_size_px", "model.crop_fraction", "pack.short_side_px", "ingest.max_pixels",
    ),
    run=run,
    estimate=estimate,
)  # fmt: skip
