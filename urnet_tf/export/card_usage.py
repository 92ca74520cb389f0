"""The part of a model card that says how to use each file of an export."""

import shlex
from collections.abc import Mapping

from urnet_tf.export import tf_serving
from urnet_tf.export.markdown import code
from urnet_tf.images.crops import PADDING
from urnet_tf.schema import PADDED

_EXPORTS = "/path/to/exports"


def describe_usage(metadata: Mapping) -> str:
    """Commands, signatures, and what the other files take and give."""
    formats, name = metadata.get("formats") or {}, str(metadata["name"])
    kept = {kind: entry["file"] for kind, entry in formats.items() if entry.get("kept") and entry.get("file")}
    size = (metadata.get("preparation") or {}).get("image_size_px", "S")
    path = shlex.quote(f"{_EXPORTS}/{name}")
    lines = ["## Use", "", f"Where `{_EXPORTS}` is the directory that holds the exports:", "", "```sh"]
    lines.append(f"urnet predict --model {path} photo.jpg pictures/")
    if "saved_model" in kept:
        lines += [f"urnet serve --model {path}", shlex.join(tf_serving.docker_command(_EXPORTS))]
    lines += ["```"]
    if "saved_model" in kept:
        none = ", `none_of_these` float32 [n]" if metadata.get("none_of_these") else ""
        top = metadata.get("top_k", "k")
        named = f"`classes` int32 [n, {top}], `labels` and `ids` string"
        served = f"{named}, `probabilities` float32, best first{none}"
        lines += [
            "",
            "Signatures of the SavedModel; TF Serving answers to the model name "
            f"{code(name)}. The first takes image files as they are and prepares them itself.",
            "",
            f"- `serving_default`: `image_bytes` string [n] → {served}, `valid` bool [n]. "
            "A file that cannot be read gets `valid` = false and class -1, and does not affect the others.",
            f"- `tensor`: `images` float32 [n, {size}, {size}, 3], RGB, 0 to 255 → the same without `valid`.",
        ]
        if dimension := metadata.get("feature_dim"):
            lines.append(f"- `features`: `image_bytes` → `features` float32 [n, {dimension}], `valid`.")
    return "\n".join([*lines, *_other_files(metadata, kept, size), *_regions(metadata, kept)])


def _other_files(metadata: Mapping, kept: Mapping[str, str], size: object) -> list[str]:
    lines = []
    for kind, file in kept.items():
        if kind.endswith("_with_preparation"):
            gives = "logits; `urnet_tf.load_model` reads it" if kind.startswith("keras") else "probabilities"
            lines.append(
                f"- {code(file)}: uint8 [n, height, width, 3] of any size, RGB, upright and opaque, prepared "
                f"inside → {gives}."
            )
    if lines:
        lines = ["", "Decoded pictures go into", "", *lines]
    prepared = [kind for kind in kept if kind != "saved_model" and not kind.endswith("_with_preparation")]
    if prepared:
        lines += ["", f"The other files take prepared images: {_preparation(metadata)}", ""]
    for kind in prepared:
        file = code(kept[kind])
        if kind == "keras":
            lines.append(
                f"- {file}: float32 [n, {size}, {size}, 3] → logits. "
                "`keras.saving.load_model` reads it; where it holds layers of `urnet_tf` (ResNeXt), "
                "`urnet_tf.load_model`."
            )
        elif kind == "onnx":
            lines.append(f"- {file}: float32 [n, {size}, {size}, 3] → probabilities float32.")
        else:
            dtype = "uint8" if kind == "tflite_int8" else "float32"
            lines.append(
                f"- {file}: {dtype} [1, {size}, {size}, 3] → probabilities float32; labels, ids and "
                "preparation are inside."
            )
    return lines


def _regions(metadata: Mapping, kept: Mapping[str, str]) -> list[str]:
    """What to tell MediaPipe and the Task Library, which prepare pictures for `.tflite` files their way."""
    preparation = metadata.get("preparation") or {}
    if "crop_fraction" not in preparation or not any(kind.startswith("tflite_") for kind in kept):
        return []
    fraction = preparation["crop_fraction"]
    if fraction is None:
        return [
            "",
            "MediaPipe and the TFLite Task Library show such a model the whole picture, which is what it was "
            "trained for: they need no region of interest.",
        ]
    if fraction == PADDED:
        told = (
            "MediaPipe and the TFLite Task Library stretch the picture that they are given to a square; this "
            "model was trained for pictures in the middle of a gray square. Pad `pixels` uint8 "
            "[height, width, 3] before a library gets them:"
        )
        return ["", told, "", "```python", *_PADDING_LINES.splitlines(), "```"]
    return [
        "",
        "MediaPipe and the TFLite Task Library show a model the whole picture; this one was trained for its "
        "center. Give them the region of interest, for `pixels` uint8 [height, width, 3] (on Android by "
        "`setRegionOfInterest` of MediaPipe's `ImageProcessingOptions`, and `setRoi` of the other's):",
        *(
            line
            for library, lines in region_lines(fraction).items()
            for line in ("", f"{library}:", "", "```python", *lines.splitlines(), "```")
        ),
    ]


_PADDING_LINES = f"""\
import numpy

height, width = pixels.shape[:2]
side = max(height, width)
top, left = (side - height) // 2, (side - width) // 2
around = (top, side - height - top), (left, side - width - left), (0, 0)
pixels = numpy.pad(pixels, around, constant_values={PADDING})
"""


def region_lines(crop_fraction: float) -> dict[str, str]:
    """Python lines by which each library shows a classifier the part of `pixels` that it was trained for."""
    return {
        "MediaPipe": f"""\
import mediapipe
from mediapipe.tasks.python.components.containers.rect import RectF

height, width = pixels.shape[:2]
side = {crop_fraction:g} * min(height, width)
left, top = (1 - side / width) / 2, (1 - side / height) / 2
region = RectF(left=left, top=top, right=1 - left, bottom=1 - top)  # by name: it has another order
options = mediapipe.tasks.vision.ImageProcessingOptions(region_of_interest=region)
image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
result = classifier.classify(image, options)
""",
        "TFLite Task Library": f"""\
from tflite_support.task import processor, vision

height, width = pixels.shape[:2]
side = round({crop_fraction:g} * min(height, width))
box = processor.BoundingBox((width - side) // 2, (height - side) // 2, side, side)
result = classifier.classify(vision.TensorImage.create_from_array(pixels), box)
""",
    }


def _preparation(metadata: Mapping) -> str:
    preparation = metadata.get("preparation") or {}
    size, fraction = preparation.get("image_size_px", "S"), preparation.get("crop_fraction")
    steps = ["apply the EXIF orientation", "put transparent images on a white background"]
    if short := preparation.get("short_side_px"):
        steps.append(f"reduce the short side to {short} px if it is longer")
    if "crop_fraction" in preparation and fraction is None:
        steps.append(f"stretch it to {size} x {size} px (antialiased), whatever its shape")
    elif fraction == PADDED:
        steps.append(
            f"resize its long side to {size} px (antialiased) and put it in the middle of a gray square "
            f"({PADDING}, {PADDING}, {PADDING}) of {size} x {size} px"
        )
    else:
        part = f"the central square of {fraction:.3g} of the short side" if fraction else "the central square"
        steps.append(f"crop {part} and resize it to {size} x {size} px (antialiased)")
    return "; ".join(steps) + ". RGB, 0 to 255, not normalized."
