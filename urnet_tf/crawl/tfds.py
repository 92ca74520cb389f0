"""Reads datasets that tensorflow-datasets has prepared as TFRecord or ArrayRecord files.

Input: a folder with `dataset_info.json`, `features.json`, `label.labels.txt` and record files, or a folder
above it. Output: a list's rows. The library itself needs TensorFlow, and reads TFRecord files from their
beginning only, so that its files are read here, each record where it lies.
"""

import json
import os
import re
from typing import Any

from urnet_tf.crawl.list_tables import LIST_SCHEMA, ListOptions, ListTable, empty_table
from urnet_tf.crawl.split_words import split_of
from urnet_tf.crawl.table import RowBuilder, clean_text, rejected_row
from urnet_tf.crawl.trees import list_folders
from urnet_tf.errors import UsageError
from urnet_tf.images import tf_records
from urnet_tf.schema import TRAIN
from urnet_tf.text_rules import show_path

_INFO, _FEATURES = "dataset_info.json", "features.json"
_LEVELS = 3  # data_dir/name/config/version
_MOST_FOLDERS = 20  # in a folder above a prepared one
_SHARD = re.compile(r"(?:.*-)?(?P<split>[^-]+)\.(?P<format>tfrecord|array_record|riegeli)-\d{5}-of-\d{5}")
_TEXTS = {"title": ("title",), "description": ("caption", "text", "description"), "query": ("query",)}


def looks_like(path: str) -> bool:
    """Whether a folder, or one in it some levels down, was prepared by tensorflow-datasets."""
    return os.path.isdir(path) and bool(_prepared(path))


def _prepared(path: str) -> list[str]:
    """The prepared folders, relative to the path."""
    found, level = [], [""]
    for _ in range(_LEVELS + 1):
        following = []
        for place in level:
            folder = os.path.join(path, place)
            if all(os.path.isfile(os.path.join(folder, name)) for name in (_INFO, _FEATURES)):
                found.append(place)
            else:
                inner = list_folders(folder)
                following += [os.path.join(place, name) for name in inner if len(inner) <= _MOST_FOLDERS]
        level = following
    return found


def _find(path: str) -> str:
    """The prepared folder; raises UsageError where there are several."""
    found = _prepared(path)
    if len(found) > 1:
        raise UsageError(
            f"Expected one prepared dataset in {show_path(path)}; received {', '.join(found[:3])}; give the "
            "folder of one."
        )
    return found[0]


def read(path: str, options: ListOptions) -> ListTable:
    """The records of a prepared dataset, as a list's rows.

    Raises:
      UsageError: it has no feature of an image or of a class, or is of another file format.
    """
    place = _find(path)
    folder = os.path.join(path, place)
    image, label = _feature_names(folder)
    names = _class_names(folder, label)
    found, rows, listed = empty_table(path), RowBuilder(LIST_SCHEMA), list[str]()
    for name in sorted(os.listdir(folder)):
        match = _SHARD.fullmatch(name)
        if match is None:
            continue
        if match["format"] == "riegeli":
            raise UsageError(
                f"Expected TFRecord or ArrayRecord files in {show_path(folder)}; received {name}; prepare "
                "the dataset with file_format=array_record, or write its images into class folders."
            )
        file = os.path.join(place, name)
        split = split_of(match["split"]) or TRAIN
        records = tf_records.RecordFile(os.path.join(folder, name))
        for row in range(len(records)):
            listed.append(f"record {row} of {name}")
            picture = f"{file}/{image}/{row}".replace(os.sep, "/")
            try:
                values = tf_records.parse_example(records.read(row))
            except KeyError as error:
                reason = f"{listed[-1]}: {error.args[0]}"
                found.bad.append(rejected_row(picture, "bad_row", split=split, reason=reason))
                continue
            texts = _texts(values)
            rows.append((len(listed), picture, _label(values.get(label), names), "", "", texts["query"],
                         texts["title"], texts["description"], "", split))  # fmt: skip
    found.table, found.row_name = rows.table(), lambda line: listed[line - 1]
    return found


def _feature_names(folder: str) -> tuple[str, str]:
    """Names of the features that hold the image and the class."""
    try:
        with open(os.path.join(folder, _FEATURES), encoding="utf-8") as file:
            features = json.load(file)["featuresDict"]["features"]
        kinds = {
            name: str(feature.get("pythonClassName", "")).rpartition(".")[2]
            for name, feature in features.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Expected the features of a dataset in {show_path(os.path.join(folder, _FEATURES))}; it cannot "
            f"be read: {error}."
        ) from None
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    for what, found in (("an Image", images), ("a ClassLabel", labels)):
        if not found:
            raise UsageError(
                f"Expected {what} among the features in {show_path(folder)}; received "
                f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())[:200]}."
            )
    return ("image" if "image" in images else images[0]), ("label" if "label" in labels else labels[0])


def _class_names(folder: str, label: str) -> list[str]:
    try:
        with open(os.path.join(folder, f"{label}.labels.txt"), encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        return []


def _label(values: Any, names: list[str]) -> str:
    if not values or not isinstance(values[0], int) or values[0] < 0:
        return ""
    return names[values[0]] if values[0] < len(names) else "" if names else str(values[0])


def _texts(values: dict[str, list[Any]]) -> dict[str, str]:
    found = {}
    for column, names in _TEXTS.items():
        given = next((values[name][0] for name in names if values.get(name)), b"")
        found[column] = clean_text(given.decode("utf-8", "replace")) if isinstance(given, bytes) else ""
    return found
