"""Classifies image files by TF Serving's gRPC interface, which is faster than REST.

pip install tensorflow-serving-api==2.20.0
python grpc_client.py IMAGE... --model NAME [--server 127.0.0.1:8500]
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402


def build_request(
    images: Sequence[bytes], model: str, signature_name: str = "serving_default", version: int | None = None
) -> predict_pb2.PredictRequest:
    """A request for encoded images (JPEG, PNG, GIF, BMP, WebP); version None = the newest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature_name
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, tf.string, [len(images)]))
    return request


def parse_response(response: predict_pb2.PredictResponse) -> list[dict]:
    """One dictionary an image, in order; keys as in rest_client.py."""
    columns = {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()}
    if "labels" in columns:
        columns["labels"] = [[label.decode() for label in row] for row in columns["labels"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def predict(
    server: str, images: Sequence[bytes], model: str, signature_name: str = "serving_default",
    timeout_s: float = 60,
) -> list[dict]:  # fmt: skip
    """Sends encoded images to a server, `host:port`.

    Raises:
      grpc.RpcError: it cannot be reached or refuses them.
    """
    with grpc.insecure_channel(server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return parse_response(stub.Predict(build_request(images, model, signature_name), timeout_s))


def format_answer(path: str, answer: dict) -> str:
    """One line."""
    if not answer["valid"]:
        return f"{path}  not an image"
    best = zip(answer["labels"], answer["probabilities"], strict=True)
    return f"{path}  " + "  ".join(f"{label} {100 * probability:.1f} %" for label, probability in best)


def main():
    parser = argparse.ArgumentParser(description="Classifies image files by TF Serving's gRPC interface.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--server", default="127.0.0.1:8500")
    arguments = parser.parse_args()
    images = [pathlib.Path(path).read_bytes() for path in arguments.images]
    try:
        answers = predict(arguments.server, images, arguments.model)
    except grpc.RpcError as error:
        sys.exit(f"grpc_client: {error.code().name}: {error.details()}")
    for path, answer in zip(arguments.images, answers, strict=True):
        print(format_answer(path, answer))


if __name__ == "__main__":
    main()
