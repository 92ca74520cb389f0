"""Starts a real server for an exported SavedModel and stays with it until it is stopped.

Three engines, tried in this order:

    tf_serving   `tensorflow_model_server` on the PATH
    docker       the same server from its image
    mlflow       MLflow's scoring server, which is Python and slower

All take the same JSON, `{"instances": [{"image_bytes": {"b64": "..."}}, ...]}`, and answer
`{"predictions": [{"labels": [...], "probabilities": [...], "classes": [...], "valid": true}, ...]}`:
TF Serving at /v1/models/<name>:predict, MLflow at /invocations. TF Serving also has gRPC and the
other signatures, and takes up a new version by itself. Through MLflow the SavedModel is loaded by
`mlflow_loader`, which says why. The export is only read; what a server needs beside it goes into a
temporary directory.
"""

import dataclasses
import http.client
import os
import pathlib
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from urnet_tf import extras
from urnet_tf.errors import RunError, UsageError
from urnet_tf.export import tf_serving
from urnet_tf.serving import model_files
from urnet_tf.store import write_text

_BINARY = "tensorflow_model_server"
_START_S = 900  # an image of Docker may have to be fetched first
_STOP_S = 15


@dataclasses.dataclass(frozen=True)
class Model:
    """A SavedModel: `<directory>/<name>/<version>`; `follow` = newer versions are wanted, too."""

    directory: pathlib.Path
    name: str
    version: int
    follow: bool

    @property
    def path(self) -> pathlib.Path:
        """Of the SavedModel."""
        return self.directory / self.name / str(self.version)

    @property
    def only_version(self) -> int | None:
        """The version that TF Serving must keep to; None = the highest that is there."""
        return None if self.follow else self.version


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a server is started.

    Attributes:
      command: program and arguments.
      file: what the program needs beside the SavedModel.
      url: where images are sent to.
      ready_url: answers 200 and `ready_text` when the model is loaded.
      grpc: address of that interface; empty = there is none.
      environment: variables on top of those of this process.
      stop: command that makes sure of the end; empty = the signal is enough.
      remark: what the user should know.
    """

    command: list[str]
    file: pathlib.Path
    url: str
    ready_url: str
    ready_text: str = ""
    grpc: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stop: tuple[str, ...] = ()
    remark: str = ""


def serve(
    model: str | os.PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = tf_serving.REST_PORT,
    engine: str = "auto",
    dry_run: bool = False,
) -> None:
    """Serves a model until SIGINT or SIGTERM; for the main thread, since it takes the signals.

    Args:
      model: a version's directory; or a model's, a directory with one model, or a run's work
        directory, which mean the highest version.
      host: address to listen on.
      port: of HTTP; the gRPC of TF Serving gets the one before it.
      engine: "tf_serving", "docker", "mlflow", or "auto" for the first of them that is here.
      dry_run: prints the shell lines that do the same instead.

    Raises:
      UsageError: there is no such model or engine, or a port is taken.
      RunError: the server does not start or ends by itself.
    """
    found = find_saved_model(model)
    engine, reason = choose_engine(engine)
    with tempfile.TemporaryDirectory(prefix="urnet_serve_") as folder:
        plan = _PLANNERS[engine](pathlib.Path(folder), found, host, port)
        if dry_run:
            print(_shell_lines(plan))
            return
        print(f"Model:  {found.path}\nEngine: {engine} ({reason})")
        if plan.remark:
            print(f"Note:   {plan.remark}")
        for number in (port,) if engine == "mlflow" else (port, port - 1):
            _check_port(host, number)
        _run(plan)


def find_saved_model(path: str | os.PathLike) -> Model:
    """Finds the SavedModel that a path means, as `model_files.find_model` reads paths.

    Raises:
      UsageError: there is none, or it has no number.
    """
    found = model_files.find_model(path)
    version = found.path.resolve()
    if found.kind != "saved_model" or not version.name.isdecimal():
        raise UsageError(
            f"Expected a SavedModel in a numbered directory, NAME/1/saved_model.pb; received {found.path}."
        )
    follow = pathlib.Path(path).resolve() not in (version, version / "saved_model.pb")
    return Model(version.parent.parent, version.parent.name, int(version.name), follow)


def choose_engine(engine: str) -> tuple[str, str]:
    """The engine to start, and why this one.

    Raises:
      UsageError: it cannot be started here; for "auto": none can.
    """
    if engine != "auto":
        if obstacle := _OBSTACLES[engine]():
            raise UsageError(f"Cannot start the engine {engine}: {obstacle}.")
        return engine, "as requested"
    obstacles: list[str] = []
    for name, find_obstacle in _OBSTACLES.items():
        obstacle = find_obstacle()
        if obstacle is None:
            return name, "; ".join(obstacles) or "it is on the PATH"
        obstacles.append(obstacle)
    raise UsageError(f"There is no server to start: {'; '.join(obstacles)}. Install one of the three.")


def curl_line(url: str) -> str:
    """A shell line that sends `image.jpg`; through a pipe, since an argument may not be that long."""
    opening, closing = '{"instances": [{"image_bytes": {"b64": "', '"}}]}'
    return (
        f"(printf '{opening}'; base64 < image.jpg; printf '{closing}') | "
        f"curl -sS -H 'Content-Type: application/json' -d @- {shlex.quote(url)}"
    )


def _obstacle_of_tf_serving() -> str | None:
    return None if shutil.which(_BINARY) else f"no {_BINARY} on the PATH"


def _obstacle_of_docker() -> str | None:
    if not shutil.which("docker"):
        return "no docker on the PATH"
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "docker does not answer"
    return "docker has no daemon that answers" if done.returncode else None


def _obstacle_of_mlflow() -> str | None:
    missing = extras.find_missing("mlflow", "uvicorn", "fastapi")
    return f"no Python package {missing} (pip install 'urnet_tf[serve]')" if missing else None


_OBSTACLES = {
    "tf_serving": _obstacle_of_tf_serving,
    "docker": _obstacle_of_docker,
    "mlflow": _obstacle_of_mlflow,
}


def _plan_tf_serving(folder: pathlib.Path, model: Model, host: str, port: int) -> Plan:
    file = tf_serving.write_models_config(
        folder, [model.name], base_path=model.directory, version=model.only_version
    )
    command = [_BINARY, f"--rest_api_port={port}", f"--port={port - 1}", f"--model_config_file={file}"]
    remark = (
        f"{_BINARY} listens on all interfaces, not on {host} alone; keep others out with a firewall."
        if host not in ("0.0.0.0", "::")
        else ""
    )
    return Plan(command, file, **_tf_serving_urls(model.name, host, port), remark=remark)


def _plan_docker(folder: pathlib.Path, model: Model, host: str, port: int) -> Plan:
    file = tf_serving.write_models_config(folder, [model.name], version=model.only_version)
    container = folder.name  # names are unique, and so is the folder's
    command = tf_serving.docker_command(
        model.directory, name=model.name, config=file, container=container,
        host=host, rest_port=port, grpc_port=port - 1,
    )  # fmt: skip
    stop = ("docker", "rm", "--force", container)
    return Plan(command, file, **_tf_serving_urls(model.name, host, port), stop=stop)


def _tf_serving_urls(name: str, host: str, port: int) -> dict[str, Any]:
    """The fields of a `Plan` that say where the server is."""
    url = f"{_base_url(host, port)}/v1/models/{urllib.parse.quote(name)}"
    return {
        "url": f"{url}:predict",
        "ready_url": url,
        "ready_text": '"AVAILABLE"',
        "grpc": _base_url(host, port - 1).removeprefix("http://"),
    }


def _plan_mlflow(folder: pathlib.Path, model: Model, host: str, port: int) -> Plan:
    import yaml

    flavor = {
        "loader_module": "urnet_tf.serving.mlflow_loader",
        "data": os.fspath(model.path),
        "python_version": platform.python_version(),
    }
    file = folder / "MLmodel"
    write_text(file, yaml.safe_dump({"flavors": {"python_function": flavor}}, allow_unicode=True))
    # `mlflow models serve` starts the same through a shell, which would not pass a signal on.
    listen = ["--host", host, "--port", str(port), "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", *listen, "mlflow.pyfunc.scoring_server.app:app"]
    package = os.fspath(pathlib.Path(__file__).resolve().parents[2])
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in ("", package)]
    environment = {
        "__pyfunc_model_path__": os.fspath(folder),
        "PYTHONPATH": os.pathsep.join([package, *others]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    url = _base_url(host, port)
    remark = "this server keeps to the version until it is started again." if model.follow else ""
    return Plan(command, file, f"{url}/invocations", f"{url}/ping", environment=environment, remark=remark)


_PLANNERS = {"tf_serving": _plan_tf_serving, "docker": _plan_docker, "mlflow": _plan_mlflow}


def _base_url(host: str, port: int) -> str:
    """Of a server on this machine; one that listens on all addresses is reached at the local one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _shell_lines(plan: Plan) -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in plan.environment.items()]
    command = " ".join(variables + [shlex.join(plan.command)])
    folder, file = map(shlex.quote, map(os.fspath, (plan.file.parent, plan.file)))
    lines = [f"mkdir -p {folder}", f"cat > {file} <<'END'", plan.file.read_text("utf-8") + "END", command]
    return "\n".join(([f"# {plan.remark}"] if plan.remark else []) + lines)


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
        process = subprocess.Popen(plan.command, env=os.environ | plan.environment)
        _wait_until_ready(plan, process)
        print(f"Ready:  {plan.url}" + (f"\n        gRPC at {plan.grpc}" if plan.grpc else ""))
        print(f"        Ctrl-C stops it. Try:\n{curl_line(plan.url)}", flush=True)
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


def _wait_until_ready(plan: Plan, process: subprocess.Popen) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
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
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if plan.stop:
        subprocess.run(plan.stop, capture_output=True, timeout=60)
