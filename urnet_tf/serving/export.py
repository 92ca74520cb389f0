"""Exports a classifier: a SavedModel for TF Serving and a `.tflite` file, both proven equal to Keras.

In: a Keras model images float32 [B, S, S, 3] (RGB, 0..255) → logits float32 [B, C], the class names,
a few encoded images. Out, in one directory:

    <name>/<version>/   SavedModel; TF Serving's layout; a version is never written twice
        serving_default   image_bytes string [n] → classes int32 [n, k], labels string [n, k],
                          probabilities float32 [n, k] (best first), valid bool [n]
        tensor            images float32 [n, S, S, 3], 0..255 → the same without `valid`
        assets/labels.txt
    <name>.tflite       image float32 [1, S, S, 3], 0..255 → probabilities float32 [1, C]; built-in
                        operations only
    labels.txt          one class name a line, in label order
    export.json         classes, sizes, signatures, versions, largest differences to Keras

A file that differs from Keras by more than the tolerance is not kept: `RunError`. Exports are
float32, whatever precision the model was trained in.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from urnet_tf.errors import RunError, UsageError
from urnet_tf.store import atomic_path, write_json, write_text

SIGNATURES = {
    "serving_default": "image_bytes string [n] -> classes, labels, probabilities, valid",
    "tensor": "images float32 [n, S, S, 3], RGB, 0..255 -> classes, labels, probabilities",
}
DEFAULT_MAX_PIXELS = 50_000_000


def export_classifier(
    model,
    class_names: Sequence[str],
    directory: str | os.PathLike,
    name: str,
    check_images: Sequence[bytes],
    *,
    image_size_px: int,
    crop_fraction: float,
    short_side_px: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    top_k: int = 5,
    tolerance: float = 1e-4,
    saved_model: bool = True,
    tflite: bool = True,
    first_version: int = 1,
) -> dict:
    """Writes the SavedModel, the `.tflite` file, the labels and `export.json`; checks both models.

    Args:
      model: Keras model images 0..255 → logits.
      class_names: C names in label order.
      directory: where the files go; made when missing.
      check_images: encoded images on which both files must agree with Keras.
      short_side_px: images are first reduced to this short side, as those of training were when
        they were packed; None = not.
      top_k: classes that the signatures give; C where it is larger.
      tolerance: largest difference of a probability to Keras.
      first_version: the version is the first free whole number from here.

    Returns:
      what `export.json` holds.

    Raises:
      UsageError: the name, the names of classes or the check images cannot be used, the directory
        cannot be written.
      RunError: a file differs from Keras by more than `tolerance`, or the model cannot be
        converted; nothing of it is left behind.
    """
    from importlib import metadata

    _check_arguments(model, class_names, name, check_images, image_size_px)
    directory = pathlib.Path(directory)
    _make_directory(directory)
    preparation = {
        "image_size_px": image_size_px,
        "crop_fraction": crop_fraction,
        "short_side_px": short_side_px,
        "max_pixels": max_pixels,
    }
    model = float32_copy(model)
    images, valid = prepare_batch(np.array(check_images, dtype=object), **preparation)
    valid = valid.numpy()
    images, encoded = images.numpy()[valid], [b for b, v in zip(check_images, valid, strict=True) if v]
    if not encoded:
        raise UsageError(f"None of the {len(check_images)} check images can be decoded.")
    expected = keras_probs(model, images)
    facts = {
        "name": name,
        "version": None,
        "classes": len(class_names),
        "preparation": preparation,
        "parameters": int(model.count_params()),
        "tolerance": tolerance,
        "check_images": len(encoded),
        "versions": {p: metadata.version(p) for p in ("tensorflow", "keras", "ai-edge-litert")},
    }
    labels = [" ".join(str(n).split()) for n in class_names]
    write_text(directory / "labels.txt", "\n".join(labels) + "\n")
    if saved_model:
        version = next_version(directory / name, first_version)
        with atomic_path(directory / name / str(version)) as temporary:
            write_saved_model(model, labels, temporary, top_k=top_k, **preparation)
            parity = check_saved_model(temporary, encoded, images, expected)
            _refuse_difference("SavedModel", parity, tolerance)
            size = sum(f.stat().st_size for f in temporary.rglob("*") if f.is_file())
        facts |= {"version": version}
        facts["saved_model"] = {
            "path": f"{name}/{version}", "bytes": size, "signatures": SIGNATURES, "parity": parity,
        }  # fmt: skip
    if tflite:
        with atomic_path(directory / f"{name}.tflite") as temporary:
            write_tflite(model, temporary, image_size_px)
            operations = tflite_operations(temporary)
            if foreign := [o for o in operations if o.startswith(("Flex", "CUSTOM"))]:
                raise RunError(f"The TFLite model needs {', '.join(foreign)}, which phones do not have.")
            parity = check_tflite(temporary, images, expected)
            _refuse_difference("TFLite model", parity, tolerance)
            size = temporary.stat().st_size
        facts["tflite"] = {
            "path": f"{name}.tflite", "bytes": size, "operations": operations, "parity": parity,
        }  # fmt: skip
    write_json(directory / "export.json", facts)
    return facts


def prepare_batch(
    image_bytes, image_size_px: int, crop_fraction: float, short_side_px: int | None, max_pixels: int
):
    """Encoded images to what the network sees; the one place where serving prepares images.

    Args:
      image_bytes: string [n].

    Returns:
      images float32 [n, S, S, 3], RGB, 0..255 and valid bool [n]; zeros where not valid.
    """
    from urnet_tf.data import decode

    return decode.decode_batch(
        image_bytes,
        image_size_px=image_size_px,
        crop_fraction=crop_fraction,
        short_side_px=short_side_px,
        max_pixels=max_pixels,
    )


def write_saved_model(
    model, labels: Sequence[str], path: str | os.PathLike, *, top_k: int = 5, **preparation
) -> None:
    """Writes a SavedModel with the signatures of `SIGNATURES`; every variable once.

    Args:
      model: Keras model images 0..255 → logits. It is called with training=False: with
        `training=None`, as `model.export` does, random layers would stay active.
      labels: C names.
      preparation: the keywords of `prepare_batch`.
    """
    import tempfile

    import tensorflow as tf

    # Native groups may carry an operation that demands XLA, which not every server has.
    model = _with_grouped_convolutions(float32_copy(model), "blocked")
    size, k = preparation["image_size_px"], min(top_k, len(labels))

    def best(probs):
        probabilities, classes = tf.math.top_k(probs, k)
        return {"classes": classes, "labels": tf.gather(names, classes), "probabilities": probabilities}

    def probs(images):
        images = tf.ensure_shape(images, [None, size, size, 3])  # a signature does not check them
        return tf.nn.softmax(tf.cast(model(images, training=False), tf.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def from_bytes(image_bytes):
        images, valid = prepare_batch(image_bytes, **preparation)
        served, keep = best(probs(images)), valid[:, None]
        return {
            "classes": tf.where(keep, served["classes"], -1),
            "labels": tf.where(keep, served["labels"], ""),
            "probabilities": tf.where(keep, served["probabilities"], 0.0),
            "valid": valid,
        }

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="images")])
    def from_images(images):
        return best(probs(images))

    names = tf.constant(list(labels))
    module = tf.Module()
    module.variables_once = _tf_variables(model)  # the model itself would write each a second time
    with tempfile.TemporaryDirectory() as folder:
        labels_path = pathlib.Path(folder) / "labels.txt"
        labels_path.write_text("\n".join(labels) + "\n", encoding="utf-8")
        module.labels = tf.saved_model.Asset(os.fspath(labels_path))
        signatures = {"serving_default": from_bytes, "tensor": from_images}
        tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def write_tflite(model, path: str | os.PathLike, image_size_px: int) -> None:
    """Writes a float32 `.tflite` file for one image of fixed size; built-in operations only.

    Grouped convolutions are written in their native form, which is the smallest and fastest there.

    Raises:
      RunError: the model needs an operation that TFLite does not have.
    """
    import tensorflow as tf

    native = _with_grouped_convolutions(float32_copy(model), "native")
    shape = [1, image_size_px, image_size_px, 3]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
    def predict(image):
        return {"probabilities": tf.nn.softmax(native(image, training=False))}

    module = tf.Module()
    module.variables_once = _tf_variables(native)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([predict.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        content = converter.convert()
    except Exception as error:  # the converter raises a plain Exception type of its own
        first = str(error).strip().splitlines()[0][:300]
        raise RunError(f"The model cannot be converted to TFLite built-in operations: {first}") from error
    pathlib.Path(path).write_bytes(content)


def float32_copy(model):
    """The model itself when it computes in float32, else a copy with the same weights that does."""
    import keras

    def change(node):
        if isinstance(node, (list, tuple)):
            return type(node)(change(v) for v in node)
        if not isinstance(node, dict):
            return node
        if node.get("class_name") == "DTypePolicy":
            return {**node, "config": {"name": "float32"}}
        return {key: change(value) for key, value in node.items()}

    if all(layer.compute_dtype == "float32" for layer in _layers(model)):
        return model
    copy = keras.saving.deserialize_keras_object(change(keras.saving.serialize_keras_object(model)))
    copy.set_weights(model.get_weights())
    return copy


def keras_probs(model, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """float32 [n, C] of a Keras model that gives logits, for images float32 [n, S, S, 3]."""
    import tensorflow as tf

    blocks = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([tf.nn.softmax(model(b, training=False)).numpy() for b in blocks])


def check_saved_model(path, encoded: Sequence[bytes], images: np.ndarray, expected: np.ndarray) -> dict:
    """Compares both signatures of a SavedModel on disk with the Keras probabilities float32 [n, C].

    Returns:
      `max_difference` of the probabilities that are served, `top1_agreement` and, for comparison,
      the same of each signature.
    """
    import tensorflow as tf

    served = tf.saved_model.load(os.fspath(path))  # kept while its functions are called
    calls = {
        "serving_default": lambda i, j: {"image_bytes": tf.constant(encoded[i:j])},
        "tensor": lambda i, j: {"images": tf.constant(images[i:j])},
    }
    signatures = {}
    for name, arguments in calls.items():
        signature = served.signatures[name]
        outputs = [signature(**arguments(i, i + 32)) for i in range(0, len(images), 32)]
        classes = np.concatenate([o["classes"].numpy() for o in outputs])
        probabilities = np.concatenate([o["probabilities"].numpy() for o in outputs])
        reference = np.take_along_axis(expected, np.maximum(classes, 0), axis=1)
        signatures[name] = _parity(probabilities, reference, classes[:, 0], expected)
    return {
        "max_difference": max(s["max_difference"] for s in signatures.values()),
        "top1_agreement": min(s["top1_agreement"] for s in signatures.values()),
        "signatures": signatures,
    }


def check_tflite(path, images: np.ndarray, expected: np.ndarray) -> dict:
    """Compares a `.tflite` file with the Keras probabilities: `max_difference`, `top1_agreement`."""
    interpreter = _interpreter(path)
    interpreter.allocate_tensors()
    where, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    probabilities = np.empty_like(expected)
    for row, image in enumerate(images):
        interpreter.set_tensor(where, image[None])
        interpreter.invoke()
        probabilities[row] = interpreter.get_tensor(out)[0]
    return _parity(probabilities, expected, probabilities.argmax(axis=1), expected)


def tflite_operations(path) -> list[str]:
    """The kinds of operations of a `.tflite` file, sorted; `Flex…` and `CUSTOM` are foreign ones."""
    # Without delegates the interpreter lists the operations of the file and not the delegate's one.
    return sorted({o["op_name"] for o in _interpreter(path, plain=True)._get_ops_details()})


def next_version(directory: str | os.PathLike, first: int = 1) -> int:
    """The smallest whole number, at least `first`, above all versions in a model's directory."""
    directory = pathlib.Path(directory)
    taken = [int(p.name) for p in directory.glob("*") if p.name.isdecimal()] if directory.is_dir() else []
    return max([first, *(v + 1 for v in taken)])


def _parity(probabilities, reference, best, expected) -> dict[str, float]:
    return {
        "max_difference": float(np.abs(probabilities - reference).max()),
        "top1_agreement": float(np.mean(best == expected.argmax(axis=1))),
    }


def _refuse_difference(what: str, parity: Mapping, tolerance: float) -> None:
    if not parity["max_difference"] <= tolerance:  # also when it is NaN
        raise RunError(
            f"The {what} differs from Keras: probabilities by up to {parity['max_difference']:.3g} (allowed "
            f"{tolerance:g}), same best class on {100 * parity['top1_agreement']:.1f} % of the check images. "
            "It was not kept."
        )


def _interpreter(path, plain=False):
    from ai_edge_litert import interpreter

    resolver = interpreter.OpResolverType
    kind = resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else resolver.AUTO
    return interpreter.Interpreter(model_path=os.fspath(path), experimental_op_resolver_type=kind)


def _layers(model):
    """All layers, those of nested models too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _with_grouped_convolutions(model, implementation):
    """A copy whose grouped convolutions compute so; the model itself when it has none."""
    import keras

    from urnet_tf.models.grouped_convolution import GroupedConv2D, with_implementation

    if not any(isinstance(layer, GroupedConv2D) for layer in _layers(model)):
        return model
    return with_implementation(keras.Model(model.inputs, model.outputs), implementation)


def _tf_variables(model):
    return [v.value for v in model.weights]  # without the seeds of dropout, which is off


def _make_directory(directory):
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(directory / "writable") as temporary:
            temporary.touch()
        (directory / "writable").unlink()
    except OSError as error:
        raise UsageError(f"Cannot write the export to {directory}: {error.strerror}.") from None


def _check_arguments(model, class_names, name, check_images, image_size_px):
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UsageError(f"Expected a plain name for the export (no path); received {name!r}.")
    num_classes, num_names = model.output_shape[-1], len(class_names)
    if num_classes != num_names:
        raise UsageError(f"The model gives {num_classes} classes; received {num_names} names.")
    expected = (image_size_px, image_size_px, 3)
    sides = tuple(model.input_shape[1:])
    if len(sides) != 3 or any(s not in (None, e) for s, e in zip(sides, expected, strict=True)):
        raise UsageError(f"Expected a model of images {list(expected)}; its input is {list(sides)}.")
    if not check_images:
        raise UsageError("Expected at least one check image; received none.")
    names = [layer.name for layer in _layers(model)]
    bad = [n for n in names if not n.isascii() or n.startswith("_") or " " in n]
    if bad:
        raise UsageError(f"Layer names must be ASCII, no spaces, no leading _; received {', '.join(bad)}.")
