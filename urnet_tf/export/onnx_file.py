"""ONNX files of a classifier: images float32 [n, S, S, 3], RGB, 0..255 → probabilities float32 [n, C].

Those with the preparation inside take pictures uint8 [n, h, w, 3] of any size.

The number of images is open. Grouped convolutions are one Conv with `group` set. The file's metadata
holds `labels` and `class_ids` (JSON lists), `preparation` (JSON of `Preparation.to_dict()`), `name` and
`version`.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.errors import RunError
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.quiet import quiet_stderr
from urnet_tf.export.rewriting import float32_copy, with_grouped_convolutions, with_preparation
from urnet_tf.extras import require
from urnet_tf.text_rules import first_line

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_OPSET = 17


def write_onnx(
    model: "keras.Model",
    path: str | os.PathLike,
    image_size_px: int,
    labels: Sequence[str],
    preparation: Preparation,
    *,
    class_ids: Sequence[str] | None = None,
    name: str | None = None,
    version: str = "",
    takes_pictures: bool = False,
) -> None:
    """Writes an `.onnx` file.

    Args:
      model: Keras model images 0..255 → logits; height and width may be open.
      image_size_px: S of the file.
      labels: C class names.
      class_ids: C ids for programs; None = the names.
      name, version: of the model; None = the Keras model's name.
      takes_pictures: whether images are prepared inside.

    Raises:
      UsageError: the packages that convert are not installed.
      RunError: the model needs an operation that has no form in ONNX.
    """
    import tensorflow as tf

    _require("onnx", "tf2onnx")
    import onnx
    import tf2onnx

    _know_erfc()
    native = with_grouped_convolutions(float32_copy(model), "native")
    side, dtype = (None, tf.uint8) if takes_pictures else (image_size_px, tf.float32)
    native = with_preparation(native, preparation) if takes_pictures else native
    signature = [tf.TensorSpec([None, side, side, 3], dtype, name="image")]

    @tf.function(input_signature=signature)
    def predict(image: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return {"probabilities": tf.nn.softmax(native(image, training=False))}

    with quiet_stderr():
        try:
            proto, _ = tf2onnx.convert.from_function(predict, input_signature=signature, opset=_OPSET)
        except Exception as error:  # of many types, from the tracing to the optimizer
            raise RunError(f"The model cannot be converted to ONNX: {first_line(error)}") from error
    _keep_captured(proto, predict.get_concrete_function())
    # What the converter does not know, it leaves in the graph under TensorFlow's name.
    if foreign := sorted({o for o in _operations(proto.graph) if not onnx.defs.has(o)}):
        raise RunError(f"ONNX has no operation for {', '.join(foreign)}, which the model needs.")
    metadata = {
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "class_ids": json.dumps(list(labels if class_ids is None else class_ids), ensure_ascii=False),
        "preparation": json.dumps(preparation.to_dict()),
        "name": name or model.name,
        "version": version,
    }
    onnx.helper.set_model_props(proto, metadata)
    pathlib.Path(path).write_bytes(proto.SerializeToString())


def set_version(path: str | os.PathLike, version: str) -> None:
    """Gives an ONNX file another version in its metadata.

    Raises:
      UsageError: the package that reads it is not installed.
    """
    _require("onnx", purpose="An ONNX file under a new number")
    import onnx

    proto = onnx.load(os.fspath(path))
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | {"version": version})
    pathlib.Path(path).write_bytes(proto.SerializeToString())


def build_onnx_classifier(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Opens an ONNX classifier.

    Returns:
      a function images float32 [n, S, S, 3], RGB, 0..255 → probabilities float32 [n, C]; of a file with the
      preparation inside, pictures uint8 [n, h, w, 3].

    Raises:
      UsageError: onnxruntime is not installed.
    """
    return open_onnx_classifier(path)[0]


def open_onnx_classifier(path: str | os.PathLike) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """As `build_onnx_classifier`, and whether the file has the preparation inside."""
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    takes_pictures = entry.type == "tensor(uint8)"
    dtype = np.uint8 if takes_pictures else np.float32

    def classify(images: np.ndarray) -> np.ndarray:
        return session.run(None, {entry.name: images.astype(dtype, copy=False)})[0]

    return classify, takes_pictures


def _keep_captured(proto: Any, function: Any) -> None:
    """Writes tensors that layers hold outside of variables (the mean of `Normalization`) into the file.

    The converter makes inputs of them, which nobody could give.

    Raises:
      RunError: another input than the image is left.
    """
    import onnx

    used = {name for node in proto.graph.node for name in node.input}
    held = {inner.name: outer for outer, inner in function.graph.captures if hasattr(outer, "numpy")}
    for entry in [entry for entry in proto.graph.input if entry.name != "image"]:
        if entry.name not in held:
            raise RunError(f"The model cannot be converted to ONNX: it would need {entry.name} as an input.")
        if entry.name in used:
            value = np.asarray(held[entry.name].numpy())
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, entry.name))
        proto.graph.input.remove(entry)


@functools.cache
def _know_erfc() -> None:
    """Teaches the converter the complementary error function, of which Keras makes the exact GELU."""
    from tf2onnx.handler import tf_op
    from tf2onnx.utils import map_onnx_to_numpy_type

    class Erfc:
        @classmethod
        def version_13(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            """1 - erf(x)."""
            dtype = ctx.get_dtype(node.output[0])
            one = ctx.make_const(f"{node.name}_one", np.ones((), map_onnx_to_numpy_type(dtype)))
            erf = ctx.make_node("Erf", node.input, dtypes=[dtype], shapes=[ctx.get_shape(node.output[0])])
            ctx.remove_node(node.name)
            ctx.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, dtypes=[dtype])

    tf_op("Erfc")(Erfc)


def _operations(graph: Any) -> Iterator[Any]:
    """The operations of a graph and of those inside it, which are branches and loops."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from _operations(attribute.g)


def _require(*modules: str, purpose: str = "An ONNX file") -> None:
    require("onnx", *modules, purpose=purpose, otherwise="leave out the format onnx")
