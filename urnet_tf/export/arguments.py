"""What an export is asked for, checked before anything is written."""

import collections
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from urnet_tf.errors import UsageError
from urnet_tf.export.formats import FORMATS, PRECISIONS
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.rewriting import LOGITS, layers_of
from urnet_tf.store import atomic_path, remove
from urnet_tf.text_rules import FILE_NAME, check_text, quote

if TYPE_CHECKING:
    import keras


def make_directory(directory: pathlib.Path) -> None:
    """Makes an export's directory; raises UsageError where it cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(directory / "writable") as temporary:
            temporary.touch()
        remove(directory / "writable", directory)
    except OSError as error:
        raise UsageError(f"Cannot write the export to {directory}: {error.strerror}.") from None


def check_arguments(
    model: "keras.Model",
    class_names: Sequence[str],
    class_ids: Sequence[str] | None,
    name: str,
    check_images: Sequence[bytes],
    preparation: Preparation,
    formats: Sequence[str],
    calibration_images: Sequence[bytes],
) -> None:
    """Raises UsageError where `export_classifier` cannot work with what it is given."""
    check_text(name, FILE_NAME, "the export's name")
    num_classes, num_names = model.output[LOGITS].shape[-1], len(class_names)
    if num_classes != num_names:
        raise UsageError(f"The model gives {num_classes} classes; received {num_names} names.")
    for what, texts in (("names", class_names), ("ids", class_ids or ())):
        twice = [text for text, times in collections.Counter(texts).items() if times > 1]
        if twice:
            raise UsageError(
                f"Expected {what} of classes that differ; received {quote(twice[0])} twice. Add what "
                "tells them apart."
            )
    if class_ids is not None and len(class_ids) != num_names:
        raise UsageError(f"Expected {num_names} ids of classes, one a name; received {len(class_ids)}.")
    expected = (preparation.image_size_px, preparation.image_size_px, 3)
    sides = tuple(model.input_shape[1:])
    if len(sides) != 3 or any(s not in (None, e) for s, e in zip(sides, expected, strict=True)):
        raise UsageError(f"Expected a model of images {list(expected)}; its input is {list(sides)}.")
    unknown = [kind for kind in formats if kind not in PRECISIONS]
    if unknown or not formats:
        received = ", ".join(map(repr, unknown)) or "none"
        raise UsageError(f"Expected formats of {', '.join(FORMATS)}; received {received}.")
    if "tflite_int8" in formats and not len(calibration_images):
        raise UsageError("Expected calibration images for tflite_int8; received none.")
    if not check_images:
        raise UsageError("Expected at least one check image; received none.")
    names = [layer.name for layer in layers_of(model)]
    bad = [n for n in names if not n.isascii() or n.startswith("_") or " " in n]
    if bad:
        raise UsageError(f"Layer names must be ASCII, no spaces, no leading _; received {', '.join(bad)}.")
