"""A run as its reviewers see it: columns of N training images, class names, pictures by id.

Reads a work directory that came at least as far as `reweight`. What is small stays in memory, features are
memory-mapped, texts are Arrow columns from which single rows are taken.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import schema, store
from urnet_tf.crawl.class_names import plain_name
from urnet_tf.errors import UsageError
from urnet_tf.images.image_store import ImageStore
from urnet_tf.reweighting import LITERAL
from urnet_tf.reweighting.factors import FACTORS
from urnet_tf.store import Workdir
from urnet_tf.store.bucket_trees import place_of

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBERS = [name for name, dtype in schema.WEIGHT_COLUMNS.items() if dtype != "string"]
_NEEDED = ("label", "right_prob", "predicted_label", "sample_weight", "class_weight")
_STAGES = ("ingest", "pack", "extract", "reweight")
_TEXTS = (
    "path", "content_hash", "picture", "source", "query", "title", "description", "tags", "rank", "width_px",
    "height_px",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReviewedRun:
    """N training images in the order of their ids, C classes, K kept predictions.

    table: `pyarrow.Table` [N] with the texts of instances.parquet.
    names: C names to show; a class that shares its name has its identity behind it.
    log_names: C names in judgements: the identity of a class that shares its name.
    label, predicted: int32 [N].
    right_prob: float32 [N], P(the given label is right).
    top_ids, top_probs: int32, float32 [N, K], of models that did not see the image, best first.
    weights: columns of weights.parquet, [N] each.
    keys: bytes [N], what an image is known by in judgements; equal for equal files.
    duplicates: columns content_hash, picture, kind, split, label, path of duplicates.parquet.
    reweighting: metadata of the stage `reweight`.
    image_root: where the paths of the crawl begin.
    results: what the stages' results are known by; other results, another run.
    """

    workdir: Workdir
    table: "pa.Table"
    names: Sequence[str]
    log_names: Sequence[str]
    label: np.ndarray
    predicted: np.ndarray
    right_prob: np.ndarray
    top_ids: np.ndarray
    top_probs: np.ndarray
    weights: Mapping[str, np.ndarray]
    keys: np.ndarray
    duplicates: Mapping[str, np.ndarray]
    images: ImageStore
    features: np.ndarray
    reweighting: Mapping[str, Any]
    image_root: str
    results: str

    def __len__(self) -> int:
        return len(self.label)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @functools.cached_property
    def label_of(self) -> Mapping[str, int]:
        """What a class is called in a judgement or a link, in its plain form → its label."""
        names = [*enumerate(self.names), *enumerate(self.log_names)]
        return {plain_name(name): label for label, name in names}

    @functools.cached_property
    def class_sizes(self) -> np.ndarray:
        """Training images of each class: int64 [C]."""
        return np.bincount(self.label, minlength=self.num_classes)

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """int64 [C + 1]: the images of class j are bounds[j] to bounds[j + 1]."""
        return np.searchsorted(self.label, np.arange(self.num_classes + 1))

    @functools.cached_property
    def used_factors(self) -> list[str]:
        """Factors that differ between images."""
        return [f.name for f in FACTORS if f.name in self.weights and np.ptp(self.weights[f.name]) > 1e-6]

    @functools.cached_property
    def _by_key(self) -> np.ndarray:
        return np.argsort(self.keys, kind="stable")

    def rows_of(self, key: bytes) -> np.ndarray:
        """The images with a key: int64 [n], none where there are none."""
        order = self._by_key
        first, last = (np.searchsorted(self.keys, key, side=side, sorter=order) for side in ("left", "right"))
        return np.sort(order[first:last])

    def text(self, name: str, row: int) -> Any:
        """A value of `table`."""
        return self.table.column(name)[row].as_py()

    def texts(self, name: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Values of `table` in the order of rows."""
        return self.table.column(name).take(np.asarray(rows, np.int64)).to_pylist()

    def is_current(self) -> bool:
        """Whether the work directory still holds the results that were opened."""
        return _results(self.workdir) == self.results


def key_bytes(key: str) -> bytes:
    """A key of `corrections.key_of` as it stands in `ReviewedRun.keys`."""
    return key.encode() if _is_hash(key) else store.fingerprint(key).encode()


def open_run(root: str | os.PathLike) -> ReviewedRun:
    """Opens a work directory.

    Raises:
      UsageError: it did not come as far as `reweight`, or its stages do not belong together.
      DamagedResult: a file is not as it was written.
    """
    workdir = Workdir(root)
    markers = {name: workdir.marker(name) for name in (*_STAGES, "train")}
    missing = [name for name in _STAGES if markers[name] is None]
    if missing:
        raise UsageError(
            f"Expected a run that came as far as `reweight` in {workdir.root}; {missing[0]} is not complete. "
            "Start `urnet run` with the same --workdir first."
        )
    workdir.require_sound(_STAGES)
    done: Mapping[str, Mapping[str, Any]] = {name: markers[name] or {} for name in markers}
    for name in ("pack", "extract"):
        if done["reweight"].get("needs", {}).get(name, done[name]["results"]) != done[name]["results"]:
            raise UsageError(
                f"Expected weights of the images that are packed in {workdir.root}; they were made before. "
                "Start `urnet run` with the same --workdir: it makes them anew."
            )
    weights = _read_weights(workdir, done)
    table = store.read_table(workdir.checked("pack", "instances.parquet"), list(_TEXTS))
    table = table.slice(0, len(weights["label"]))  # training images come first
    metadata = done["reweight"]["metadata"]
    prefix = "" if metadata.get("formulas") == LITERAL else "balanced_"
    if prefix and not workdir.path("extract").joinpath("balanced_topk_ids.npy").exists():
        prefix = ""
    top = [
        np.asarray(store.read_array(workdir.checked("extract", f"{prefix}{name}.npy")))
        for name in ("topk_ids", "topk_probs")
    ]
    place = done["extract"]["metadata"].get("features", "features/features.npy").split("/")
    duplicates = store.read_table(workdir.checked("ingest", "duplicates.parquet"))
    names = _names(store.read_json(workdir.checked("pack", "classes.json")))
    return ReviewedRun(
        workdir=workdir,
        table=table,
        names=[shown for shown, _ in names],
        log_names=[logged for _, logged in names],
        label=weights["label"],
        predicted=weights["predicted_label"],
        right_prob=weights["right_prob"],
        top_ids=top[0],
        top_probs=top[1],
        weights=weights,
        keys=_keys(table),
        duplicates={name: store.column(duplicates, name) for name in schema.DUPLICATE_COLUMNS},
        images=ImageStore(workdir.path("pack")),
        features=store.read_array(workdir.path(place[0]).joinpath(*place[1:])),
        reweighting=metadata,
        image_root=place_of(str(done["ingest"]["metadata"].get("root", ""))),
        results=_results(workdir),
    )


def _results(workdir: Workdir) -> str:
    found = [(workdir.marker(name) or {}).get("results", "") for name in ("pack", "reweight")]
    return store.fingerprint(found)


def _read_weights(workdir: Workdir, done: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The weights of training, which know the saliency, if they were made of these of `reweight`."""
    train = done["train"]
    same = train.get("needs", {}).get("reweight") == done["reweight"]["results"]
    path = workdir.checked("train" if same else "reweight", "weights.parquet")
    table = store.read_table(path)
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise UsageError(
            f"Expected the column {missing[0]} in {path}; there is none. Another version has made it: start "
            "`urnet run` with the same --workdir."
        )
    # A factor that is newer than the run has no column.
    return {name: store.column(table, name) for name in _NUMBERS if name in table.column_names}


def _names(classes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Of each class the name to show and the one in judgements."""
    often = collections.Counter(plain_name(entry["name"]) for entry in classes)
    found = []
    for label, entry in enumerate(classes):
        name, identity = entry["name"], str(entry.get("id", label))
        alone = often[plain_name(name)] == 1
        found.append((name, name) if alone else (f"{name} ({identity})", identity))
    return found


def _keys(table: "pa.Table") -> np.ndarray:
    hashes = table.column("content_hash").to_pylist()
    if not all(map(_is_hash, hashes)):
        paths = table.column("path").to_pylist()
        hashes = [
            known if _is_hash(known) else store.fingerprint(known or f"path:{path}")
            for known, path in zip(hashes, paths, strict=True)
        ]
    return np.array(hashes, "S32")


def _is_hash(text: str) -> bool:
    return len(text) == 32 and text.isascii() and text.isalnum()


def run_name(root: pathlib.Path) -> str:
    """What a run is called: its directory."""
    return root.resolve().name or str(root)
