"""What other tools write: which of them wrote a folder, and its reading as a list.

Input: shards of img2dataset or webdataset, Hugging Face's image folders with metadata, Parquet tables and
saved datasets, tensorflow-datasets' records, FiftyOne's exports. Output: a `Crawl`, read like a list. Images
stay where they lie, see `images.containers`.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from types import ModuleType

from urnet_tf.crawl import fiftyone, huggingface, shards, tfds
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.file_ranks import GIVEN
from urnet_tf.crawl.list_reader import crawl_of_table
from urnet_tf.crawl.list_tables import UNREADABLE, ListOptions, ListTable, unreadable
from urnet_tf.crawl.table import Crawl
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import show_path

# Asked in this order. `looks_like(path)` opens small files at most; `read(path, options)` gives the rows,
# with paths relative to the folder of `root_of(path)`.
_FORMATS = (tfds, huggingface, fiftyone, shards)


def looks_like(path: str) -> bool:
    """Whether a path is the output of one of the tools."""
    return _format_of(path) is not None


def _format_of(path: str) -> ModuleType | None:
    with _told(path):
        return next((module for module in _FORMATS if module.looks_like(path)), None)


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """What damaged files raise, as one sentence that names them."""
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(getattr(error, "filename", None) or path, error) from None


def root_of(path: str) -> str:
    """The folder that paths of images start from."""
    path = os.path.abspath(path)
    return path if os.path.isdir(path) else os.path.dirname(path)


def read_dataset(
    path: str, *, options: ListOptions | None = None, classes: Sequence[dict] | None = None,
    split: str | None = None, names: ClassNames | None = None,
) -> Crawl:  # fmt: skip
    """Lists the images of a folder or file that another tool wrote.

    Args:
      path, options, classes, split, names: see `list_reader.read_list`.

    Raises:
      UsageError: it cannot be read, or nothing says which class an image has.
      RunError: the disk or network fails.
    """
    written_by = _format_of(path)
    if written_by is None:
        raise UsageError(
            f"Expected what img2dataset, webdataset, Hugging Face, TFDS or FiftyOne write at "
            f"{show_path(path)}; received something else."
        )
    options = options or ListOptions()
    with _told(path):
        found: ListTable = written_by.read(path, options)
    name = os.path.basename(os.path.abspath(path))
    return crawl_of_table(
        found, root_of(path), name, classes=classes, split=split, names=names,
        rank=GIVEN if options.rank == "auto" else options.rank,  # names are numbers of records
    )  # fmt: skip


def files_of(path: str) -> Iterator[str]:
    """All files of the dataset, relative to its root, sorted: what decides how it is read."""
    if not os.path.isdir(path):
        yield os.path.basename(path)
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            yield os.path.relpath(os.path.join(folder, name), path)
