"""Puts the report together: numbers from `summary`, drawings from `figures`, pictures, one template."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import markupsafe
import numpy as np

from urnet_tf import schema
from urnet_tf.costs.units import format_bytes
from urnet_tf.explain import comparison, figures, groups, pictures, summary
from urnet_tf.explain.formats import format_count, format_points, format_times
from urnet_tf.explain.summary import ReportInputs
from urnet_tf.export.model_card import FORMAT_NAMES
from urnet_tf.reweighting.combine import effective_sample_size
from urnet_tf.reweighting.factors import FACTORS, OBSERVED
from urnet_tf.text_rules import one_line

if TYPE_CHECKING:
    from urnet_tf.explain.pictures import Thumbnails

_HERE = pathlib.Path(__file__).parent
_TABLE_ROWS = 300  # of the table of all classes
_PAIRS = 9

_SPLIT_NAMES = {schema.VAL: "validation", schema.TEST: "test"}

DUPLICATE_WORDS = {
    "train_and_evaluation": "also a validation or test image: not trained on",
    "several_labels": "under several labels, so at least one is wrong",
    "same_label": "several times under one label",
    "near_train_and_evaluation": "in another version also a validation or test image: not trained on",
    "near_several_labels": "in several versions under several labels: one is wrong, or they only look alike",
    "near_same_label": "in several versions under one label",
}

GLOSSARY = (
    ("instance_id", "Number of an image in this run; row number of every table and array."),
    ("label", "The class under which the crawl found the image: the given label."),
    (
        "predicted_label",
        "What {author} would call it. Where it differs from the label, training aims at a mix of both.",
    ),
    ("source, query, rank", "Where the image came from: which search, which words, which place there."),
    ("cluster", "Group of look-alikes in the class."),
    *((factor.name, factor.holds) for factor in FACTORS if factor.role != OBSERVED),
    ("sample_weight", "{combined}"),
    *((factor.name, factor.holds) for factor in FACTORS if factor.role == OBSERVED),
    (
        "effective sample size",
        "(sum of |weights|) squared / sum of squared weights: how many equal images these are worth.",
    ),
    ("right_prob", "How probable it is that the label is right, by all evidence that was used."),
    ("doubtful", "The label is more probably wrong than right: right_prob is below one half."),
    ("ensemble", "Several networks that differ in their seed; the mean of their probabilities."),
    ("balanced accuracy", "Share of right guesses in each class, then the mean over classes."),
    ("calibration error", "How far the stated probability is from the share that is right, on average."),
)


def build_page(
    inputs: ReportInputs,
    *,
    title: str = "What this crawl holds, and what counted",
    classes: int = 12,
    images_per_class: int = 8,
    thumbnail_px: int = 96,
    grouped_classes: int = 2,
) -> str:
    """Renders the report.

    Args:
      classes: how many classes are shown with pictures.
      images_per_class: pictures of each of them, half of those that counted most, half least.
      thumbnail_px: side of a picture on the page.
      grouped_classes: how many classes are shown with their groups of look-alikes.

    Returns:
      HTML; equal inputs give equal text. Pictures stop at 3 MB, tables at a few hundred rows.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, finalize=_shown)  # fmt: skip
    filters: dict[str, Callable] = {
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "count": format_count,
        "each_line": _shown_lines,
        "factor": lambda name: name.removesuffix("_weight").replace("_", "-"),
        "model": lambda name: comparison.MODEL_NAMES.get(name, name),
        "percent": figures.format_percent,
        "points": format_points,
        "size": format_bytes,
        "times": format_times,
    }
    environment.filters |= filters
    template = environment.from_string((_HERE / "page.html").read_text(encoding="utf-8"))
    thumbnails = pictures.Thumbnails(inputs, thumbnail_px)
    return template.render(
        css=_style(thumbnail_px),
        title=title,
        inputs=inputs,
        split=_SPLIT_NAMES.get(inputs.evaluated_on, inputs.evaluated_on),
        glossary=_glossary(inputs),
        metadata=_metadata(inputs),
        accuracy=comparison.compare_accuracies(inputs),
        holdings=_holdings(inputs),
        noise=_noise(inputs),
        weights=_weights(inputs),
        pairs=_pairs(inputs, thumbnails),
        galleries=pictures.build_galleries(inputs, thumbnails, classes, images_per_class),
        grouped=groups.build_section(inputs, thumbnails, grouped_classes),
        changes=comparison.compare_classes(inputs),
        calibration=comparison.compare_calibration(inputs),
        table=_class_table(inputs),
        export=_export(inputs.export),
    )


def _shown(value: Any) -> Any:
    """What an expression of the template gives: no text from the web steers the page or its reader."""
    is_plain = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return one_line(value) if is_plain else value


def _shown_lines(text: str) -> markupsafe.Markup:
    """As `_shown`, of a text whose lines are kept."""
    return markupsafe.Markup("\n").join(map(one_line, text.split("\n")))


def _style(thumbnail_px: int) -> markupsafe.Markup:
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    return markupsafe.Markup(f":root{{--thumb:{int(thumbnail_px)}px}}\n{css}")


def _glossary(inputs: ReportInputs) -> list[tuple[str, str]]:
    author = schema.PREDICTED_BY.get(inputs.reweighting.get("predicted_by", ""), "the models")
    if inputs.is_literal:
        combined = (
            f"The product of the factors; an average image has {format_times(inputs.average_weight)}. Below "
            "0 an image counts against its label."
        )
    else:
        combined = (
            "Class weight, rank prior and page text times the mean of the other evidence, within limits; "
            "mean 1."
        )
    return [(word, meaning.format(author=author, combined=combined)) for word, meaning in GLOSSARY]


def _metadata(inputs: ReportInputs) -> dict[str, float]:
    weight, pro = inputs.relative_weight, np.maximum(inputs.relative_weight, 0.0)
    size = np.bincount(inputs.label, minlength=inputs.num_classes)
    doubtful = inputs.doubtful
    return {
        "images": len(weight),
        "classes": inputs.num_classes,
        "smallest": int(size.min()),
        "largest": int(size.max()),
        "doubtful": int(doubtful.sum()),
        "doubtful_share": float(doubtful.mean()),
        "doubtful_weight": float(pro[doubtful].sum() / pro.sum()) if pro.sum() > 0 else 0.0,
        "effective": effective_sample_size(weight),
        "against": float((weight < 0).mean()),
        "agreement": float((np.asarray(inputs.top_ids[:, 0]) == inputs.label).mean()),
        "halved": float((weight < 0.5).mean()),
        "doubled": float((weight > 2).mean()),
        "quarantined": len(inputs.quarantine["status"]),
        "repeated": len(np.unique(np.asarray(inputs.duplicates["picture"], dtype=str))),
    }


def _holdings(inputs: ReportInputs) -> dict[str, Any]:
    sizes = summary.class_sizes(inputs)
    total = sizes.sum(1)
    profile = summary.size_profile(sizes)
    many = len(profile) < inputs.num_classes
    order = np.argsort(-total, kind="stable")
    ends = 6 if inputs.num_classes >= 12 else (inputs.num_classes + 1) // 2
    bars = [(inputs.classes[j]["name"], int(total[j]), total[j] / total.max()) for j in order]
    duplicates = summary.duplicate_groups(inputs)
    for entry in duplicates:
        entry["words"] = DUPLICATE_WORDS.get(entry["kind"], entry["kind"])
    return {
        "profile": figures.draw_columns(
            profile,
            inputs.source_names,
            "Training images of each class, largest class first",
            "classes, largest first" + (" (neighbors averaged)" if many else ""),
        ),
        "largest": bars[:ends],
        "smallest": bars[max(len(bars) - ends, ends) :][::-1],
        "quarantined": summary.quarantined(inputs),
        "duplicates": duplicates,
    }


def _noise(inputs: ReportInputs) -> dict[str, Any]:
    wrong = summary.shares_wrong(inputs, inputs.label, inputs.num_classes)
    share = np.array([0.0 if found is None else found[0] for found in wrong])
    agrees = np.asarray(inputs.top_ids[:, 0]) == inputs.label
    agree = summary.class_means(agrees, inputs.label, inputs.num_classes)
    size = np.bincount(inputs.label, minlength=inputs.num_classes)
    there = np.flatnonzero(size)
    order = there[np.argsort(-share[there], kind="stable")]

    def bars(labels: np.ndarray) -> list[tuple]:
        return [(inputs.classes[j]["name"], wrong[j], float(agree[j]), int(size[j])) for j in labels]

    ends = min(8, (len(order) + 1) // 2)
    by_rank = summary.by_rank(inputs, 1.0 - np.asarray(inputs.right_prob, np.float64))
    return {
        "sources": summary.by_source(inputs),
        "noisiest": bars(order[:ends]),
        "cleanest": bars(order[max(len(order) - ends, ends) :][::-1]),
        "top": float(share.max()) or 1.0,
        "wrong_by_rank": _rank_drawing(by_rank, "Share of labels that look wrong, by source"),
    }


def _rank_drawing(curves: list[tuple[str, np.ndarray, np.ndarray]], label: str) -> markupsafe.Markup | None:
    return figures.draw_lines(curves, label, "search rank", "share") if curves else None


def _weights(inputs: ReportInputs) -> list[dict[str, Any]]:
    entries = []
    questions = {"sample_weight": "The factors combined: how much an image counts."}
    questions |= {factor.name: factor.question for factor in FACTORS}
    for name, question in questions.items():
        if name not in inputs.weights:
            continue
        histogram = summary.histogram_of(inputs.weights[name])
        drawing = None
        if histogram is not None:
            combined = name == "sample_weight"
            drawing = figures.draw_histogram(
                histogram,
                f"How many images have which {name}",
                **({"width": 1020, "height": 200} if combined else {}),
                mark=inputs.average_weight if combined else float(np.mean(inputs.weights[name], dtype=float)),
            )
        entries.append({"name": name, "question": question, "drawing": drawing, "histogram": histogram})
    return entries


def _pairs(inputs: ReportInputs, thumbnails: "Thumbnails") -> list[dict[str, Any]]:
    pairs = summary.confused_pairs(inputs, _PAIRS)
    top = max((pair["count"] for pair in pairs), default=1)
    for pair in pairs:
        pair["given_name"] = inputs.classes[pair["given"]]["name"]
        pair["predicted_name"] = inputs.classes[pair["predicted"]]["name"]
        pair["length"] = pair["count"] / top
        rows = inputs.read_rows([int(i) for i in pair["ids"]])
        pair["pictures"] = [
            (uri, row["title"] or row["path"])
            for uri, row in zip(thumbnails.encode(pair["ids"]), rows, strict=True)
        ]
    return pairs


def _class_table(inputs: ReportInputs) -> dict[str, Any]:
    size = np.bincount(inputs.label, minlength=inputs.num_classes)
    wrong = summary.shares_wrong(inputs, inputs.label, inputs.num_classes)
    weight = summary.class_means(inputs.relative_weight, inputs.label, inputs.num_classes)
    order = np.argsort(-size, kind="stable")[:_TABLE_ROWS]
    accuracies = [np.asarray(values, float) for values in inputs.per_class.values()]
    return {
        "models": list(inputs.per_class),
        "rows": [
            {
                "label": int(j),
                "name": inputs.classes[j]["name"],
                "images": int(size[j]),
                "wrong": wrong[j],
                "weight": float(weight[j]),
                "accuracies": [float(a[j]) if np.isfinite(a[j]) else None for a in accuracies],
            }
            for j in order
        ],
        "left_out": max(inputs.num_classes - _TABLE_ROWS, 0),
    }


def _export(metadata: Mapping) -> dict[str, Any] | None:
    """Rows of the exported files, Keras before them; None where nothing was exported."""
    formats = metadata.get("formats")
    if not formats:
        return None
    keras = {"accuracy": metadata.get("reference"), "kept": True, "refused": None}
    check, machine, rows = metadata.get("check") or {}, metadata.get("machine") or {}, []
    for kind, entry in {"Keras, before export": keras, **formats}.items():
        accuracy, parity = entry.get("accuracy") or {}, entry.get("parity") or {}
        rows.append({
            "name": FORMAT_NAMES.get(kind, kind),
            "file": entry.get("file") if entry["kept"] else None,
            "bytes": entry.get("bytes"),
            "top1": accuracy.get("top1"),
            "top5": accuracy.get("top5"),
            "difference": parity.get("max_difference"),
            "agreement": parity.get("top1_agreement"),
            "latency_ms": entry.get("latency_ms"),
            "kept": entry["kept"],
            "refused": entry.get("refused"),
        })  # fmt: skip
    return {
        "path": metadata.get("path"),
        "rows": rows,
        "images": check.get("images"),
        "labeled": check.get("labeled"),
        "split": _SPLIT_NAMES.get(check.get("split", ""), check.get("split")),
        "processor": machine.get("processor"),
        "cores": machine.get("cores"),
        "refused": sum(not row["kept"] for row in rows),
    }
