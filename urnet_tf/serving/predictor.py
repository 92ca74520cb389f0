"""Opens an export of any format and answers encoded images: one door to Keras, SavedModel, TFLite, ONNX.

A SavedModel decodes and ranks by itself. The other formats give probabilities; the images are
prepared for them by the function of training (`Preparation.decode_views`), views are averaged and
classes ranked here.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.serving.model_files import KINDS, ModelFile, find_model
from urnet_tf.text_rules import first_line

if TYPE_CHECKING:
    import tensorflow as tf

_VIEWS_AT_ONCE = 32

# Classes, probabilities, whether an image is valid, and none_of_these.
_Ranked = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


class Answer(NamedTuple):
    """What a model says of one image; nothing when it cannot be read."""

    valid: bool
    classes: tuple[int, ...] = ()  # best first
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    none_of_these: float | None = None  # that it shows no class at all, of models that tell


class Classifier:
    """An opened model. It may be used by several threads.

    Attributes:
      file: where it lies, its name, version and kind.
      labels: names of the classes.
      preparation: of images; None for a SavedModel that does not say.
      max_top_k: classes that it gives at most.
      has_none_of_these: whether answers have `none_of_these`.
    """

    def __init__(self, file: ModelFile, rank: Callable, max_top_k: int, has_none_of_these: bool):
        """Takes `rank`: encoded [n], k → classes [n, k], probabilities [n, k], valid [n], none [n] | None."""
        self.file, self.kind = file, file.kind
        self.labels, self.preparation = file.labels, file.preparation
        self.max_top_k, self.has_none_of_these = max_top_k, has_none_of_these
        self._rank = rank

    def check_top_k(self, top_k: int) -> None:
        """Raises UsageError when the model cannot give so many classes."""
        if not 1 <= top_k <= self.max_top_k:
            hint = " Export it with a larger top_k, or use another format of it."
            raise UsageError(
                f"Expected top_k from 1 to {self.max_top_k}, which {self.file.path} gives; received {top_k}."
                + (hint if self.max_top_k < top_k <= len(self.labels) else "")
            )

    def classify(self, encoded: Sequence[bytes], top_k: int) -> list[Answer]:
        """Answers images in their order; a bad one is `valid = False` and harms no other.

        All formats of `images.picture` are answered: what the model's own graph does not read, like TIFF, is
        handed to it as PNG.

        Raises:
          UsageError: the model cannot give `top_k` classes.
        """
        self.check_top_k(top_k)
        if not len(encoded):
            return []
        answers = self._answers(encoded, top_k)
        again = {
            row: png for row, a in enumerate(answers) if not a.valid and (png := self._png(encoded[row]))
        }
        if again:
            for row, answer in zip(again, self._answers(list(again.values()), top_k), strict=True):
                answers[row] = answer
        return answers

    def _png(self, data: bytes) -> bytes:
        """A file that only Pillow reads as PNG; nothing where it does not either."""
        from urnet_tf.images import picture
        from urnet_tf.images.headers import Refused
        from urnet_tf.images.image_formats import MAX_PIXELS

        max_pixels = self.preparation.max_pixels if self.preparation else MAX_PIXELS
        try:
            return picture.encode_png(picture.read_picture(data, max_pixels))
        except Refused:
            return b""

    def _answers(self, encoded: Sequence[bytes], top_k: int) -> list[Answer]:
        classes, probabilities, valid, none = self._rank(encoded, top_k)
        return [
            Answer(
                True,
                tuple(classes[row].tolist()),
                tuple(self.labels[c] for c in classes[row]),
                tuple(probabilities[row].tolist()),
                None if none is None else float(none[row]),
            )
            if valid[row]
            else Answer(False)
            for row in range(len(encoded))
        ]


def open_classifier(path: str | os.PathLike) -> Classifier:
    """Opens the model that a path means; see `model_files`.

    Raises:
      UsageError: there is no such model, or it cannot be used.
    """
    return open_model_file(find_model(path))


def open_model_file(file: ModelFile) -> Classifier:
    """Opens a model that was found.

    Raises:
      UsageError: it is damaged, of another origin, or does not fit its labels or preparation.
    """
    try:
        if file.kind == "saved_model":
            return _open_saved_model(file)
        networks = {"keras": _keras_network, "tflite": _tflite_network, "onnx": _onnx_network}
        network, takes_pictures = networks[file.kind](file)
        return _open_network_of_pictures(file, network) if takes_pictures else _open_network(file, network)
    except UsageError:
        raise
    except Exception as error:  # each library has error types of its own for files that it cannot use
        raise UsageError(
            f"Cannot open the {KINDS[file.kind]} model {file.path}: {first_line(error)}"
        ) from error


def _open_saved_model(file: ModelFile) -> Classifier:
    import tensorflow as tf

    loaded = tf.saved_model.load(os.fspath(file.path))
    signature = loaded.signatures.get("serving_default")
    outputs = signature.structured_outputs if signature is not None else {}
    if not {"classes", "probabilities", "valid"} <= set(outputs):
        raise UsageError(
            f"Expected a SavedModel of `urnet export`, whose serving_default takes image_bytes and gives "
            f"classes, probabilities and valid; {file.path} gives {', '.join(sorted(outputs)) or 'nothing'}."
        )

    def rank(encoded: list[bytes], k: int) -> _Ranked:
        # Naming `loaded` keeps it: without it the variables of the signature would be freed.
        served = loaded.signatures["serving_default"](image_bytes=tf.constant(encoded, tf.string))
        none = served["none_of_these"].numpy() if "none_of_these" in served else None
        best = (served[name].numpy()[:, :k] for name in ("classes", "probabilities"))
        return *best, served["valid"].numpy(), none

    return Classifier(file, rank, outputs["classes"].shape[1] or len(file.labels), "none_of_these" in outputs)


def _open_network(file: ModelFile, network: Callable) -> Classifier:
    """A classifier of a function images float32 [m, S, S, 3] → probs [m, C], none_of_these [m] | None."""
    import tensorflow as tf

    preparation = file.outer_preparation
    size, views = preparation.image_size_px, preparation.views
    prepare = preparation.decode_views
    images_at_once = max(1, _VIEWS_AT_ONCE // views)
    lock = threading.Lock()  # interpreters take one call at a time; meanwhile other threads decode
    probs, none = network(np.zeros([1, size, size, 3], np.float32))
    _check_classes(file, probs)
    has_none = none is not None

    def rank_part(encoded: list[bytes], k: int) -> _Ranked:
        images, valid = (t.numpy() for t in prepare(tf.constant(encoded, tf.string)))
        classes, probabilities = np.full([len(valid), k], -1), np.zeros([len(valid), k], np.float32)
        none = np.zeros(len(valid), np.float32) if has_none else None
        if valid.any():
            with lock:
                probs, none_of_views = network(images[valid].reshape(-1, size, size, 3))
            probs = probs.reshape(-1, views, probs.shape[1]).mean(axis=1)
            best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
            classes[valid], probabilities[valid] = best, np.take_along_axis(probs, best, axis=1)
            if none is not None:
                none[valid] = none_of_views.reshape(-1, views).mean(axis=1)
        return classes, probabilities, valid, none

    def rank(encoded: list[bytes], k: int) -> _Ranked:
        starts = range(0, len(encoded), images_at_once)
        parts = [rank_part(encoded[i : i + images_at_once], k) for i in starts]
        columns = list(zip(*parts, strict=True))
        joined = [np.concatenate(column) for column in columns[:3]]
        classes, probabilities, valid = joined
        return classes, probabilities, valid, np.concatenate(columns[3]) if has_none else None

    return Classifier(file, rank, len(file.labels), has_none)


def _check_classes(file: ModelFile, probs: np.ndarray) -> None:
    if probs.shape[1] != len(file.labels):
        raise UsageError(
            f"Expected {probs.shape[1]} names of classes, as {file.path} has classes; "
            f"received {len(file.labels)}."
        )


def _open_network_of_pictures(file: ModelFile, network: Callable) -> Classifier:
    """A classifier of a function pictures uint8 [1, h, w, 3] → probs [1, C] and None."""
    from urnet_tf.images.headers import Refused
    from urnet_tf.images.picture import read_picture

    max_pixels = file.outer_preparation.max_pixels
    _check_classes(file, network(np.zeros([1, 8, 8, 3], np.uint8))[0])

    def rank(encoded: list[bytes], k: int) -> _Ranked:
        classes, probabilities = np.full([len(encoded), k], -1), np.zeros([len(encoded), k], np.float32)
        valid = np.ones(len(encoded), bool)
        for row, data in enumerate(encoded):
            try:
                probs = network(read_picture(data, max_pixels)[None])[0][0]
            except Refused:
                valid[row] = False
                continue
            classes[row] = np.argsort(-probs, kind="stable")[:k]
            probabilities[row] = probs[classes[row]]
        return classes, probabilities, valid, None

    return Classifier(file, rank, len(file.labels), False)


# The networks are a function images → probs, none_of_these | None, and whether it takes pictures of any size.


def _keras_network(file: ModelFile) -> tuple[Callable, bool]:
    import tensorflow as tf

    from urnet_tf.export.rewriting import LOGITS, NONE_OF_THESE, float32_copy
    from urnet_tf.training.saving import load_model

    model = float32_copy(load_model(file.path))
    takes_pictures = model.input.dtype == "uint8"
    size = None if takes_pictures else file.outer_preparation.image_size_px

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], model.input.dtype)])
    def forward(images: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor | None]":
        outputs = model(images, training=False)
        outputs = outputs if isinstance(outputs, dict) else {LOGITS: outputs}
        return tf.nn.softmax(tf.cast(outputs[LOGITS], tf.float32)), outputs.get(NONE_OF_THESE)

    def network(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        probs, none = forward(tf.constant(images))
        return probs.numpy(), None if none is None else none.numpy().reshape(-1)

    return network, takes_pictures


def _tflite_network(file: ModelFile) -> tuple[Callable, bool]:
    from urnet_tf.export.tflite import build_tflite_classifier

    classifier = build_tflite_classifier(file.path, threads=os.cpu_count())
    return lambda images: (classifier(images), None), False


def _onnx_network(file: ModelFile) -> tuple[Callable, bool]:
    from urnet_tf.export.onnx_file import open_onnx_classifier

    classifier, takes_pictures = open_onnx_classifier(file.path)
    return lambda images: (classifier(images), None), takes_pictures
