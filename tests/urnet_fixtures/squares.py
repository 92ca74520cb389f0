"""A packed and weighted crawl of colored squares, for the stages that train, and a tiny network for them."""

import numpy as np
import pytest

from urnet_tf import config as config_lib, schema, store
from urnet_tf.images import image_store
from urnet_tf.images.known_records import RECORD_KEYS_FILE
from urnet_tf.stages import baseline, features
from urnet_tf.stages.stage import StageContext
from urnet_tf.store.lookup import keys_of

CLASSES, PER_CLASS, VAL = 3, 20, 6
TRAIN = CLASSES * PER_CLASS


def tiny_backbone(name, image_size_px, weights=None, *, seed=0, synchronized=False, **_):
    import keras

    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = keras.layers.Rescaling(1 / 128, -1.0, name="rescale")(image)
    x = keras.layers.Conv2D(
        16, 8, strides=4, kernel_initializer=keras.initializers.HeNormal(seed=seed), name="conv"
    )(x)
    x = keras.layers.BatchNormalization(synchronized=synchronized, name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    return keras.Model(
        image, keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x), name="tiny"
    )


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("urnet_tf.models.backbone.build_backbone", tiny_backbone)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """pack/ and reweight/ of colored squares: class 0 red, 1 green, 2 blue, with noise."""
    import tensorflow as tf

    root = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(CLASSES), PER_CLASS), np.arange(VAL) % CLASSES])
    images = rng.integers(0, 120, (len(labels), 24, 24, 3))
    images[np.arange(len(labels)), :, :, labels] += 100
    (root / "pack").mkdir()
    records = [tf.io.encode_jpeg(image.astype("uint8")).numpy() for image in images]
    image_store.write_shard(root / "pack", 0, records)
    image_store.write_index(root / "pack", [len(records)])
    store.write_array(root / "pack" / RECORD_KEYS_FILE, keys_of(records))
    hashes = [f"h{i}" for i in range(len(labels))]
    hashes[5] = hashes[4]
    pictures = list(hashes)
    pictures[25] = hashes[4]  # a near copy under another label
    columns = {
        "instance_id": np.arange(len(labels)), "label": labels, "content_hash": hashes, "picture": pictures,
        "split": [schema.TRAIN] * TRAIN + [schema.VAL] * VAL,
        **{name: [""] * len(labels) for name in ("source", "query", "title", "description", "tags", "path",
                                                 "judged")},
        **{name: [1] * len(labels) for name in ("rank", "width_px", "height_px")},
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"label": i, "name": str(i)} for i in range(CLASSES)])
    store.Workdir(root).write_marker(root / "pack", {"metadata": {}})
    (root / "reweight").mkdir()
    labels, ones = labels[:TRAIN], np.ones(TRAIN, np.float32)
    weights = {"instance_id": np.arange(TRAIN), "label": labels}
    weights |= {name: [""] * TRAIN for name in schema.WEIGHT_TEXTS}
    weights |= {name: ones for name, dtype in schema.WEIGHT_COLUMNS.items() if dtype == "float32"}
    weights |= {"cluster": -ones.astype("int32"), "predicted_label": labels.astype("int32")}
    weights["sample_weight"] = rng.uniform(0.5, 1.5, TRAIN).astype("float32")
    store.write_table(root / "reweight" / "weights.parquet", weights, schema.WEIGHT_COLUMNS)
    store.write_array(
        root / "reweight" / "target_ids.npy", np.stack([labels, (labels + 1) % 3], 1).astype("int32")
    )
    store.write_array(root / "reweight" / "target_probs.npy", np.tile(np.float32([0.9, 0.1]), (TRAIN, 1)))
    store.Workdir(root).write_marker(root / "reweight", {"metadata": {}})
    return root


def small_settings(mode, folds, epochs=20, head="trained", **train_section):
    fit = {"epochs": epochs, "batch_images": 12, "learning_rate": 0.02}
    return config_lib.from_dict(
        {
            "model": {"mode": mode, "image_size_px": 16, "weights": None, "dropout": 0.1},
            "augment": {"min_area": 0.5},
            "baseline": {"folds": folds, "fit": fit, "head": head},
            "extract": {"top_k": 2, "batch_images": 16},
            "train": {"fit": fit, "head": head, **train_section},
        }
    )


def run_stage(module, config, root):
    if module is baseline:
        run_stage(features, config, root)
    workdir = store.Workdir(root)
    out = workdir.open_partial(module.STAGE.name, "key")
    metadata = module.run(StageContext(config, workdir, out))
    workdir.finish(module.STAGE.name, {"metadata": metadata})
    return metadata


@pytest.fixture
def workdir(packed, tmp_path):
    for stage in ("pack", "reweight"):
        (tmp_path / stage).symlink_to(packed / stage)
    return tmp_path
