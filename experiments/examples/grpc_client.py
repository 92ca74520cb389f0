"""Classifies image files by TF Serving's gRPC interface, which is faster than REST.

pip install tensorflow-serving-api==2.20.0
python grpc_client.py IMAGE... --model NAME [--server 127.0.0.1:8500] [--signature features] [--label stable]
"""

import argparse
import ipaddress
import json
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

SIGNATURE = "serving_default"
MAX_MESSAGE_MB = 64  # gRPC itself stops at 4: 900 rows of 1280 features are more


def build_request(
    images: Sequence[bytes],
    model: str,
    signature_name: str = SIGNATURE,
    version: int | None = None,
    label: str | None = None,
) -> predict_pb2.PredictRequest:
    """A request for encoded images (JPEG, PNG, GIF, BMP, WebP); without version and label to the newest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature_name
    if version is not None:
        request.model_spec.version.value = version
    elif label is not None:
        request.model_spec.version_label = label
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, tf.string, [len(images)]))
    return request


def parse_response(response: predict_pb2.PredictResponse) -> list[dict]:
    """One dictionary an image, in order; keys as in rest_client.py."""
    columns = {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()}
    if "labels" in columns:
        columns["labels"] = [[label.decode() for label in row] for row in columns["labels"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def open_channel(server: str, max_message_mb: int = MAX_MESSAGE_MB) -> grpc.Channel:
    """A connection to `host:port`; to this machine itself without the proxy of the environment."""
    limit = max_message_mb << 20
    options = [("grpc.max_send_message_length", limit), ("grpc.max_receive_message_length", limit)]
    if is_loopback(server.rpartition(":")[0].strip("[]")):
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.insecure_channel(server, options)


def predict(
    server: str, images: Sequence[bytes], model: str, signature_name: str = SIGNATURE,
    timeout_s: float = 60, max_message_mb: int = MAX_MESSAGE_MB, **which,
) -> list[dict]:  # fmt: skip
    """Sends encoded images to a server, `host:port`.

    Args:
      which: `version` or `label`, see `build_request`.

    Raises:
      grpc.RpcError: it cannot be reached or refuses them.
    """
    with open_channel(server, max_message_mb) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return parse_response(stub.Predict(build_request(images, model, signature_name, **which), timeout_s))


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def format_answer(path: str, answer: dict) -> str:
    """One line: the best classes, or JSON where the signature gives something else."""
    if "labels" not in answer:
        return json.dumps({"path": path, **answer})
    if not answer.get("valid", True):
        return f"{path}  not an image"
    best = zip(answer["labels"], answer["probabilities"], strict=True)
    none = answer.get("none_of_these")
    rest = "" if none is None else f"  (none of these: {100 * none:.1f} %)"
    return f"{path}  " + "  ".join(f"{label} {100 * probability:.1f} %" for label, probability in best) + rest


def main():
    parser = argparse.ArgumentParser(description="Classifies image files by TF Serving's gRPC interface.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--server", default="127.0.0.1:8500")
    parser.add_argument("--signature", default=SIGNATURE, help="serving_default or features")
    parser.add_argument("--version", type=int, help="of the model; the newest where neither is given")
    parser.add_argument("--label", help="of a version, like stable")
    parser.add_argument("--max_message_mb", type=int, default=MAX_MESSAGE_MB, help="of a request or answer")
    parser.add_argument("--timeout_s", type=float, default=60)
    arguments = parser.parse_args()
    try:
        images = [pathlib.Path(path).read_bytes() for path in arguments.images]
    except OSError as error:
        sys.exit(f"grpc_client: cannot read a file: {error}")
    try:
        answers = predict(
            arguments.server, images, arguments.model, arguments.signature, arguments.timeout_s,
            arguments.max_message_mb, version=arguments.version, label=arguments.label,
        )  # fmt: skip
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            sys.exit(f"grpc_client: no server answers at {arguments.server}.")
        sys.exit(f"grpc_client: {error.code().name}: {error.details()}")
    for path, answer in zip(arguments.images, answers, strict=True):
        print(format_answer(path, answer))


if __name__ == "__main__":
    main()
