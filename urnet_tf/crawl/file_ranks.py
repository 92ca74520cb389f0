"""Whether names of files are search ranks.

Programs that save the results of a search number them: "1. red fox.jpg", "0001.jpg", "Image_12.jpg". Other
names (hashes, cameras, ids of a data set) say nothing about a rank.
"""

import dataclasses
import re
from collections.abc import Hashable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.table import running_number
from urnet_tf.crawl.trees import natural
from urnet_tf.schema import TRAIN
from urnet_tf.store import codes_of

NAME, NONE = "name", "none"
GIVEN = "given"  # where ranks are given, never by names
_WORDS = "image|img|result|photo|picture|pic|google|bing|flickr|baidu|yahoo"
_RESULT = re.compile(rf"(?P<dotted>\d{{1,5}})\. .+|(?:{_WORDS})[ _-]?(?P<named>\d{{1,6}})", re.IGNORECASE)
_PADDED = re.compile(r"(?P<before>.*?)(?P<number>\d{3,8})")  # 0001.jpg, red fox_000012.jpg
_MOST_GAPS = 3.0  # a counter whose results were cleaned out by two thirds
_SMALLEST_SHARE = 0.9  # of the images, in folders whose names are counters


@dataclasses.dataclass
class _Folder:
    count: int = 0
    numbered: int = 0
    first: int = 0
    last: int = 0
    padded: set[tuple[str, int]] = dataclasses.field(
        default_factory=set
    )  # what stands before, and the digits
    example: str = ""


class FileRanks:
    """Collects the names of all folders, and then says whether their order is a rank."""

    def __init__(self) -> None:
        self._folders: dict[Hashable, _Folder] = {}

    def add(self, folder: Hashable, name: str) -> None:
        """Takes the name of a file."""
        found = self._folders.setdefault(folder, _Folder())
        found.count += 1
        stem = name.rpartition(".")[0] or name
        number = _number_of(stem, found)
        if number is None:
            return
        found.first = number if not found.numbered else min(found.first, number)
        found.last = max(found.last, number)
        found.numbered += 1
        found.example = found.example or name

    def decide(self) -> str:
        """NAME if nearly all images lie in folders that are numbered like results, else NONE."""
        total = sum(folder.count for folder in self._folders.values())
        counted = sum(folder.count for folder in self._folders.values() if _is_counter(folder))
        return NAME if total and counted >= _SMALLEST_SHARE * total else NONE

    def notes(self, how: str) -> list[str]:
        """A sentence for the log about what was decided."""
        if how != NAME:
            return []
        example = next(f.example for f in self._folders.values() if f.example)
        return [
            f"the order of file names is read as search rank, as names look numbered ({example}); "
            "`rank=none` says that it is none"
        ]


def rank_by_name(rows: pa.Table, how: str) -> tuple[pa.Table, list[str]]:
    """Gives training rows that have no ranks those of their file names, or none; and notes.

    Args:
      rows: of ROW_SCHEMA, with the rank 0 where there is none.
      how: NAME: the natural order of names inside class, source and query, from 1; NONE: 0; "auto": the
        former where names look like numbered results.
    """
    trained = np.flatnonzero(pc.equal(rows["split"], TRAIN).to_numpy())
    ranks = rows["rank"].to_numpy().copy()
    ranks[trained] = 0
    notes = []
    if how != NONE and len(trained):
        codes = rows["label"].to_numpy(), *(codes_of(rows[name])[0] for name in ("source", "query"))
        groups = [column[trained] for column in codes]
        names = [path.rpartition("/")[2] for path in rows["path"].take(pa.array(trained)).to_pylist()]
        if how != NAME:
            found = FileRanks()
            for folder, name in zip(zip(*groups, strict=True), names, strict=True):
                found.add(folder, name)
            how = found.decide()
            notes = found.notes(how)
        if how == NAME:
            order = np.array(sorted(range(len(names)), key=lambda row: natural(names[row])))
            ranks[trained[order]] = running_number(*(group[order] for group in groups))
    place = rows.schema.get_field_index("rank")
    return rows.set_column(place, rows.schema.field("rank"), pa.array(ranks, pa.int32())), notes


def _number_of(stem: str, folder: _Folder) -> int | None:
    """The number in a name, if it is written as those of results are."""
    match = _RESULT.fullmatch(stem)
    if match is not None:
        return int(match["dotted"] or match["named"])
    match = _PADDED.fullmatch(stem)
    if match is None:
        return None
    folder.padded.add((match["before"], len(match["number"])))
    return int(match["number"])


def _is_counter(folder: _Folder) -> bool:
    """Numbers from about 0 that leave out few: 0001.jpg to 0300.jpg, but not IMG_4051.jpg to IMG_4099.jpg.

    Those without a word of results are padded with zeros, in one way in the whole folder.
    """
    slack = 20 + _MOST_GAPS * folder.count
    if len(folder.padded) > 1 or any(len(str(folder.first)) >= digits for _, digits in folder.padded):
        return False
    return folder.numbered >= _SMALLEST_SHARE * folder.count and folder.first <= slack >= folder.last
