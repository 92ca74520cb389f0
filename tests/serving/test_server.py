"""`urnet serve`: a real server under load, the choice of the engine, and that nothing stays behind."""

import base64
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export.saved_model import open_saved_model
from urnet_tf.serving import plans, server
from urnet_tf.serving.promoted import find_served_model

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples" / "rest_client.py"

# Stands where TensorFlow Serving would: takes its flags and its configuration, or `docker run`'s, and
# says LOADING before it says AVAILABLE. It does not classify.
_STAND_IN = """#!{python}
import http.server, os, pathlib, re, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(pathlib.Path(sys.argv[0]).name, *arguments, file=log)
docker = pathlib.Path(sys.argv[0]).name == "docker"
if docker and arguments[0] != "run":
    sys.exit(int(os.environ.get("STAND_IN_INFO", "0")))
flags = dict(a.removeprefix("--").split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
mounts = [dict(f.split("=", 1) for f in a.split(",") if "=" in f) for a in arguments if "type=bind" in a]
port = arguments[arguments.index("--publish") + 1].split(":")[1] if docker else flags["rest_api_port"]
def seen(path):
    for mount in mounts:
        if path.startswith(mount["target"]):
            return mount["source"] + path[len(mount["target"]):]
    return path
config = open(seen(flags["model_config_file"])).read()
base = re.search('base_path: "(.*)"', config)[1]
version = (re.findall("versions: ([0-9]+)", config) or ["3"])[0]
assert os.path.isfile(seen(base + "/" + version + "/saved_model.pb")), config
if "STAND_IN_STATUS" in os.environ:
    sys.exit(int(os.environ["STAND_IN_STATUS"]))
states = ["LOADING", "AVAILABLE"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/models/tiny" else 404)
        self.end_headers()
        self.wfile.write(b'{{"state": "%s"}}' % states[0].encode())
        del states[:-1]
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(process, word):
    """The lines that a process prints up to one with `word`, or all."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            break
    return "".join(lines)


@contextlib.contextmanager
def served(urnet_command, *arguments, **environment):
    """A running `urnet serve ...` and what it printed up to its last line; killed at the end."""
    command = urnet_command("serve", *arguments)
    command["env"] = command["env"] | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(**command, **pipes) as process:
        try:
            printed = wait_for(process, "curl")
            assert "curl" in printed, process.stderr.read()
            yield process, printed
        finally:
            process.terminate()  # so that it ends its server, too
            process.communicate(timeout=60)


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


def test_a_port_that_is_taken(empty_version):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1: .*in use.*--port"):
            server.serve(empty_version, port=port, engine="own")
    with pytest.raises(UsageError, match="--host"):
        server.serve(empty_version, host="no.such.host.invalid", engine="own")


def test_sigterm_ends_all_of_it(own, temporary):  # the last test of that server
    url, process, _ = own
    assert [p.name[:12] for p in temporary.iterdir()] == ["urnet_serve_"]
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Stopped.\n") and "Traceback" not in errors
    with pytest.raises(OSError):
        urllib.request.urlopen(url.replace("v1/models/tiny:predict", "healthz"), timeout=5)
    assert not list(temporary.iterdir())


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Makes stand-ins of programs in a PATH that has nothing else; the file they log their calls in."""
    (tmp_path / "bin").mkdir()
    log = tmp_path / "calls.log"
    log.touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def make(*names):
        for name in names:
            path = tmp_path / "bin" / name
            path.write_text(_STAND_IN.format(python=sys.executable, log=str(log)))
            path.chmod(0o755)
        return log

    return make


@pytest.fixture
def empty_version(tmp_path):
    """What looks like an export from outside."""
    version = tmp_path / "models" / "tiny" / "3"
    (version / "assets").mkdir(parents=True)
    (version / "assets" / "labels.txt").write_text("a\n")
    (version / "saved_model.pb").touch()
    return version


def test_the_choice_of_the_engine(stand_ins, monkeypatch):
    no_binary, no_docker = "no tensorflow_model_server on the PATH", "docker has no daemon that answers"
    assert server.choose_engine("auto") == ("own", f"{no_binary}; no docker on the PATH")
    stand_ins("docker")
    assert server.choose_engine("auto") == ("docker", no_binary)
    monkeypatch.setenv("STAND_IN_INFO", "1")
    assert server.choose_engine("auto") == ("own", f"{no_binary}; {no_docker}")
    with pytest.raises(UsageError, match=f"Cannot start the engine docker: {no_docker}"):
        server.choose_engine("docker")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match="There is no server to start: .*; no Python package uvicorn"):
        server.choose_engine("auto")
    assert server.choose_engine("auto", any_machine=True)[0] == "tf_serving"
    assert server.choose_engine("docker", any_machine=True) == ("docker", "as requested")
    stand_ins("tensorflow_model_server")
    assert server.choose_engine("auto") == ("tf_serving", "it is on the PATH")
    assert server.choose_engine("tf_serving") == ("tf_serving", "as requested")


@pytest.mark.parametrize("engine", ["tf_serving", "docker"])
def test_tf_serving_is_started_awaited_and_stopped(engine, stand_ins, empty_version, urnet_command):
    log, port = stand_ins("docker", *(["tensorflow_model_server"] * (engine == "tf_serving"))), free_port()
    arguments = ["--model", str(empty_version), "--port", str(port), "--", "--more=1"]
    with served(urnet_command, *arguments) as (process, printed):
        assert f"Engine: {engine}" in printed
        assert f"Ready:  http://127.0.0.1:{port}/v1/models/tiny:predict" in printed
        assert f"gRPC at 127.0.0.1:{port - 1}" in printed
        assert ("listens on all interfaces" in printed) == (engine == "tf_serving")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Stopped.\n"), errors
    with socket.create_server(("127.0.0.1", port)):  # nobody listens there any more
        pass
    calls = log.read_text().splitlines()
    if engine == "tf_serving":
        (call,) = calls
        assert f"--rest_api_port={port} --port={port - 1} --model_config_file=" in call
        assert "--enable_batching=true --batching_parameters_file=" in call and call.endswith(" --more=1")
    else:
        container = re.search(r"--name (\S+)", calls[1])[1]
        assert calls[0] == "docker info" and calls[2] == f"docker rm --force {container}"


def test_a_server_that_ends_by_itself(stand_ins, empty_version, urnet_command):
    stand_ins("tensorflow_model_server")
    command = urnet_command("serve", "--model", empty_version, "--port", str(free_port()))
    command["env"] = command["env"] | {"STAND_IN_STATUS": "3"}
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "The server did not start: it ended with status 3" in done.stderr


@pytest.mark.parametrize("engine", ["tf_serving", "docker", "own"])
def test_a_dry_run_needs_no_engine(engine, stand_ins, empty_version, capsys, monkeypatch):
    for module in ("uvicorn", "fastapi"):
        monkeypatch.setitem(sys.modules, module, None)
    options = {"own": ["--timeout_s=5"]}.get(engine, ["--rest_api_timeout_in_ms=5000"])
    server.serve(empty_version, engine=engine, options=options, dry_run=True)
    printed = capsys.readouterr().out
    names = {"own": ["server.json"]}.get(engine, ["batching.config", "models.config", "monitoring.config"])
    assert all(f"/{name} <<'END'" in printed for name in names)
    last = printed.splitlines()[-1]
    assert options[0] in last if engine != "own" else '"timeout_s": 5.0' in printed
    assert {"tf_serving": "tensorflow_model_server", "docker": "docker run", "own": "own_server"}[
        engine
    ] in last


def test_labels_and_pins_of_the_list_reach_the_server(empty_version, tmp_path, capsys):
    shutil.copytree(empty_version, empty_version.with_name("4"))
    policy = "model_version_policy { specific { versions: 3 versions: 4 } }"
    label = 'version_labels { key: "stable" value: 3 }'
    (tmp_path / "models" / "models.config").write_text(
        f'model_config_list {{ config {{ name: "tiny" {policy} {label} }} }}'
    )
    server.serve(empty_version.parent, engine="docker", dry_run=True)
    printed = capsys.readouterr().out
    assert "versions: 3\n        versions: 4" in printed and 'key: "stable"' in printed
    server.serve(empty_version.parent, engine="own", dry_run=True)
    settings = json.loads(re.search("<<'END'\n(.*?)END", capsys.readouterr().out, re.S)[1])
    assert settings["labels"] == {"stable": 3} and list(settings["versions"]) == ["3", "4"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_killed_parent_takes_the_server_along(stand_ins, empty_version, urnet_command):
    stand_ins("tensorflow_model_server")
    port = free_port()
    with served(urnet_command, "--model", str(empty_version), "--port", str(port)) as (process, _):
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the server still holds the port")


def test_a_process_that_looks_for_its_parent_ends_with_it(tmp_path):
    code = (
        "import os, time; from urnet_tf.serving import own_server as s; s._LOOK_S = 0.05; "
        "s.end_with_parent(int(os.environ['PARENT'])); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys; os.environ['PARENT'] = str(os.getpid()); "
        "p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); p.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, code], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and pathlib.Path(f"/proc/{child}").exists():
        status = pathlib.Path(f"/proc/{child}/status")
        if status.exists() and "State:\tZ" in status.read_text():
            break
        time.sleep(0.05)
    else:
        assert not pathlib.Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("127.0.0.1", [], None),
        ("::1", [], None),
        ("localhost", [], None),
        ("0.0.0.0", [], "everyone who reaches 0.0.0.0 can use this server, without any key or encryption."),
        ("192.168.0.7", ["--api_key_file=k"], "can use this server, without encryption."),
    ],
)
def test_an_address_that_others_reach_is_warned_about(host, options, words):
    from urnet_tf.serving.options import exposure_warning, parse_options

    warning = exposure_warning(host, parse_options(options))
    assert words in warning if words else not warning


def test_dry_run_prints_lines_that_do_the_same(stand_ins, empty_version, monkeypatch, capsys):
    log = stand_ins("docker")
    server.serve(empty_version, port=9001, engine="docker", dry_run=True)
    lines = capsys.readouterr().out
    folder = pathlib.Path(re.search("mkdir -p (.*)", lines)[1])
    assert not folder.exists()
    monkeypatch.setenv("STAND_IN_STATUS", "0")
    monkeypatch.setenv("PATH", os.environ["PATH"] + os.pathsep + os.defpath)
    try:
        subprocess.run(["bash", "-ec", lines], check=True)
        assert "versions: 3" in (folder / "models.config").read_text()
    finally:
        shutil.rmtree(folder)
    assert "--publish 127.0.0.1:9001:8501" in log.read_text().splitlines()[-1]


def test_which_model_is_meant(empty_version, tmp_path):
    shutil.copytree(empty_version, empty_version.with_name("12"))
    for path in (tmp_path / "models", empty_version.parent):
        found = find_served_model(path)
        assert (found.path, found.name, found.versions) == (empty_version.with_name("12"), "tiny", (12,))
        assert found.follow
    found = find_served_model(empty_version)
    assert (found.path, found.follow, found.versions) == (empty_version, False, (3,))
    with pytest.raises(UsageError, match="no such file or directory"):
        find_served_model(tmp_path / "nothing")
    bare = empty_version.rename(empty_version.with_name("newest"))
    with pytest.raises(UsageError, match="numbered directory"):
        find_served_model(bare)
