"""Lists a crawl of any kind, with its evaluation images, and keeps what the user wants of it.

Input: a path, its kind, and how it is to be read. Output: one `Crawl`. Opens no image.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from urnet_tf.crawl import class_choice, datasets, folders, list_reader, readers, webvision
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.crawl.table import Crawl, keep_first_classes, keep_sources, replace_split
from urnet_tf.crawl.trees import open_tree
from urnet_tf.schema import TEST, VAL


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a crawl is to be read, and what of it is wanted: see `config.IngestConfig`."""

    image_root: str | None = None
    encoding: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    merge: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rank: str = "auto"
    sources: Sequence[str] | None = None
    first_classes: int | None = None
    val_path: str | None = None
    test_path: str | None = None

    @property
    def list_options(self) -> ListOptions:
        """What readers of lists want to know."""
        return ListOptions(self.image_root, self.encoding, self.columns, self.rank)


def list_crawl(path: str, kind: str, reading: Reading, *, texts: bool = True) -> Crawl:
    """Lists a crawl.

    Args:
      path, kind: of the crawl.
      reading: how it is to be read.
      texts: whether page texts and ranks are wanted where it takes long to read them (WebVision).

    Raises:
      UsageError: it cannot be understood; names arguments as `Reading` calls them.
      RunError: the disk or network fails.
    """
    names = ClassNames(reading.merge)
    if kind == readers.WEBVISION:
        crawl = webvision.read_webvision(
            path, sources=reading.sources, first_classes=reading.first_classes, metadata=texts
        )
        crawl = class_choice.merge_classes(crawl, reading.merge)
    elif kind == readers.LIST:
        crawl = list_reader.read_list(path, options=reading.list_options, names=names)
    elif kind == readers.DATASET:
        crawl = datasets.read_dataset(path, options=reading.list_options, names=names)
    else:
        crawl = folders.read_folder(open_tree(path), names, rank=reading.rank, believed=reading.classes or ())
    for split, extra in ((VAL, reading.val_path), (TEST, reading.test_path)):
        if extra is not None:
            found = readers.read_evaluation(
                extra, split, crawl.classes, crawl.root, options=reading.list_options, names=names
            )
            crawl = replace_split(crawl, split, found)
    if reading.sources is not None:
        crawl = keep_sources(crawl, reading.sources)
    if reading.first_classes is not None:
        crawl = keep_first_classes(crawl, reading.first_classes)
    return class_choice.choose_classes(crawl, reading.classes, reading.exclude)
