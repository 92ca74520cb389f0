"""`urnet serve`: the choice of the engine, what it is given, and that nothing stays behind."""

import contextlib
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

import pytest
from urnet_fixtures.ports import free_port
from urnet_fixtures.servers import served

from urnet_tf.errors import UsageError
from urnet_tf.serving import server
from urnet_tf.serving.promoted import find_served_model

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


def test_a_port_that_is_taken(empty_version):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1: .*in use.*--port"):
            server.serve(empty_version, port=port, engine="own")
    with pytest.raises(UsageError, match="--host"):
        server.serve(empty_version, host="no.such.host.invalid", engine="own")


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
def test_a_killed_parent_takes_the_server_along(stand_ins, empty_version, urnet_command, tmp_path):
    stand_ins("tensorflow_model_server")
    port = free_port()
    arguments = ["--model", str(empty_version), "--port", str(port)]
    with served(urnet_command, *arguments, TMPDIR=str(tmp_path)) as (process, _):
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
