"""Opens a version of an export for our own server: a SavedModel with all signatures, or any other file."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.export.preparation import Preparation
from urnet_tf.serving.batching import Arrays
from urnet_tf.serving.model_files import KINDS, ModelFile
from urnet_tf.serving.rest_protocol import DEFAULT_SIGNATURE, STRING, Signature, TensorSpec
from urnet_tf.serving.served_model import Version
from urnet_tf.text_rules import first_line

if TYPE_CHECKING:
    from urnet_tf.serving.predictor import Classifier

_TOP_K = 5  # classes that a file without signatures of its own is served with


def open_version(file: ModelFile) -> Version:
    """Opens a model that was found.

    Raises:
      UsageError: it is damaged, or not of `urnet export`.
    """
    if file.kind == "saved_model":
        return _SavedModel(file)
    from urnet_tf.serving.predictor import open_model_file

    return _Answers(open_model_file(file))


class _SavedModel(Version):
    """Calls the signatures of a SavedModel as they are."""

    def __init__(self, file: ModelFile):
        import tensorflow as tf
        from google.protobuf import json_format

        from urnet_tf.export.tf_serving import read_signatures

        try:
            self._loaded = tf.saved_model.load(
                os.fspath(file.path)
            )  # kept: else its variables would be freed
            found = read_signatures(file.path)
        except Exception as error:  # of many types
            raise UsageError(
                f"Cannot open the {KINDS[file.kind]} model {file.path}: {first_line(error)}"
            ) from error
        self.signatures = {name: Signature(*map(_specs, (s.inputs, s.outputs))) for name, s in found.items()}
        self.signature_def = {
            name: json_format.MessageToDict(
                s, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for name, s in found.items()
        }
        self.max_pixels = (file.preparation or Preparation).max_pixels

    def run(self, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `served_model.Version`."""
        import tensorflow as tf

        specs = self.signatures[signature].inputs
        tensors = {
            name: tf.constant(v.tolist() if specs[name].dtype == STRING else v) for name, v in inputs.items()
        }
        outputs = self._loaded.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in outputs.items()}


class _Answers(Version):
    """Gives a Keras, TFLite or ONNX file the first signature of a SavedModel."""

    def __init__(self, classifier: "Classifier"):
        self._classifier, self._k = classifier, min(_TOP_K, classifier.max_top_k)
        self._ids = [identity.encode() for identity in classifier.file.class_ids or classifier.labels]
        outputs = {
            "classes": TensorSpec("int32", (None, self._k)),
            "labels": TensorSpec(STRING, (None, self._k)),
            "ids": TensorSpec(STRING, (None, self._k)),
            "probabilities": TensorSpec("float32", (None, self._k)),
            "valid": TensorSpec("bool", (None,)),
        }
        if classifier.has_none_of_these:
            outputs["none_of_these"] = TensorSpec("float32", (None,))
        signature = Signature({"image_bytes": TensorSpec(STRING, (None,))}, outputs)
        self.signatures = {DEFAULT_SIGNATURE: signature}
        self.signature_def = {DEFAULT_SIGNATURE: _describe(signature)}
        self.max_pixels = (classifier.preparation or Preparation).max_pixels

    def run(self, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `served_model.Version`."""
        answers = self._classifier.classify(inputs["image_bytes"].tolist(), self._k)
        rows, nothing = len(answers), (-1,) * self._k
        labels, ids = (np.full((rows, self._k), b"", object) for _ in range(2))
        for row, answer in enumerate(answers):
            labels[row, : len(answer.labels)] = [label.encode() for label in answer.labels]
            ids[row, : len(answer.classes)] = [self._ids[number] for number in answer.classes]
        outputs = {
            "classes": np.array([a.classes or nothing for a in answers], np.int32).reshape(rows, self._k),
            "labels": labels,
            "ids": ids,
            "probabilities": np.array(
                [a.probabilities or (0.0,) * self._k for a in answers], np.float32
            ).reshape(rows, self._k),
            "valid": np.array([a.valid for a in answers], bool),
        }  # fmt: skip
        if self._classifier.has_none_of_these:
            outputs["none_of_these"] = np.array([a.none_of_these or 0.0 for a in answers], np.float32)
        return outputs


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Of TensorInfo messages, in the order of their names."""
    import tensorflow as tf

    return {
        name: TensorSpec(
            tf.dtypes.as_dtype(info.dtype).name,
            tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in sorted(tensors.items())
    }


def _describe(signature: Signature) -> dict[str, Any]:
    """JSON of the SignatureDef that a SavedModel of the same would have."""

    def tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        return {
            name: {
                "dtype": {STRING: "DT_STRING", "float32": "DT_FLOAT", "int32": "DT_INT32", "bool": "DT_BOOL"}[
                    spec.dtype
                ],
                "tensor_shape": {
                    "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape],
                    "unknown_rank": False,
                },
                "name": name,
            }
            for name, spec in specs.items()
        }

    return {
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
