"""The model card: what it says of an export, what it admits, and that no name can break it."""

import copy
import re

import numpy as np
import pytest

from urnet_tf.export.model_card import build_model_card
from urnet_tf.export.task_libraries import padded_square

PARITY = {"max_difference": 3.2e-6, "relative_difference": 1e-6, "top1_agreement": 1.0}
ACCURACY = {"top1": 0.8125, "top5": 0.95, "balanced_top1": 0.79, "balanced_top5": 0.94}
FACTS = {
    "name": "urnet",
    "version": 3,
    "created": "2025-01-02T03:04:05+00:00",
    "classes": 3,
    "parameters": 3_413_024,
    "feature_dim": 1280,
    "none_of_these": False,
    "preparation": {
        "image_size_px": 224, "crop_fraction": 0.875, "short_side_px": 256, "max_pixels": 50_000_000,
        "crops": "1", "scales": [1.0],
    },
    "top_k": 3,
    "machine": {"processor": "Some CPU @ 2.00GHz", "cores": 2},
    "versions": {"tensorflow": "2.20.0"},
    "check": {"images": 640, "labeled": 600, "split": "test"},
    "reference": ACCURACY,
    "formats": {
        "saved_model": {
            "file": "saved_model.pb", "bytes": 13_700_000, "parity": PARITY,
            "accuracy": {**ACCURACY, "top5": None}, "latency_ms": 21.5, "kept": True, "refused": None,
        },
        "keras": {
            "file": "urnet.keras", "bytes": 13_900_000, "parity": PARITY, "accuracy": ACCURACY,
            "latency_ms": 30.0, "kept": True, "refused": None,
        },
        "tflite_int8": {
            "file": "urnet_int8.tflite", "bytes": 3_600_000, "parity": {**PARITY, "max_difference": 0.31},
            "accuracy": {**ACCURACY, "top1": 0.71}, "latency_ms": 4.0, "kept": False,
            "refused": "top-1 accuracy 71.00 % where Keras has 81.25 %",
        },
        "onnx": {"file": None, "kept": False, "refused": "tf2onnx is not installed"},
    },
    "data": {
        "images": 3000, "train_images": 2300, "val_images": 100, "test_images": 600,
        "content_hash": "ab" * 16,
        "quarantined": {"empty": 2}, "duplicates": {"several_labels": 4, "same_label": 0},
        "noise": {"clean_rate_estimate": 0.71, "disagreement": 0.3, "effective_sample_size": 1234.5},
    },
    "settings": {"seed": 7, "model": {"backbone": "efficientnet_lite0", "weights": "/home/me/secret.pth"}},
}  # fmt: skip
LABELS = ["great white", "Käfer", "bus"]


def rows(card):
    """Cells of every table row."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in card.splitlines()
        if line.startswith("|")
    ]


def test_the_numbers_stand_where_they_belong():
    card = build_model_card(FACTS, LABELS)
    table = {row[0]: row[1:] for row in rows(card)}
    assert table["Keras, before export"][1:4] == ["81.2%", "95.0%", "79.0%"]
    assert table["SavedModel"] == [
        "13.7 MB", "81.2%", "not measured", "79.0%", "3.2e-06", "100.0%", "21.5 ms", "", "",
    ]  # fmt: skip
    assert table["0"] == ["great white"] and table["1"] == ["Käfer"]
    assert table["`seed`"] == ["7"] and table["`model.backbone`"] == ["efficientnet\\_lite0"]
    for words in (
        "# urnet, version 3", "Classifies pictures into 3 classes", "3,413,024 parameters",
        "600 labeled images of the test",
        "640 images", "2,300 to train", "ab" * 16, "2 empty", "4 files found under several labels",
        "look right (an estimate; the truth is not known): 71%", "worth as much as 1,234 equally",
        "Some CPU \\@ 2.00GHz, 2 cores", "short side to 256 px",
        "transparent images on a white background", "central square of 0.875",
        "50 million pixels",
        "image_bytes` string [n]", "images` float32 [n, 224, 224, 3]", "features` float32 [n, 1280]",
        "docker run", "urnet predict --model /path/to/exports/urnet",
    ):  # fmt: skip
        assert words in card, words
    assert "secret" not in card, "a path of the machine"


def test_refused_files_are_named_with_the_reason_and_not_offered():
    card = build_model_card(FACTS, LABELS)
    assert "TFLite, int8" not in {row[0] for row in rows(card)} and "urnet_int8.tflite" not in card
    assert "- TFLite, int8: top-1 accuracy 71.00 % where Keras has 81.25 %." in card
    assert "- ONNX: tf2onnx is not installed." in card
    drifted = copy.deepcopy(FACTS)
    drifted["formats"]["tflite_int8"]["kept"] = True
    card = build_model_card(drifted, LABELS)
    assert "TFLite, int8 ⚠" in {row[0] for row in rows(card)}
    assert "kept because drift was allowed:\n\n- TFLite, int8: top-1" in card
    assert "`urnet_int8.tflite`: uint8 [1, 224, 224, 3]" in card


def test_task_libraries_and_runtimes_of_phones():
    metadata = copy.deepcopy(FACTS)
    through = {"images": 300, "top1": 0.8, "reference": 0.82, "lost": 6, "gained": 0}
    metadata["formats"]["tflite_int8"] |= {
        "kept": True, "refused": None, "min_runtime": "2.4.0",
        "libraries": {
            "through": {"mediapipe": through, "task_library": through | {"top1": 0.79}},
            "whole": {"mediapipe": 0.756, "task_library": 0.763},
        },
    }  # fmt: skip
    card = build_model_card(metadata, LABELS)
    (row,) = (row for row in rows(card) if row[0] == "TFLite, int8")
    assert row[-2:] == ["80.0% / 79.0%", "2.4.0"]
    for words in (
        "given the region of interest below", "on 300 labeled images, of which Keras has 82.0% right",
        "Without that region: 75.6% / 76.3%.", "side = 0.875 * min(height, width)", "RectF(left=left",
        "processor.BoundingBox(", "first version of TensorFlow Lite",
    ):  # fmt: skip
        assert words in card, words
    metadata["preparation"]["crop_fraction"] = None
    card = build_model_card(metadata, LABELS)
    assert "RectF" not in card and "they need no region of interest" in card
    assert "stretch it to 224 x 224 px (antialiased), whatever its shape" in card
    metadata["preparation"]["crop_fraction"] = "padded"
    card = build_model_card(metadata, LABELS)
    for words in (
        "padded as below, by copies", "Without that: 75.6% / 76.3%.", "gray square (128, 128, 128) of 224 x",
    ):  # fmt: skip
        assert words in card, words
    names = {"pixels": np.zeros([2, 5, 3], np.uint8)}
    exec(card.partition("```python")[2].partition("```")[0], names)
    np.testing.assert_array_equal(names["pixels"], padded_square(np.zeros([2, 5, 3], np.uint8)))
    assert names["pixels"][:, 0, 0].tolist() == [128, 0, 0, 128, 128]
    assert "RectF" not in build_model_card(FACTS, LABELS), "there is no file for these libraries"


def test_files_that_take_pictures_are_told_apart():
    metadata = copy.deepcopy(FACTS)
    kept = metadata["formats"]["keras"] | {"file": "urnet_with_preparation.onnx"}
    metadata["formats"] = {"onnx_with_preparation": kept}
    card = build_model_card(metadata, LABELS)
    assert "`urnet_with_preparation.onnx`: uint8 [n, height, width, 3] of any size" in card
    assert "The other files take prepared images" not in card


def test_what_was_not_measured_is_called_so():
    metadata = copy.deepcopy(FACTS)
    metadata["check"] = {"images": 12, "labeled": 0, "split": "train"}
    metadata["reference"] = None
    for entry in metadata["formats"].values():
        entry["accuracy"] = None
    card = build_model_card(metadata, LABELS)
    assert "Accuracy was not measured" in card and "81.2%" not in card
    (saved_model,) = (row for row in rows(card) if row[0] == "SavedModel")
    assert saved_model[2:5] == ["not measured"] * 3


@pytest.mark.parametrize("key", [key for key in FACTS if key != "name"])
def test_any_fact_may_be_missing(key):
    assert "# urnet" in build_model_card({k: v for k, v in FACTS.items() if k != key}, LABELS)
    assert "# urnet" in build_model_card({**FACTS, key: None}, LABELS)


def test_the_name_alone_is_enough():
    card = build_model_card({"name": "x"})
    assert "Not described." in card and "Accuracy was not measured" in card and "docker" not in card


def test_several_views_and_many_classes():
    metadata = {**FACTS, "preparation": FACTS["preparation"] | {"crops": "10", "scales": [1.0, 1.5]}}
    card = build_model_card(metadata, [f"class {i}" for i in range(1000)])
    assert "20 views" in card and "<details><summary>All 1,000</summary>" in card
    assert "20 views" not in build_model_card(FACTS, LABELS) and "<details>" not in build_model_card(
        FACTS, LABELS
    )


HOSTILE = (
    "a | b", "<img src=x onerror=alert(1)>", "[click](http://example.org)", "two\n\n# lines", "`code`",
    "*b* _i_", "\\| x", "www.example.org", "me@example.org", "&lt;b&gt;", "\u202egnp.exe", "\ud800", "",
)  # fmt: skip


def test_hostile_names_stay_names():
    card = build_model_card({**FACTS, "classes": len(HOSTILE)}, HOSTILE)
    assert card.encode()
    classes = [row for row in rows(card) if row[0].isdecimal()]
    assert [row[0] for row in classes] == [str(i) for i in range(len(HOSTILE))]
    assert all(len(row) == 2 for row in classes)
    shown = [re.sub(r"\\(.)", r"\1", row[1]) for row in classes]
    assert shown[:6] == [
        "a | b", "<img src=x onerror=alert(1)>", "[click](http://example.org)", "two # lines", "`code`",
        "*b* _i_",
    ]  # fmt: skip
    assert shown[-3:] == ["gnp.exe", "(no name)", "(no name)"]
    for row in classes:
        bare = re.sub(r"\\.", "", row[1])  # what is left could still be markup
        assert not re.search(r"[<>`*_\[\]|&@]|://|www\.\S", bare), row
