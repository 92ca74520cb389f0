"""Fixtures: a small drawn crawl, and the webtiny crawl of real photographs when it is there."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest  # noqa: E402  (the variables must be set before anything imports TensorFlow)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def drawn_crawl(tmp_path_factory) -> pathlib.Path:
    """A WebVision tree of 12 drawn classes with planted noise and 12 hostile files."""
    from urnet_tf.data.drawn_crawl import draw_crawl

    directory = tmp_path_factory.mktemp("drawn") / "crawl"
    draw_crawl(directory, images=360, num_classes=12, image_size_px=64, val_per_class=4, test_per_class=6)
    return directory


@pytest.fixture(scope="session")
def webtiny() -> pathlib.Path:
    """The webtiny crawl: $URNET_WEBTINY, or shared/webtiny beside this repository."""
    path = pathlib.Path(os.environ.get("URNET_WEBTINY", REPOSITORY.parent / "shared" / "webtiny"))
    if not path.is_dir():
        pytest.skip(f"no webtiny crawl at {path}; set URNET_WEBTINY to its directory")
    return path
