"""Query texts and the vectors that stand for them.

In: class words and queries, and a source of word vectors: hashed character n-grams, or a fastText
`.vec` or `.bin` file. Out: one L2-normalized vector a class, float32 [C, T].

tensorflow-text enters here alone, for `word_pieces` and for what `word_tokens` finds in rare scripts; all
else needs only numpy.
"""

import hashlib
import html
import itertools
import mmap
import os
import pathlib
import re
import struct
import types
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Protocol

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MAX_DIM = 100_000  # of word vectors; usual are 50 to 1,000
_WORD = re.compile(r"[^\W_]")


def word_tokens(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text: no HTML, NFKC, lower case, split at spaces, signs and changes of script.

    `"<b>Panther</b> &amp; more"` gives `["panther", "more"]`. Tokens without a letter or digit are
    dropped.

    Raises:
      UsageError: a text with signs of other scripts than those of `_SCRIPTS`, and tensorflow-text is not
        installed.
    """
    plain = [_without_markup(text) for text in texts]
    folded = [_fold(text) for text in plain]
    tokens = [_split(text) if _SIMPLE.fullmatch(text) else [] for text in folded]
    rare = [row for row, text in enumerate(folded) if not _SIMPLE.fullmatch(text)]
    for row, words in zip(rare, _tokens_of_any_script([plain[row] for row in rare]), strict=True):
        tokens[row] = words
    return tokens


# Letters whose script is beyond doubt, in all of these ranges; ASCII digits are split from them.
_SCRIPTS = (
    "a-z\u00df-\u00f6\u00f8-\u024f",  # Latin
    "\u03b1-\u03c9\u03ac-\u03af\u03cc-\u03ce",  # Greek
    "\u0430-\u045f",  # Cyrillic
    "\u4e00-\u9fef",  # Han
    "\u3041-\u3096",  # Hiragana
    "\u30a1-\u30fa",  # Katakana
    "\uac00-\ud7a3",  # Hangul
    "0-9 \t\n\r\f\v",  # spaces are of the digits' script: they end a word, but not a number
)
_RUN = re.compile("|".join(f"[{signs}]+" for signs in _SCRIPTS))
_NO_WORD = re.compile(r"[^\w\s]|_")
_SIMPLE = re.compile(f"[{''.join(_SCRIPTS)}]*")


def _split(folded: str) -> list[str]:
    """The words of a text of the scripts above."""
    runs = ("".join(run.split()) for run in _RUN.findall(folded))
    return [run for run in runs if run]


def _fold(text: str) -> str:
    """NFKC, lower case, signs as spaces."""
    folded = unicodedata.normalize("NFKC", text).lower()
    folded = folded.replace("'", "").replace("\u2019", "")  # "devil's" is one word
    return _NO_WORD.sub(lambda sign: " " if unicodedata.category(sign[0])[0] in "PS" else sign[0], folded)


def _tokens_of_any_script(plain: list[str]) -> list[list[str]]:
    """The words of texts without markup, by ICU's table of scripts."""
    if not plain:
        return []
    tensorflow_text = _import_tensorflow_text(
        f"words of rare scripts, as in {quote(plain[0])}. Give texts in Latin letters"
    )
    import tensorflow as tf

    with tf.device("/CPU:0"):
        folded = tf.strings.lower(tensorflow_text.normalize_utf8(plain, "NFKC"), encoding="utf-8")
        joined = tf.strings.regex_replace(folded, "['\u2019]", "")
        spaced = tf.strings.regex_replace(joined, r"[\pP\pS]", " ")  # the tokenizer takes ", 12" for one
        tokens = tensorflow_text.UnicodeScriptTokenizer().tokenize(spaced).to_list()
    return [[word for word in (t.decode("utf-8") for t in row) if _WORD.search(word)] for row in tokens]


def _import_tensorflow_text(purpose: str) -> types.ModuleType:
    try:
        import tensorflow_text
    except ImportError:
        raise UsageError(
            f"Expected tensorflow-text for {purpose}, or `pip install tensorflow-text`; it is not installed."
        ) from None
    return tensorflow_text


def word_pieces(texts: Sequence[str], vocabulary: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """The numbers of each text's word pieces as an uncased BERT sees them: no HTML, "[CLS]" … "[SEP]".

    Args:
      vocabulary: the pieces in the order of their numbers, "##" before those that continue a word.
      max_tokens: with the two marks; what is beyond is cut off.

    Source: tensorflow-text's FastBertTokenizer (Song et al., 2021).
    """
    if not len(texts):
        return []
    tensorflow_text = _import_tensorflow_text("word pieces. Choose another sentence encoder")
    import tensorflow as tf

    with tf.device("/CPU:0"):
        tokenizer = tensorflow_text.FastBertTokenizer(
            list(vocabulary), token_out_type=tf.int32, lower_case_nfd_strip_accents=True
        )
        pieces = tokenizer.tokenize([_without_markup(text) for text in texts]).to_list()
    start, end = vocabulary.index("[CLS]"), vocabulary.index("[SEP]")
    return [[start, *row[: max_tokens - 2], end] for row in pieces]


class TextVectors(Protocol):
    """A source of word vectors."""

    dim: int

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """float32 [len(words), dim]; a word that is not known has a row of zeros."""


def open_text_vectors(name: str, *, dim: int) -> TextVectors:
    """`"hashed"`, or the path of a fastText `.vec` or `.bin` file (whose own size then counts).

    Raises:
      UsageError: the name is neither, or the file is missing or malformed.
    """
    if name == "hashed":
        return HashedVectors(dim)
    suffix = pathlib.Path(name).suffix
    if suffix not in (".vec", ".bin"):
        raise UsageError(f"Expected text vectors 'hashed', or a .vec or .bin file; received {name!r}.")
    return FastTextVec(name) if suffix == ".vec" else FastTextBin(name)


def class_text_vectors(classes: Sequence[Mapping], source: TextVectors) -> tuple[np.ndarray, list[int]]:
    """One vector a class from its words and queries.

    A text is the mean of its words' unit vectors; a class is the mean of its different texts. A class
    none of whose words is known gets a hashed vector, so that it keeps a direction of its own.

    Args:
      classes: entries with "words" and "queries" (lists of texts), "name" and "id", in label order.

    Returns:
      float32 [C, T], L2-normalized, and the labels of classes with hashed vectors for unknown ones.

    Source: Sec. 4.3: fastText's vectors with 300 numbers.
    Differs: without a file, hashed n-grams stand for them.
    Reading: the paper does not say how words make the vector of a class.
    """
    texts = [[*entry["words"], *entry["queries"]] or [entry["name"]] for entry in classes]
    tokens = iter(word_tokens([text for row in texts for text in row]))
    tokenized = [list(dict.fromkeys(tuple(next(tokens)) for _ in row)) for row in texts]

    vectors = iter(_mean_vectors([text for row in tokenized for text in row], source))
    result, unknown = np.zeros((len(classes), source.dim), np.float32), []
    for label, row in enumerate(tokenized):
        means = [vector for vector in itertools.islice(vectors, len(row)) if vector.any()]
        if means:
            result[label] = np.mean(means, axis=0)
        if not result[label].any():
            unknown.append(label)
            name = str(classes[label]["name"] or classes[label]["id"])
            result[label] = HashedVectors(source.dim).vectors([name.lower()])[0]
    return _unit(result), unknown


def text_vectors(texts: Sequence[str], source: TextVectors) -> np.ndarray:
    """The mean of each text's unit word vectors: float32 [n, T], L2-normalized; zeros where none is known."""
    return _mean_vectors(word_tokens(texts), source)


def _mean_vectors(tokenized: Sequence[Sequence[str]], source: TextVectors) -> np.ndarray:
    words = sorted({word for text in tokenized for word in text})
    number = {word: i for i, word in enumerate(words)}
    vectors = _unit(source.vectors(words))
    result = np.zeros((len(tokenized), source.dim), np.float32)
    for row, text in enumerate(tokenized):
        if text:
            result[row] = vectors[[number[word] for word in text]].mean(axis=0)
    return _unit(result)


class HashedVectors:
    """Vectors without a file: the mean over a word's hashed n-grams, as fastText cuts and hashes them.

    The vector of an n-gram is a row of +1 and -1 drawn from its bucket number, so words that share
    letters are near each other ("dog", "dogs") and all others nearly orthogonal. Nothing is known of
    meaning.
    """

    def __init__(self, dim: int, *, min_n: int = 3, max_n: int = 6, buckets: int = 2_000_000):
        self.dim = dim
        self._min_n, self._max_n, self._buckets = min_n, max_n, buckets

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """float32 [len(words), dim]; the whole word counts as one n-gram."""
        result = np.zeros((len(words), self.dim), np.float32)
        for row, word in enumerate(words):
            ngrams = [f"<{word}>", *character_ngrams(word, self._min_n, self._max_n)]
            buckets = [fnv1a(ngram) % self._buckets for ngram in ngrams]
            result[row] = np.mean([self._bucket_vector(bucket) for bucket in buckets], axis=0)
        return result

    def _bucket_vector(self, bucket: int) -> np.ndarray:
        digest = hashlib.shake_128(bucket.to_bytes(8, "little")).digest(-(-self.dim // 8))
        bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=self.dim)
        return bits.astype(np.float32) * 2.0 - 1.0


class FastTextVec:
    """A fastText (or word2vec) text file: a line "words dim", then a word and its numbers a line.

    The file is streamed. A word that is missing in lower case takes the first spelling of the file
    that differs in case only ("Chihuahua").

    Raises:
      UsageError: the file is missing or malformed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        with _opened(self.path) as file:
            header = file.readline(100).split()
        try:
            _, self.dim = map(int, header)
        except ValueError:
            self.dim = 0
        if not 1 <= self.dim <= _MAX_DIM:
            raise UsageError(
                f"Expected a first line '<words> <dim>' in {self.path}, dim at most {_MAX_DIM:,}; received "
                f"{quote(header)}."
            )

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """float32 [len(words), dim]; rows of zeros for unknown words."""
        wanted = set(words)
        found: dict[str, np.ndarray] = {}
        respelled: dict[str, np.ndarray] = {}
        with _opened(self.path) as file:
            file.readline()
            for line_number, line in enumerate(file, start=2):
                word = line.split(b" ", 1)[0].decode("utf-8", "replace")
                if word in wanted:
                    found.setdefault(word, self._numbers(line, line_number))
                elif (lower := word.lower()) in wanted and lower not in respelled:
                    respelled[lower] = self._numbers(line, line_number)
        nothing = np.zeros(self.dim, np.float32)
        rows = [found.get(word, respelled.get(word, nothing)) for word in words]
        return np.array(rows, np.float32).reshape(len(words), self.dim)

    def _numbers(self, line: bytes, line_number: int) -> np.ndarray:
        try:
            numbers = np.array(line.split()[1:], np.float32)
        except ValueError:
            numbers = np.empty(0, np.float32)
        if len(numbers) != self.dim or not np.isfinite(numbers).all():
            raise UsageError(f"Expected a word and {self.dim} numbers in line {line_number} of {self.path}.")
        return numbers


class FastTextBin:
    """A fastText binary model (format versions 11 and 12, not quantized), memory-mapped.

    Words of the vocabulary are the mean of their own row and those of their n-grams; other words the
    mean of their n-grams alone.

    Raises:
      UsageError: the file is missing, malformed, quantized or pruned.
    """

    _MAGIC = 793712314

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        with _opened(self.path) as file, _mapped(file, self.path) as data:
            try:
                self._read_layout(data)
            except struct.error:
                raise self._malformed("it ends too early") from None

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """float32 [len(words), dim]; zeros where neither the word nor one of its n-grams is known."""
        matrix = np.memmap(self.path, "<f4", "r", self._matrix_at, (self._rows, self.dim))
        wanted = set(words)
        with _opened(self.path) as file, _mapped(file, self.path) as data:
            known = {word: i for i, word in self._entries(data) if word in wanted}
        result = np.zeros((len(words), self.dim), np.float32)
        for row, word in enumerate(words):
            rows = [known[word]] if word in known else []
            if self._max_n > 0 and self._buckets > 0:
                ngrams = character_ngrams(word, self._min_n, self._max_n)
                rows += [self._num_words + fnv1a(ngram) % self._buckets for ngram in ngrams]
            if rows:
                result[row] = matrix[rows].mean(axis=0)
        return result

    def _read_layout(self, data: mmap.mmap) -> None:
        magic, version = struct.unpack_from("<2i", data, 0)
        if magic != self._MAGIC or version not in (11, 12):
            raise self._malformed(f"it starts with {magic}, {version}, not {self._MAGIC}, 11 or 12")
        # dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate, then t
        dim, *_, model, self._buckets, self._min_n, self._max_n, _ = struct.unpack_from("<12i", data, 8)
        if version == 11 and model == 3:  # old supervised models have no character n-grams
            self._max_n = 0
        at = 8 + 12 * 4 + 8
        self._num_entries, self._num_words, _, _, pruned = struct.unpack_from("<3i2q", data, at)
        self._entries_at = at + 3 * 4 + 2 * 8
        if not 0 <= self._num_words <= self._num_entries or pruned > 0:
            raise self._malformed("its dictionary is pruned or its counts make no sense")
        self._entries_end = self._entries_at
        for _ in self._entries(data):
            pass
        at = self._entries_end
        quantized, self._rows, self.dim = struct.unpack_from("<?2q", data, at)
        self._matrix_at = at + 1 + 2 * 8
        if quantized:
            raise self._malformed("it is quantized; expected the full model")
        expected_rows = self._num_words + max(self._buckets, 0)
        if self.dim != dim or dim < 1 or self._rows < (expected_rows if self._max_n > 0 else self._num_words):
            raise self._malformed(f"its matrix is {self._rows} x {self.dim}")
        if self._matrix_at + 4 * self._rows * self.dim > len(data):
            raise self._malformed("it ends too early")

    def _entries(self, data: mmap.mmap) -> Iterator[tuple[int, str]]:
        """Yields (row, word); an entry is text, a zero byte, a count (int64) and a type (int8: 0 = word)."""
        at = self._entries_at
        for row in range(self._num_entries):
            end = data.find(b"\0", at)
            if end < 0 or end + 10 > len(data):
                raise self._malformed("it ends inside the dictionary")
            if data[end + 9] == 0:
                yield row, data[at:end].decode("utf-8", "replace")
            at = end + 10
        self._entries_end = at

    def _malformed(self, reason: str) -> UsageError:
        return UsageError(f"Expected a fastText .bin model in {self.path}; {reason}.")


def character_ngrams(word: str, min_n: int, max_n: int) -> list[str]:
    """The n-grams of `<word>` in fastText's order; a lone `<` or `>` is none."""
    marked = f"<{word}>"
    return [
        marked[start : start + n]
        for start in range(len(marked))
        for n in range(max(min_n, 1), max_n + 1)
        if start + n <= len(marked) and not (n == 1 and start in (0, len(marked) - 1))
    ]


def fnv1a(text: str) -> int:
    """fastText's hash: 32-bit FNV-1a over UTF-8 bytes that are taken as signed."""
    value = 2166136261
    for byte in text.encode("utf-8", "replace"):
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return value


def _without_markup(text: str) -> str:
    return _TAG.sub(" ", html.unescape(text)).encode("utf-8", "replace").decode("utf-8")


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _opened(path: pathlib.Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"Cannot read the text vectors {path}: {error.strerror}.") from None


def _mapped(file: IO[bytes], path: pathlib.Path) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (ValueError, OSError):
        raise UsageError(f"Expected a fastText .bin model in {path}; it is empty or no file.") from None
