"""What the sections of the page show: numbers, drawings and pictures for the templates in templates/."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf import schema
from urnet_tf.evaluation.wording import shown_accuracies
from urnet_tf.explain import (
    comparison,
    copies,
    figures,
    groups,
    look_alikes,
    overview,
    pictures,
    queries,
    summary,
)
from urnet_tf.explain.formats import format_times
from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.matrix import Matrix
from urnet_tf.explain.pictures import Thumbnails
from urnet_tf.export.model_card import FORMAT_NAMES
from urnet_tf.reweighting.factors import FACTORS, OBSERVED

_TABLE_ROWS = 100  # of the table of all classes, where no script runs
_WORST = 12  # classes
_PAIRS = 6
_SEARCHES = 6
_COPIES = 6

_SPLIT_NAMES = {schema.VAL: "validation", schema.TEST: "test", schema.JUDGED: "judged"}

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


def build_sections(
    inputs: ReportInputs,
    matrix: Matrix,
    found: Sequence[look_alikes.LookAlikes],
    thumbnails: Thumbnails,
    *,
    classes: int,
    images_per_class: int,
    grouped_classes: int,
) -> dict[str, Any]:
    """What the templates read, by name, in the order in which thumbnails are taken; see `build_report`."""
    told: dict[str, Any] = {
        "split": _SPLIT_NAMES.get(inputs.evaluated_on, inputs.evaluated_on),
        "glossary": _glossary(inputs),
        "known": overview.count_everything(inputs),
        "wrong": overview.share_wrong(inputs),
        "judged": inputs.reweighting.get("judged"),
        "lacking": overview.say_missing(inputs),
        "accuracy": comparison.compare_accuracies(inputs),
        "judged_accuracy": comparison.compare_judged(inputs),
        "changes": comparison.compare_classes(inputs),
        "calibration": comparison.compare_calibration(inputs),
        "cells": matrix.cells,
        "contradicting": copies.count_contradictions(inputs),
        "holdings": _holdings(inputs),
        "table": _class_table(inputs),
        "export": _export(inputs),
    }
    if not inputs.is_weighed:
        none = ("worst", "pairs", "look_alikes", "searches", "places", "sureness", "weights", "galleries",
                "grouped")  # fmt: skip
        shown = copies.show_contradictions(inputs, thumbnails, _COPIES)
        return told | dict.fromkeys(none) | {"contradictions": shown}
    return told | {
        "worst": _worst(inputs),
        "pairs": _pairs(inputs, matrix, thumbnails),
        "look_alikes": look_alikes.show_groups(inputs, thumbnails, found),
        "searches": _searches(inputs),
        "contradictions": copies.show_contradictions(inputs, thumbnails, _COPIES),
        "places": _places(inputs),
        "sureness": _sureness(inputs),
        "weights": _weights(inputs),
        "galleries": pictures.build_galleries(inputs, thumbnails, classes, images_per_class),
        "grouped": groups.build_section(inputs, thumbnails, grouped_classes),
    }


def _glossary(inputs: ReportInputs) -> list[tuple[str, str]]:
    author = schema.PREDICTED_BY.get(inputs.reweighting.get("predicted_by", ""), "the models")
    if not inputs.is_weighed:
        combined = "How much an image counts in training."
    elif inputs.is_literal:
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


def _worst(inputs: ReportInputs) -> dict[str, Any]:
    labels = overview.worst_classes(inputs)
    agree = summary.class_means(inputs.predicted == inputs.label, inputs.label, inputs.num_classes)
    rows: list[dict[str, Any]] = [
        {
            "label": j,
            "name": inputs.name(j),
            "images": int(inputs.size[j]),
            "wrong": inputs.wrong_by_class[j],
            "agree": float(agree[j]),
        }
        for j in labels[:_WORST]
    ]
    top = max((row["wrong"][2] for row in rows), default=1.0)
    return {"rows": rows, "top": top, "more": len(labels) - len(rows)}


def _pairs(inputs: ReportInputs, matrix: Matrix, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    pairs = summary.confused_pairs(inputs, matrix, _PAIRS)
    top = max((pair["wrong"] for pair in pairs), default=1.0)
    for pair in pairs:
        rows = inputs.read_rows([int(i) for i in pair["ids"]])
        pair |= {
            "given_name": inputs.name(pair["given"]),
            "predicted_name": inputs.name(pair["predicted"]),
            "length": pair["wrong"] / top,
            "pictures": [
                (uri, row["title"] or row["path"])
                for uri, row in zip(thumbnails.encode(pair["ids"]), rows, strict=True)
            ],
        }
    return pairs


def _searches(inputs: ReportInputs) -> dict[str, Any] | None:
    titles = queries.have_titles(inputs)
    if not titles and not queries.tell_more_than_classes(inputs):
        return None
    return {
        "rows": queries.find_polluted(inputs, _SEARCHES),
        "known": queries.have_queries(inputs),
        "titles": titles,
        "used": "page_text" in inputs.used_factors,
    }


def _places(inputs: ReportInputs) -> dict[str, Any]:
    by_rank = summary.by_rank(inputs, inputs.wrong_prob)
    label = "Share of labels that look wrong, by source"
    return {
        "sources": summary.by_source(inputs),
        "by_rank": figures.draw_lines(by_rank, label, "search rank", "share") if by_rank else None,
    }


def _sureness(inputs: ReportInputs) -> dict[str, Any]:
    counts, edges = np.histogram(inputs.wrong_prob, bins=20, range=(0.0, 1.0))
    histogram = {"counts": counts, "edges": edges, "ratio": False}
    label = "How many images have which probability that their label is wrong"
    return {"drawing": figures.draw_histogram(histogram, label, mark=None)}


def _holdings(inputs: ReportInputs) -> dict[str, Any]:
    profile = summary.size_profile(summary.class_sizes(inputs))
    many = len(profile) < inputs.num_classes
    duplicates = summary.duplicate_groups(inputs)
    for entry in duplicates:
        entry["words"] = DUPLICATE_WORDS.get(entry["kind"], entry["kind"])
    order = np.argsort(-inputs.size, kind="stable")
    return {
        "profile": figures.draw_columns(
            profile,
            inputs.source_names,
            "Training images of each class, largest class first",
            "classes, largest first" + (" (neighbors averaged)" if many else ""),
        ),
        "largest": inputs.name(int(order[0])),
        "smallest": inputs.name(int(order[-1])),
        "quarantined": summary.quarantined(inputs),
        "duplicates": duplicates,
    }


def _weights(inputs: ReportInputs) -> list[dict[str, Any]]:
    """The weight and its factors; of those that are equal for all images only the names."""
    entries = []
    questions = {"sample_weight": "How much an image counts, all in all"}
    questions |= {factor.name: factor.question for factor in FACTORS}
    observed = [factor.name for factor in FACTORS if factor.role == OBSERVED]
    for name, question in questions.items():
        if name not in inputs.weights:
            continue
        histogram = summary.histogram_of(inputs.weights[name])
        drawing = None
        if histogram is not None:
            combined = name == "sample_weight"
            mark = inputs.average_weight if combined else float(np.mean(inputs.weights[name], dtype=float))
            drawing = figures.draw_histogram(histogram, f"How many images have which {name}", mark=mark)
        entries.append({"name": name, "question": question, "drawing": drawing, "histogram": histogram,
                        "observed": name in observed})  # fmt: skip
    return entries


def _class_table(inputs: ReportInputs) -> dict[str, Any]:
    order = np.argsort(-inputs.size, kind="stable")[:_TABLE_ROWS]
    return {
        "rows": [
            {
                "label": int(j),
                "name": inputs.name(int(j)),
                "images": int(inputs.size[j]),
                "wrong": inputs.wrong_by_class[j] if inputs.is_weighed else None,
            }
            for j in order
        ],
        "left_out": max(inputs.num_classes - _TABLE_ROWS, 0),
    }


def _export(inputs: ReportInputs) -> dict[str, Any] | None:
    """Rows of the exported files, Keras before them; None where nothing was exported."""
    metadata: Mapping[str, Any] = inputs.export
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
        "five": len(shown_accuracies(inputs.num_classes)) > 2,
        "refused": sum(not row["kept"] for row in rows),
    }
