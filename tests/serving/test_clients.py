"""The clients of experiments/examples against our own server on a model without TensorFlow."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from urnet_fixtures.servers import LengthModel, running

for _module in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_module, reason=f"{_module} is not installed: pip install 'urnet_tf[serve]'")

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples"
KEY = "a key of sixteen signs".replace(" ", "-")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY + "\n")
    with running({1: LengthModel(), 2: LengthModel()}, {"stable": 1}, api_key_file=str(key)) as server:
        yield server, key


@pytest.fixture
def images(tmp_path):
    for name, content in (("a.jpg", b"P short"), ("b.jpg", b"no image"), ("c.jpg", b"P this is long")):
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]


def rest_client(*arguments, **environment):
    """Runs it without any package."""
    command = [sys.executable, "-I", "-S", EXAMPLES / "rest_client.py", *map(str, arguments)]
    environment = {"PYTHONUTF8": "1", "PATH": os.environ["PATH"]} | environment
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=60)


def url_of(server, path=""):
    return f"http://127.0.0.1:{server.port}/v1/models/tiny{path}:predict"


def test_rest_on_files_with_a_key_past_a_proxy_in_parts(server, images):
    server, key = server
    proxy = {
        name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")
    }  # nobody there
    before = len(server.model.versions[1].calls)
    url = url_of(server, "/labels/stable")
    done = rest_client(*images, "--url", url, "--key_file", key, "--batch", 2, **proxy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{images[0]}  short 90.0 %  long 10.0 %",
        f"{images[1]}  not an image",
        f"{images[2]}  long 90.0 %  short 10.0 %",
    ]
    assert [rows for _, rows in server.model.versions[1].calls[before:]] == [2, 1]


def test_rest_on_another_signature(server, images):
    server, key = server
    done = rest_client(*images[:1], "--url", url_of(server), "--key_file", key, "--signature", "features")
    found = json.loads(done.stdout)
    assert found["path"] == images[0] and found["output"] == pytest.approx([7, 0.7, 0.07])
    done = rest_client(*images[:1], "--url", url_of(server), "--key_file", key, "--signature", "logits")
    assert done.returncode == 1 and "logits" in done.stderr and "not found in signature def" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jpg"], "cannot read a file: [Errno 2] No such file or directory: 'missing.jpg'"),
        (
            ["IMAGE", "--url", "http://127.0.0.1:1/v1/models/tiny:predict"],
            "no answer from http://127.0.0.1:1/",
        ),
        (["IMAGE", "--url", "nonsense"], "no answer from nonsense: "),
        (["IMAGE", "--url", "URL"], "refuses: 401: Expected the server's key"),
        (["IMAGE", "--url", "URL", "--key_file", "missing"], "cannot read a file"),
    ],
)
def test_what_goes_wrong_is_one_sentence(server, images, arguments, words):
    arguments = [{"IMAGE": images[0], "URL": url_of(server[0])}.get(a, a) for a in arguments]
    done = rest_client(*arguments)
    assert done.returncode == 1 and done.stderr.startswith("rest_client: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


_SCRIPT = """
import { classify, extractFeatures } from "./browser_client.mjs";
const [url, key] = process.argv.slice(2);
const images = ["P short", "no image", "P" + "x".repeat(100_000)].map((text) => new Blob([text]));
const options = { key };
console.log(JSON.stringify(await classify(url, images, options)));
console.log(JSON.stringify(await extractFeatures(url, images.slice(0, 1), options)));
const other = url.replace("tiny", "other");
for (const [where, more] of [[url, {}], [other, options], ["http://127.0.0.1:1/", options]]) {
  await classify(where, images, more).catch((error) => console.log(error.message));
}
"""


def strip_types(folder):
    """Makes JavaScript of the TypeScript example; None where there is nothing that can."""
    target = folder / "browser_client.mjs"
    path = os.pathsep.join([str(folder / "node_modules/.bin"), os.environ["PATH"]])
    if esbuild := shutil.which("esbuild", path=path):
        command = [
            esbuild,
            EXAMPLES / "browser_client.ts",
            "--format=esm",
            f"--outfile={target}",
            "--log-level=error",
        ]
        subprocess.run(command, check=True)
        return target
    code = "import m from 'node:module';import f from 'node:fs';" + (
        "if(!m.stripTypeScriptTypes)process.exit(3);"
        "f.writeFileSync(process.argv[2],m.stripTypeScriptTypes(f.readFileSync(process.argv[1],'utf8')))"
    )
    command = ["node", "--input-type=module", "-e", code, EXAMPLES / "browser_client.ts", target]
    return target if subprocess.run(command, capture_output=True).returncode == 0 else None


def check_browser_client(server, folder):
    (folder / "script.mjs").write_text(_SCRIPT)
    url = url_of(server)
    done = subprocess.run(
        ["node", folder / "script.mjs", url, KEY], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers, features, *errors = done.stdout.splitlines()
    answers = json.loads(answers)
    assert [a["valid"] for a in answers] == [True, False, True]
    assert [a["labels"][0] for a in answers] == ["short", "", "long"]
    assert json.loads(features)[0] == pytest.approx([7, 0.7, 0.07])
    assert "refuses: 401: Expected the server's key" in errors[0]
    assert errors[1].endswith("refuses: 404: Servable not found for request: Latest(other)")
    assert errors[2].startswith("No answer from http://127.0.0.1:1/")


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH")
def test_the_browser_client(server, tmp_path):
    if strip_types(tmp_path) is None:
        pytest.skip("this node cannot strip types, and there is no esbuild on the PATH")
    check_browser_client(server[0], tmp_path)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on the PATH")
def test_the_browser_client_with_its_types(server, tmp_path):
    subprocess.run(["npm", "init", "-y"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["npm", "install", "--silent", "typescript@5", "esbuild"], cwd=tmp_path, check=True)
    compiler = tmp_path / "node_modules/.bin/tsc"
    types = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom"]
    subprocess.run([compiler, *types, EXAMPLES / "browser_client.ts"], check=True)
    assert strip_types(tmp_path)
    check_browser_client(server[0], tmp_path)


def test_the_clients_agree_on_what_is_local():
    spec = importlib.util.spec_from_file_location("rest_client", EXAMPLES / "rest_client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    assert all(map(client.is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(client.is_loopback, ("10.0.0.1", "example.org", "", None)))
