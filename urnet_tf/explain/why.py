"""Why an image counted as much as it did: what a work directory knows of it, as plain values.

In: a work directory and a text that means an image (see `find_image`). Out: a mapping of numbers and texts,
which `why_text` writes for a terminal. Reads only the rows that it needs, without TensorFlow.
"""

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.explain.find_image import Found, Origin, crawl_root, find_image
from urnet_tf.explain.reasons import Judgement, describe_amount, describe_standing, say_why
from urnet_tf.reweighting.combine import average_amount
from urnet_tf.reweighting.factors import FACTORS, OBSERVED

_LOOK_ALIKES = 3
_TOP = 3  # classes that models name, whose images are compared
_SAMPLE = 20_000  # images of a class that are compared


def describe_image(
    workdir_root: str | os.PathLike, image: str, origin: Origin | None = None
) -> dict[str, Any]:
    """What is known of an image: plain values, texts as they are.

    Args:
      workdir_root: the work directory of a run that came at least as far as `pack`.
      image: see `find_image`.
      origin: what the run was made from, where addresses are looked up.

    Returns:
      `asked`; `found`, "image", "set_aside" or "several"; for these the row, the status, or the `matches`. Of
      a training image also `review`, the command that opens it for a judgement, and of one that was weighed
      `sentence`, `weight`, `relative_weight`, `right_prob`, `factors`, `predicted`, `baseline`, `group` and
      `look_alikes`.

    Raises:
      UsageError: nothing was packed yet, or no image fits.
    """
    root = pathlib.Path(workdir_root)
    found = find_image(root, image, origin)
    held = {
        row["path"] for row in found.rows if row["split"] == schema.JUDGED
    }  # out of training, and said why
    found = Found(found.rows, [row for row in found.set_aside if row["path"] not in held])
    if len(found) > 1:
        return {"asked": image, "found": "several", **_list_matches(found)}
    if not found.rows:
        row = found.set_aside[0]
        kept = {name: row[name] for name in ("path", "split", "label", "status", "reason")}
        return {"asked": image, "found": "set_aside", **kept, "meaning": schema.STATUS.get(row["status"], "")}
    row = found.rows[0]
    place, names = crawl_root(root), _class_names(root)
    told: dict[str, Any] = {"asked": image, "found": "image"}
    told |= {name: row.get(name, "") for name in schema.INSTANCE_COLUMNS if name != "picture"}
    told["file"] = None if place is None else os.path.join(place, row["path"])
    told["class"] = names[row["label"]] if row["label"] >= 0 else None
    if row["split"] == schema.TRAIN:
        told |= _describe_weight(root, row, names)
        place_of_image = shlex.quote(f"image/{row['content_hash'] or row['instance_id']}")
        told["review"] = f"urnet review --workdir {shlex.quote(str(root))} --at {place_of_image}"
    return told | {"copies": _find_copies(root, row)}


def _class_names(root: pathlib.Path) -> list[str]:
    return [entry["name"] for entry in store.read_json(root / "pack" / "classes.json")]


def _describe_weight(root: pathlib.Path, row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Weight, factors and opinions; {} where nothing was weighed yet."""
    path = _find_weights(root)
    if path is None:
        return {}
    values = _read_class(path, row["label"])
    at = int(np.flatnonzero(values["instance_id"] == row["instance_id"])[0])
    # Classes are compared by their weights, images of a class by all else.
    whole = store.read_table(path, ["class_weight", "sample_weight"])
    average = average_amount(store.column(whole, "sample_weight"))
    means = {factor.name: float(values[factor.name].mean(dtype=float)) for factor in FACTORS}
    means["class_weight"] = float(store.column(whole, "class_weight").mean(dtype=float))
    differs = {name: bool(np.ptp(values[name]) > 1e-6) for name in means}
    differs["class_weight"] = bool(np.ptp(store.column(whole, "class_weight")) > 1e-6)
    weight, predicted = float(values["sample_weight"][at]), int(values["predicted_label"][at])
    entering = [f.name for f in FACTORS if f.role != OBSERVED and differs[f.name]]
    out_of_fold, author = _authors(root)
    judgement = Judgement(
        relative=weight / average, given=names[row["label"]], predicted=names[predicted],
        agrees=predicted == row["label"], out_of_fold=out_of_fold,
        factors={name: float(values[name][at]) for name in entering}, means=means,
    )  # fmt: skip
    sentence = say_why(judgement)
    if row.get("judged"):
        amount = describe_amount(weight / average)
        sentence = f"{amount}, since a person judged its label: it counts as what counts most in its class"
    return {
        "sentence": sentence,
        "weight": weight,
        "relative_weight": weight / average,
        "standing": describe_standing(values["sample_weight"], weight),
        "class_images": len(values["label"]),
        "right_prob": float(values["right_prob"][at]),
        "factors": [
            {
                "name": factor.name,
                "question": factor.question,
                "value": float(values[factor.name][at]),
                "standing": describe_standing(values[factor.name], float(values[factor.name][at])),
                "differs": differs[factor.name],
                "enters": factor.role != OBSERVED,
            }
            for factor in FACTORS
        ],
        "predicted": {"label": predicted, "class": names[predicted], "by": author},
        "baseline": _describe_baseline(root, row, names, out_of_fold),
        "group": _describe_group(values, at, row["label"]),
        "look_alikes": _find_look_alikes(root, path, row, predicted, names),
    }


def _find_weights(root: pathlib.Path) -> pathlib.Path | None:
    """Those of training, which know the saliency, unless they were made of an earlier `reweight`."""
    workdir = store.Workdir(root)
    train, reweight = (workdir.marker(stage) for stage in ("train", "reweight"))
    is_old = reweight and train and train.get("needs", {}).get("reweight") != reweight["results"]
    places = [root / stage / "weights.parquet" for stage in ("train", "reweight")[bool(is_old) :]]
    return next((place for place in places if place.exists()), None)


def _read_class(path: pathlib.Path, label: int) -> dict[str, np.ndarray]:
    """The numbers of weights.parquet of one class, a column each."""
    import pyarrow.compute as pc

    columns = [name for name in schema.WEIGHT_COLUMNS if name not in schema.WEIGHT_TEXTS]
    table = store.read_table(path, where=pc.field("label") == label)
    # A factor that is newer than the run has no column: it told nothing apart.
    newer = {factor.name for factor in FACTORS} - set(table.column_names)
    if lacking := sorted(set(columns) - set(table.column_names) - newer):
        raise UsageError(
            f"Expected the column {lacking[0]} in {path}; there is none. Another version has made it: start "
            "`urnet run` with the same --workdir."
        )
    return {
        name: np.ones(len(table), np.float32) if name in newer else store.column(table, name)
        for name in columns
    }


def _authors(root: pathlib.Path) -> tuple[bool, str]:
    """Whether the baseline answered out of fold, and who predicted the predicted labels, "" if not known."""
    workdir = store.Workdir(root)
    metadata = {name: (workdir.marker(name) or {}).get("metadata") or {} for name in ("extract", "reweight")}
    out_of_fold = metadata["extract"].get("accuracy_out_of_fold") is not None
    author = schema.PREDICTED_BY.get(metadata["reweight"].get("predicted_by", ""), "")
    if out_of_fold and author:
        author = author.replace("the baseline", "the out-of-fold baseline")
    return out_of_fold, author


def _describe_baseline(
    root: pathlib.Path, row: Mapping[str, Any], names: Sequence[str], out_of_fold: bool
) -> dict[str, Any] | None:
    paths = [root / "extract" / f"{name}.npy" for name in ("topk_ids", "topk_probs", "given_prob")]
    if not all(path.exists() for path in paths):
        return None
    top, top_prob, given_prob = (store.read_array(path)[row["instance_id"]] for path in paths)
    return {
        "out_of_fold": out_of_fold,
        "label": int(top[0]),
        "class": names[int(top[0])],
        "probability": float(top_prob[0]),
        "given_probability": float(given_prob),
        "top": [int(label) for label in top[:_TOP]],
    }


def _describe_group(values: Mapping[str, np.ndarray], at: int, label: int) -> dict[str, Any] | None:
    cluster = int(values["cluster"][at])
    if cluster < 0:
        return None
    mates = values["cluster"] == cluster
    return {
        "number": cluster,
        "images": int(mates.sum()),
        "agree": float((values["predicted_label"][mates] == label).mean()),
        "agree_in_class": float((values["predicted_label"] == label).mean()),
    }


def _find_look_alikes(
    root: pathlib.Path, weights: pathlib.Path, row: Mapping[str, Any], predicted: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The trusted images with the nearest features, of the given class and of those that the models name."""
    import pyarrow.compute as pc

    marker = store.Workdir(root).marker("extract") or {}
    listed = (marker.get("metadata") or {}).get("features")
    if not isinstance(listed, str) or not root.joinpath(*listed.split("/")).exists():
        return []
    features = store.read_array(root.joinpath(*listed.split("/")))
    baseline = _describe_baseline(root, row, names, True)
    labels = {row["label"], predicted, *(baseline["top"] if baseline else ())}
    trusted = (pc.field("right_prob") >= 0.5) & pc.field("label").isin(sorted(labels))
    table = store.read_table(weights, ["instance_id", "label", "path", "right_prob"], where=trusted)
    table = table.filter(pc.not_equal(table["instance_id"], row["instance_id"]))
    if len(table) > _SAMPLE * len(labels):
        table = table.take(np.unique(np.linspace(0, len(table) - 1, _SAMPLE * len(labels)).astype(int)))
    ids = store.column(table, "instance_id")
    if not len(ids):
        return []
    similarity = _cosines(
        np.asarray(features[ids], np.float32), np.asarray(features[row["instance_id"]], np.float32)
    )
    place, copies = crawl_root(root), _ids_of_picture(root, row["picture"])
    found: list[dict[str, Any]] = []
    for i in np.argsort(-similarity, kind="stable"):
        if int(ids[i]) in copies or len(found) == _LOOK_ALIKES:
            continue
        entry = table.slice(int(i), 1).to_pylist()[0]
        file = None if place is None else os.path.join(place, entry["path"])
        found.append(
            entry | {"class": names[entry["label"]], "similarity": float(similarity[i]), "file": file}
        )
    return found


def _cosines(features: np.ndarray, one: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1) * np.linalg.norm(one)
    return (features @ one) / np.maximum(length, 1e-12)


def _ids_of_picture(root: pathlib.Path, picture: str) -> set[int]:
    import pyarrow.compute as pc

    if not picture:
        return set()
    where = pc.field("picture") == picture
    table = store.read_table(root / "pack" / "instances.parquet", ["instance_id"], where=where)
    return set(table["instance_id"].to_pylist())


def _find_copies(root: pathlib.Path, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Other files of the same bytes, then near copies."""
    import pyarrow.compute as pc

    path = root / "ingest" / "duplicates.parquet"
    if not path.exists() or not row["content_hash"]:
        return []
    found = store.read_table(path, where=pc.field("picture") == row["picture"]).to_pylist()
    # A file that has both equal files and near copies is listed for either.
    others = {r["path"]: r for r in found if r["path"] != row["path"]}.values()
    copies = [
        {"path": r["path"], "split": r["split"], "label": r["label"],
         "equal": r["content_hash"] == row["content_hash"]}
        for r in others
    ]  # fmt: skip
    return sorted(copies, key=lambda copy: not copy["equal"])


def _list_matches(found: Found) -> dict[str, Any]:
    matches = [
        {"instance_id": row["instance_id"], "path": row["path"], "split": row["split"], "status": None}
        for row in found.rows
    ]
    matches += [
        {"instance_id": None, "path": row["path"], "split": row["split"], "status": row["status"]}
        for row in found.set_aside
    ]
    return {"matches": matches}
