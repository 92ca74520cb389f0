"""A run to review, and a server of it."""

import importlib.util
import re
import subprocess

import pytest
from urnet_fixtures.ports import free_port
from urnet_fixtures.review_browser import SIZES, Person
from urnet_fixtures.review_server import TOKEN, Browser, served
from urnet_fixtures.reviewed import make_reviewed_run

from urnet_tf.crawl import corrections


@pytest.fixture(scope="package")
def reviewed(tmp_path_factory, mark_complete):
    """A work directory that came as far as `reweight`, and the true classes of its images."""
    for name in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the extra `review` is not installed: no {name}")
    root = tmp_path_factory.mktemp("review") / "run"
    return root, make_reviewed_run(root, mark_complete)


@pytest.fixture
def served_run(reviewed):
    """A browser, the session that it talks to, and the true classes; nothing is judged yet."""
    root, truth = reviewed
    (root / corrections.FILE_NAME).unlink(missing_ok=True)
    with served(root) as (browser, session):
        yield browser, session, truth


@pytest.fixture
def browser(served_run):
    return served_run[0]


@pytest.fixture
def started(urnet_command):
    """Starts `urnet review`: gives the process, its first lines and a browser."""
    processes = []

    def start(root, *flags, through=()):
        command = urnet_command("review", "--workdir", root, "--port", str(free_port()), *flags)
        command["args"] = [*through, *command["args"]]
        process = subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", "".join(lines))
        assert found, process.stderr.read()
        return process, lines, Browser(int(found[1]), found[2])

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def open_page(chromium):
    """Opens a browser of its own on a server: size, color scheme, port, token."""
    contexts = []

    def open_one(port, token=TOKEN, size="wide", scheme="light"):
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone"
        )
        contexts.append(context)
        return Person(context, port, token)

    yield open_one
    for context in contexts:
        context.close()
