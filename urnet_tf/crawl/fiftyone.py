"""Reads image classification datasets that FiftyOne exports.

Input: `data/` with `labels.json` ({"classes": [...], "labels": {name: class}}), maybe in a folder a split; or
`data/` with `samples.json` (FiftyOneDataset). Output: a list's rows.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from urnet_tf.crawl.list_tables import A_LIST, LIST_SCHEMA, ListOptions, ListTable, empty_table
from urnet_tf.crawl.split_words import splits_of
from urnet_tf.crawl.table import RowBuilder, is_utf8, open_bytes
from urnet_tf.crawl.trees import list_folders
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import show_path

_LABELS, _SAMPLES, _DATA = "labels.json", "samples.json", "data"


def looks_like(path: str) -> bool:
    """Whether a folder, or a folder a split in it, holds `data/` and `labels.json` or `samples.json`."""
    return os.path.isdir(path) and bool(_places(path))


def _places(path: str) -> dict[str, str]:
    """{folder, relative: split or ""} of the exports in a folder."""
    if _is_export(path):
        return {"": ""}
    splits = splits_of(list_folders(path))
    return {name: split for name, split in splits.items() if _is_export(os.path.join(path, name))}


def _is_export(path: str) -> bool:
    there = (os.path.isfile(os.path.join(path, name)) for name in (_LABELS, _SAMPLES))
    return os.path.isdir(os.path.join(path, _DATA)) and any(there)


def read(path: str, options: ListOptions) -> ListTable:
    """The rows of an export, as a list's.

    Raises:
      UsageError: the file of labels cannot be read.
    """
    found, rows = empty_table(path), RowBuilder(LIST_SCHEMA)
    listed: list[str] = []
    for place, split in _places(path).items():
        folder = os.path.join(path, place)
        has_labels = os.path.isfile(os.path.join(folder, _LABELS))
        pairs = _labeled(folder) if has_labels else _sampled(folder)
        for name, label, own_split in pairs:
            picture = os.path.join(place, name).replace(os.sep, "/")
            listed.append(f"the entry {name} of {os.path.join(place, _LABELS if has_labels else _SAMPLES)}")
            rows.append((len(listed), picture, label, *[""] * 6, split or own_split))
    found.table, found.row_name = rows.table(), lambda line: listed[line - 1]
    return found


def _labeled(folder: str) -> Iterator[tuple[str, str, str]]:
    content = _read_json(os.path.join(folder, _LABELS))
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise _not_understood(os.path.join(folder, _LABELS))
    classes = content.get("classes") or []
    files = sorted(os.listdir(os.path.join(folder, _DATA)))
    by_stem = {os.path.splitext(name)[0]: name for name in files} | {name: name for name in files}
    for name, label in labels.items():
        yield f"{_DATA}/{by_stem.get(name, name)}", _text(label, classes), ""


def _sampled(folder: str) -> Iterator[tuple[str, str, str]]:
    """Samples of a FiftyOneDataset: a path, tags, and a field that holds a Classification."""
    content = _read_json(os.path.join(folder, _SAMPLES))
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise _not_understood(os.path.join(folder, _SAMPLES))
    for sample in samples:
        if not isinstance(sample, dict) or not isinstance(sample.get("filepath"), str):
            continue
        splits = list(splits_of(tag for tag in sample.get("tags") or () if isinstance(tag, str)).values())
        label = sample.get("ground_truth", sample.get("label"))
        yield sample["filepath"], _text(label, ()), splits[0] if len(splits) == 1 else ""


def _text(label: Any, classes: Any) -> str:
    """A label as text; numbers count in the list of classes, where there is one."""
    if isinstance(label, dict):
        return _text(label.get("label"), classes)
    if isinstance(label, list):
        return A_LIST
    if isinstance(label, int) and not isinstance(label, bool) and classes:
        return str(classes[label]) if 0 <= label < len(classes) else ""
    text = "" if label is None else str(label)
    return text if is_utf8(text) else ""


def _read_json(path: str) -> Any:
    try:
        with open_bytes(path) as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Expected JSON in {show_path(path)}; it cannot be read: {error}.") from None


def _not_understood(path: str) -> UsageError:
    return UsageError(
        f"Expected labels of an image classification dataset in {show_path(path)}, as FiftyOne writes them; "
        "received something else; export the dataset anew, or write a list with the columns path and label."
    )
