"""How each engine of `urnet serve` is started: its command, the files beside it, where it answers."""

import dataclasses
import json
import os
import pathlib
import shlex
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from urnet_tf.export import models_config, tf_serving
from urnet_tf.serving.options import ServerOptions, is_loopback
from urnet_tf.serving.promoted import PromotedModel
from urnet_tf.store import write_text

BINARY = "tensorflow_model_server"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a server is started.

    Attributes:
      command: program and arguments.
      folder: that holds the files which the program needs beside the model.
      url: where images are sent to.
      ready_url: answers 200 and `ready_text` when the model is loaded.
      grpc: address of that interface; empty = there is none.
      page: where people try images; empty = there is none.
      environment: variables on top of those of this process.
      stop: command that makes sure of the end; empty = the signal is enough.
      drain_s: that the program may take to end.
      remarks: what the user should know.
      curl_flags: that requests need.
    """

    command: list[str]
    folder: pathlib.Path
    url: str
    ready_url: str
    ready_text: str = ""
    grpc: str = ""
    page: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stop: tuple[str, ...] = ()
    drain_s: float = 0.0
    remarks: tuple[str, ...] = ()
    curl_flags: tuple[str, ...] = ()


def curl_line(url: str, flags: Sequence[str] = ()) -> str:
    """A shell line that sends `image.jpg`; through a pipe, since an argument may not be that long."""
    opening, closing = '{"instances": [{"image_bytes": {"b64": "', '"}}]}'
    more = "".join(f"{flag} " for flag in flags)
    return (
        f"(printf '{opening}'; base64 < image.jpg; printf '{closing}') | "
        f"curl -sS {more}-H 'Content-Type: application/json' -d @- {shlex.quote(url)}"
    )


def shell_lines(plan: Plan) -> str:
    """Lines for a shell that write the files of a plan and start its command."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in plan.environment.items()]
    lines = [f"# {remark}" for remark in plan.remarks]
    lines.append(f"mkdir -p {shlex.quote(os.fspath(plan.folder))}")
    for file in sorted(plan.folder.iterdir()):
        lines += [f"cat > {shlex.quote(os.fspath(file))} <<'END'", file.read_text("utf-8") + "END"]
    return "\n".join([*lines, " ".join([*variables, shlex.join(plan.command)])])


def _plan_tf_serving(
    folder: pathlib.Path, model: PromotedModel, host: str, port: int, flags: Sequence[str]
) -> Plan:
    file = _write_files(folder, model, model.directory)
    command = [
        BINARY,
        f"--rest_api_port={port}",
        f"--port={port - 1}",
        *tf_serving.server_flags(file, folder),
        *flags,
    ]
    remarks = [f"{BINARY} listens on all interfaces, not on {host} alone; keep others out with a firewall."]
    return Plan(
        command, folder, **_tf_serving_urls(model.name, host, port),
        remarks=tuple(remarks if host not in ("0.0.0.0", "::") else ()),
    )  # fmt: skip


def _plan_docker(
    folder: pathlib.Path, model: PromotedModel, host: str, port: int, flags: Sequence[str]
) -> Plan:
    file = _write_files(folder, model, tf_serving.IN_CONTAINER)
    container = folder.name  # names are unique, and so is the folder's
    command = tf_serving.docker_command(
        model.directory, name=model.name, config=file, container=container,
        host=host, rest_port=port, grpc_port=port - 1, flags=flags,
    )  # fmt: skip
    stop = ("docker", "rm", "--force", container)
    return Plan(command, folder, **_tf_serving_urls(model.name, host, port), stop=stop)


def _write_files(folder: pathlib.Path, model: PromotedModel, base_path: str | os.PathLike) -> pathlib.Path:
    """What TF Serving reads; the list of models."""
    folder.chmod(0o755)  # the container has another user
    tf_serving.write_server_files(folder)
    versions = () if model.follow else model.versions
    return models_config.write_models_config(
        folder, [model.name], base_path=base_path, versions=versions, labels=model.labels
    )


def _tf_serving_urls(name: str, host: str, port: int) -> dict[str, Any]:
    """The fields of a `Plan` that say where the server is."""
    url = f"{_base_url(host, port)}/v1/models/{urllib.parse.quote(name)}"
    return {
        "url": f"{url}:predict",
        "ready_url": url,
        "ready_text": '"AVAILABLE"',
        "grpc": _base_url(host, port - 1).removeprefix("http://"),
    }


def _plan_own(
    folder: pathlib.Path, model: PromotedModel, host: str, port: int, options: ServerOptions
) -> Plan:
    settings = {
        "name": model.name,
        "versions": {str(number): os.fspath(path) for number, path in model.paths.items()},
        "labels": dict(model.labels),
        "host": host,
        "port": port,
        "options": dataclasses.asdict(options),
    }
    file = folder / "server.json"
    write_text(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    package = os.fspath(pathlib.Path(__file__).resolve().parents[2])
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in ("", package)]
    base = _base_url(host, port, "https" if options.tls_key else "http")
    flags = ["-k"] if options.tls_key and is_loopback(host) else []
    if options.api_key_file:
        flags.append(f'-H "Authorization: Bearer $(head -n 1 {shlex.quote(options.api_key_file)})"')
    remark = "this server keeps to these versions until it is started again."
    return Plan(
        [sys.executable, "-m", "urnet_tf.serving.own_server", os.fspath(file)],
        folder,
        f"{base}/v1/models/{urllib.parse.quote(model.name)}:predict",
        f"{base}/readyz",
        page=f"{base}/",
        environment={"PYTHONPATH": os.pathsep.join([package, *others])},
        drain_s=options.drain_s,
        remarks=(remark,) if model.follow else (),
        curl_flags=tuple(flags),
    )


PLANNERS: dict[str, Callable[..., Plan]] = {
    "tf_serving": _plan_tf_serving,
    "docker": _plan_docker,
    "own": _plan_own,
}


def _base_url(host: str, port: int, scheme: str = "http") -> str:
    """Of a server on this machine; one that listens on all addresses is reached at the local one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
