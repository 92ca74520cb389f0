"""Tiny random networks of images and texts with tokenizers of their own, saved as presets of keras-hub."""

import importlib.util
import io

import keras
import pytest

SIDE = 16
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="keras-hub is not installed"
)
TINY = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 24}
IMAGES = {"patch_size": 8, "image_shape": (SIDE, SIDE, 3), **TINY}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-.,"


def save_clip(folder, seed=0, scale=3.0, with_tokenizer=True):
    """A CLIP of 16 px whose projection is smaller than its towers, and its preprocessor."""
    import keras_hub

    keras.utils.set_random_seed(seed)
    pieces = ["!", *_LETTERS, *(f"{sign}</w>" for sign in _LETTERS), "ph", "oto</w>", "<|startoftext|>",
              "<|endoftext|>"]  # fmt: skip
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = keras_hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["p h"])
    text = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=len(vocabulary), embedding_dim=16, max_sequence_length=32, **TINY
    )
    network = keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(**IMAGES), text, projection_dim=8
    )
    converter = keras_hub.layers.CLIPImageConverter(
        image_size=(SIDE, SIDE), scale=[1 / 60, 1 / 70, 1 / 80], offset=[-2.0, -1.9, -1.8]
    )
    prepare = keras_hub.models.CLIPPreprocessor(tokenizer, converter, sequence_length=32)
    network.clip_head.logit_scale.assign(scale)
    return _saved(folder, network, prepare, with_tokenizer)


def save_siglip(folder, seed=0, scale=2.0, bias=-5.0, with_tokenizer=True):
    """A SigLIP of 16 px, and its preprocessor."""
    import keras_hub
    import sentencepiece

    keras.utils.set_random_seed(seed)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a lion", "the quick brown fox jumps over the lazy dog"] * 3),
        model_writer=written, vocab_size=48, hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        minloglevel=2,
    )  # fmt: skip
    tokenizer = keras_hub.models.SigLIPTokenizer(proto=written.getvalue())
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=tokenizer.vocabulary_size(), embedding_dim=16, max_sequence_length=24, **TINY
    )
    network = keras_hub.models.SigLIPBackbone(keras_hub.models.SigLIPVisionEncoder(**IMAGES), text)
    converter = keras_hub.layers.SigLIPImageConverter(image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1)
    prepare = keras_hub.models.SigLIPPreprocessor(tokenizer, converter, sequence_length=24)
    network.siglip_head.logit_scale.assign(scale)
    network.siglip_head.logit_bias.assign(bias)
    return _saved(folder, network, prepare, with_tokenizer)


def _saved(folder, network, prepare, with_tokenizer):
    network.save_to_preset(folder)
    if with_tokenizer:
        prepare.save_to_preset(folder)
    return network, prepare
