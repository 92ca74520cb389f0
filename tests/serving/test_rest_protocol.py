"""TensorFlow Serving's REST protocol: what it takes, what it refuses and in which words, what it answers."""

import base64
import json

import numpy as np
import pytest

from urnet_tf.serving import rest_protocol
from urnet_tf.serving.rest_protocol import ProtocolError, Signature, TensorSpec

IMAGES = Signature({"image_bytes": TensorSpec("string", (None,))}, {})
PIXELS = Signature({"images": TensorSpec("float32", (None, 2, 1, 3))}, {})
SEVERAL = Signature({"a": TensorSpec("int32", (None,)), "b": TensorSpec("bool", (None, 2))}, {})
SIGNATURES = {"serving_default": IMAGES, "tensor": PIXELS, "several": SEVERAL}
B64 = base64.b64encode(b"\x00\xffimage").decode()


def parse(value, max_rows=8):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return rest_protocol.parse_predict(body, SIGNATURES, max_rows)


@pytest.mark.parametrize(
    "instances",
    [
        [{"image_bytes": {"b64": B64}}, {"image_bytes": "text"}],
        [{"b64": B64}, "text"],
        [{"image_bytes": {"b64": f"{B64[:4]}\n {B64[4:].rstrip('=')}"}}, {"image_bytes": "text"}],
    ],
)
def test_rows_of_images(instances):
    asked = parse({"instances": instances})
    assert asked.inputs["image_bytes"].tolist() == [b"\x00\xffimage", b"text"]
    assert (asked.signature_name, asked.rows, asked.by_row) == ("serving_default", 2, True)


@pytest.mark.parametrize("inputs", [{"image_bytes": [{"b64": B64}, "é"]}, [{"b64": B64}, "é"]])
def test_columns_of_images(inputs):
    asked = parse({"signature_name": "serving_default", "inputs": inputs})
    assert asked.inputs["image_bytes"].tolist() == [b"\x00\xffimage", "é".encode()]
    assert (asked.rows, asked.by_row) == (2, False)


def test_tensors():
    image = [[[0, 1, 2]], [[3, 4.5, float("inf")]]]
    asked = parse({"signature_name": "tensor", "instances": [image, image]})
    assert asked.inputs["images"].dtype == np.float32 and asked.inputs["images"].shape == (2, 2, 1, 3)
    np.testing.assert_array_equal(asked.inputs["images"][1], np.float32(image))
    asked = parse({"signature_name": "several", "instances": [{"a": 1, "b": [True, False]}]})
    assert asked.inputs["a"].dtype == np.int32 and asked.inputs["b"].tolist() == [[True, False]]
    asked = parse({"signature_name": "several", "inputs": {"b": [[True, True]], "a": [7]}})
    assert list(asked.inputs) == ["a", "b"] and asked.inputs["a"].tolist() == [7]


SECRET = "SECRETSECRET"
WRONG = {
    b"": "JSON Parse error: The document is empty",
    b'{"instances": ': "JSON Parse error: Expecting value at offset: 14",
    b'{"a": "\xff"}': "Invalid encoding at offset: 7",
    b"[" * 100_000: "",
    b'{"instances": [' + b"9" * 5000 + b"]}": "",
    b"[1]": "JSON Value is not object",
    b'{"signature_name": 5, "instances": [1]}': "'signature_name' key must be a string value",
    b'{"signature_name": "other", "instances": [1]}': 'name: "other" not found in signature def',
    b'{"signature_nam": "tensor", "instances": ["x"]}': 'Unknown key: "signature_nam"',
    b'{"instances": ["x"], "inputs": ["x"]}': "only one of 'inputs' or 'instances'",
    b"{}": "Missing 'inputs' or 'instances' key",
    b'{"instances": {"b64": "AAAA"}}': "Expecting 'instances' to be an list/array",
    b'{"instances": []}': "No values in 'instances' array",
    b'{"inputs": []}': "No values in 'inputs'",
    b'{"inputs": "x"}': "must have at least one dimension",
    b'{"instances": [{"image": "x"}]}': "keys must be equal to: image_bytes",
    b'{"instances": [{"image_bytes": "x", "more": 1}]}': "keys must be equal to: image_bytes",
    b'{"instances": ["x", {"image_bytes": "x"}]}': "Expecting value/list but got object at item 1",
    b'{"instances": [{"image_bytes": "x"}, "x"]}': "Expecting object but got list at item 1",
    b'{"instances": [{"image_bytes": {"b64": "SECRETSECRET!"}}]}': "Unable to base64 decode",
    b'{"instances": [{"image_bytes": {"b64": 5}}]}': "not formatted correctly for base64",
    b'{"instances": [{"image_bytes": ["SECRETSECRET"]}]}': "not of expected type: string",
    b'{"instances": [{"image_bytes": "\\ud800"}]}': "Invalid encoding in string",
    b'{"inputs": {"image": ["x"]}}': "Missing named input: image_bytes in 'inputs' object",
    b'{"inputs": {"image_bytes": ["x"], "SECRETSECRET2": 1}}': "Unknown named input",
    b'{"signature_name": "several", "instances": [1]}': "is a plain list, but expecting list",
    b'{"signature_name": "several", "inputs": [1]}': "inputs is a plain value/list",
    b'{"signature_name": "several", "inputs": {"a": [1], "b": [[true, true], [true, true]]}}': "equal",
    b'{"signature_name": "several", "inputs": {"a": [1.5], "b": [[true, true]]}}': "expected type: int32",
    b'{"signature_name": "several", "inputs": {"a": [5000000000], "b": [[true, true]]}}': "loss",
    b'{"signature_name": "several", "inputs": {"a": [1], "b": [[1, 0]]}}': "not of expected type: bool",
    b'{"signature_name": "tensor", "instances": [[[1, 2, 3]]]}': "has shape [1,1,3], expecting [-1,2,1,3]",
    b'{"signature_name": "tensor", "instances": [[[[1, 2, 3]], [[1, 2]]]]}': "lists of unequal size",
    b'{"signature_name": "tensor", "instances": [[[["a", 2, 3]], [[1, 2, 3]]]]}': "expected type: float32",
    b'{"signature_name": "tensor", "instances": [[[[true, true, true]], [[true, true, true]]]]}': "float32",
    b'{"signature_name": "tensor", "instances": [[[[1e300, 2, 3]], [[1, 2, 3]]]]}': "without loss",
    b'{"signature_name": "tensor", "instances": [[[[null, 2, 3]], [[1, 2, 3]]]]}': "float32",
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=lambda body: body[:60].decode("latin-1"))
def test_what_is_refused_is_not_repeated(body):
    with pytest.raises(ProtocolError) as caught:
        parse(body)
    message = str(caught.value)
    assert WRONG[body] in message and caught.value.status in (400, 413)
    assert (
        len(message) < 250 and "\n" not in message and (SECRET not in message or "Unknown named" in message)
    )


@pytest.mark.parametrize(
    "body",
    [
        {"instances": ["x"] * 9},
        {"instances": [{"image_bytes": {"b64": ""}}] * 1000},
        b'{"instances": [' + b"{}," * 100 + b"1]}",
        b'{"instances": [' + b"[]," * 100 + b"1]}",
    ],
)
def test_too_many_rows_are_413(body):
    with pytest.raises(ProtocolError) as caught:
        parse(body)
    assert caught.value.status == 413


def test_pixels_of_the_smallest_form_are_not_too_many_lists():
    body = {"signature_name": "tensor", "inputs": [[[[0, 0, 0]], [[0, 0, 0]]]] * 8}
    assert parse(json.dumps(body, separators=(",", ":")).encode()).rows == 8


OUTPUTS = {
    "labels": np.array([[b"K\xc3\xa4fer", b""], [b"\xff", b"b"]], object),
    "probabilities": np.array([[0.2, 1], [np.nan, 1e-10]], np.float32),
    "valid": np.array([True, False]),
    "raw_bytes": np.array([b"\x00", b""], object),
}


def test_answers_in_rows():
    answer = json.loads(rest_protocol.format_predictions(OUTPUTS, True))
    first, second = answer["predictions"]
    assert first == {
        "labels": ["Käfer", ""], "probabilities": [0.2, 1.0], "valid": True, "raw_bytes": {"b64": "AA=="}
    }  # fmt: skip
    assert second["labels"] == ["�", "b"] and second["valid"] is False
    assert np.isnan(second["probabilities"][0]) and second["probabilities"][1] == 1e-10


def test_answers_in_columns_and_of_one_output():
    answer = json.loads(rest_protocol.format_predictions(OUTPUTS, False))
    assert answer["outputs"]["valid"] == [True, False] and answer["outputs"]["labels"][0] == ["Käfer", ""]
    one = {"probabilities": np.float32([[0.1], [0.3]])}
    assert rest_protocol.format_predictions(one, True) == b'{"predictions":[[0.1],[0.3]]}'
    assert rest_protocol.format_predictions(one, False) == b'{"outputs":[[0.1],[0.3]]}'


def test_numbers_come_back_as_they_were():
    values = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32) * np.float32(1e-5)
    answer = json.loads(rest_protocol.format_predictions({"f": values}, False))
    np.testing.assert_array_equal(np.float32(answer["outputs"]), values)
