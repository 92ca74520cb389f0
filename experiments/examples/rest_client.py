"""Classifies image files by a server's REST interface; Python's standard library is all it needs.

    python rest_client.py IMAGE... [--url http://127.0.0.1:8501/v1/models/NAME:predict]
    python rest_client.py IMAGE... --signature features > features.jsonl

The URL is the one that `urnet serve` prints, or TF Serving's; /v1/models/NAME/versions/3:predict asks one
version, /v1/models/NAME/labels/stable:predict one that has a label.
"""

import argparse
import base64
import ipaddress
import json
import pathlib
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

SIGNATURE = "serving_default"


def build_request(images: Sequence[bytes], signature_name: str = SIGNATURE) -> bytes:
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
    url: str, images: Sequence[bytes], signature_name: str = SIGNATURE, timeout_s: float = 60, key: str = ""
) -> list[dict]:
    """Sends encoded images to a server.

    Args:
      key: of our own server, where it asks for one.

    Raises:
      RuntimeError: the server refuses them; the message is the server's.
      OSError: it cannot be reached.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, build_request(images, signature_name), headers)
    # A proxy cannot reach what listens on this machine alone.
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(urllib.parse.urlsplit(url).hostname) else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as response:
            return parse_response(response.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {_message(error.read())}") from None


def is_loopback(host: str | None) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def format_answer(path: str, answer: dict | list) -> str:
    """One line: the best classes, or JSON where the signature gives something else."""
    if not isinstance(answer, dict) or "labels" not in answer:
        return json.dumps({"path": path, **(answer if isinstance(answer, dict) else {"output": answer})})
    if not answer.get("valid", True):
        return f"{path}  not an image"
    best = zip(answer["labels"], answer["probabilities"], strict=True)
    none = answer.get("none_of_these")
    rest = "" if none is None else f"  (none of these: {100 * none:.1f} %)"
    return f"{path}  " + "  ".join(f"{label} {100 * probability:.1f} %" for label, probability in best) + rest


def _message(body):
    """What a server says went wrong."""
    try:
        return json.loads(body)["error"]
    except (ValueError, TypeError, LookupError):
        return body.decode(errors="replace")[:500] or "no reason was given"


def main():
    parser = argparse.ArgumentParser(description="Classifies image files by a server's REST interface.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--url", default="http://127.0.0.1:8501/v1/models/urnet:predict")
    parser.add_argument("--signature", default=SIGNATURE, help="serving_default or features")
    parser.add_argument("--batch", type=int, default=8, help="images a request; a server may limit its bytes")
    parser.add_argument("--timeout_s", type=float, default=60)
    parser.add_argument("--key_file", help="whose first line is the server's key")
    arguments = parser.parse_args()
    try:
        key = pathlib.Path(arguments.key_file).read_text().split()[0] if arguments.key_file else ""
        images = [pathlib.Path(path).read_bytes() for path in arguments.images]
    except (OSError, IndexError) as error:
        sys.exit(f"rest_client: cannot read a file: {error}")
    for start in range(0, len(images), max(1, arguments.batch)):
        part = slice(start, start + max(1, arguments.batch))
        try:
            answers = predict(arguments.url, images[part], arguments.signature, arguments.timeout_s, key)
        except RuntimeError as error:
            sys.exit(f"rest_client: {arguments.url} refuses: {error}")
        except (OSError, ValueError, LookupError) as error:
            reason = getattr(error, "reason", error)
            sys.exit(f"rest_client: no answer from {arguments.url}: {reason}")
        for path, answer in zip(arguments.images[part], answers, strict=True):
            print(format_answer(path, answer))


if __name__ == "__main__":
    main()
