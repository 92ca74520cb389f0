"""Reading a crawl and running the whole flow, from Python."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import logging

from urnet_tf.config import Config, from_dict, load_config
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

if TYPE_CHECKING:
    from urnet_tf.crawl.table import Crawl


def read_crawl(
    path: str | os.PathLike,
    *,
    kind: str = "auto",
    image_root: str | os.PathLike | None = None,
    sources: Sequence[str] | None = None,
    first_classes: int | None = None,
) -> "Crawl":
    """Lists a crawl: folders a class, a list, a WebVision tree, or what another tool has written.

    No image is opened.

    Example:
      >>> import pathlib, tempfile, urnet_tf
      >>> root = pathlib.Path(tempfile.mkdtemp())
      >>> for name in ("lion/1.jpg", "lion/2.jpg", "pizza/1.jpg"):
      ...     (root / name).parent.mkdir(exist_ok=True)
      ...     _ = (root / name).write_bytes(b"")
      >>> crawl = urnet_tf.read_crawl(root)
      >>> [entry["name"] for entry in crawl.classes]
      ['lion', 'pizza']
      >>> crawl.rows["label"].to_pylist()
      [0, 0, 1]

    Args:
      path: of the folder, the list or the tree.
      kind: "folder", "list", "webvision" or "dataset" (of another tool); "auto" = what lies there.
      image_root: where the paths of a list start; None = beside the list.
      sources: only images from these; None = from all.
      first_classes: only as many classes; None = all.

    Returns:
      A `Crawl`: `rows`, a `pyarrow.Table` with a row an image (split, label, source, rank, query, title,
      description, tags, path); `classes`, in label order; `rejected`, the rows that cannot be used, and why;
      `root`, where the paths start; `notes`, sentences about what was odd.

    Raises:
      UsageError: nothing is there, or it cannot be understood.
    """
    from urnet_tf.stages import ingest

    settings = {
        "path": os.fspath(path),
        "kind": kind,
        "image_root": None if image_root is None else os.fspath(image_root),
        "sources": None if sources is None else list(sources),
        "first_classes": first_classes,
    }
    return ingest.read_crawl(from_dict({"ingest": settings}))


def run(
    config: Config | str | os.PathLike | None,
    workdir: str | os.PathLike,
    *,
    first: str | None = None,
    rescan: bool = False,
) -> dict[str, dict]:
    """Runs the whole flow: what `urnet run` does. What is complete is skipped, what was killed goes on.

    Example:
      >>> import urnet_tf
      >>> config = urnet_tf.load_config(None, ["ingest.path=/no/such/crawl"])
      >>> urnet_tf.run(config, "a_run")
      Traceback (most recent call last):
        ...
      urnet_tf.errors.UsageError: Expected images at /no/such/crawl; there is no such file or folder.

    Args:
      config: as `load_config` gives it, or the path of a YAML file; None = the defaults.
      workdir: the directory of the run, or an address like "s3://bucket/run"; need not exist.
      first: this stage and what needs it run again even when they are complete.
      rescan: looks at the contents of the images, too, where names, sizes and times are as they were.

    Returns:
      stage → what it found, plain numbers and texts: `result["evaluate"]` has the accuracies,
      `result["reweight"]` the factors. The files lie below `workdir`: `reweight/weights.parquet`,
      `export/<name>/<version>/`, `report/index.html`.

    Raises:
      UsageError: the configuration, the crawl or the directory cannot be used.
      RunError: a stage cannot go on, as the disk is full, the loss is not finite, or no export passed.
    """
    from urnet_tf.flow import bucket_runs, plan, plan_text, runner
    from urnet_tf.store import Workdir

    if not isinstance(config, Config | str | os.PathLike | None):
        raise UsageError(
            f"Expected a Config, the path of a YAML file, or None; received {quote(type(config).__name__)}. "
            "Give urnet_tf.load_config(path, overrides)."
        )
    if not isinstance(config, Config):
        config = load_config(None if config is None else os.fspath(config))
    directory = Workdir(bucket_runs.local_folder(workdir, exists=False), hashes=config.runtime.verify_hashes)
    bucket_runs.refuse_machines(config, directory)
    for sentence in plan_text.format_ignored(config):
        logging.warning("%s", sentence)
    steps = plan.make_plan(config, directory, first, rescan=rescan)
    runner.run(config, directory, steps)
    markers = {step.stage.name: directory.marker(step.stage.name) or {} for step in steps}
    return {name: marker["metadata"] for name, marker in markers.items()}
