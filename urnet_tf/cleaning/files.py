"""The files of a cleaned crawl: names that are unique, and links or copies of the images."""

import collections
import os
import posixpath
import re
import shutil
from collections.abc import Sequence

from urnet_tf.crawl.trees import names_image
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import find_container
from urnet_tf.images.headers import Refused, pillow_format
from urnet_tf.images.probe import read_file
from urnet_tf.text_rules import show_path

_LONGEST_NAME = 120  # of a file, in bytes; file systems take 255
_MOST_BYTES = 2**31 - 1
_PREFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)
_ADVICE = "If the crawl was moved, move it back; if images are gone, run again, which leaves them out."
_OF_PILLOW = {"TIFF": ".tif", "JPEG 2000": ".jp2", "AVIF": ".avif", "HEIC": ".heic"}


def safe_names(names: Sequence[str]) -> list[str]:
    """Names of classes as names of folders: different ones stay different, and none leads elsewhere.

    >>> safe_names(["red fox", "ac/dc", "..", "ac_dc", ".git"])
    ['red fox', 'ac_dc', '_', 'ac_dc (2)', '_git']
    """
    taken: set[str] = set()
    found = []
    for name in names:
        plain = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name).strip()
        plain = re.sub(r"^\.+", "_", plain) or "_"
        plain = _cut(plain, "")
        free, number = plain, 2
        while free.casefold() in taken:  # file systems that know no case exist
            free, number = f"{plain} ({number})", number + 1
        taken.add(free.casefold())
        found.append(free)
    return found


def unique_names(paths: Sequence[str], hashes: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The name of each image in its new folder: as it was, with a part of its hash where two are equal.

    Args:
      paths: of the images in the crawl.
      hashes: of their contents.
      folders: where each will lie.
    """
    names = [posixpath.basename(path.replace("\\", "/")) or "image" for path in paths]
    names = [re.sub(r"[\x00-\x1f\x7f]", "_", name) for name in names]
    names = [f"_{name[1:]}" if name.startswith(".") else name for name in names]
    split = [_split_name(name) for name in names]
    names = [_cut(stem, suffix) for stem, suffix in split]
    # Stems have to differ, as some formats know images without their suffix.
    stems = [
        (folder, os.path.splitext(name)[0].casefold()) for folder, name in zip(folders, names, strict=True)
    ]
    counts = collections.Counter(stems)
    taken: set[tuple[str, str]] = set()
    found = []
    for place, name in enumerate(names):
        stem, suffix = os.path.splitext(name)
        key, number = stems[place], 1
        while key in taken or (number == 1 and counts[key] > 1):
            mark = hashes[place][:8] if number == 1 else f"{hashes[place][:8]}-{number}"
            name, number = f"{stem}-{mark}{suffix}", number + 1
            key = folders[place], os.path.splitext(name)[0].casefold()
        taken.add(key)
        found.append(name)
    return found


def _split_name(name: str) -> tuple[str, str]:
    """Stem and suffix; only a suffix that images have is one, without what a URL has behind it."""
    stem, suffix = os.path.splitext(name)
    plain = re.match(r"\.[A-Za-z0-9]+", suffix)
    if not suffix or plain is None or not names_image(f"x{plain[0]}"):
        return name.replace(".", "_"), ""
    return stem.replace(".", "_"), plain[0].lower()


def _cut(stem: str, suffix: str) -> str:
    data = stem.encode("utf-8", "replace")[: _LONGEST_NAME - len(suffix)]
    return data.decode("utf-8", "ignore") + suffix


def suffix_of(path: str) -> str:
    """The suffix of an image whose name has none, by its first bytes; ".img" where they tell nothing.

    Raises:
      UsageError: the file cannot be read.
    """
    data = read_image(path)
    for prefix, suffix in _PREFIXES:
        if data.startswith(prefix):
            return suffix
    return _OF_PILLOW.get(pillow_format(data) or "", ".img")


def read_image(path: str) -> bytes:
    """The bytes of an image, wherever it lies.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        return read_file(path, _MOST_BYTES)
    except Refused as refused:
        raise UsageError(f"Cannot read {show_path(path)}: {refused.reason}.") from None
    except OSError as error:
        raise UsageError(f"Cannot read {show_path(path)}: {error.strerror}. {_ADVICE}") from None


def place_image(source: str, target: str, *, copy: bool) -> None:
    """Makes an image appear at `target`: a link, or a copy; one inside of an archive or table is a copy.

    Raises:
      UsageError: the image is not there.
    """
    if os.path.isfile(source):
        if copy:
            shutil.copyfile(source, target)
        else:
            os.symlink(os.path.abspath(source), target)
        return
    if find_container(source) is None:
        raise UsageError(f"Expected the image {show_path(source)}, which is not there. {_ADVICE}")
    with open(target, "xb") as file:
        file.write(read_image(source))
