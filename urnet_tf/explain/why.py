"""Why an image counted as much as it did: metadata of a work directory in words.

In: a work directory and a name, path or instance id. Out: text for a terminal. The sentences about
the factors also serve the report. Reads only the rows that it needs, without TensorFlow.
"""

import difflib
import os
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.combine import average_amount
from urnet_tf.reweighting.factors import FACTORS, OBSERVED
from urnet_tf.text_rules import one_line

_SHOWN = 10  # matches listed when a name is ambiguous
_COMPARED = 2000  # paths compared with a name that nothing has
_CLEARLY = 1.15  # a factor this far from its class's mean is worth a sentence


def describe_standing(values: np.ndarray, value: float) -> str:
    """Where `value` stands among `values` [n], in words."""
    values = np.asarray(values)
    below, above = float((values < value).mean()), float((values > value).mean())
    if below == above == 0:
        return "same for all"
    if below == 0 or above == 0:
        name = "lowest" if below == 0 else "highest"
        return name if 1 - below - above < 0.015 else f"{name}, as {1 - below - above:.0%} are"
    return f"higher than {below:.0%}" if below >= 0.5 else f"lower than {above:.0%}"


def describe_amount(weight: float, average: float = 1.0) -> str:
    """A final weight in words.

    Args:
      weight: of the image; below 0 it counts against its label.
      average: what an average image counts, see `combine.average_amount`.
    """
    share = abs(weight) / average
    if share == 0:
        return "did not count"
    much = "" if 0.95 <= share <= 1.05 else f"{_number(share)} times "
    against = " against its label," if weight < 0 else ""
    return f"counted{against} {much}as much as an average image"


def find_reasons(weight: float, factors: Mapping[str, float], means: Mapping[str, float]) -> list[str]:
    """Why a weight is below or above 1: clauses about the factors that pull that way, strongest first.

    Args:
      weight: the final weight of the image, divided by what an average image counts.
      factors: its value of each factor that enters the weight, by name.
      means: what to compare with: the mean of each factor in its class, and of `class_weight`
        over all images.
    """
    pulls = []
    for factor in FACTORS:
        value, mean = factors.get(factor.name), means.get(factor.name)
        if value is None or mean is None or not max(value, mean) > 0:
            if value is not None and value < 0 and weight < 1:
                pulls.append((-np.inf, factor.low))
            continue
        pull = np.log(max(value, 1e-6) / max(mean, 1e-6))
        if abs(pull) >= np.log(_CLEARLY) and (pull > 0) == (weight >= 1):
            pulls.append((-abs(float(pull)), factor.low if pull < 0 else factor.high))
    return [clause for _, clause in sorted(pulls)]


def explain(workdir_root: str | os.PathLike, image: str) -> str:
    """Explains one image.

    Args:
      workdir_root: the work directory of a run that came at least as far as `pack`.
      image: an instance id, or the end of a path: `cat/12.jpg`, `12.jpg`.

    Returns:
      Text of a few lines; a list of the matches where several images fit.

    Raises:
      UsageError: nothing was packed yet, or no image fits; the message names the nearest ones.
    """
    root, image = pathlib.Path(workdir_root), str(image).strip()
    if not (root / "pack" / "instances.parquet").exists():
        raise UsageError(f"Expected a run with packed images in {root}; found none. Run `urnet run` first.")
    if not image:
        raise UsageError("Expected a path, file name or id of an image; received an empty text.")
    rows = _find(root / "pack" / "instances.parquet", image, "instance_id")
    quarantined = [] if rows and _is_id(image) else _find(root / "pack" / "quarantine.parquet", image)
    held = {row["path"] for row in rows if row["split"] == schema.JUDGED}  # out of training, and said why
    quarantined = [row for row in quarantined if row["path"] not in held]
    if len(rows) + len(quarantined) == 1:
        return _explain_instance(root, rows[0]) if rows else _explain_quarantined(quarantined[0])
    if not rows and not quarantined:
        raise UsageError(_nothing_found(root, image))
    return _list_matches(image, rows, quarantined)


def _find(table_path: pathlib.Path, image: str, id_column: str | None = None) -> list[dict[str, Any]]:
    """Rows whose path ends in `image` at a "/", or is nearest to that, or whose id it is."""
    import pyarrow.compute as pc

    if not table_path.exists():
        return []
    wanted = image.replace(os.sep, "/").removeprefix("./")
    path = pc.field("path")
    where = (path == wanted) | pc.ends_with(path, f"/{wanted.lstrip('/')}")
    if id_column and _is_id(image):
        by_id = store.read_table(table_path, where=pc.field(id_column) == int(image)).to_pylist()
        if by_id:
            return by_id
    rows = store.read_table(table_path, where=where).to_pylist()
    exact = [row for row in rows if row["path"] == wanted]
    if rows or not wanted.startswith("/"):
        return exact or rows
    # An absolute path: the listed one is relative to the image root, so it is an end of this one.
    ends = [wanted[i + 1 :] for i, letter in enumerate(wanted) if letter == "/"]
    rows = store.read_table(table_path, where=path.isin(ends)).to_pylist()
    longest = max((len(row["path"]) for row in rows), default=0)
    return [row for row in rows if len(row["path"]) == longest]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _nothing_found(root: pathlib.Path, image: str) -> str:
    if _is_id(image):
        total = store.read_table(root / "pack" / "instances.parquet", ["instance_id"]).num_rows
        return f"Expected an instance id from 0 to {total - 1}, or a path; received {image}."
    name = image.replace(os.sep, "/").rsplit("/", 1)[-1]
    by_name = {path.rsplit("/", 1)[-1]: path for path in reversed(_similar_paths(root, name))}
    near = [by_name[n] for n in difflib.get_close_matches(name, by_name, n=3, cutoff=0.5)]
    hint = f" Nearest: {', '.join(map(_one_line, near))}." if near else ""
    return f"No image of this run is called {image!r}.{hint}"


def _similar_paths(root: pathlib.Path, name: str) -> list[str]:
    """Some paths that share the beginning of a file name, as long a one as there is; else the first paths."""
    import pyarrow.compute as pc

    stem, found = name.rsplit(".", 1)[0], []
    for table in ("instances", "quarantine"):
        table_path = root / "pack" / f"{table}.parquet"
        if not table_path.exists():
            continue
        for length in (*range(len(stem), 2, -2), 0):
            where = pc.match_substring(pc.field("path"), stem[:length], ignore_case=True) if length else None
            paths = store.read_table(table_path, ["path"], where=where)["path"][:_COMPARED].to_pylist()
            if paths:
                found += paths
                break
    return found


def _list_matches(image: str, rows: list[dict[str, Any]], quarantined: list) -> str:
    lines = [f"{len(rows) + len(quarantined)} images are called {image!r}; give more of the path, or the id:"]
    for row in rows[:_SHOWN]:
        lines.append(f"  {row['instance_id']:>9}  {_one_line(row['path'])}  ({row['split']})")
    for row in quarantined[: max(_SHOWN - len(rows), 0)]:
        lines.append(f"  {'-':>9}  {_one_line(row['path'])}  (not used: {row['status']})")
    hidden = len(rows) + len(quarantined) - _SHOWN
    return "\n".join(lines + ([f"  ... and {hidden} more"] if hidden > 0 else []))


def _explain_quarantined(row: dict[str, Any]) -> str:
    meaning = schema.STATUS.get(row["status"], "")
    lines = [_one_line(row["path"]), f"  Not used: {row['status']}" + (f", {meaning}." if meaning else ".")]
    if row["reason"]:
        lines.append(f"  {_one_line(row['reason'])}")
    return "\n".join(lines)


_JUDGED = {
    schema.RIGHT: "A person judged its label to be right.",
    schema.WRONG_CLASS: "Its label is what a person judged it to be; the crawl gave it another one.",
    schema.NONE_OF_THESE: "A person judged it to show none of the classes.",
}


def _explain_instance(root: pathlib.Path, row: dict[str, Any]) -> str:
    names = [_one_line(c["name"]) for c in store.read_json(root / "pack" / "classes.json")]
    label = row["label"]
    size = f"{row['width_px']} x {row['height_px']} px"
    lines = [f"{_one_line(row['path'])}  (id {row['instance_id']}, {size})"]
    lines.append(_where_from(row, names))
    weights_path = next(
        (p for p in (root / s / "weights.parquet" for s in ("train", "reweight")) if p.exists()), None
    )
    if row.get("judged"):
        lines.append(f"  {_JUDGED[row['judged']]}")
    if row["split"] == schema.JUDGED:
        lines.append("  It is kept out of training, to measure the models.")
    elif row["split"] != schema.TRAIN:
        use = "to measure the models" if row["split"] == schema.TEST else "to check the models"
        lines.append(f"  It belongs to the {row['split']} images, which serve {use}; it has no weight.")
    elif weights_path is None:
        lines.append("  The images of this run have no weights yet; they come with `urnet reweight`.")
    else:
        lines += _explain_weight(
            root, weights_path, row["instance_id"], label, names, bool(row.get("judged"))
        )
    return "\n".join(lines + _explain_duplicates(root, row))


def _where_from(row: dict[str, Any], names: list[str]) -> str:
    label = "no label" if row["label"] < 0 else f"label {row['label']} ({names[row['label']]})"
    parts = [f"{row['split']} image, {label}"]
    parts += [_one_line(row["source"])] if row["source"] else []
    parts += [f"rank {row['rank']}"] if row["rank"] > 0 else []
    parts += [f"query {_one_line(row['query'])!r}"] if row["query"] else []
    line = "  " + ", ".join(parts)
    return line + (f"\n  Title: {_one_line(row['title'])}" if row["title"] else "")


def _explain_weight(
    root: pathlib.Path,
    weights_path: pathlib.Path,
    instance_id: int,
    label: int,
    names: list[str],
    judged: bool,
) -> list[str]:
    import pyarrow.compute as pc

    columns = [name for name in schema.WEIGHT_COLUMNS if name not in schema.WEIGHT_TEXTS]
    table = store.read_table(weights_path, columns, where=pc.field("label") == label)
    values = {name: store.column(table, name) for name in columns}
    at = int(np.flatnonzero(values["instance_id"] == instance_id)[0])
    factors = {factor.name: float(values[factor.name][at]) for factor in FACTORS}
    # Classes are compared by their weights, images of a class by all else.
    whole = store.read_table(weights_path, ["class_weight", "sample_weight"])
    average = average_amount(store.column(whole, "sample_weight"))
    means = {name: float(values[name].mean(dtype=float)) for name in factors}
    means["class_weight"] = float(store.column(whole, "class_weight").mean(dtype=float))
    weight, size = float(values["sample_weight"][at]), len(values["label"])

    standing = {name: describe_standing(values[name], factors[name]) for name in factors}
    place = describe_standing(values["sample_weight"], weight)
    amount = describe_amount(weight, average)
    lines = ["", f"  In training it {amount} (in its class of {size}: {place})."]
    in_weight = {f.name: factors[f.name] for f in FACTORS if f.role != OBSERVED}
    reasons = find_reasons(weight / average, in_weight, means)
    if judged:
        reasons = ["a person judged its label, so it counts as what counts most in its class"]
    if reasons and not 0.95 <= weight / average <= 1.05:
        because = f"  Because {'; '.join(reasons)}."
        lines += textwrap.wrap(because, 96, subsequent_indent="  ", break_on_hyphens=False)
    lines += ["", f"    {'factor':<16} {'value':>7}  {'in its class':<20} question"]
    combined = ("sample_weight", weight, place, f"These combined; {_number(average)} is average.")
    entered, observed = ([f for f in FACTORS if (f.role == OBSERVED) == seen] for seen in (False, True))
    rows = [(f.name, factors[f.name], standing[f.name], f.question) for f in entered]
    rows += [combined, *((f.name, factors[f.name], standing[f.name], f.question) for f in observed)]
    lines += [f"    {name:<16} {_value(value):>7}  {where:<20} {text}" for name, value, where, text in rows]
    lines += ["", *_explain_label(root, instance_id, label, int(values["predicted_label"][at]), names)]
    return lines + _explain_cluster(values, at, label)


def _explain_label(
    root: pathlib.Path, instance_id: int, label: int, predicted: int, names: list[str]
) -> list[str]:
    out_of_fold, author = _authors(root)
    baseline = "The out-of-fold baseline" if out_of_fold else "The baseline"
    paths = [root / "extract" / f"{name}.npy" for name in ("topk_ids", "topk_probs", "given_prob")]
    lines = []
    if all(path.exists() for path in paths):
        top, top_prob, given_prob = (store.read_array(path)[instance_id] for path in paths)
        if top[0] == label:
            lines.append(f"  {baseline} agrees with its label.")
        else:
            likeliest, probability = f"{top[0]} ({names[top[0]]})", _percent(float(top_prob[0]))
            lines.append(f"  {baseline} would call it {likeliest} with a probability of {probability}.")
        lines.append(f"  It gives the label {names[label]!r} a probability of {_percent(float(given_prob))}.")
    if 0 <= predicted < len(names):
        by = f", by {author}," if author else ""
        called = "its label" if predicted == label else f"{predicted} ({names[predicted]})"
        lines.append(f"  Its predicted label{by} is {called}.")
    return lines


def _authors(root: pathlib.Path) -> tuple[bool, str]:
    """Whether the baseline answered out of fold, and who predicted the predicted labels, "" if not known."""
    workdir = store.Workdir(root)
    metadata = {name: (workdir.marker(name) or {}).get("metadata") or {} for name in ("extract", "reweight")}
    out_of_fold = metadata["extract"].get("accuracy_out_of_fold") is not None
    author = schema.PREDICTED_BY.get(metadata["reweight"].get("predicted_by", ""), "")
    if out_of_fold and author:
        author = author.replace("the baseline", "the out-of-fold baseline")
    return out_of_fold, author


def _explain_cluster(values: dict[str, np.ndarray], at: int, label: int) -> list[str]:
    cluster = int(values["cluster"][at])
    if cluster < 0:
        return []
    mates = values["cluster"] == cluster
    purity = float((values["predicted_label"][mates] == label).mean())
    whole = float((values["predicted_label"] == label).mean())
    return [
        f"  It lies in group {cluster} of its class with {int(mates.sum())} of {len(mates)} images.",
        f"  The predicted label of {purity:.0%} of them is their label; of {whole:.0%} in the whole class.",
    ]


def _explain_duplicates(root: pathlib.Path, row: dict[str, Any]) -> list[str]:
    import pyarrow.compute as pc

    path = root / "ingest" / "duplicates.parquet"
    if not path.exists() or not row["content_hash"]:
        return []
    found = store.read_table(path, where=pc.field("picture") == row["picture"]).to_pylist()
    # A file that has both equal files and near copies is listed for either.
    others = {r["path"]: r for r in found if r["path"] != row["path"]}.values()
    equal = [r for r in others if r["content_hash"] == row["content_hash"]]
    near = [r for r in others if r["content_hash"] != row["content_hash"]]
    lines = []
    for what, some in (("The same file occurs", equal), ("The same picture occurs in other files", near)):
        if some:
            lines += ["", f"  {what} {len(some)} more time{'s' if len(some) > 1 else ''}:"]
            lines += [
                f"    {_one_line(r['path'])}  ({r['split']}, label {r['label']})" for r in some[:_SHOWN]
            ]
    if len({r["label"] for r in (row, *others) if r["label"] >= 0}) > 1:
        doubt = "" if len({r["label"] for r in (row, *equal)}) > 1 else " unless they only look alike"
        lines.append(f"  It stands under several labels, so at least one of them is wrong{doubt}.")
    return lines


def _percent(share: float) -> str:
    return "less than 0.1%" if share < 0.001 else f"{100 * share:.1f}%"


def _number(weight: float) -> str:
    if 0 < abs(weight) < 0.095:
        return f"{weight:.2g}"
    return f"{weight:.2f}" if abs(weight) < 10 else f"{weight:.0f}"


def _value(value: float) -> str:
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _one_line(text: str) -> str:
    """Text from the web for a terminal."""
    return one_line(text)[:200]
