"""Order and cost of the tests; a small drawn crawl, and the webtiny crawl of real photographs if there."""

import contextlib
import importlib.abc
import io
import itertools
import logging
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

_START = time.monotonic()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import absl.logging  # noqa: E402, F401  (makes its logger)
import pytest  # noqa: E402  (the variables must be set before anything imports TensorFlow)

import urnet_tf  # noqa: E402, F401  (switches oneDNN on, as the program does)

pytest_plugins = (
    "urnet_fixtures.checkpoints",
    "urnet_fixtures.chromium",
    "urnet_fixtures.exports",
    "urnet_fixtures.squares",
)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

_LEVEL = logging.getLogger("absl").level


@pytest.fixture(autouse=True)
def logs_as_at_first():
    """Programs that earlier tests ran here, or whose flags they parsed, have set what is logged."""
    logger = logging.getLogger("absl")
    logger.propagate, logger.disabled = True, False
    logger.setLevel(_LEVEL)  # forgets what was decided by other levels


# Of runs of the whole flow: small and fast, with two shards, several clusters, bags and folds; trained by
# steps, as whole networks are, so that there is something to resume.
SMALL_RUN = (
    "pack.short_side_px=64", "pack.images_per_shard=250", "model.image_size_px=64", "baseline.folds=2",
    "baseline.fit.epochs=10", "baseline.fit.batch_images=48", "train.fit.epochs=10",
    "train.fit.batch_images=48", "export.check_images=4", "export.formats=[saved_model]",
    "report.classes=4", "reweight.refit.epochs=5", "baseline.head=trained", "train.head=trained",
)  # fmt: skip


# Files that share the finished run of the whole flow.
_FLOW_FILES = (
    "test_flow.py",
    "test_blocks.py",
    "test_kill.py",
    "test_noise.py",
    "test_command.py",
    "test_why_sentences.py",
    "test_fuzz_images.py",
)
# Files that share a SavedModel.
_ENGINE_FILES = ("test_saved_model.py", "test_engines.py", "test_own_server.py", "test_tf_serving.py")
# The longest start first, so that no worker ends long after the other.
_LONG_FILES = (*_FLOW_FILES, "test_fit.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Keeps the tests of a file, and files that share costly fixtures, in one worker."""
    if config.getoption("--without-tensorflow"):
        for item in items:
            if item.path.name in _FLOW_FILES or item.get_closest_marker("tensorflow"):
                item.add_marker(pytest.mark.skip(reason="starts a program that imports TensorFlow"))
    order = {name: number for number, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        shared = {"flow": _FLOW_FILES, "engines": _ENGINE_FILES}
        group = next((name for name, files in shared.items() if item.path.name in files), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


# --------------------------------------------------------------------------- without TensorFlow

_HEAVY = {"tensorflow", "keras", "keras_cv", "official", "tensorflow_text", "tf2onnx", "ai_edge_litert"}


class _SkipsWhoImports(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in _HEAVY:
            pytest.skip(f"imports {fullname}", allow_module_level=True)


def pytest_addoption(parser):
    parser.addoption(
        "--without-tensorflow", action="store_true",
        help="skip each test when it imports TensorFlow or Keras, or starts a program that does",
    )  # fmt: skip


def pytest_configure(config):
    """So the quick tests need no list: whatever imports TensorFlow, however late, skips itself."""
    if config.getoption("--without-tensorflow"):
        sys.meta_path.insert(0, _SkipsWhoImports())


# ---------------------------------------------------------------------------- what the tests cost

BUDGET_S = 600  # of the default tests on two idle cores of a processor with AVX2 and no AVX-512


def format_cost(seconds: float, cpu_seconds: float, processor: str, durations: dict[str, float]) -> list[str]:
    """The lines about the time; over the budget they name the ten slowest files.

    Args:
      seconds: of wall time.
      cpu_seconds: of all processes.
      processor: its name, and its cores.
      durations: seconds of each file.
    """
    cost = f"{seconds:.0f} s, {cpu_seconds:.0f} s of CPU time, on {processor}"
    if seconds <= BUDGET_S:
        return [f"{cost}; the budget is {BUDGET_S} s"]
    slowest = sorted(durations.items(), key=lambda item: -item[1])[:10]
    return [
        f"{cost}: OVER THE BUDGET of {BUDGET_S} s. The slowest files:",
        *(f"  {duration:6.0f} s  {file}" for file, duration in slowest),
    ]


def _cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Reports; a machine that is slow or busy fails no test. Also what tests recorded as their `summary`."""
    for report in terminalreporter.getreports("passed"):
        for value in (value for name, value in report.user_properties if name == "summary"):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")
    durations = {}
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if hasattr(report, "duration"):
            file = report.nodeid.partition("::")[0]
            durations[file] = durations.get(file, 0.0) + report.duration
    seconds = time.monotonic() - _START
    for line in format_cost(seconds, _cpu_seconds(), _processor(), durations):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", name="format_cost")
def _format_cost():
    """The function, since test modules cannot import this one."""
    return format_cost


# -------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def mark_complete():
    """Gives the stage directories below a root that a test wrote by hand their markers."""

    def mark(root, **metadata):
        from urnet_tf import stages, store

        workdir = store.Workdir(root)
        for stage in stages.NAMES:
            if workdir.path(stage).is_dir():
                marker = {"key": stage, "seconds": 1, "versions": {}, "metadata": metadata.get(stage, {})}
                workdir.write_marker(workdir.path(stage), marker)
        return workdir

    return mark


@pytest.fixture(scope="session")
def drawn_crawl(tmp_path_factory) -> pathlib.Path:
    """A WebVision tree of 12 drawn classes with planted noise and 12 hostile files."""
    from urnet_tf.drawn.crawl import draw_crawl

    directory = tmp_path_factory.mktemp("drawn") / "crawl"
    draw_crawl(directory, images=360, num_classes=12, image_size_px=64, val_per_class=4, test_per_class=6)
    return directory


@pytest.fixture(scope="session")
def urnet_command():
    """Makes the command line and the environment of `urnet ...`, installed or not."""

    def make(*arguments, python_flags=()) -> dict:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        return {
            "args": [sys.executable, *python_flags, "-m", "urnet_tf", *map(os.fspath, arguments)],
            "env": os.environ | {"PYTHONPATH": path},
        }

    return make


@pytest.fixture(scope="session")
def urnet(urnet_command):
    """Runs `urnet ...` in a process of its own; takes the arguments, and flags of Python."""

    def run(*arguments, python_flags=()) -> subprocess.CompletedProcess:
        command = urnet_command(*arguments, python_flags=python_flags)
        return subprocess.run(**command, capture_output=True, text=True, errors="surrogateescape")

    return run


@pytest.fixture(scope="session")
def urnet_here():
    """Runs `urnet ...` in this process, which spares the start of TensorFlow.

    Takes the arguments; returns a `CompletedProcess` of what came of them.
    """
    from absl import flags, logging

    from urnet_tf import __main__

    def run(*arguments) -> subprocess.CompletedProcess:
        argv = ["urnet", *map(os.fspath, arguments)]
        log = logging.get_absl_handler().python_handler
        texts = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
        flags.FLAGS.unparse_flags()
        stream = log.setStream(texts[1])
        try:
            with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
                status = __main__.main(__main__._parse(argv))
        except SystemExit as end:
            status = end.code
        finally:
            log.setStream(stream)
            out, errors = (text.buffer.getvalue().decode() for text in texts)
            print(out, errors)  # for the report of a failure
        return subprocess.CompletedProcess(argv, status, out, errors)

    return run


@pytest.fixture(scope="session")
def small_run():
    """The settings of a small run of the whole flow, as flags."""
    return [f"--set={setting}" for setting in SMALL_RUN]


@pytest.fixture(scope="session")
def finished_run(drawn_crawl, urnet, small_run, tmp_path_factory):
    """The work directory and the process of one undisturbed run on the drawn crawl.

    The truth, which lies beside the crawl, is not there while it runs.
    """
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    truth = drawn_crawl.with_name("crawl_truth.csv")
    hidden = truth.rename(tmp_path_factory.mktemp("hidden") / "truth.csv")
    try:
        done = urnet("run", "--data", drawn_crawl, "--workdir", workdir, *small_run)
    finally:
        hidden.rename(truth)
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


@pytest.fixture(scope="session")
def webtiny() -> pathlib.Path:
    """The webtiny crawl: $URNET_WEBTINY, or shared/webtiny beside this repository."""
    path = pathlib.Path(os.environ.get("URNET_WEBTINY", REPOSITORY.parent / "shared" / "webtiny"))
    if not path.is_dir():
        pytest.skip(f"no webtiny crawl at {path}; set URNET_WEBTINY to its directory")
    return path
