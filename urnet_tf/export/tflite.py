"""`.tflite` files of a classifier, for phones: one image of fixed size → probabilities.

  kind           weights   computes in                             input
  float32        float32   float32                                 float32 [1, S, S, 3]
  float16        float16   float32, or float16 on GPUs             float32 [1, S, S, 3]
  dynamic_int8   int8      int8, ranges found while it runs        float32 [1, S, S, 3]
  int8           int8      int8, ranges found on given images      uint8 [1, S, S, 3]

Pixels are RGB, 0..255, as they are; normalization is inside. The output is float32 [1, C]. Weights
have a scale for each output channel, those of dense layers in dynamic_int8 one scale: with several, only
runtimes of 2.17 and later would read the file. Only built-in operations; grouped convolutions are in their
native form, which is the smallest and fastest there.

In an int8 file the first and the last step stay float32. Normalization would otherwise be rounded
several times before the first convolution, and an int8 softmax has steps of 1/256: with many classes
the second best would be a tie of zeros.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import store
from urnet_tf.errors import RunError, UsageError
from urnet_tf.export.flatbuffer_model import pack_model, unpack_model
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.quiet import quiet_stderr
from urnet_tf.export.rewriting import float32_copy, tf_variables, with_grouped_convolutions
from urnet_tf.export.tflite_metadata import add_metadata
from urnet_tf.text_rules import first_line

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

KINDS = ("float32", "float16", "dynamic_int8", "int8")
_ARITHMETIC = ("CAST", "MUL", "ADD", "SUB", "DIV")  # of which normalization consists


def write_tflite(
    model: "keras.Model",
    path: str | os.PathLike,
    *,
    image_size_px: int,
    kind: str = "float32",
    calibration: np.ndarray | Iterable[np.ndarray] | None = None,
    labels: Sequence[str] | None = None,
    class_ids: Sequence[str] | None = None,
    preparation: Preparation | None = None,
    name: str | None = None,
    version: str = "",
) -> None:
    """Writes one image classifier as a `.tflite` file.

    Args:
      model: Keras model images float32 [B, S, S, 3], 0..255 → logits float32 [B, C]; height and
        width may be open.
      image_size_px: S of the file.
      kind: of KINDS.
      calibration: float32 [n, S, S, 3], 0..255: photographs whose activations give the ranges of
        int8; 32-100 are enough.
      labels: C class names; with them come metadata, `class_ids` (None = the names) and `preparation`
        inside the file.
      name, version: of the model in the metadata; None = the Keras model's name.

    Raises:
      UsageError: an unknown kind, a wrong number of labels, or int8 without fitting images.
      RunError: the model needs an operation that TFLite does not have.
    """
    import tensorflow as tf

    if kind not in KINDS:
        raise UsageError(f"Expected a kind of {', '.join(KINDS)}; received {kind!r}.")
    shape = [1, image_size_px, image_size_px, 3]
    images = _uint8_images(calibration, shape) if kind == "int8" else None
    native = with_grouped_convolutions(float32_copy(model), "native")

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8 if images else tf.float32, name="image")])
    def predict(image: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return {"probabilities": tf.nn.softmax(native(tf.cast(image, tf.float32), training=False))}

    module = tf.Module()
    module.variables_once = tf_variables(native)
    try:
        with quiet_stderr():
            function = predict.get_concrete_function()
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if kind != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            # Else the version of dense layers is 12, which the Task Library 0.4 refuses.
            converter._experimental_disable_per_channel_quantization_for_dense_layers = kind == "dynamic_int8"
            if kind == "float16":
                converter.target_spec.supported_types = [tf.float16]
            content = _quantized(converter, images) if images else converter.convert()
    except Exception as error:  # the converter raises plain exception types of its own
        raise RunError(_explain(error)) from error
    path = pathlib.Path(path)
    path.write_bytes(content)
    if foreign := [o for o in tflite_operations(path) if o.startswith(("Flex", "CUSTOM"))]:
        store.remove(path, path.parent)
        raise RunError(f"The TFLite model needs {', '.join(foreign)}, which phones do not have.")
    if labels is not None:
        add_metadata(path, name or model.name, labels, preparation, class_ids=class_ids, version=version)


def build_tflite_classifier(
    path: str | os.PathLike, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a `.tflite` classifier.

    Returns:
      a function images float32 [n, S, S, 3], RGB, 0..255 → probabilities float32 [n, C]. One call at
      a time. Raises UsageError for images of another size.
    """
    with quiet_stderr():
        interpreter = _interpreter(path, threads=threads)
        interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape, dtype = tuple(int(n) for n in entry["shape"][1:]), entry["dtype"]

    def classify(images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != shape:
            raise UsageError(
                f"Expected images [n, {', '.join(map(str, shape))}]; received {list(images.shape)}."
            )
        if dtype == np.uint8:
            images = _to_uint8(images)
        probabilities = np.empty([len(images), result["shape"][-1]], np.float32)
        for row, image in enumerate(images):
            interpreter.set_tensor(entry["index"], image[None])
            interpreter.invoke()
            probabilities[row] = interpreter.get_tensor(result["index"])[0]
        return probabilities

    return classify


def tflite_operations(path: str | os.PathLike) -> list[str]:
    """The kinds of operations of a `.tflite` file, sorted; `Flex…` and `CUSTOM` are foreign ones."""
    # Without delegates the interpreter lists the operations of the file and not the delegate's one.
    with quiet_stderr():
        details = _interpreter(path, plain=True)._get_ops_details()
    return sorted({o["op_name"] for o in details})


def minimum_runtime(path: str | os.PathLike) -> str | None:
    """The first version of TensorFlow Lite that has all operations of a file in their versions, like "2.4.0".

    The converter notes it; None where it did not.
    """
    model = unpack_model(pathlib.Path(path).read_bytes())
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            return bytes(bytearray(model.buffers[entry.buffer].data)).rstrip(b"\0").decode("ascii") or None
    return None


def _interpreter(path: str | os.PathLike, plain: bool = False, threads: int | None = None) -> Any:
    from ai_edge_litert import interpreter

    resolver = interpreter.OpResolverType
    kind = resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else resolver.AUTO
    return interpreter.Interpreter(
        model_path=os.fspath(path), num_threads=threads, experimental_op_resolver_type=kind
    )


def _quantized(converter: Any, images: list[np.ndarray]) -> bytes:
    """The int8 file, from ranges measured on uint8 images [1, S, S, 3]."""
    from tensorflow.lite.python import convert

    converter.representative_dataset = lambda: ([image] for image in images)
    converter._experimental_calibrate_only = True  # as `tf.lite.experimental.QuantizationDebugger` does
    calibrated = converter.convert()
    content = convert.mlir_quantize(calibrated, denylisted_nodes=_kept_in_float(unpack_model(calibrated)))
    return _with_pixel_scale(content)


def _kept_in_float(model: Any) -> list[str]:
    """Names of the operations of normalization, with which a graph begins, and of the final softmax."""
    graph = model.subgraphs[0]
    kinds = [_kind(model, operator) for operator in graph.operators]
    first = itertools.takewhile(lambda pair: pair[0] in _ARITHMETIC, zip(kinds, graph.operators, strict=True))
    kept = [operator for _, operator in first]
    kept += [
        operator
        for kind, operator in zip(kinds, graph.operators, strict=True)
        if kind == "SOFTMAX" and operator.outputs[0] in graph.outputs
    ]
    return [graph.tensors[operator.outputs[0]].name.decode() for operator in kept]


def _with_pixel_scale(content: bytes) -> bytes:
    """Says that the uint8 input has scale 1 and zero point 0: what was a cast is a dequantization.

    The numbers are the same. Programs that read the scale of an 8-bit input would divide by 0.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpack_model(content)
    graph = model.subgraphs[0]
    pixels = graph.inputs[0]
    scale = schema.QuantizationParametersT()
    scale.scale, scale.zeroPoint = [1.0], [0]
    graph.tensors[pixels].quantization = scale
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 1
    for operator in graph.operators:
        if pixels in operator.inputs and _kind(model, operator) == "CAST":
            operator.opcodeIndex, operator.builtinOptions = len(model.operatorCodes), None
            operator.builtinOptionsType = schema.BuiltinOptions.NONE
    model.operatorCodes.append(code)
    return pack_model(model)


def _kind(model: Any, operator: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files have the second one only
    return next(name for name, value in vars(schema.BuiltinOperator).items() if value == number)


def _uint8_images(
    calibration: np.ndarray | Iterable[np.ndarray] | None, shape: list[int]
) -> list[np.ndarray] | None:
    if calibration is None or not len(images := list(calibration)):
        raise UsageError("Expected photographs to find the ranges of int8 with; received none.")
    wrong = next((np.shape(image) for image in images if list(np.shape(image)) != shape[1:]), None)
    if wrong is not None:
        raise UsageError(f"Expected calibration images {shape[1:]}; received {list(wrong)}.")
    return [_to_uint8(image[None]) for image in images]


def _to_uint8(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _explain(error: Exception) -> str:
    """One sentence for a person; the converter's own message has a line for each use of an operation."""
    message = str(error).strip()
    if names := sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message))):
        return f"TFLite has no built-in operation for {', '.join(names)}, which the model needs."
    return f"The model cannot be converted to TFLite built-in operations: {first_line(error)}"
