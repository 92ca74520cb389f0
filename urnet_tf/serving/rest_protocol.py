"""TensorFlow Serving's REST protocol: JSON to arrays and arrays to JSON, without TensorFlow.

    {"signature_name": "features",                        optional: `serving_default`
     "instances": [{"image_bytes": {"b64": "..."}}, ...]}  rows → {"predictions": [{...}, ...]}
    {"inputs": {"image_bytes": [{"b64": "..."}, ...]}}     columns → {"outputs": {...}}

With one input its name may be left out, and a single output has none. Texts are UTF-8; what is bytes comes as
`{"b64": ...}`, and so go out outputs whose names end in `_bytes`. NaN and Infinity are numbers. Errors have
TF Serving's wording where it has one, without what was received: a body may be megabytes long, or an attack.

One thing is stricter than there: unknown keys are refused, where TF Serving ignores them, so that a wrong
`signature_nam` is not answered by another signature.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from urnet_tf.text_rules import bare

DEFAULT_SIGNATURE = "serving_default"
STRING = "string"
_KEYS = ("signature_name", "instances", "inputs")
_BYTES_SUFFIX = "_bytes"  # of outputs that are no text
_KINDS = {
    "f": "iuf",
    "i": "iu",
    "u": "iu",
    "b": "b",
}  # of a tensor's dtype → of the JSON values that it takes


class ProtocolError(Exception):
    """An answer that is not 200; the message is for the client.

    Attributes:
      status: of HTTP.
      retry_after_s: seconds after which it may go better; None = never.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None):
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s


class TensorSpec(NamedTuple):
    """A tensor of a signature: `string` or the name of a NumPy dtype, and its sizes, None = any."""

    dtype: str
    shape: tuple[int | None, ...]


class Signature(NamedTuple):
    """What a signature takes and gives, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class PredictRequest(NamedTuple):
    """A request for predictions.

    Attributes:
      signature_name: one of the model's.
      inputs: arrays of equal length along the first dimension; object arrays of bytes for strings.
      rows: that length.
      by_row: whether it came, and is answered, in rows.
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    rows: int
    by_row: bool


def parse_predict(
    body: bytes | bytearray, signatures: Mapping[str, Signature], max_rows: int
) -> PredictRequest:
    """Reads the body of a request.

    Args:
      signatures: of the model.
      max_rows: what a request may hold at most.

    Raises:
      ProtocolError: 400 where it is not in this protocol, 413 where it has more rows.
    """
    # Parsed, `{},` and `[],` take twenty times their bytes, so they are counted. Pixels stand in threes.
    if body.count(b"{") > 2 * max_rows + 8 or body.count(b"[") > 2 * max_rows + 8 + len(body) // 6:
        raise ProtocolError(413, f"Request has too many instances; at most {max_rows} are allowed.")
    document = _parse_json(body)
    name = document.get("signature_name", "") or DEFAULT_SIGNATURE
    if not isinstance(name, str):
        raise ProtocolError(
            400, "JSON Value not formatted correctly. 'signature_name' key must be a string value."
        )
    signature = signatures.get(name)
    if signature is None:
        raise ProtocolError(400, f'Serving signature name: "{bare(name)}" not found in signature def')
    by_row = _check_keys(document)
    read = _columns_of_rows if by_row else _columns_of_inputs
    columns = read(document["instances" if by_row else "inputs"], signature.inputs)
    inputs = {key: _build_array(key, columns[key], spec) for key, spec in signature.inputs.items()}
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) != 1:
        raise ProtocolError(400, "Batching Run() input tensors must have equal 0th-dimension size")
    (rows,) = sizes
    if not rows:
        raise ProtocolError(400, "No values in 'inputs'")
    if rows > max_rows:
        raise ProtocolError(413, f"Request has {rows} instances; at most {max_rows} are allowed.")
    return PredictRequest(name, inputs, rows, by_row)


def _check_keys(document: Mapping[str, Any]) -> bool:
    """Whether a request comes in rows."""
    if unknown := set(document) - set(_KEYS):
        raise ProtocolError(
            400,
            f"Unknown key: \"{bare(min(unknown))}\"; expecting 'signature_name', 'instances' and 'inputs'",
        )
    if "instances" in document and "inputs" in document:
        raise ProtocolError(
            400, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" not in document and "inputs" not in document:
        raise ProtocolError(400, "Missing 'inputs' or 'instances' key")
    return "instances" in document


def format_predictions(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """The body of an answer.

    Args:
      outputs: arrays [n, ...] by name; strings as object arrays of bytes.
      by_row: as in the request.
    """
    columns = {name: _plain(values, name.endswith(_BYTES_SUFFIX)) for name, values in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not by_row:
        return _dump({"outputs": columns if only is None else only})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _dump({"predictions": rows if only is None else only})


def format_error(message: str) -> bytes:
    """The body of an answer that is not 200."""
    return _dump({"error": message})


def _parse_json(body: bytes | bytearray) -> dict[str, Any]:
    if not body.strip():
        raise ProtocolError(400, "JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ProtocolError(400, f"JSON Parse error: Invalid encoding at offset: {error.start}") from None
    except json.JSONDecodeError as error:
        raise ProtocolError(400, f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except (RecursionError, ValueError):  # thousands of brackets, of digits
        raise ProtocolError(400, "JSON Parse error: Nested too deeply, or a number is too long") from None
    if not isinstance(document, dict):
        raise ProtocolError(400, "JSON Value is not object")
    return document


def _columns_of_rows(rows: Any, inputs: Mapping[str, TensorSpec]) -> dict[str, list]:
    if not isinstance(rows, list):
        raise ProtocolError(400, "Expecting 'instances' to be an list/array")
    if not rows:
        raise ProtocolError(400, "No values in 'instances' array")
    named = _is_named(rows[0])
    for number, row in enumerate(rows):
        if _is_named(row) != named:
            kinds = "object but got list" if named else "value/list but got object"
            raise ProtocolError(400, f"Expecting {kinds} at item {number} of input list")
    if not named:
        if len(inputs) > 1:
            raise ProtocolError(
                400,
                "instances is a plain list, but expecting list of objects as multiple input tensors "
                "required as per tensorinfo_map",
            )
        return {next(iter(inputs)): rows}
    columns: dict[str, list] = {name: [] for name in inputs}
    for number, row in enumerate(rows):
        if row.keys() != inputs.keys():
            raise ProtocolError(
                400,
                f"Failed to process element: {number} of 'instances' list. JSON object keys must be equal "
                f"to: {','.join(sorted(inputs))}",
            )
        for name, values in columns.items():
            values.append(row[name])
    return columns


def _columns_of_inputs(value: Any, inputs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    if not _is_named(value):
        if len(inputs) > 1:
            raise ProtocolError(
                400,
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map",
            )
        return {next(iter(inputs)): value}
    if missing := sorted(inputs.keys() - value.keys()):
        raise ProtocolError(400, f"Missing named input: {missing[0]} in 'inputs' object.")
    if unknown := value.keys() - inputs.keys():
        raise ProtocolError(
            400,
            f"Unknown named input: {bare(min(unknown))} in 'inputs' object; expecting {', '.join(inputs)}",
        )
    return dict(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_named(value: Any) -> bool:
    """Whether it is an object of named tensors, not one that stands for bytes."""
    return isinstance(value, dict) and not _is_base64(value)


def _build_array(name: str, values: Any, spec: TensorSpec) -> np.ndarray:
    if not isinstance(values, list):
        raise ProtocolError(400, f"Batching Run() input tensors must have at least one dimension: {name}")
    return _build_strings(name, values) if spec.dtype == STRING else _build_numbers(name, values, spec)


def _build_strings(name: str, values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    for number, value in enumerate(values):
        try:
            array[number] = value.encode() if isinstance(value, str) else _decode_base64(value)
        except UnicodeEncodeError:  # half of a character
            raise ProtocolError(400, f"Input {name}, element {number}: Invalid encoding in string") from None
        except ProtocolError as error:
            raise ProtocolError(
                400, f"Failed to process element: {number} of {name}. Error: {error}"
            ) from None
    return array


def _decode_base64(value: Any) -> bytes:
    if not _is_base64(value):
        raise ProtocolError(
            400, "JSON Value is not of expected type: string" if not isinstance(value, dict)
            else "JSON Value not formatted correctly for base64 data"
        )  # fmt: skip
    text = value["b64"]
    try:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:  # encoders wrap lines or leave out the padding, which TF Serving does not mind
            text = "".join(text.split()).rstrip("=")
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ProtocolError(400, "Unable to base64 decode") from None


def _build_numbers(name: str, values: list, spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    try:
        found = np.asarray(values)
    except ValueError:
        raise ProtocolError(400, f"Encountered lists of unequal size in {name}") from None
    if found.size and found.dtype.kind not in _KINDS[dtype.kind]:
        raise ProtocolError(400, f"JSON Value in {name} is not of expected type: {spec.dtype}")
    fits = len(found.shape) == len(spec.shape) and all(
        wanted in (None, size) for size, wanted in zip(found.shape, spec.shape, strict=True)
    )
    if not fits:
        raise ProtocolError(
            400, f"Tensor {name} has shape {_shape(found.shape)}, expecting {_shape(spec.shape)}"
        )
    with np.errstate(over="ignore"):
        array = found.astype(dtype)
    lossless = np.isfinite(array) | ~np.isfinite(found) if dtype.kind == "f" else array == found
    if not lossless.all():
        raise ProtocolError(400, f"Cannot convert JSON value in {name} to {spec.dtype} without loss.")
    return array


def _shape(sizes: Sequence[int | None]) -> str:
    return f"[{','.join('-1' if size is None else str(size) for size in sizes)}]"


def _plain(values: np.ndarray, as_bytes: bool) -> list:
    if values.dtype == object:
        if as_bytes:
            plain = np.vectorize(lambda v: {"b64": base64.b64encode(v).decode()}, otypes=[object])
        else:
            plain = np.vectorize(lambda v: v.decode("utf-8", errors="replace"), otypes=[object])
        return plain(values).tolist() if values.size else values.tolist()
    if values.dtype == np.float32:  # 0.2, not 0.20000000298: the shortest that gives the same float32
        return values.astype("U32").astype(np.float64).tolist()
    return values.tolist()


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
