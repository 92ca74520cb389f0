"""Which column of a list means what: by its name, by other usual names, or as the user says.

Input: the header of a list. Output: column → its place, and notes about names that were guessed.
"""

import os
import re
from collections.abc import Mapping, Sequence

from urnet_tf.crawl.split_words import looks_like_split
from urnet_tf.errors import UsageError
from urnet_tf.schema import LIST_COLUMNS
from urnet_tf.text_rules import bare, quote, show_path

REQUIRED = ("path", "label")
# Other names of a column, as other tools and people write them.
_SYNONYMS = {
    "path": ("file_name", "filename", "filepath", "file_path", "file", "files", "image", "image_path",
             "imagepath", "image_file", "image_filename", "image_name", "img", "img_path", "img_name",
             "relative_path"),
    "label": ("category", "class", "y", "target", "labels", "class_name", "classname", "label_name",
              "category_name", "class_label"),
    "query": ("search_query", "search_term", "keyword"),
    "description": ("caption", "alt", "alt_text", "text"),
    "split": ("subset", "partition"),
}  # fmt: skip
# Names that may be those of splits, but are those of many other things, too.
_LIKE_SPLITS = frozenset(("set", "phase", "fold", "usage", "data_set", "dataset", "mode"))
_ADVICE = "say which with `columns={path: file, label: breed}`"


def find_columns(
    path: str, header: Sequence[str], chosen: Mapping[str, str], *, required: Sequence[str] = REQUIRED
) -> tuple[dict[str, int], list[str]]:
    """The place of each column of `schema.LIST_COLUMNS` that is there, and notes.

    Names are compared without blanks around them and without case. A column's own name counts before other
    usual ones.

    Args:
      header: names as the list gives them.
      chosen: column → name in the header, as the user says.

    Raises:
      UsageError: a required column is missing, or two could be meant.
    """
    names = [_plain(name) for name in header]
    places: dict[str, int] = {}
    notes = []
    for column in LIST_COLUMNS:
        if column in chosen:
            places[column] = _chosen_place(path, header, names, column, chosen[column])
            continue
        own = [place for place, name in enumerate(names) if name == column]
        others = [place for place, name in enumerate(names) if name in _SYNONYMS.get(column, ())]
        others = [place for place in others if header[place] not in chosen.values()]
        found = own or others
        if len(found) > 1:
            given = " and ".join(quote(header[place]) for place in found[:3])
            raise UsageError(
                f"Expected one column {column!r} in {show_path(path)}; received {given}; {_ADVICE}."
            )
        if found:
            places[column] = found[0]
            if own and others and column in REQUIRED:
                left = ", ".join(quote(header[place]) for place in others[:3])
                notes.append(f"the column {column!r} of {os.path.basename(path)} is read, and {left} is not")
            if not own:
                given = quote(header[found[0]])
                notes.append(f"the column {given} of {os.path.basename(path)} is read as the {column}")
    _check_required(path, header, places, required)
    return places, notes + _unread_notes(path, header, names, places)


def _unread_notes(
    path: str, header: Sequence[str], names: Sequence[str], places: Mapping[str, int]
) -> list[str]:
    """Notes about columns that nobody reads, and the one among them that may say who is held out."""
    told = {name for column in REQUIRED for name in (column, *_SYNONYMS[column])}  # by a note of its own
    unread = [p for p, name in enumerate(names) if name and name not in told and p not in places.values()]
    splits = [place for place in unread if names[place] in _LIKE_SPLITS or looks_like_split(names[place])]
    where, notes = os.path.basename(path), []
    if splits and "split" not in places:
        unread.remove(splits[0])
        given = quote(header[splits[0]])
        notes.append(
            f"the column {given} of {where} looks like a split and is not read: all images are for "
            "training; `columns={split: ...}` takes a column with the values train, val and test"
        )
    if unread:
        shown = ", ".join(quote(header[place]) for place in unread[:5])
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        notes.append(f"columns of {where} that are not read: {shown}{more}")
    return notes


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().strip('"\ufeff').strip().casefold())


def _chosen_place(path: str, header: Sequence[str], names: list[str], column: str, chosen: str) -> int:
    found = [place for place, name in enumerate(header) if name.strip() == chosen.strip()]
    found = found or [place for place, name in enumerate(names) if name == _plain(chosen)]
    if len(found) != 1:
        received = "two of that name" if found else f"the columns {_shown(header)}"
        raise UsageError(
            f"Expected the column {quote(chosen)} of `columns` for the {column} in {show_path(path)}; "
            f"received {received}."
        )
    return found[0]


def _check_required(
    path: str, header: Sequence[str], places: dict[str, int], required: Sequence[str]
) -> None:
    missing = [name for name in required if name not in places]
    if not missing:
        return
    plain = {_plain(name) for name in header}
    if missing[0] == "path" and plain & {"url", "image_url", "img_url", "link"}:
        raise UsageError(
            f"Expected the column 'path' in {show_path(path)}, with image files; received URLs (columns "
            f"{_shown(header)}); download them first, with img2dataset for one."
        )
    if any(re.search(r"\.(jpe?g|png|gif|webp|bmp)$", name.strip(), re.IGNORECASE) for name in header):
        raise UsageError(
            f"Expected names of columns in the first line of {show_path(path)}, such as path,label; received "
            f"a row ({_shown(header)}); write a header above it."
        )
    raise UsageError(
        f"Expected the column {missing[0]!r} in {show_path(path)}; received the columns {_shown(header)}; "
        f"{_advice(header, places, missing)}."
    )


def _advice(header: Sequence[str], places: Mapping[str, int], missing: Sequence[str]) -> str:
    """How to name the missing columns, with those of the list that nothing else is read from."""
    left = [
        name.strip() for place, name in enumerate(header) if name.strip() and place not in places.values()
    ]
    picture = next((name for name in left if re.search("image|img|file|path|id$", _plain(name))), None)
    guesses = {"path": picture or next(iter(left), None)}
    others = [name for name in left if name != guesses["path"]]
    label = next(
        (name for name in others if re.search("label|class|categ|name|breed|species", _plain(name))), None
    )
    guesses["label"] = label or next(reversed(others), None)
    told = [f"{column}: {bare(guesses[column] or '', 60)}" for column in missing if guesses.get(column)]
    return f"say which with `columns={{{', '.join(told)}}}`" if told else _ADVICE


def _shown(header: Sequence[str]) -> str:
    return bare(", ".join(header) or "none", 200)
