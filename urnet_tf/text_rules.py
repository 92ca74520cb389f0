"""What texts from outside may hold before they are used as a name or path, and how messages quote them.

Plain Python: whatever is joined into a path goes through `check_text(..., FILE_NAME, ...)` first.
"""

import os
import re
import unicodedata

from urnet_tf.errors import UsageError, escape_steering

LINE, PATH, FILE_NAME = "line", "path", "file name"

_PART_BYTES, _PATH_BYTES = 255, 4095  # of Linux's file systems
_NAME_BYTES = 100  # leaves room for the endings that files of a model get
_BREAKING = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line separators
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # show a text in another order
# The program's own files in a directory that a FILE_NAME is joined to.
_OWN_NAMES = ("models.config", "batching.config", "monitoring.config", "done.json", "key.txt")
_OWN_PREFIX = "units_"


# Two signs or more, as a single one may be a drive; a `pathlib.Path` has joined the slashes.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/{1,3}(?!/)")


def cut(text: str, limit: int = 80) -> str:
    """A text without its middle where it is longer than `limit`, and how long it was.

    >>> cut("a" * 1234, 30)
    'aaaaaaa… (1,234 characters) …aaa'
    """
    if len(text) <= limit:
        return text
    middle = f"… ({len(text):,} characters) …"
    kept = max(limit - len(middle), 10)
    return text[: kept - kept // 3] + middle + text[-(kept // 3) :]


def quote(value: object, limit: int = 80) -> str:
    """Any value that was received, for a message: its `repr`, on one line, at most about `limit` long."""
    try:
        return cut(repr(value), limit)
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a value of type {type(value).__name__} that is too long to show"


def bare(text: str, limit: int = 80) -> str:
    """A key for a message: as `quote`, without the quotation marks."""
    return quote(str(text), limit)[1:-1]


def reason_of(error: Exception, limit: int = 200) -> str:
    """What an error of a library says, on one line; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: Exception, limit: int = 300) -> str:
    """As `reason_of`, of errors whose other lines are only of use to programmers."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def show_path(path: str | os.PathLike[str]) -> str:
    """A path for a message; longer than other values may be, as its middle tells most."""
    return cut(escape_steering(os.fspath(path), kept=""), 200)


def refuse_address(path: str | os.PathLike[str], what: str, advice: str) -> None:
    """Object stores are not read or written; what is written like a path to one is refused.

    Raises:
      UsageError: the path begins like an address, as s3://bucket/key does.
    """
    text = os.fspath(path)
    found = _ADDRESS.match(text)
    if found and not os.path.exists(found.group(1)):
        raise UsageError(
            f"Expected {what} on a disk of this machine; received the address {quote(text)}. {advice}"
        )


def one_line(text: str) -> str:
    """A text from the web as it may be shown: on one line, without what steers a terminal or a reader.

    Line breaks and tabs become blanks. Control characters (NUL, ESC), marks that turn the direction of
    writing, halves of characters and other signs without a picture are left out.
    """
    if text.isprintable():
        return text
    return "".join(filter(None, map(_shown_sign, text)))


def _shown_sign(sign: str) -> str:
    if sign.isprintable() or unicodedata.category(sign) == "Zs":  # blanks of all widths
        return sign
    return " " if sign.isspace() else ""


# A spreadsheet takes a cell that begins so for a formula; "'" in front makes it a text.
_FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


def spreadsheet_cell(text: str) -> str:
    """A text as a cell of a CSV file that no spreadsheet takes for a formula; `plain_cell` gives it back.

    >>> spreadsheet_cell("=1+1"), plain_cell("'=1+1"), spreadsheet_cell("a"), spreadsheet_cell("'a")
    ("'=1+1", '=1+1', 'a', "''a")
    """
    return f"'{text}" if text[:1] and text[0] in f"{_FORMULA}'" else text


def plain_cell(cell: str) -> str:
    """The text of a cell that `spreadsheet_cell` has written, or a person."""
    return cell[1:] if len(cell) > 1 and cell[0] == "'" and cell[1] in f"{_FORMULA}'" else cell


def check_text(text: str, form: str, what: str) -> None:
    """Refuses a text that cannot be what it is meant to be.

    Args:
      form: LINE, PATH (of a file or folder) or FILE_NAME (joined to a directory of the program).
      what: names the text in the message.

    Raises:
      UsageError: an empty text, control characters or line breaks; for a PATH, one that no file system
        takes; for a FILE_NAME, anything but a plain name that is free.
    """
    expected = _find_fault(text, form)
    if expected:
        raise UsageError(f"Expected {expected} for {what}; received {quote(text)}.")


def _find_fault(text: str, form: str) -> str | None:
    """What would have been right, or None."""
    if not text:
        return "a text that is not empty"
    if any(unicodedata.category(sign) in _BREAKING or sign in _TURNING for sign in text):
        return "a text without control characters and line breaks"
    if form == PATH:
        parts = [len(part.encode()) for part in text.split("/")]
        if max(parts) > _PART_BYTES or sum(parts) + len(parts) - 1 > _PATH_BYTES:
            return f"a path of at most {_PATH_BYTES:,} bytes, {_PART_BYTES} in each part,"
    if form == FILE_NAME:
        if text.startswith(".") or not all(sign.isalnum() or sign in "-_." for sign in text):
            return "a plain name of letters, digits, '-', '_' and '.', not with a '.' in front,"
        if len(text.encode()) > _NAME_BYTES:
            return f"a name of at most {_NAME_BYTES} bytes"
        if text.lower() in _OWN_NAMES or text.lower().startswith(_OWN_PREFIX):
            own = ", ".join(_OWN_NAMES)
            return f"a name that is not one of the program's own ({own}, {_OWN_PREFIX}…)"
    return None
