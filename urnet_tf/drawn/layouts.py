"""How a drawn crawl lies on disk: paths of pictures, lists and metadata of each layout, and the truth."""

import collections
import csv
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from urnet_tf import store
from urnet_tf.drawn.plan import Picture
from urnet_tf.drawn.scenes import SceneClass
from urnet_tf.schema import TEST, TRAIN, UNLABELED, VAL

LAYOUTS = ("webvision", "folder", "list")
LIST_FILE = "images.csv"
_LIST_COLUMNS = ("path", "label", "source", "rank", "query", "title", "description", "tags", "split")


def set_paths(pictures: list[Picture], scenes: Sequence[SceneClass], layout: str) -> None:
    """Gives every picture its path in the crawl."""
    first = np.cumsum([0, *(len(scene.queries) for scene in scenes)])
    number: collections.Counter = collections.Counter()
    for p in pictures:
        number[p.split] += 1
        if layout == "webvision" and p.split == TRAIN:
            p.path = f"{p.source}/q{first[p.label] + p.query + 1:04d}/{p.name}.jpg"
        elif layout == "webvision":
            p.path = f"{p.split}_images_256/{p.split}{number[p.split]:06d}.jpg"
        elif layout == "list":
            p.path = f"{p.split}/{p.name or format(number[p.split], '06d')}.jpg"
        elif p.split == TRAIN:
            place = number[p.source, p.label] = number[p.source, p.label] + 1
            p.path = f"train/{scenes[p.label].name}/{p.source}/{place:04d}_{p.name}.jpg"
        else:
            p.path = f"{p.split}/{scenes[p.label].name}/{number[p.split]:06d}.jpg"


def _write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _write_webvision(
    root: pathlib.Path, pictures: list[Picture], scenes: Sequence[SceneClass], sources: Sequence[str]
) -> None:
    info = root / "info"
    queries = [(label, words) for label, scene in enumerate(scenes) for words in scene.queries]
    _write_lines(info / "synsets.txt", (f"{s.synset} {', '.join(s.words)}" for s in scenes))
    _write_lines(info / "queries_synsets_map.txt", (f"{i} {q[0] + 1}" for i, q in enumerate(queries, 1)))
    everything: dict[str, list[str]] = {"file": [], "meta": []}
    for source in sources:
        lines = (f"{i} {words.replace(' ', '+')}" for i, (_, words) in enumerate(queries, 1))
        _write_lines(info / f"queries_{source}.txt", lines)
        records, files, metas = collections.defaultdict(list), [], []
        for p in pictures:
            if p.split == TRAIN and p.source == source:
                folder = os.path.dirname(p.path)
                records[folder].append(_meta_record(p))
                files.append(f"{p.path} {p.label}")
                metas.append(f"{folder}.json {len(records[folder])}")
        for folder, content in records.items():
            _write_lines(root / "meta" / f"{folder}.json", [json.dumps(content)])
        _write_lines(info / f"train_filelist_{source}.txt", files)
        _write_lines(info / f"train_meta_list_{source}.txt", metas)
        everything["file"] += files
        everything["meta"] += metas
    _write_lines(info / "train_filelist_all.txt", everything["file"])
    _write_lines(info / "train_meta_list_all.txt", everything["meta"])
    for split, given in ((VAL, True), (TEST, False)):
        rows = [p for p in pictures if p.split == split]
        if rows:
            lines = (
                f"{os.path.basename(p.path)} {p.label}" if given else os.path.basename(p.path) for p in rows
            )
            _write_lines(info / f"{split}_filelist.txt", lines)


def _meta_record(p: Picture) -> dict[str, Any]:
    record: dict[str, Any] = {"id": p.name, "title": p.title}
    if p.source == "flickr":
        return record | {"description": p.description, "tags": list(p.tags)}
    site = {"rank": str(p.rank), "url": f"http://example.org/{p.name}", "site": "example.org"}
    return record | site | ({"description": p.description} if p.description else {})


def _write_list(
    root: pathlib.Path, pictures: list[Picture], scenes: Sequence[SceneClass], sources: Sequence[str]
) -> None:
    rows = [
        (p.path, scenes[p.label].name, p.source, p.rank or "",
         scenes[p.label].queries[p.query] if p.split == TRAIN else "",
         p.title, p.description, ", ".join(p.tags), p.split)
        for p in pictures
    ]  # fmt: skip
    _write_csv(root / LIST_FILE, _LIST_COLUMNS, rows)


def write_truth(path: pathlib.Path, pictures: list[Picture], layout: str) -> None:
    """Path, given and true label and kind of every picture."""
    hidden = layout == "webvision"  # its test list has no labels
    rows = [
        (p.path, UNLABELED if hidden and p.split == TEST else p.label, p.true_label, p.kind) for p in pictures
    ]
    with store.atomic_path(path) as temporary:
        _write_csv(temporary, ("path", "label", "true_label", "kind"), rows)


def _write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


# What describes the pictures of each layout, beside the pictures.
WRITE_LISTS: dict[str, Callable] = {
    "webvision": _write_webvision,
    "folder": lambda root, pictures, scenes, sources: None,  # the folders say it
    "list": _write_list,
}
