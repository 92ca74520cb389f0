"""Query texts: cleaning, hashed vectors, and fastText's two file formats (written here)."""

import random
import struct
import sys

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.text import word_vectors as text

MAGIC = 793712314


def write_bin(path, words, *, dim=4, buckets=10, min_n=2, max_n=3, version=12, model=2, quantized=False):
    """A model in fastText's layout; row i of the matrix is i + 0.25 * column."""
    with open(path, "wb") as file:
        file.write(struct.pack("<2i", MAGIC, version))
        file.write(struct.pack("<12id", dim, 5, 1, 1, 5, 1, 1, model, buckets, min_n, max_n, 100, 1e-4))
        file.write(struct.pack("<3i2q", len(words) + 1, len(words), 1, 99, -1))
        for word in words:
            file.write(word.encode() + b"\0" + struct.pack("<qb", 3, 0))
        file.write(b"__label__x\0" + struct.pack("<qb", 3, 1))
        rows = len(words) + buckets
        matrix = np.arange(rows)[:, None] + 0.25 * np.arange(dim)
        file.write(struct.pack("<?2q", quantized, rows, dim) + matrix.astype("<f4").tobytes())
    return matrix


def test_fnv1a_is_fasttexts():
    assert text.fnv1a("") == 2166136261
    assert text.fnv1a("a") == 0xE40C292C  # published 32-bit FNV-1a
    assert text.fnv1a("foobar") == 0xBF9CF968
    plain = ((2166136261 ^ 0xC3) * 16777619) & 0xFFFFFFFF
    assert text.fnv1a("é") != ((plain ^ 0xA9) * 16777619) & 0xFFFFFFFF  # bytes are signed


def test_ngrams_in_order():
    assert text.character_ngrams("ab", 3, 6) == ["<ab", "<ab>", "ab>"]
    assert text.character_ngrams("é", 1, 2) == ["<é", "é", "é>"]


def test_hashed_vectors_repeat_and_follow_spelling():
    source = text.HashedVectors(256)
    first, second, other = source.vectors(["retriever", "retrievers", "pizza"])
    np.testing.assert_array_equal(source.vectors(["pizza"])[0], other)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(first, second) > 0.6 > 0.3 > abs(cosine(first, other))
    assert source.vectors([]).shape == (0, 256)


def test_vec_is_streamed_and_prefers_the_exact_word(tmp_path):
    path = tmp_path / "a.vec"
    path.write_text("3 2\nChihuahua 1 2\nlion 3 4 \nLion 5 6\n", encoding="utf-8")
    source = text.open_text_vectors(str(path), dim=300)
    assert source.dim == 2
    np.testing.assert_array_equal(source.vectors(["lion", "chihuahua", "ox"]), [[3, 4], [1, 2], [0, 0]])


@pytest.mark.parametrize(
    "content",
    ["", "1 99999999999\nlion 3\n", "lion 3 4\n", "1 2\nlion 3\n", "1 2\nlion 3 x\n", "1 2\nlion 3 nan\n"],
)
def test_malformed_vec_is_a_usage_error(tmp_path, content):
    path = tmp_path / "a.vec"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"a\.vec"):
        text.FastTextVec(path).vectors(["lion"])


def test_bin_words_and_ngrams_by_hand(tmp_path):
    matrix = write_bin(tmp_path / "m.bin", ["lion", "ox"])
    source = text.open_text_vectors(str(tmp_path / "m.bin"), dim=300)
    assert source.dim == 4
    ngrams = ["<o", "<ox", "ox", "ox>", "x>"]
    rows = [1] + [2 + text.fnv1a(ngram) % 10 for ngram in ngrams]
    found = source.vectors(["ox", "x", "__label__x"])
    np.testing.assert_allclose(found[0], matrix[rows].mean(axis=0), rtol=1e-6)
    rows = [2 + text.fnv1a(ngram) % 10 for ngram in ["<x", "<x>", "x>"]]
    np.testing.assert_allclose(found[1], matrix[rows].mean(axis=0), rtol=1e-6)


def test_old_supervised_bin_has_no_ngrams(tmp_path):
    matrix = write_bin(tmp_path / "m.bin", ["lion"], version=11, model=3)
    found = text.FastTextBin(tmp_path / "m.bin").vectors(["lion", "ox"])
    np.testing.assert_allclose(found, [matrix[0], np.zeros(4)])


def test_malformed_bin_is_a_usage_error(tmp_path):
    path = tmp_path / "m.bin"
    write_bin(path, ["lion", "ox"])
    whole = path.read_bytes()
    for broken in (b"", b"PK" + whole, whole[:20], whole[:95], whole[:110], whole[:-1]):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match=r"fastText \.bin model in .*m\.bin"):
            text.FastTextBin(path)
    write_bin(path, ["lion"], quantized=True)
    with pytest.raises(UsageError, match="quantized"):
        text.FastTextBin(path)


def test_unknown_sources_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="'hashed', or a"):
        text.open_text_vectors("glove", dim=8)
    for name in ("none.vec", "none.bin"):
        with pytest.raises(UsageError, match="No such file"):
            text.open_text_vectors(str(tmp_path / name), dim=8)


def test_tokens_are_cleaned():
    found = text.word_tokens(
        [
            "<b>Panther</b> &amp; more",
            "ＡＢＣ ﬁsh",
            "Ovis_canadensis, 12!",
            "a < b > c",
            "",
            "德国x",
            "É\udcff",
            "Devil’s 12px हिन्दी",
        ]  # fmt: skip
    )
    assert found == [
        ["panther", "more"], ["abc", "fish"], ["ovis", "canadensis", "12"], ["a", "b", "c"], [],
        ["德国", "x"], ["é"], ["devils", "12", "px", "हिन्दी"],
    ]  # fmt: skip
    assert text.word_tokens([]) == []


def test_usual_scripts_are_split_as_tensorflow_does():
    """Compared so on all signs and 300,000 random texts when it was written; here on a few."""
    rng = random.Random(0)
    signs = [chr(code) for code in range(1, 0x3100)] + list("中字한글") * 50 + list("aB3 '’.-ΣİßﬁÀé") * 100
    usual = [sign for sign in signs if text._SIMPLE.fullmatch(text._fold(sign))]
    texts = ["".join(rng.choice(usual) for _ in range(rng.randint(0, 14))) for _ in range(4000)]
    texts = [sample for sample in texts if "&" not in sample and "<" not in sample]
    assert text.word_tokens(texts) == text._tokens_of_any_script(texts)


def test_only_rare_scripts_need_tensorflow_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    assert text.word_tokens(["Ein Löwe, 3 m", "новый дом", "東京タワー"[:4]]) == [
        ["ein", "löwe", "3", "m"], ["новый", "дом"], ["東京", "タワ"]
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"rare scripts, as in 'हिन्दी'.*pip install tensorflow-text"):
        text.word_tokens(["हिन्दी"])
    with pytest.raises(UsageError, match="word pieces. Choose another sentence encoder"):
        text.word_pieces(["a"], ["[CLS]", "[SEP]", "a"], max_tokens=4)


def test_word_pieces_by_hand():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "mon", "##arch", "cafe", "&", "more", "'", "s", "##s"]
    found = text.word_pieces(
        ["Monarch", "<b>CAF\u00c9s</b> &amp; more", "", "zebra mon's"], vocabulary, max_tokens=6
    )
    assert found == [[2, 4, 5, 3], [2, 6, 11, 7, 8, 3], [2, 3], [2, 1, 4, 9, 10, 3]]
    assert text.word_pieces(["mon mon mon mon mon"], vocabulary, max_tokens=4) == [[2, 4, 4, 3]]
    assert text.word_pieces([], vocabulary, max_tokens=4) == []


class Known:
    """Two known words."""

    dim = 8

    def vectors(self, words):
        known = {"lion": np.eye(8)[0] * 5, "king": np.eye(8)[1]}
        return np.array([known.get(word, np.zeros(8)) for word in words], np.float32).reshape(-1, 8)


def test_class_vectors_average_texts_by_hand():
    classes = [
        {"id": "n1", "name": "lion", "words": ["Lion", "king lion"], "queries": ["lion", "Lion"]},
        {"id": "n2", "name": "ox", "words": ["ox"], "queries": []},
        {"id": "n3", "name": "!!", "words": [], "queries": []},
    ]
    vectors, unknown = text.class_text_vectors(classes, Known())
    # Different texts: "lion" = (1, 0), "king lion" = (1, 1) / sqrt 2; their mean, normalized.
    mean = np.array([1 + 0.5**0.5, 0.5**0.5])
    np.testing.assert_allclose(vectors[0, :2], mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    assert unknown == [1, 2] and not np.array_equal(vectors[1], vectors[2])
    assert vectors.dtype == np.float32


def test_a_text_is_the_mean_of_its_unit_word_vectors():
    found = text.text_vectors(["King, lion", "IMG_4711", ""], Known())
    np.testing.assert_allclose(found[0], (np.eye(8)[0] + np.eye(8)[1]) / 2**0.5, rtol=1e-6)
    assert not found[1:].any() and found.dtype == np.float32
