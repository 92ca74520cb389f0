"""Writers of a cleaned crawl, one a format. Each fills an empty directory and returns where to look.

folder       [train/]class/name, links or copies; the same for val and test where there are any
list         list.csv and list.parquet: a row an image, paths as they are
imagefolder  train/name with train/metadata.csv, as `datasets.load_dataset("imagefolder", ...)` reads it
webdataset   train-000000.tar ...: key.jpg, key.cls (the number of the class), key.json
cleanlab     issues.csv and issues.parquet: of each training image, kept or not, the label issue of Datalab
fiftyone     [train/]data/name and labels.json, a FiftyOneImageClassificationDataset
"""

import csv
import io
import json
import os
import pathlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from urnet_tf.cleaning.decisions import Decisions, Images
from urnet_tf.cleaning.files import place_image, read_image, safe_names, suffix_of, unique_names
from urnet_tf.schema import TRAIN
from urnet_tf.store import write_json, write_table, write_text
from urnet_tf.text_rules import spreadsheet_cell

_SHARD_IMAGES, _SHARD_BYTES = 10_000, 10**9
_TEXTS = ("query", "title", "description", "tags")  # from the web
_LIST_COLUMNS = {
    "path": "string", "label": "string", "source": "string", "rank": "int32", "query": "string",
    "title": "string", "description": "string", "tags": "string", "split": "string", "given_label": "string",
    "right_prob": "float32", "content_hash": "string", "group": "string",
}  # fmt: skip
# As Datalab.get_issues("label") has them, behind the path.
_ISSUE_COLUMNS = {
    "path": "string", "is_label_issue": "bool", "label_score": "float32", "given_label": "string",
    "predicted_label": "string",
}  # fmt: skip


class Item(NamedTuple):
    """An image that stays."""

    source: str  # where it lies
    name: str  # its file name in the new folder
    label: str
    number: int  # of the class
    split: str
    row: int  # in `Images`


class Cleaned(NamedTuple):
    """What is to be written.

    root: what the paths of the images start from.
    copy: whether images are copied, and not linked to.
    report: wraps the loop over images, for a progress bar.
    """

    images: Images
    decisions: Decisions
    root: str
    copy: bool
    report: Callable[[Sequence[Any]], Any] = list


Writer = Callable[[Cleaned, pathlib.Path], str]


def _items(cleaned: Cleaned, folder_of: Callable[[int, str], str]) -> Iterator[tuple[Item, str]]:
    """The images that stay, with their folders.

    Args:
      folder_of: (number of the class, split) → the folder that an image will lie in.
    """
    images, decisions = cleaned.images, cleaned.decisions
    rows = np.flatnonzero(decisions.stays)
    taken = images.table.select(["path", "content_hash"]).take(pa.array(rows))
    paths, hashes = taken["path"].to_pylist(), taken["content_hash"].to_pylist()
    labels, splits = decisions.labels[rows].tolist(), decisions.split[rows].tolist()
    folders = [folder_of(label, split) for label, split in zip(labels, splits, strict=True)]
    names = unique_names(paths, hashes, folders)
    for place in cleaned.report(range(len(rows))):
        source = os.path.join(cleaned.root, paths[place])
        name = names[place] if "." in names[place] else names[place] + suffix_of(source)
        label = labels[place]
        yield (
            Item(source, name, images.classes[label], label, splits[place], int(rows[place])),
            folders[place],
        )


def _splits(cleaned: Cleaned) -> list[str]:
    return sorted(set(cleaned.decisions.split[cleaned.decisions.stays].tolist()))


def write_folder(cleaned: Cleaned, out: pathlib.Path) -> str:
    """A tree of class folders."""
    classes, several = safe_names(cleaned.images.classes), len(_splits(cleaned)) > 1
    for item, folder in _items(cleaned, lambda n, split: f"{split}/{classes[n]}" if several else classes[n]):
        (out / folder).mkdir(parents=True, exist_ok=True)
        place_image(item.source, str(out / folder / item.name), copy=cleaned.copy)
    return ""


def write_list(cleaned: Cleaned, out: pathlib.Path) -> str:
    """A table of the images where they lie."""
    images, decisions = cleaned.images, cleaned.decisions
    rows = np.flatnonzero(decisions.stays)
    table = images.table.take(pa.array(rows))
    columns: dict[str, Any] = {
        name: table[name].to_pylist() for name in ("source", "rank", "content_hash", *_TEXTS)
    }
    columns |= {
        "path": [os.path.join(cleaned.root, path) for path in table["path"].to_pylist()],
        "label": [images.classes[label] for label in decisions.labels[rows]],
        "split": decisions.split[rows].tolist(), "group": table["picture"].to_pylist(),
        "given_label": [images.classes[label] if label >= 0 else "" for label in images.given[rows]],
        "right_prob": images.right_prob[rows],
    }  # fmt: skip
    write_table(out / "list.parquet", columns, _LIST_COLUMNS)
    for name in _TEXTS:
        columns[name] = [spreadsheet_cell(text) for text in columns[name]]
    columns["right_prob"] = [_number(value) for value in columns["right_prob"]]
    _write_csv(
        out / "list.csv", list(_LIST_COLUMNS), zip(*(columns[name] for name in _LIST_COLUMNS), strict=True)
    )
    return "list.csv"


def write_imagefolder(cleaned: Cleaned, out: pathlib.Path) -> str:
    """An image folder of Hugging Face's `datasets`."""
    images = cleaned.images
    rows: dict[str, list[tuple]] = {}
    for item, folder in _items(cleaned, lambda number, split: split):
        (out / folder).mkdir(exist_ok=True)
        place_image(item.source, str(out / folder / item.name), copy=cleaned.copy)
        given = images.given[item.row]
        rows.setdefault(folder, []).append(
            (
                item.name, item.label, images.classes[given] if given >= 0 else "",
                _number(images.right_prob[item.row]),
            )
        )  # fmt: skip
    for folder, lines in rows.items():
        header = ["file_name", "label", "given_label", "right_prob"]
        _write_csv(out / folder / "metadata.csv", header, lines)
    return ""


def write_webdataset(cleaned: Cleaned, out: pathlib.Path) -> str:
    """Tar shards of images with what is known of each."""
    shards: dict[str, _Shards] = {}
    try:
        for item, split in _items(cleaned, lambda number, split: split):
            shard = shards.setdefault(split, _Shards(out, split))
            known = {
                "label": item.label, "number": item.number, "split": split,
                "original": cleaned.images.table["path"][item.row].as_py(),
            }  # fmt: skip
            probability = float(cleaned.images.right_prob[item.row])
            known |= {} if np.isnan(probability) else {"right_prob": round(probability, 4)}
            shard.add(os.path.splitext(item.name)[1], read_image(item.source), item.number, known)
    finally:
        for shard in shards.values():
            shard.close()
    lines = [" ".join(name.split()) for name in cleaned.images.classes]
    write_text(out / "classes.txt", "".join(f"{line}\n" for line in lines))
    return ""


class _Shards:
    """The shards of a split, one open at a time."""

    def __init__(self, out: pathlib.Path, split: str):
        self._out, self._split = out, split
        self._tar: tarfile.TarFile | None = None
        self._count = self._bytes = self._number = 0

    def add(self, suffix: str, data: bytes, number: int, known: dict[str, Any]) -> None:
        if self._tar is None or self._count % _SHARD_IMAGES == 0 or self._bytes > _SHARD_BYTES:
            self.close()
            self._tar = tarfile.open(self._out / f"{self._split}-{self._number:06d}.tar", "w")
            self._number, self._bytes = self._number + 1, 0
        files = {
            suffix: data, ".cls": str(number).encode(),
            ".json": json.dumps(known, ensure_ascii=False).encode(),
        }  # fmt: skip
        for ending, content in sorted(files.items()):  # .json behind .cls, so that its label is read last
            info = tarfile.TarInfo(f"{self._count:09d}{ending}")
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        self._count, self._bytes = self._count + 1, self._bytes + len(data)

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def write_cleanlab(cleaned: Cleaned, out: pathlib.Path) -> str:
    """The table of label issues that cleanlab's Datalab gives, of our evidence; of all training images."""
    images, decisions = cleaned.images, cleaned.decisions
    rows = np.flatnonzero(
        (images.table["split"].to_numpy(zero_copy_only=False) == TRAIN) & (images.given >= 0)
    )
    names = np.array([*images.classes, ""], object)
    seen = np.where(images.judged[rows] | (decisions.labels[rows] != images.labels[rows]),
                    decisions.labels[rows], images.predicted[rows])  # fmt: skip
    wrong = np.isin(decisions.fate[rows].astype(str), ("doubtful", "none_of_these", "relabeled"))
    right = np.nan_to_num(images.right_prob[rows], nan=1.0)
    people = np.where(decisions.fate[rows] == "doubtful", right, 0.0)  # what people saw is certain
    columns = {
        "path": images.table["path"].take(pa.array(rows)).to_pylist(), "is_label_issue": wrong,
        "label_score": np.where(wrong, people, right), "given_label": names[images.given[rows]].tolist(),
        "predicted_label": names[seen].tolist(),
    }  # fmt: skip
    write_table(out / "issues.parquet", columns, _ISSUE_COLUMNS)
    lines = zip(
        *(
            [spreadsheet_cell(v) if isinstance(v, str) else v for v in columns[name]]
            for name in _ISSUE_COLUMNS
        ),
        strict=True,
    )
    _write_csv(out / "issues.csv", list(_ISSUE_COLUMNS), lines)
    return "issues.csv"


def write_fiftyone(cleaned: Cleaned, out: pathlib.Path) -> str:
    """A FiftyOneImageClassificationDataset, or one a split."""
    images, splits = cleaned.images, _splits(cleaned)
    labels: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for item, split in _items(cleaned, lambda number, split: split):
        folder = out / split if len(splits) > 1 else out
        (folder / "data").mkdir(parents=True, exist_ok=True)
        place_image(item.source, str(folder / "data" / item.name), copy=cleaned.copy)
        given = images.given[item.row]
        attributes: dict[str, Any] = {"original": images.table["path"][item.row].as_py()}
        attributes |= {"given_label": images.classes[given]} if given >= 0 else {}
        probability = float(images.right_prob[item.row])
        attributes |= {} if np.isnan(probability) else {"right_prob": round(probability, 4)}
        labels[split][os.path.splitext(item.name)[0]] = {"label": item.number, "attributes": attributes}
    for split in splits:
        folder = out / split if len(splits) > 1 else out
        write_json(folder / "labels.json", {"classes": list(images.classes), "labels": labels[split]})
    return ""


FORMATS: dict[str, Writer] = {
    "folder": write_folder, "list": write_list, "imagefolder": write_imagefolder,
    "webdataset": write_webdataset, "cleanlab": write_cleanlab, "fiftyone": write_fiftyone,
}  # fmt: skip


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _write_csv(path: pathlib.Path, header: Sequence[str], rows: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
