"""Our own server on models without TensorFlow, in a thread of this process; `urnet serve` as a process."""

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from urnet_tf.serving.application import create_app
from urnet_tf.serving.options import ServerOptions
from urnet_tf.serving.rest_protocol import Signature, TensorSpec
from urnet_tf.serving.served_model import ServedModel, Version

LABELS = ("none", "short", "long")


class LengthModel(Version):
    """Tells images apart by their bytes: starts with P = valid; class 2 from ten bytes on. Can be held up."""

    def __init__(self, max_pixels=1000, seconds=0.0):
        outputs = {
            "classes": TensorSpec("int32", (None, 2)), "labels": TensorSpec("string", (None, 2)),
            "probabilities": TensorSpec("float32", (None, 2)), "valid": TensorSpec("bool", (None,)),
        }  # fmt: skip
        images = {"image_bytes": TensorSpec("string", (None,))}
        self.signatures = {
            "serving_default": Signature(images, outputs),
            "features": Signature(images, {"features": TensorSpec("float32", (None, 3))}),
            "tensor": Signature({"images": TensorSpec("float32", (None, 1, 1, 3))}, outputs),
        }
        self.signature_def = {name: {"inputs": list(s.inputs)} for name, s in self.signatures.items()}
        self.max_pixels, self.seconds = max_pixels, seconds
        self.calls, self.go = [], threading.Event()
        self.go.set()

    def run(self, signature, inputs):
        (values,) = inputs.values()
        self.calls.append((signature, len(values)))
        assert self.go.wait(60)
        time.sleep(self.seconds)
        sizes = np.array([len(v) if isinstance(v, bytes) else int(v.sum()) for v in values])
        if signature == "features":
            return {"features": sizes[:, None].astype(np.float32) * np.float32([1, 0.1, 0.01])}
        if any(v == b"P fail" for v in values if isinstance(v, bytes)):
            raise RuntimeError("the library failed at /secret/path")
        valid = np.array([v.startswith(b"P") if isinstance(v, bytes) else True for v in values])
        best = np.where(sizes >= 10, 2, 1)
        classes = np.where(valid[:, None], np.stack([best, 3 - best], 1), -1).astype(np.int32)
        labels = np.where(valid[:, None], np.array([*LABELS, ""], object)[classes], "")
        encoded = np.vectorize(str.encode, otypes=[object])(labels)
        shares = np.where(valid[:, None], np.float32([0.9, 0.1]), np.float32(0))
        return {"classes": classes, "labels": encoded, "probabilities": shares, "valid": valid}


def rows(*images):
    """The body of a request for encoded images."""
    return {"instances": [{"image_bytes": {"b64": base64.b64encode(i).decode()}} for i in images]}


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server(NamedTuple):
    """A running server: `model` is what it serves, `stop` asks it to end as SIGTERM does."""

    port: int
    model: ServedModel
    stop: Callable[[], None]

    def ask(self, method, path, body=None, headers=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            body = json.dumps(body) if isinstance(body, dict | list) else body
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def predict(self, body, path="/v1/models/tiny:predict", **more):
        return self.ask("POST", path, body, **more)


@contextlib.contextmanager
def running(versions, labels=None, load=None, name="tiny", **options):
    """Serves `{number: Version}`, or the numbers that `load` will fill; waits until it answers."""
    import uvicorn

    model = ServedModel(name, list(versions), labels)
    if load is None:
        model.versions |= versions
    app = create_app(model, ServerOptions(**options), load=load and (lambda: load(model)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Server(listener.getsockname()[1], model, lambda: setattr(server, "should_exit", True))
        finally:
            server.should_exit = True
            thread.join(20)


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
