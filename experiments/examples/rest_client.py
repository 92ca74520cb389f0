"""Classifies image files by a server's REST interface; Python's standard library is all it needs.

    python rest_client.py IMAGE... [--url http://127.0.0.1:8501/v1/models/NAME:predict]

The URL is the one that `urnet serve` prints, or TF Serving's.
"""

import argparse
import base64
import json
import pathlib
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence


def build_request(images: Sequence[bytes], signature_name: str = "serving_default") -> bytes:
    """The body of a request: encoded images (JPEG, PNG, GIF, BMP, WebP) as base64 in JSON."""
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode("ascii")}} for image in images]
    return json.dumps({"signature_name": signature_name, "instances": instances}).encode()


def parse_response(body: bytes) -> list[dict]:
    """One dictionary an image, in order.

    Of `serving_default`: `labels`, `probabilities` and `classes`, best first, and `valid`, which is
    false where the bytes are no image. Of `features`: `features` and `valid`.
    """
    return json.loads(body)["predictions"]


def predict(
    url: str, images: Sequence[bytes], signature_name: str = "serving_default", timeout_s: float = 60
) -> list[dict]:
    """Sends encoded images to a server.

    Raises:
      RuntimeError: the server refuses them; the message is the server's.
      OSError: it cannot be reached.
    """
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, build_request(images, signature_name), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return parse_response(response.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {_message(error.read())}") from None


def format_answer(path: str, answer: dict) -> str:
    """One line."""
    if not answer["valid"]:
        return f"{path}  not an image"
    best = zip(answer["labels"], answer["probabilities"], strict=True)
    return f"{path}  " + "  ".join(f"{label} {100 * probability:.1f} %" for label, probability in best)


def _message(body):
    """What a server says went wrong: TF Serving in `error`, MLflow in `message` or below a stack trace."""
    try:
        answer = json.loads(body)
        lines = answer.get("stack_trace", "").strip().splitlines()
        return answer.get("error") or (lines[-1] if lines else answer["message"])
    except (ValueError, AttributeError, LookupError):
        return body.decode(errors="replace")[:500]


def main():
    parser = argparse.ArgumentParser(description="Classifies image files by a server's REST interface.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--url", default="http://127.0.0.1:8501/v1/models/urnet:predict")
    arguments = parser.parse_args()
    try:
        answers = predict(arguments.url, [pathlib.Path(path).read_bytes() for path in arguments.images])
    except (OSError, RuntimeError) as error:
        sys.exit(f"rest_client: {error}")
    for path, answer in zip(arguments.images, answers, strict=True):
        print(format_answer(path, answer))


if __name__ == "__main__":
    main()
