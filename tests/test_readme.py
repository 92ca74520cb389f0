"""The README's code blocks run, its links lead somewhere, and its numbers name their command."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from urnet_tf.stages import NAMES

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, flags=re.M | re.S)
SET_UP = ("bash experiments/quickstart.sh", "bash tests/run.sh")


# `urnet` on the path. With $RUN_FLAGS set, what computes for minutes gets them: the crawl and the settings of
# a run that is complete, so that the command finds all stages done.
URNET = """#!/bin/sh
case "$*" in
  *--dry_run*) ;;
  run\\ *) eval "set -- \\"\\$@\\" $RUN_FLAGS" ;;
esac
exec {python} -m urnet_tf "$@"
"""


@pytest.fixture
def newcomer(tmp_path):
    """A directory with what the README's commands speak of, and an environment that has `urnet`."""
    from urnet_tf.drawn.crawl import draw_crawl

    small = {"num_classes": 4, "image_size_px": 48, "val_per_class": 2, "test_per_class": 2, "workers": 1}
    draw_crawl(tmp_path / "photos", images=60, layout="folder", hostile=False, **small)
    draw_crawl(tmp_path / "webvision", images=60, layout="webvision", hostile=False, **small)
    (tmp_path / "photos.csv").write_text("path,label\nphotos/a.jpg,a\nphotos/b.jpg,b\n")
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "urnet").write_text(URNET.format(python=shlex.quote(sys.executable)))
    (commands / "urnet").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    return tmp_path, environment


def run_blocks(directory, environment, image):
    for language, block in BLOCKS:
        if language == "python":
            command = [sys.executable, "-c", block]
        else:
            lines = [line for line in block.strip().splitlines() if line not in SET_UP]
            command = ["bash", "-euc", "\n".join(lines).replace("0001.jpg", image)]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        yield block, done


def test_the_blocks_run_in_order(newcomer, finished_run, drawn_crawl, small_run):
    # The run itself is the finished one; the command is given its crawl and settings, and has nothing to do.
    directory, environment = newcomer
    shutil.copytree(finished_run[0], directory / "runs" / "photos")
    environment |= {"RUN_FLAGS": shlex.join(["--data", str(drawn_crawl), *small_run])}
    done = dict(run_blocks(directory, environment, "hostile_empty.jpg"))
    (ran,) = (result for block, result in done.items() if "urnet run --data photos --workdir" in block)
    assert ran.stderr.count("skipped") == len(NAMES) and "Not used" in ran.stdout
    assert (directory / "saved_models" / "urnet" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_blocks_run_in_order_as_they_are(newcomer):
    directory, environment = newcomer
    image = next((directory / "photos").rglob("*.jpg")).name
    for _ in run_blocks(directory, environment, image):
        pass
    assert (directory / "runs" / "photos" / "report" / "index.html").exists()


def test_the_set_up_scripts_are_named_and_parse():
    for command in SET_UP:
        assert command in README
        subprocess.run(["bash", "-n", REPOSITORY / command.split()[1]], check=True)


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def test_the_second_run_of_the_tests_is_the_one_that_is_described():
    script = (REPOSITORY / "tests" / "run.sh").read_text()
    (command,) = re.findall(r"^ +(TF_ENABLE_ONEDNN_OPTS=0 .*)$", script, re.M)
    assert f"`{command}`" in README
