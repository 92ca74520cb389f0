"""Our own server as a process, on a SavedModel: every format and signature, many clients, and its end."""

import base64
import importlib.util
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from urnet_fixtures.ports import free_port
from urnet_fixtures.servers import served

from urnet_tf.export.saved_model import open_saved_model
from urnet_tf.serving import plans

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples" / "rest_client.py"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """Where that server's temporary files go."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def own(urnet_command, tiny_version, temporary):
    """URL, process and printed lines of our own server on the tiny model."""
    port = free_port()
    arguments = [
        "--model",
        tiny_version.parent,
        "--port",
        port,
        "--engine",
        "own",
        "--",
        "--batch_sizes=1,2,8",
    ]
    with served(urnet_command, *map(str, arguments), TMPDIR=str(temporary)) as (process, printed):
        yield f"http://127.0.0.1:{port}/v1/models/tiny:predict", process, printed


@pytest.fixture(scope="module")
def client():
    spec = importlib.util.spec_from_file_location("rest_client", CLIENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def call(tiny_version):
    return open_saved_model(tiny_version)


def check(answers, expected):
    assert [a["valid"] for a in answers] == expected["valid"].tolist()
    assert [a["classes"] for a in answers] == expected["classes"].tolist()
    assert [a["labels"] for a in answers] == [[t.decode() for t in row] for row in expected["labels"]]
    probabilities = [a["probabilities"] for a in answers]
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-5)


def test_it_says_what_it_serves_and_how(own, tiny_version):
    url, _, printed = own
    lines = printed.splitlines()
    assert lines[0] == f"Model:  {tiny_version}"
    assert lines[1] == "Engine: own (as requested)"
    assert "keeps to these versions" in lines[2] and "WARNING" not in printed
    assert f"Ready:  {url}" in lines and f"Try images at {url.partition('v1/')[0]}" in printed
    assert lines[-1] == plans.curl_line(url)


def test_the_first_answer_is_not_slow(own, client, tiny_photos):
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        client.predict(own[0], tiny_photos[:1])
        seconds.append(time.perf_counter() - start)
    assert seconds[0] < 1 + 10 * min(seconds)  # it took seconds before there was a warm-up


def test_every_signature_of_the_saved_model(own, call, tiny_photos, tiny_preparation):
    def ask(body):
        request = urllib.request.Request(own[0], json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    photos = [{"b64": base64.b64encode(photo).decode()} for photo in tiny_photos[:2]]
    expected = call("features", {"image_bytes": tiny_photos[:2]})
    found = ask({"signature_name": "features", "inputs": {"image_bytes": photos}})["outputs"]
    assert found["valid"] == [True, True]
    np.testing.assert_allclose(found["features"], expected["features"], atol=1e-5)
    images = tiny_preparation.decode(tiny_photos[:2])[0].numpy()
    expected = call("tensor", {"images": images})
    found = ask({"signature_name": "tensor", "instances": images.tolist()})["predictions"]
    assert [row["classes"] for row in found] == expected["classes"].tolist()
    probabilities = [row["probabilities"] for row in found]
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-5)


def test_the_metadata_is_that_of_the_saved_model(own):
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    base = own[0].removesuffix(":predict")
    with urllib.request.urlopen(f"{base}/metadata", timeout=60) as answer:
        metadata = json.load(answer)
    assert metadata["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    signatures = json_format.ParseDict(
        metadata["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    ).signature_def
    assert sorted(signatures) == ["features", "serving_default", "tensor"]
    assert [d.size for d in signatures["tensor"].inputs["images"].tensor_shape.dim] == [-1, 32, 32, 3]
    with urllib.request.urlopen(base, timeout=60) as answer:
        status = json_format.Parse(answer.read(), get_model_status_pb2.GetModelStatusResponse())
    assert [(s.version, s.state) for s in status.model_version_status] == [(3, 30)]  # AVAILABLE


def test_every_format_and_bad_bytes(own, client, call, tiny_photos):
    from PIL import Image

    pixels = np.zeros((41, 41, 3), np.uint8)  # BMP and WebP files that end in zero bytes
    pixels[20:] = 200
    images = [tiny_photos[0], b"no image", b"", tiny_photos[1][:200]]
    for kind in ("BMP", "WEBP", "GIF", "PNG"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
        images.append(file.getvalue())
    assert images[4][-1] == images[5][-1] == 0
    expected = call("serving_default", {"image_bytes": images})
    assert expected["valid"].tolist() == [True, False, False, False, True, True, True, True]
    check(client.predict(own[0], images), expected)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("base64")), reason="no curl or base64")
def test_the_curl_line(own, client, call, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    from PIL import Image

    Image.fromarray(noise).save(tmp_path / "image.jpg", quality=95)
    image = (tmp_path / "image.jpg").read_bytes()
    assert len(image) > 130_000  # more than one argument of a program can hold
    done = subprocess.run(["bash", "-c", own[2].splitlines()[-1]], cwd=tmp_path, capture_output=True)
    check(client.parse_response(done.stdout), call("serving_default", {"image_bytes": [image]}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"instances": []}', "No values in 'instances' array"),
        (b'{"instances": [{"image": {"b64": "AAAA"}}]}', "keys must be equal to: image_bytes"),
        (b'{"instances": [{"image_bytes": {"b64": "AAA!"}}]}', "Unable to base64 decode"),
        (b'{"instances": ', "JSON Parse error"),
    ],
)
def test_a_wrong_request_is_refused_and_says_why(own, client, monkeypatch, body, message):
    monkeypatch.setattr(client, "build_request", lambda *_: body)
    with pytest.raises(RuntimeError, match=f"400: .*{re.escape(message)}"):
        client.predict(own[0], [])


def test_many_clients_get_the_answers_to_their_own_images(own, client, call):
    import tensorflow as tf

    clients, requests, each = 16, 8, 2
    coarse = np.random.default_rng(5).integers(0, 256, (clients * each, 4, 5, 3))
    images = [tf.io.encode_jpeg(i).numpy() for i in tf.cast(tf.image.resize(coarse, (60, 80)), tf.uint8)]
    expected = call("serving_default", {"image_bytes": images})
    differences = np.abs(expected["probabilities"][:, None] - expected["probabilities"]).max(-1)
    assert differences[~np.eye(len(images), dtype=bool)].min() > 1e-4  # no two answers are alike

    def work(number):
        rng, answers = np.random.default_rng(number), []
        for _ in range(requests):
            chosen = number * each + rng.permutation(each)
            answers.append((chosen, client.predict(own[0], [images[i] for i in chosen])))
        return answers

    for count in (1, 4, clients):
        with ThreadPoolExecutor(count) as pool:
            for answers in pool.map(work, range(count)):
                assert len(answers) == requests
                for chosen, received in answers:
                    check(received, {name: values[chosen] for name, values in expected.items()})


def test_sigterm_ends_all_of_it(own, temporary):  # the last test of that server
    url, process, _ = own
    assert [p.name[:12] for p in temporary.iterdir()] == ["urnet_serve_"]
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Stopped.\n") and "Traceback" not in errors
    with pytest.raises(OSError):
        urllib.request.urlopen(url.replace("v1/models/tiny:predict", "healthz"), timeout=5)
    assert not list(temporary.iterdir())
