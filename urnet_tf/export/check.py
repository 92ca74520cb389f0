"""Runs the files of an export beside the Keras model that they were made from, over the same images."""

import functools
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from urnet_tf.errors import UsageError
from urnet_tf.export.formats import KERAS, KERAS_PICTURES, ONNX, ONNX_PICTURES, SAVED_MODEL
from urnet_tf.export.parity import Comparison
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.rewriting import FEATURES, LOGITS, float32_copy
from urnet_tf.export.task_libraries import measure_libraries
from urnet_tf.store.progress import progress
from urnet_tf.text_rules import first_line

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_VIEWS_AT_ONCE = 32
_TIMED_CALLS = 20
_SAMPLED_BATCHES = 4  # of so many one is enough for the other signatures, which share their graph


def check_formats(
    model: "keras.Model",
    paths: Mapping[str, Path],
    opened: Mapping[str, Mapping[str, Callable]],
    images: Sequence[bytes],
    labels: np.ndarray | None,
    preparation: Preparation,
) -> dict:
    """Compares files with Keras.

    Args:
      model: Keras model with named outputs, see `rewriting.with_named_outputs`.
      paths: format → its file.
      opened: what `open_formats` gave of them.
      images: encoded; those that cannot be decoded are left out.
      labels: int [n], -1 = not known; None = none is.
      preparation: of the images. A SavedModel is compared on the mean of its views, other files on
        the plain view.

    Returns:
      plain JSON: `check` (how many images), `reference` (Keras' accuracy on the plain view) and
      `formats`, which has `file`, `bytes`, `parity`, `accuracy` and `latency_ms` of each, and of `.tflite`
      files `min_runtime` and `libraries` (see `task_libraries.measure_libraries`).

    Raises:
      UsageError: no image can be decoded.
    """
    num_classes, ask_keras = model.output[LOGITS].shape[-1], _compile(float32_copy(model))
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    comparisons = {kind: {name: Comparison() for name in answers} for kind, answers in opened.items()}
    reference, first = Comparison(), None
    valid_ids: list[np.ndarray] = []
    starts = range(0, len(images), max(1, _VIEWS_AT_ONCE // preparation.views))
    for number, start in enumerate(progress(starts, "checking the export", unit="batches")):
        encoded = list(images[start : start + starts.step])
        views, valid = (tensor.numpy() for tensor in preparation.decode_views(encoded))
        valid_ids.append(start + np.flatnonzero(valid))
        if not valid.any():
            continue
        encoded, views = [b for b, v in zip(encoded, valid, strict=True) if v], views[valid]
        several = preparation.views > 1
        plain = preparation.decode(encoded)[0].numpy() if several else views[:, 0]
        first = first or (encoded[:1], plain[:1])
        expected = ask_keras(plain[:, None])
        averaged = ask_keras(views) if several else expected
        reference.add(expected[LOGITS], expected[LOGITS])
        for kind, answers in opened.items():
            for i, (name, answer) in enumerate(answers.items()):
                if i and number % _SAMPLED_BATCHES:
                    continue
                wanted = averaged if name in ("serving_default", FEATURES) else expected
                output = FEATURES if name == FEATURES else LOGITS
                comparisons[kind][name].add(wanted[output], *answer(encoded, plain))
    kept = np.concatenate(valid_ids)
    if first is None:
        raise UsageError(f"None of the {len(images)} check images can be decoded.")

    known = labels[kept]
    formats = {}
    for kind, path in paths.items():
        main = next(iter(opened[kind]))
        formats[kind] = {
            "file": path.name,
            "bytes": _count_bytes(kind, path),
            "parity": _worst({name: c.parity() for name, c in comparisons[kind].items()}),
            "accuracy": comparisons[kind][main].accuracy(known, num_classes),
            "latency_ms": _latency_ms(opened[kind][main], *first),
        }
    _measure_libraries(formats, paths, opened, [images[i] for i in kept], known, reference, preparation)
    return {
        "check": {"images": int(kept.size), "labeled": int((known >= 0).sum())},
        "reference": reference.accuracy(known, num_classes),
        "formats": formats,
    }


def _measure_libraries(
    formats: dict[str, dict],
    paths: Mapping[str, Path],
    opened: Mapping[str, Mapping[str, Callable]],
    images: Sequence[bytes],
    labels: np.ndarray,
    reference: Comparison,
    preparation: Preparation,
) -> None:
    """Adds to the `.tflite` files what they need and what people get of them through task libraries."""
    from urnet_tf.export.tflite import minimum_runtime

    classifiers = {kind: opened[kind][""] for kind in formats if kind.startswith("tflite_")}
    best = {
        kind: lambda pixels, ask=ask: ask([], pixels)[0].argmax(axis=1) for kind, ask in classifiers.items()
    }
    read = functools.partial(_read, max_pixels=preparation.max_pixels)
    through = measure_libraries(best, images, labels, reference.best(), preparation, read)
    for kind in classifiers:
        formats[kind] |= {"min_runtime": minimum_runtime(paths[kind]), "libraries": through.get(kind)}


def open_formats(
    paths: Mapping[str, Path], model: "keras.Model", preparation: Preparation
) -> tuple[dict[str, dict[str, Callable]], dict[str, str]]:
    """Opens files as their users will, and asks each about a gray picture.

    Returns:
      format → what `open_format` gives; and format → why a file that was written cannot be used, as happens
      to networks of others.
    """
    gray = Image.new("RGB", (preparation.image_size_px,) * 2, (128, 128, 128))
    file = io.BytesIO()
    gray.save(file, "JPEG")
    opened, unusable = {}, {}
    for kind, path in paths.items():
        try:
            answers = open_format(kind, path, model, preparation)
            next(iter(answers.values()))([file.getvalue()], np.asarray(gray, np.float32)[None])
            opened[kind] = answers
        except Exception as error:  # of many types, from several libraries
            reason = first_line(error).rstrip(".")
            unusable[kind] = f"The file was written, but cannot be used: {reason}"
    return opened, unusable


def open_format(kind: str, path: Path, model: "keras.Model", preparation: Preparation) -> dict[str, Callable]:
    """The ways in which a file predicts, the main one first.

    Returns:
      name → function of (encoded images [n], plain views float32 [n, S, S, 3]), to probabilities
      [n, C], or the served ones [n, k] and their classes [n, k]; for "features" to features [n, D].
    """
    if kind == SAVED_MODEL:
        return _open_signatures(path.parent, FEATURES in model.output)
    if kind in (KERAS_PICTURES, ONNX_PICTURES):
        ask = _open_for_pictures(kind, path)
        return {"": lambda encoded, plain: (_ask_each(ask, encoded, preparation.max_pixels),)}
    if kind == KERAS:
        from urnet_tf.export.rewriting import with_named_outputs
        from urnet_tf.training.saving import load_model

        predict = _compile(with_named_outputs(load_model(path)))
        return {"": lambda encoded, plain: (predict(plain[:, None])[LOGITS],)}
    if kind == ONNX:
        from urnet_tf.export.onnx_file import build_onnx_classifier

        classify = build_onnx_classifier(path)
    else:
        from urnet_tf.export.tflite import build_tflite_classifier

        classify = build_tflite_classifier(path, threads=os.cpu_count())
    return {"": lambda encoded, plain: (classify(plain),)}


def _open_for_pictures(kind: str, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function of pictures uint8 [n, h, w, 3] → probabilities [n, C]."""
    if kind == ONNX_PICTURES:
        from urnet_tf.export.onnx_file import build_onnx_classifier

        return build_onnx_classifier(path)
    import tensorflow as tf

    from urnet_tf.training.saving import load_model

    model = load_model(path)
    signature = [tf.TensorSpec(model.input.shape, tf.uint8)]
    predict = tf.function(lambda pictures: tf.nn.softmax(model(pictures, training=False)), signature)
    return lambda pictures: predict(pictures).numpy()


def _ask_each(ask: Callable, encoded: Sequence[bytes], max_pixels: int) -> np.ndarray:
    """Of pictures of different sizes, one after the other."""
    return np.concatenate([ask(_read(data, max_pixels)[None]) for data in encoded])


def _read(data: bytes, max_pixels: int) -> np.ndarray:
    """A file as uint8 [h, w, 3], which TensorFlow, the only one to have seen it, can decode in any case."""
    from urnet_tf.images.headers import Refused
    from urnet_tf.images.picture import read_picture

    try:
        return read_picture(data, max_pixels)
    except Refused:
        from urnet_tf.images.decode import decode_rgb

        return np.asarray(decode_rgb(data, max_pixels))


def _open_signatures(path: Path, has_features: bool) -> dict[str, Callable]:
    from urnet_tf.export.saved_model import open_saved_model

    call = open_saved_model(path)

    def classes(signature: str, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        served = call(signature, inputs)
        return served["probabilities"], served["classes"]

    signatures: dict[str, Callable] = {
        "serving_default": lambda encoded, plain: classes("serving_default", {"image_bytes": encoded}),
        "tensor": lambda encoded, plain: classes("tensor", {"images": plain}),
    }
    if has_features:
        signatures[FEATURES] = lambda encoded, plain: (call(FEATURES, {"image_bytes": encoded})[FEATURES],)
    return signatures


def _compile(model: "keras.Model") -> Callable:
    """A function of views float32 [n, V, S, S, 3] → their means: LOGITS as probabilities, FEATURES."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, *model.input.shape[1:]], tf.float32)])
    def forward(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        outputs = model(images, training=False)
        answers = {LOGITS: tf.nn.softmax(outputs[LOGITS])}
        return answers | ({FEATURES: outputs[FEATURES]} if FEATURES in outputs else {})

    def predict(views: np.ndarray) -> dict[str, np.ndarray]:
        answers = forward(views.reshape(-1, *views.shape[2:]))
        return {
            name: values.numpy().reshape(*views.shape[:2], -1).mean(axis=1, dtype=np.float64)
            for name, values in answers.items()
        }

    return predict


def _worst(parities: dict[str, Any]) -> dict[str, Any]:
    """One parity of those of several signatures, and these, where there are several."""
    if len(parities) == 1:
        return next(iter(parities.values()))
    features = parities.pop(FEATURES, None)
    worst = {
        "max_difference": max(p["max_difference"] for p in parities.values()),
        "relative_difference": max(p["relative_difference"] for p in parities.values()),
        "top1_agreement": min(p["top1_agreement"] for p in parities.values()),
        "signatures": parities,
    }
    if features:  # not probabilities: only the relative difference has a scale
        relative = features["relative_difference"]
        parities[FEATURES] = {"relative_difference": relative}
        worst["relative_difference"] = max(worst["relative_difference"], relative)
    return worst


def _latency_ms(answer: Callable, encoded: list[bytes], plain: np.ndarray) -> float:
    """Median of single images, one after the other."""
    seconds = []
    for _ in range(_TIMED_CALLS + 3):
        start = time.perf_counter()
        answer(encoded, plain)
        seconds.append(time.perf_counter() - start)
    return round(1000 * float(np.median(seconds[3:])), 2)


def _count_bytes(kind: str, path: Path) -> int:
    """Of the file; of a SavedModel those of all its parts."""
    if kind != SAVED_MODEL:
        return path.stat().st_size
    parts = [path, *(path.parent / "variables").iterdir(), *(path.parent / "assets").iterdir()]
    return sum(part.stat().st_size for part in parts)
