"""Lets MLflow's scoring server speak TF Serving's JSON; named by the `MLmodel` file of `urnet serve`.

MLflow's own TensorFlow flavor cuts trailing zero bytes off what it is sent, which spoils many BMP
and WebP files, answers labels in base64, and takes the `{"b64": ...}` of TF Serving for a bad image.
The SavedModel is the same, unchanged.
"""

import base64
from typing import Any

import numpy as np

from urnet_tf.errors import UsageError

INPUT = "image_bytes"


def _load_pyfunc(path: str) -> Any:
    """What MLflow calls, with the SavedModel's directory."""
    return ImageScorer(path)


class ImageScorer:
    """Answers `instances` with one dictionary an image, as TF Serving does."""

    def __init__(self, path: str):
        import tensorflow as tf

        self._model = tf.saved_model.load(path)  # kept: its function alone would lose the variables
        self._signature = self._model.signatures["serving_default"]

    def predict(self, data: Any, params: dict | None = None) -> list[dict]:
        """Classifies.

        Args:
          data: `{"image_bytes": [{"b64": "..."}, ...]}`, what MLflow makes of `instances`.
          params: MLflow's; not used.
        """
        import tensorflow as tf

        answers = self._signature(**{INPUT: tf.constant(decode_images(data), tf.string)})
        columns = {name: _plain(values.numpy()) for name, values in answers.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def decode_images(data: Any) -> list[bytes]:
    """The encoded images of a request.

    Raises:
      UsageError: it has another form, or a text is no base64.
    """
    images = data.get(INPUT, []) if isinstance(data, dict) and len(data) == 1 else []
    images = [np.asarray(image).item() for image in images]  # MLflow makes an array of each dictionary
    if not images or not all(isinstance(image, dict) and set(image) == {"b64"} for image in images):
        raise UsageError('Expected {"instances": [{"image_bytes": {"b64": "..."}}, ...]}.')
    try:
        # Encoders wrap lines, and TF Serving does not mind.
        return [base64.b64decode("".join(image["b64"].split()), validate=True) for image in images]
    except (AttributeError, ValueError) as error:
        raise UsageError(f"Expected base64 in every b64: {error}.") from None


def _plain(values: np.ndarray) -> Any:
    if values.dtype == object:
        return np.vectorize(bytes.decode, otypes=[object])(values).tolist()
    return values.tolist()
