"""The formats of an export, and the files that they are."""

SAVED_MODEL, KERAS, ONNX = "saved_model", "keras", "onnx"
# These take decoded pictures of any size and prepare them inside.
KERAS_PICTURES, ONNX_PICTURES = "keras_with_preparation", "onnx_with_preparation"

LABELS_FILE, CLASS_IDS_FILE = "labels.txt", "class_ids.txt"  # a name, or an id, a line, in label order

PRECISIONS = {
    SAVED_MODEL: "float32",
    KERAS: "float32",
    "tflite_float32": "float32",
    "tflite_float16": "float16",
    "tflite_dynamic_int8": "int8",
    "tflite_int8": "int8",
    ONNX: "float32",
    KERAS_PICTURES: "float32",
    ONNX_PICTURES: "float32",
}
FORMATS = tuple(PRECISIONS)
DEFAULT_FORMATS = (SAVED_MODEL, KERAS, *(name for name in FORMATS if name.startswith("tflite_")))


def file_of(kind: str, name: str) -> str:
    """The file of a format inside a version's directory.

    >>> file_of("onnx_with_preparation", "pets")
    'pets_with_preparation.onnx'
    """
    if kind == SAVED_MODEL:
        return "saved_model.pb"
    if kind.startswith("tflite_"):
        return f"{name}_{kind.removeprefix('tflite_')}.tflite"
    library, _, rest = kind.partition("_")
    return f"{name}{'_' if rest else ''}{rest}.{library}"
