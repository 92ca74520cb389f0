"""Text lists as records: which encoding, which delimiter, and where a quote means what it says.

Input: a CSV, TSV or similar file. Output: its rows as (first line, fields), in order; every line of the
file belongs to one record. What cannot be known is refused with its line; what was assumed is a note.
"""

import collections
import csv
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from urnet_tf.crawl.table import open_bytes, open_text
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote, show_path

_UTF16_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SAMPLE_BYTES = 4096  # of lines that are not UTF-8: what the encoding is guessed from; more takes minutes
_LONGEST_FIELD_LINES, _LONGEST_FIELD = 100_000, 1 << 24  # of one quoted field: lines, characters
_MOST_TRIES = 1000  # to end a record behind one of its lines
# In the order of preference where a header holds none of the others.
_DELIMITERS = (",", ";", "\t", "|")
_WESTERN = "cp1252"  # what spreadsheets of western Europe and America write as "CSV"
_SIGNS = "\u20ac\u201a\u201e\u2026\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u2122\u2039\u203a\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb4\xb7\xbb\xbf\xd7"  # noqa: E501
_WORD = re.compile(r"\w*[^\W\x00-\x7f]\w*|\w*[^\x00-\x7f]+\w*")
# One field in quotes, blanks around it allowed; an inner quote is written twice.
_QUOTED = re.compile(r' *"((?:[^"]++|"")*+)" *')


class Record(NamedTuple):
    """A row of a text list."""

    line: int  # the first one, from 1
    fields: list[str]
    stray: bool = False  # holds a quote that quotes nothing; its fields stand as they are in the file


class TextList(NamedTuple):
    """An opened list."""

    header: list[str]
    records: Iterator[Record]
    notes: list[str]


def find_encoding(path: str, chosen: str | None = None) -> tuple[str, list[str]]:
    """The encoding of a text list, and notes where it was guessed.

    Lines with damaged bytes among valid UTF-8 leave it UTF-8: these rows are set aside one by one.

    Args:
      chosen: what the user says; None = look.

    Raises:
      UsageError: it is not UTF-8, and what else it is cannot be told; names the first such line.
      OSError: the file cannot be read.
    """
    if chosen is not None:
        return _known_encoding(chosen), []
    with open_bytes(path) as file:
        wide = _utf16_of(file.read(64))
        if wide is not None:
            return wide, [f"{os.path.basename(path)} is read as UTF-16, as its first bytes say"]
        file.seek(0)
        sample, first, valid = bytearray(), 0, False
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            try:
                line.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
                valid |= not line.removeprefix(b"\xef\xbb\xbf").isascii()
            except UnicodeDecodeError:
                first = first or number
                if len(sample) < _SAMPLE_BYTES:
                    sample += line[: _SAMPLE_BYTES - len(sample)].rstrip(b"\r\n") + b"\n"
    if not first or valid:
        return "utf-8", []
    encoding = _guess(bytes(sample))
    if encoding is None:
        likely = _likely(bytes(sample))
        raise UsageError(
            f"Expected UTF-8 in {show_path(path)}; line {first} is not, and its encoding cannot be told for "
            f"certain{f' (likely {likely})' if likely else ''}; save the list as UTF-8, or name the "
            f"encoding: `encoding={likely or _WESTERN}`."
        )
    example = next(iter(_WORD.findall(sample.decode(encoding))), "")
    return encoding, [
        f"{os.path.basename(path)} is not UTF-8 (line {first}) and is read as {encoding}, which gives words "
        f"like {quote(example)}; if that is wrong, name the encoding: `encoding`"
    ]


def _utf16_of(start: bytes) -> str | None:
    """UTF-16 that the first bytes of a file tell: by a mark, or as each second one of its header is zero."""
    if start[:2] in _UTF16_MARKS:
        return _UTF16_MARKS[start[:2]]
    for name, first in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(start) >= 8 and not any(start[first::2]) and all(start[1 - first :: 2]):
            return name
    return None


def _known_encoding(name: str) -> str:
    import codecs

    try:
        found = codecs.lookup(name).name
        b"a".decode(found)  # not one of bytes to bytes, like base64
    except (LookupError, TypeError, ValueError):
        raise UsageError(
            f"Expected an encoding like utf-8 or cp1252 for `encoding`; received {quote(name)}."
        ) from None
    return found


def _guess(sample: bytes) -> str | None:
    """cp1252 where it gives words of western languages; else what charset-normalizer is sure of."""
    try:
        text = sample.decode(_WESTERN)
    except UnicodeDecodeError:
        text = ""
    words = _WORD.findall(text)
    if words and all(sign.isascii() or sign.isalpha() or sign in _SIGNS for word in words for sign in word):
        letters = [sign for word in words for sign in word if sign.isalpha()]
        inside = [word for word in words if re.search(r"\w[^\w\s'\u2019\u2013\u2014\xa0\xb7-]\w", word)]
        inside += [word for word in words if re.search(r"[a-z][\u00c0-\u00de\u0160\u017d\u0178]", word)]
        foreign = sum(not sign.isascii() for sign in letters)
        # Words of other scripts consist of bytes beyond ASCII alone; western ones hold a few.
        if not inside and foreign <= 0.5 * max(len(letters), 1):
            return _WESTERN
    from charset_normalizer import from_bytes

    found = list(from_bytes(sample))
    if len(found) == 1 or (found and found[0].coherence >= 0.5 and found[0].coherence > found[1].coherence):
        return str(found[0].encoding)
    return None


def _likely(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return None if best is None else str(best.encoding)


def open_list(path: str, encoding: str | None = None) -> Iterator[TextList]:
    """Yields the list once, and closes the file behind it.

    Raises:
      UsageError: the encoding cannot be told, or a quoted field swallows rows.
      OSError: the file cannot be read.
    """
    name, notes = find_encoding(path, encoding)
    # Of other encodings, as of UTF-8, what cannot be decoded is kept as surrogates, which readers look for.
    with open_text(path, errors="surrogateescape", newline="", encoding=name) as file:
        lines = _Lines(file)
        first = lines.next() or ""
        if re.fullmatch(r"sep=.\s*", first):  # how a spreadsheet names its delimiter
            first = lines.next() or ""
        delimiter = _delimiter(path, first)
        is_tsv = path.lower().endswith(".tsv") and delimiter == "\t"
        names = [field.strip() for field in first.rstrip("\r\n").split(delimiter)]
        if is_tsv and all(re.fullmatch(r'".*"', name) for name in names):
            is_tsv = False
            notes.append(f"all fields of the header of {os.path.basename(path)} are quoted: quotes are read")
        lines.back(first)
        records = _records(path, lines, delimiter, quoting=not is_tsv)
        header = next(records, Record(1, [])).fields
        yield TextList([name.strip() for name in header], records, notes)


class _Lines:
    """The lines of a file, which can be given back."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file, self._waiting = file, collections.deque[str]()
        self.number = 0  # of the line that was given last

    def next(self) -> str | None:
        line = self._waiting.popleft() if self._waiting else next(self._file, None)
        self.number += line is not None
        return line

    def back(self, *lines: str) -> None:
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)


def _delimiter(path: str, header: str) -> str:
    if path.lower().endswith(".tsv") and "\t" in header:
        return "\t"
    found = [sign for sign in _DELIMITERS if sign in header]  # ";": spreadsheets of many countries
    return found[0] if found else "\t" if path.lower().endswith(".tsv") else ","


def _records(path: str, lines: _Lines, delimiter: str, quoting: bool) -> Iterator[Record]:
    width = 0
    while (line := lines.next()) is not None:
        start, bare = lines.number, line.rstrip("\r\n")
        if not quoting or '"' not in line:
            record = Record(start, bare.split(delimiter))
        else:
            fields, taken = _quoted_record(lines, line, delimiter)
            if fields is None:
                record = Record(start, bare.split(delimiter), stray=True)
            else:
                record = Record(start, fields)
                if taken:
                    _check_no_rows_inside(path, record, taken, delimiter, width)
        width = width or len(record.fields)
        yield record


def _quoted_record(lines: _Lines, line: str, delimiter: str) -> tuple[list[str] | None, list[str]]:
    """The fields of a record that holds quotes, and the further lines that it takes.

    None, and no line taken, where the quotes are not those of fields: one that is not closed, or that ends
    in the midst of a field.
    """
    parts, size, quotes = [line], len(line), line.count('"')
    for _ in range(_MOST_TRIES):
        fields = _split("".join(parts).rstrip("\r\n"), delimiter) if quotes % 2 == 0 else _OPEN
        if fields is None:
            break
        if fields is not _OPEN:
            return fields, parts[1:]
        more: str | None = ""
        while more is not None and (quotes % 2 or '"' not in more):  # an odd number closes nothing
            more = lines.next() if len(parts) <= _LONGEST_FIELD_LINES and size <= _LONGEST_FIELD else None
            if more is not None:
                parts.append(more)
                size, quotes = size + len(more), quotes + more.count('"')
        if more is None:
            break
    lines.back(*parts[1:])
    return None, []


_OPEN: list[str] = []  # `_split` of a text that ends inside of quotes


def _split(text: str, delimiter: str) -> list[str] | None:
    """Fields of a record after RFC 4180; _OPEN inside of an unclosed quote, None where one means nothing."""
    if ' "' not in text:  # the library knows no blanks in front of quotes, and refuses what is doubtful
        try:
            return next(csv.reader((text,), delimiter=delimiter, strict=True))
        except csv.Error:
            pass
    fields, place = [], 0
    while True:
        end = text.find(delimiter, place)
        end = len(text) if end < 0 else end
        blank = len(text[place:end]) - len(text[place:end].lstrip(" "))
        if text[place + blank : place + blank + 1] == '"':
            match = _QUOTED.match(text, place)
            if match is None:
                return _OPEN
            if match.end() < len(text) and text[match.end()] != delimiter:
                return None
            fields.append(match[1].replace('""', '"'))
            end = match.end()
        else:
            fields.append(text[place:end])
        if end >= len(text):
            return fields
        place = end + 1


def _check_no_rows_inside(path: str, record: Record, taken: list[str], delimiter: str, width: int) -> None:
    """Refuses a field of several lines that look like rows: its quote is a stray one, most likely."""
    start, own = record.line, record.fields[0]
    like = [n for n, line in enumerate(taken, start + 1) if _like_row(line, delimiter, width, own)]
    if like:
        raise UsageError(
            f"Expected a closing quote in line {start} of {show_path(path)}; the quoted field goes on to "
            f"line {start + len(taken)} and holds {len(like)} lines like rows (the first is line {like[0]}); "
            'write a quote that is a part of the text twice (""), or remove it.'
        )


_FILE = re.compile(r"\S.*\.(jpe?g|png|gif|bmp|webp|tiff?|heic|avif)\s*", re.IGNORECASE)


def _like_row(line: str, delimiter: str, width: int, own: str) -> bool:
    """Whether a line has the fields of a row, and a file or an id like that of the row before among them."""
    fields = [field.strip(' "') for field in line.rstrip("\r\n").split(delimiter)]
    if width < 2 or len(fields) < width:
        return False
    first, own = fields[0], own.strip()
    is_id = " " not in first + own and any(map(str.isdigit, first)) and abs(len(first) - len(own)) <= 2
    return is_id or any(_FILE.fullmatch(field) for field in fields)
