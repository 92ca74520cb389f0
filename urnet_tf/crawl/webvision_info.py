"""The text files in `info/` of a WebVision tree: file lists by name, classes, queries.

Input: the directory that holds `info/`. Output: lines and small dictionaries.
"""

import glob
import os
from collections.abc import Iterator, Sequence

from urnet_tf.crawl.table import class_entry, clean_text, open_text
from urnet_tf.errors import UsageError
from urnet_tf.images.probe import environment_failure, is_environment_fault

SOURCES = ("google", "flickr")
_EVALUATION_FOLDERS = ("{}_images_256", "{}_images_resized", "{}_images")


def read_lines(path: str, name: str) -> Iterator[str]:
    """Lines of a file of info/ without surrounding white space; blank ones at the end are dropped.

    Raises:
      UsageError: there is no such file.
      RunError: the disk or network fails.
    """
    try:
        with open_text(os.path.join(path, "info", name), errors="surrogateescape") as file:
            blank = 0
            for line in file:
                line = line.strip().replace("\t", " ")
                if not line:
                    blank += 1
                    continue
                yield from [""] * blank
                blank = 0
                yield line
    except OSError as error:
        if is_environment_fault(error):
            error.filename = os.path.join(path, "info", name)
            raise environment_failure(error) from error
        raise UsageError(
            f"Expected the WebVision file info/{name} in {path}; it cannot be read: {error.strerror}."
        ) from None


def read_synsets(path: str) -> list[dict]:
    """The classes of `synsets.txt` as those of a `Crawl`."""
    classes: list[dict] = []
    for line in read_lines(path, "synsets.txt"):
        identity, _, listed = clean_text(line).partition(" ")
        words = [word for part in listed.split(",") if (word := part.strip())] or [identity]
        classes.append(class_entry(len(classes), words[0], identity, words, []))
    return classes


def read_queries(path: str) -> dict[str | None, dict[int, str]]:
    """{source, or None for all: {query id: text}}."""
    found: dict[str | None, dict[int, str]] = {}
    for file in glob.glob(os.path.join(glob.escape(path), "info", "queries_*.txt")):
        source = os.path.basename(file).removeprefix("queries_").removesuffix(".txt")
        if source != "synsets_map":
            found[source] = _read_query_texts(path, os.path.basename(file))
    if not found or os.path.exists(os.path.join(path, "info", "queries.txt")):
        if not found and not os.path.exists(os.path.join(path, "info", "queries.txt")):
            raise UsageError(
                f"Expected info/queries.txt or info/queries_google.txt in {path}; found neither."
            )
        found[None] = _read_query_texts(path, "queries.txt")
    return dict(sorted(found.items(), key=lambda item: item[0] or ""))


def _read_query_texts(path: str, name: str) -> dict[int, str]:
    texts = {}
    for line in read_lines(path, name):
        number, _, text = clean_text(line).partition(" ")
        if (query := _query_number(number)) is not None:
            texts[query] = " ".join(text.replace("+", " ").split())
    return texts


def read_query_map(path: str) -> dict[int, int]:
    """{query id: synset id as written}."""
    pairs: dict[int, int] = {}
    for line in read_lines(path, "queries_synsets_map.txt"):
        match [_query_number(text) for text in line.split()]:
            case [int(query), int(synset)]:
                pairs[query] = synset
    return pairs


def _query_number(text: str) -> int | None:
    text = text.removeprefix("q")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def list_parts(path: str, sources: Sequence[str] | None) -> list[str]:
    """Which train_filelist_<part>.txt to read: one a source, or the list of all.

    Raises:
      UsageError: the list of a source is missing.
    """
    info = os.path.join(glob.escape(path), "info")
    files = [os.path.basename(f) for f in glob.glob(os.path.join(info, "train_filelist_*.txt"))]
    parts = {f.removeprefix("train_filelist_").removesuffix(".txt") for f in files}
    wanted = list(sources) if sources is not None else list(SOURCES)
    if "all" in parts and not parts.issuperset(wanted):
        return ["all"]
    parts.discard("all")
    if sources is not None and not parts.issuperset(sources):
        missing = next(s for s in sources if s not in parts)
        raise UsageError(
            f"Expected the WebVision file info/train_filelist_{missing}.txt in {path}; it is not there."
        )
    if not parts:
        raise UsageError(
            f"Expected the WebVision file info/train_filelist_google.txt in {path}; it is not there."
        )
    return sorted(parts.intersection(sources) if sources is not None else parts)


def evaluation_folder(path: str, split: str) -> str | None:
    """The folder of the validation or test images, or None."""
    for pattern in _EVALUATION_FOLDERS:
        if os.path.isdir(os.path.join(path, pattern.format(split))):
            return pattern.format(split)
    return None
