"""Starts a real server for an export and stays with it until it is stopped.

Three engines, tried in this order:

    tf_serving   `tensorflow_model_server` on the PATH
    docker       the same server from its image
    own          our own application on FastAPI, which is Python; see `application`

All take the same JSON at /v1/models/<name>:predict, `{"instances": [{"image_bytes": {"b64": "..."}}, ...]}`,
and answer `{"predictions": [{"labels": [...], "probabilities": [...], "classes": [...], "valid": true}]}`.
TF Serving also has gRPC, and takes up a new version by itself; our own has a page to try images on, limits, a
key and TLS, and serves Keras, TFLite and ONNX files, too. The export is only read; what a server needs beside
it goes into a temporary directory.
"""

import ctypes
import http.client
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from urnet_tf import extras
from urnet_tf.errors import RunError, UsageError
from urnet_tf.export import tf_serving
from urnet_tf.serving import plans
from urnet_tf.serving.options import ServerOptions, exposure_warning, parse_options
from urnet_tf.serving.own_server import PARENT
from urnet_tf.serving.plans import Plan
from urnet_tf.serving.promoted import find_served_model

_START_S = 900  # an image of Docker may have to be fetched first
_STOP_S = 15
_PR_SET_PDEATHSIG = 1  # of prctl


def serve(
    model: str | os.PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = tf_serving.REST_PORT,
    engine: str = "auto",
    options: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Serves a model until SIGINT or SIGTERM; for the main thread, since it takes the signals.

    Args:
      model: a version's directory; or a model's, a directory with one model, or a run's work
        directory, which mean the highest version, or those that `models.config` says.
      host: address to listen on.
      port: of HTTP; the gRPC of TF Serving gets the one before it.
      engine: "tf_serving", "docker", "own", or "auto" for the first of them that is here.
      options: `--name=value`, for the engine: flags of `tensorflow_model_server`, or `ServerOptions`.
      dry_run: prints the shell lines that do the same instead, on any machine.

    Raises:
      UsageError: there is no such model or engine, a version is not whole, or a port is taken.
      RunError: the server does not start or ends by itself.
    """
    engine, reason = choose_engine(engine, any_machine=dry_run)
    found = find_served_model(model, any_kind=engine == "own", contents=not dry_run)
    own_options = parse_options(options) if engine == "own" else ServerOptions()
    with tempfile.TemporaryDirectory(prefix="urnet_serve_") as folder:
        make = plans.PLANNERS[engine]
        plan = make(pathlib.Path(folder), found, host, port, own_options if engine == "own" else options)
        if dry_run:
            print(plans.shell_lines(plan))
            return
        own_options.check_files()
        versions = ", ".join(map(str, found.versions))
        print(f"Model:  {found.path}" + (f" (versions {versions})" if len(found.versions) > 1 else ""))
        print(f"Engine: {engine} ({reason})")
        for remark in plan.remarks:
            print(f"Note:   {remark}")
        if engine != "tf_serving" and (warning := exposure_warning(host, own_options)):
            print(f"WARNING: {warning}")
        for number in (port,) if engine == "own" else (port, port - 1):
            _check_port(host, number)
        _run(plan)


def choose_engine(engine: str, any_machine: bool = False) -> tuple[str, str]:
    """The engine to start, and why this one.

    Args:
      any_machine: whether it need not be startable here.

    Raises:
      UsageError: it cannot be started here; for "auto": none can.
    """
    if engine != "auto":
        if not any_machine and (obstacle := _OBSTACLES[engine]()):
            raise UsageError(f"Cannot start the engine {engine}: {obstacle}.")
        return engine, "as requested"
    obstacles: list[str] = []
    for name, find_obstacle in _OBSTACLES.items():
        obstacle = find_obstacle()
        if obstacle is None:
            return name, "; ".join(obstacles) or "it is on the PATH"
        obstacles.append(obstacle)
    if any_machine:
        return "tf_serving", "; ".join(obstacles)
    raise UsageError(f"There is no server to start: {'; '.join(obstacles)}. Install one of the three.")


def _obstacle_of_tf_serving() -> str | None:
    return None if shutil.which(plans.BINARY) else f"no {plans.BINARY} on the PATH"


def _obstacle_of_docker() -> str | None:
    if not shutil.which("docker"):
        return "no docker on the PATH"
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "docker does not answer"
    return "docker has no daemon that answers" if done.returncode else None


def _obstacle_of_own() -> str | None:
    missing = extras.find_missing("uvicorn", "fastapi", "prometheus_client")
    return f"no Python package {missing} (pip install 'urnet_tf[serve]')" if missing else None


_OBSTACLES = {"tf_serving": _obstacle_of_tf_serving, "docker": _obstacle_of_docker, "own": _obstacle_of_own}


def _check_port(host: str, port: int) -> None:
    """Raises UsageError when nobody can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"Cannot listen on port {port} of {host}: {error}. Name another with --port (TF Serving also "
            "needs the one before it) or another address with --host."
        ) from None


def _run(plan: Plan) -> None:
    process = None

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        print("Starting ...", flush=True)
        environment = os.environ | plan.environment | {PARENT: str(os.getpid())}
        process = subprocess.Popen(plan.command, env=environment, preexec_fn=_die_with_parent())
        _wait_until_ready(plan, process)
        print(f"Ready:  {plan.url}" + (f"\n        gRPC at {plan.grpc}" if plan.grpc else ""))
        if plan.page:
            print(f"        Try images at {plan.page}")
        print(f"        Ctrl-C stops it. Try:\n{plans.curl_line(plan.url, plan.curl_flags)}", flush=True)
        status = process.wait()
        raise RunError(f"The server ended by itself, with status {status}; what it wrote is above.")
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave a child behind
        if process is not None:
            _end(plan, process)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first, so that it ends when this process is killed; on Linux, which knows how."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was killed meanwhile
            os._exit(1)

    return ask


def _wait_until_ready(plan: Plan, process: subprocess.Popen) -> None:
    own = ssl.create_default_context()  # only asks what this process has started
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=own)
    )
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with direct.open(plan.ready_url, timeout=5) as answer:
                if plan.ready_text in answer.read().decode():
                    return
        except (OSError, http.client.HTTPException):  # not yet
            pass
        time.sleep(0.1)
    state = "does not answer" if process.returncode is None else f"ended with status {process.returncode}"
    raise RunError(f"The server did not start: it {state}; what it wrote is above.")


def _end(plan: Plan, process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S + plan.drain_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if plan.stop:
        subprocess.run(plan.stop, capture_output=True, timeout=60)
