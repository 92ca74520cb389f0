"""The README's code blocks run, its links lead somewhere, and its numbers name their command."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, flags=re.M | re.S)
SET_UP = ("bash experiments/quickstart.sh", "bash tests/run.sh")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A directory with what the README's commands speak of, and an environment that has `urnet`."""
    from urnet_tf.data.drawn_crawl import draw_crawl

    directory = tmp_path_factory.mktemp("readme")
    small = {"num_classes": 4, "image_size_px": 48, "val_per_class": 2, "test_per_class": 2, "workers": 1}
    draw_crawl(directory / "photos", images=60, layout="folder", hostile=False, **small)
    draw_crawl(directory / "webvision", images=60, layout="webvision", hostile=False, **small)
    (directory / "photos.csv").write_text("path,label\nphotos/a.jpg,a\nphotos/b.jpg,b\n")
    (directory / "experiments").symlink_to(REPOSITORY / "experiments")
    commands = directory / "bin"
    commands.mkdir()
    (commands / "urnet").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m urnet_tf "$@"\n')
    (commands / "urnet").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    return directory, environment


def test_the_blocks_run_in_order(newcomer):
    directory, environment = newcomer
    image = next((directory / "photos").rglob("*.jpg")).name
    for language, block in BLOCKS:
        if language == "python":
            command = [sys.executable, "-c", block]
        else:
            lines = [line for line in block.strip().splitlines() if line not in SET_UP]
            command = ["bash", "-euc", "\n".join(lines).replace("0001.jpg", image)]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (directory / "runs" / "photos" / "report" / "index.html").exists()


def test_the_set_up_scripts_are_named_and_parse():
    for command in SET_UP:
        assert command in README
        subprocess.run(["bash", "-n", REPOSITORY / command.split()[1]], check=True)


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
