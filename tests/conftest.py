"""Fixtures: a small drawn crawl, and the webtiny crawl of real photographs when it is there."""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest  # noqa: E402  (the variables must be set before anything imports TensorFlow)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Of runs of the whole flow: small and fast, with two shards, several clusters, bags and folds.
SMALL_RUN = (
    "pack.short_side_px=64", "pack.images_per_shard=250", "model.image_size_px=64", "baseline.folds=2",
    "baseline.fit.epochs=10", "baseline.fit.batch_images=48", "train.fit.epochs=10",
    "train.fit.batch_images=48", "export.check_images=16", "export.formats=[saved_model,tflite_float32]",
    "report.classes=4", "reweight.refit.epochs=5",
)  # fmt: skip


# Files that share the finished run of the whole flow.
_FLOW_FILES = ("test_flow.py", "test_kill.py")
# Files that share a SavedModel.
_ENGINE_FILES = ("test_saved_model.py", "test_engines.py", "test_server.py", "test_tf_serving.py")
# The longest start first, so that no worker ends long after the other.
_LONG_FILES = (*_FLOW_FILES, "test_readme.py", "test_training.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Keeps the tests of a file, and files that share costly fixtures, in one worker."""
    order = {name: number for number, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        shared = {"flow": _FLOW_FILES, "engines": _ENGINE_FILES}
        group = next((name for name, files in shared.items() if item.path.name in files), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_terminal_summary(terminalreporter):
    """Shows what tests recorded as their `summary`, which workers cannot print."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture(scope="session")
def drawn_crawl(tmp_path_factory) -> pathlib.Path:
    """A WebVision tree of 12 drawn classes with planted noise and 12 hostile files."""
    from urnet_tf.data.drawn_crawl import draw_crawl

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
