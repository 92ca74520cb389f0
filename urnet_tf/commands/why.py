"""`urnet why IMAGE ...`: explains images, each in turn."""

import json
import os
import sys
from collections.abc import Sequence

from urnet_tf import stages
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.errors import UsageError
from urnet_tf.explain.find_image import Origin
from urnet_tf.explain.why import describe_image
from urnet_tf.explain.why_text import format_image
from urnet_tf.store import Workdir
from urnet_tf.store.bucket_trees import place_of

TEXT, JSON, JSON_LINES = "text", "json", "jsonl"


def explain_images(workdir_root: str | os.PathLike, images: Sequence[str], answer_format: str | None) -> int:
    """Prints what is known of each image; one that is not found is told behind the others.

    Args:
      workdir_root: of a run that came at least as far as `pack`.
      images: see `find_image.find_image`.
      answer_format: "text" (None), "json" (a list) or "jsonl" (a line an image).

    Returns:
      The exit status: 2 where an image was not found.

    Raises:
      UsageError: no image or another format was asked for, or the only image was not found.
    """
    if not images:
        raise UsageError("Expected images (paths, file names, addresses or ids) after `why`; received none.")
    if answer_format not in (None, TEXT, JSON, JSON_LINES):
        raise UsageError(f"Expected --format text, json or jsonl with `why`; received {answer_format}.")
    workdir = Workdir(workdir_root)
    workdir.require_sound(stages.NAMES)
    found, problems = [], []
    for image in images:
        try:
            found.append(describe_image(workdir.root, image, read_origin(workdir)))
        except UsageError as error:
            if len(images) == 1:
                raise
            problems.append(str(error))
    if answer_format == JSON:
        print(json.dumps(found, indent=1, ensure_ascii=True))
    elif answer_format == JSON_LINES:
        for told in found:
            print(json.dumps(told, ensure_ascii=True))
    else:
        print("\n\n".join(format_image(told) for told in found))
    for problem in problems:
        print(f"urnet: {problem}", file=sys.stderr)
    return 2 if problems else 0


def read_origin(workdir: Workdir) -> Origin | None:
    """What a run was made from, as its first stage noted it."""
    settings = (workdir.marker("ingest") or {}).get("settings") or {}
    if not isinstance(settings.get("ingest.path"), str):
        return None
    options = ListOptions(
        encoding=settings.get("ingest.encoding"), columns=settings.get("ingest.columns") or {}
    )
    return Origin(place_of(settings["ingest.path"]), settings.get("ingest.kind", ""), options)
