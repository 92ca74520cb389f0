"""The README of an export, for the person who finds it: what it is, how good, how to use it, where it ends.

It says the same as `export.json`, which is for programs. What was not measured is called so.
"""

from collections.abc import Mapping, Sequence

from urnet_tf.costs.units import format_bytes
from urnet_tf.export.card_usage import describe_usage
from urnet_tf.export.markdown import UNKNOWN, number, plain, table
from urnet_tf.export.none_of_these import tabulate_thresholds
from urnet_tf.export.parity import LIBRARY_NAMES
from urnet_tf.images.crops import num_views
from urnet_tf.reweighting.factors import weighing
from urnet_tf.schema import PADDED

FORMAT_NAMES = {
    "saved_model": "SavedModel",
    "keras": "Keras",
    "tflite_float32": "TFLite, float32",
    "tflite_float16": "TFLite, float16",
    "tflite_dynamic_int8": "TFLite, int8 weights",
    "tflite_int8": "TFLite, int8",
    "onnx": "ONNX",
    "keras_with_preparation": "Keras, of pictures",
    "onnx_with_preparation": "ONNX, of pictures",
}
_FOLDED_FROM = 30  # classes
_SETTINGS = (  # those that shape the model; paths are left out, they are nobody's business
    "preset",
    "seed",
    "ingest.sources",
    "ingest.max_rank",
    "ingest.max_rank_per",
    "ingest.first_classes",
    "pack.short_side_px",
    "model.mode",
    "model.backbone",
    "model.image_size_px",
    "model.crop_fraction",
    "model.dropout",
    "augment.policy",
    "baseline.folds",
    "reweight.formulas",
    "reweight.rounds",
    *(factor.switch for factor in weighing()),
    "reweight.cluster_weight.confusion",
    "reweight.cluster_weight.normalize",
    "reweight.cluster_weight.pca_dim",
    "reweight.confidence.network",
    "reweight.confidence.normalize",
    "reweight.confidence.negatives",
    "reweight.combine.unit_mean",
    "reweight.soft_label.enabled",
    "reweight.soft_label.kind",
    "reweight.soft_label.beta",
    "train.init",
    "train.members",
    "train.member_bag_sizes",
    "train.distill",
    "export.model",
    "train.bag.size",
    "train.bag.loss_weight",
    "train.bag.target",
    "train.bag.weighted",
    "train.fit.epochs",
    "train.fit.batch_images",
    "train.fit.optimizer",
    "train.fit.learning_rate",
    "train.fit.weight_decay",
    "train.fit.label_smoothing",
    "train.fit.mixup",
    "train.fit.loss.kind",
    "train.fit.loss.logit_adjustment",
)
_DUPLICATES = {
    "train_and_evaluation": "held back from training, since they are also validation or test images",
    "several_labels": "found under several labels",
    "same_label": "found several times under one label",
    "near_train_and_evaluation": "held back from training, since near copies are validation or test images",
    "near_several_labels": "whose near copies have other labels",
    "near_same_label": "with near copies under the same label",
}


def build_model_card(metadata: Mapping, labels: Sequence[str] = ()) -> str:
    """Writes the model card.

    Args:
      metadata: of `export.json`; every key but `name` may be missing.
      labels: the class names, in label order.

    Returns:
      Markdown; names and reasons in it cannot become links, markup or table cells.
    """
    parts = [
        _head(metadata, labels),
        _formats(metadata),
        describe_usage(metadata),
        _data(metadata),
        _limits(metadata),
        _settings(metadata),
        _classes(labels, metadata.get("class_ids") or labels),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(metadata: Mapping, labels: Sequence[str]) -> str:
    count = metadata.get("classes") or len(labels)
    made = f"Exported {plain(metadata['created'])}" if metadata.get("created") else "Exported"
    versions = metadata.get("versions") or {}
    tools = ", ".join(f"{plain(name)} {plain(version)}" for name, version in versions.items())
    parameters = metadata.get("parameters")
    size = f" It has {parameters:,} parameters." if parameters else ""
    lines = [
        f"# {plain(metadata['name'])}, version {plain(metadata.get('version', '?'))}",
        "",
        f"Classifies pictures into {count:,} classes.{size}",
        f"{made}{f' with {tools}' if tools else ''}. `export.json` says the same for programs.",
    ]
    return "\n".join(lines)


def _formats(metadata: Mapping) -> str:
    formats = metadata.get("formats") or {}
    rows = [("Keras, before export", "", *_accuracy(metadata.get("reference")), "", "", "", "", "")]
    for kind, entry in formats.items():
        if not entry.get("kept"):
            continue
        parity = entry.get("parity") or {}
        rows.append((
            FORMAT_NAMES.get(kind, plain(kind)) + (" ⚠" if entry.get("refused") else ""),
            format_bytes(entry.get("bytes")) or UNKNOWN,
            *_accuracy(entry.get("accuracy")),
            number(parity.get("max_difference"), ".1e"),
            number(parity.get("top1_agreement"), ".1%"),
            number(entry.get("latency_ms"), ".1f", " ms"),
            _through_libraries(entry.get("libraries")),
            plain(entry["min_runtime"]) if entry.get("min_runtime") else "",
        ))  # fmt: skip
    header = (
        "Format",
        "Size",
        "Top-1",
        "Top-5",
        "Top-1 by class",
        "Difference",
        "Same top-1",
        "Latency",
        "Through task libraries",
        "Runtime",
    )
    lines = ["## How good, how large, how fast", "", table(header, rows), "", _how_checked(metadata)]
    kept_anyway = {k: e for k, e in formats.items() if e.get("refused") and e.get("kept")}
    refused = {k: e for k, e in formats.items() if e.get("refused") and not e.get("kept")}
    if kept_anyway:
        lines += [
            "",
            "⚠ Outside the tolerance, kept because drift was allowed:",
            "",
            _reasons(kept_anyway),
        ]
    if refused:
        lines += ["", "Refused, and not in this directory:", "", _reasons(refused)]
    return "\n".join(lines)


def _how_checked(metadata: Mapping) -> str:
    check, machine = metadata.get("check") or {}, metadata.get("machine") or {}
    images, labeled = check.get("images"), check.get("labeled")
    split = f" of the {plain(check['split'])} split" if check.get("split") else ""
    lines = []
    if labeled:
        lines.append(
            f"- *Top-1, top-5*: share of {labeled:,} labeled images{split} whose label is the likeliest "
            "class, or among the five likeliest. *Top-1 by class*: the mean of its classes' top-1."
        )
    else:
        lines.append("- Accuracy was not measured: no image of the check had a label.")
    if images:
        lines.append(
            f"- *Difference*: the largest difference of any probability from Keras, over {images:,} images"
            f"{split}. *Same top-1*: how often the likeliest class is the same as with Keras."
        )
    if machine:
        cores = machine.get("cores")
        cores = f", {cores} core{'s' if cores != 1 else ''}" if cores else ""
        lines.append(
            f"- *Latency*: the median for single images, measured on {plain(machine.get('processor', '?'))}"
            f"{cores}. Only that of the SavedModel includes decoding the file."
        )
    lines += _how_libraries_were_asked(metadata)
    return "\n".join(lines)


def _through_libraries(libraries: Mapping | None) -> str:
    """Top-1 in MediaPipe and in the Task Library."""
    through = (libraries or {}).get("through") or {}
    return " / ".join(
        number((through.get(name) or {}).get("top1"), ".1%") for name in LIBRARY_NAMES if through
    )


def _how_libraries_were_asked(metadata: Mapping) -> list[str]:
    entries = [
        e for e in (metadata.get("formats") or {}).values() if (e.get("libraries") or {}).get("through")
    ]
    lines = []
    if entries:
        asked = next(iter(entries[0]["libraries"]["through"].values()))
        fraction = (metadata.get("preparation") or {}).get("crop_fraction")
        given = "padded as below" if fraction == PADDED else "given the region of interest below"
        region = f", {given}" if fraction is not None else ""
        lines.append(
            "- *Through task libraries*: top-1 where MediaPipe / the TFLite Task Library prepare the pictures"
            f"{region}, by copies of their code; on {asked['images']:,} labeled images, of which Keras has "
            f"{asked['reference']:.1%} right. They are of the size of packed images: libraries skip pixels "
            "of larger ones instead of averaging over them, so reduce photographs of many megapixels first."
        )
        whole = next((e["libraries"]["whole"] for e in entries if e["libraries"].get("whole")), None)
        if whole:
            lines.append(
                f"  Without that{' region' if fraction != PADDED else ''}: "
                + " / ".join(number(whole.get(name), ".1%") for name in LIBRARY_NAMES)
                + "."
            )
    if any(e.get("min_runtime") for e in (metadata.get("formats") or {}).values()):
        lines.append("- *Runtime*: the first version of TensorFlow Lite that reads the file.")
    return lines


def _data(metadata: Mapping) -> str:
    data = metadata.get("data") or {}
    if not data:
        return "## Training data\n\nNot described."
    lines = ["## Training data", ""]
    counts = [("train_images", "to train"), ("val_images", "to validate"), ("test_images", "to test")]
    counted = [f"{data[key]:,} {words}" for key, words in counts if data.get(key)]
    if data.get("images") or counted:
        total = f"{data['images']:,} images" if data.get("images") else "Images"
        lines.append(f"- {total}{': ' + ', '.join(counted) if counted else ''}.")
    if data.get("content_hash"):
        lines.append(f"- Hash of the contents of all images: `{data['content_hash']}`.")
    if quarantined := data.get("quarantined"):
        kinds = ", ".join(f"{count:,} {plain(status)}" for status, count in quarantined.items())
        lines.append(f"- Files that were set aside: {kinds}.")
    for kind, count in (data.get("duplicates") or {}).items():
        if count:
            lines.append(f"- {count:,} files {_DUPLICATES.get(kind, plain(kind))}.")
    return "\n".join(lines + _noise(data.get("noise") or {}))


def _noise(noise: Mapping) -> list[str]:
    clean, agree = noise.get("clean_rate_estimate"), noise.get("disagreement")
    between = noise.get("clean_rate_interval")
    interval = f" (95 % interval: {between[0]:.0%} to {between[1]:.0%})" if between else ""
    if noise.get("labels_seen"):
        interval = ", at most: the models that judged were trained on these very labels"
    lines = [
        "- Share of labels that look right (an estimate; the truth is not known): "
        f"{number(clean, '.0%')}{interval}."
    ]
    if agree is not None:
        lines.append(f"- Share of images whose predicted label is not the given one: {agree:.0%}.")
    if (effective := noise.get("effective_sample_size")) is not None:
        lines.append(f"- The weighted images are worth as much as {effective:,.0f} equally weighted ones.")
    if against := noise.get("negative_weight_share"):
        lines.append(f"- Share of images that counted against their label: {against:.1%}.")
    return lines


def _calibration(metadata: Mapping) -> str:
    """How far stated probabilities are from shares that are right."""
    error, check = (metadata.get("reference") or {}).get("ece"), metadata.get("check") or {}
    if error is None:
        return f"calibration was {UNKNOWN}"
    return (
        f"on {check.get('labeled', 0):,} check images it differed by {error:.1%} on average from the share "
        "that was right (the calibration error of the Keras model)"
    )


def _refusals(none: Mapping) -> list[str]:
    """How to use the score for pictures of none of the classes, which export.json describes."""
    thresholds = table(*tabulate_thresholds(none))
    return [
        "- A picture of anything else is given one of its classes, but the SavedModel also says in "
        "`none_of_these` how little it looks like any: 0.05 is usual, above 0.5 better refuse it. This tells "
        f"other things from the classes only in part. Measured on {none['images']:,} held images, whatever "
        "their labels:\n\n" + "\n".join(f"  {line}" for line in thresholds.splitlines()) + "\n",
        "- The other files do not give that score. It is sigmoid((a - log(sum(exp(logits)))) / b) with "
        f"a = {none['energy']:.4g}, b = {none['scale']:.4g}, for the Keras file, which gives logits.",
    ]


def _limits(metadata: Mapping) -> str:
    preparation, none = metadata.get("preparation") or {}, metadata.get("none_of_these")
    lines = [
        "## Limits",
        "",
        "- It was trained on labels that nobody checked, and repeats the errors that they share.",
        f"- A probability is not a promise: {_calibration(metadata)}.",
        "- Accuracy holds for images like those of the check; other cameras, places and times were "
        f"{UNKNOWN}.",
    ]
    if not none:
        lines.append(
            "- It knows only its own classes: a picture of anything else is given one of them, sometimes "
            "with a high probability."
        )
    elif isinstance(none, Mapping):
        lines += _refusals(none)
    pixels = preparation.get("max_pixels")
    too_large = f", and images of more than {pixels / 1e6:g} million pixels" if pixels else ""
    lines.append(
        "- The SavedModel reads JPEG, PNG, GIF (the first frame), BMP of 8, 24 or 32 bits and still WebP; "
        f"animated WebP is refused{too_large}. "
        "TIFF, HEIC, AVIF, JPEG 2000 and rarer BMP may have been trained on: `urnet predict` answers them, "
        "and other callers send them as PNG."
    )
    views = num_views(preparation.get("crops", "1"), preparation.get("scales", (1.0,)))
    if views > 1:
        lines.append(
            f"- The SavedModel averages over {views} views of an image; the other files see one view, so "
            "they are faster, and their answers differ a little from those of the SavedModel."
        )
    if any(kind.startswith("tflite_") and "int8" in kind for kind in metadata.get("formats") or {}):
        lines.append("- int8 files were checked for their accuracy; single probabilities may differ more.")
    return "\n".join(lines)


def _settings(metadata: Mapping) -> str:
    rows = []
    for key in _SETTINGS:
        value = metadata.get("settings") or {}
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None and value != {}:
            rows.append((f"`{key}`", plain(value)))
    if not rows:
        return ""
    return "\n".join(["## Settings", "", table(("Setting", "Value"), rows), "", "All are in `export.json`."])


def _classes(labels: Sequence[str], ids: Sequence[str]) -> str:
    if not labels:
        return ""
    names = [(str(i), plain(name)) for i, name in enumerate(labels)]
    ids_too = "" if list(ids) == list(labels) else " and, by their ids, in `class_ids.txt`"
    if not ids_too:
        listed = table(("Label", "Class"), names)
    else:
        rows = [(*row, plain(identity)) for row, identity in zip(names, ids, strict=True)]
        listed = table(("Label", "Class", "Id"), rows)
    if len(labels) >= _FOLDED_FROM:
        listed = f"<details><summary>All {len(labels):,}</summary>\n\n{listed}\n\n</details>"
    return f"## Classes\n\nIn label order, as in `labels.txt`{ids_too}.\n\n{listed}"


def _reasons(entries: Mapping) -> str:
    return "\n".join(f"- {FORMAT_NAMES.get(k, plain(k))}: {plain(e['refused'])}." for k, e in entries.items())


def _accuracy(accuracy: Mapping | None) -> list[str]:
    accuracy = accuracy or {}
    return [number(accuracy.get(key), ".1%") for key in ("top1", "top5", "balanced_top1")]
