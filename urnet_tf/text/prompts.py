"""The words of classes as a network of images and texts reads them: sentences around them, averaged.

In: classes with their words, a function from texts to vectors. Out: a vector a class.

  t_k = normalized mean over the words w of class k and the templates p of  normalized text tower(p with w)

A bare word is rare among the captions that such networks learned from, and one sentence favors one kind of
picture; several sentences, averaged as vectors, cost nothing later.

Source: prompt ensembling of Radford et al., Learning transferable visual models from natural language
supervision, 2021, Sec. 3.1.4; the templates are our own. Differs: all words of a class are averaged, as they
name one thing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a close-up photo of a {}",
    "a photo of a {} from a distance",
    "a photo of several {}",
    "a product photo of a {}",
    "a drawing of a {}",
)
_CLASSES_AT_ONCE = 64
_TINY = 1e-12


def class_words(classes: Sequence[Mapping]) -> list[list[str]]:
    """The words of each class, each once, else its name; what joins words in names becomes a space.

    Args:
      classes: entries with "words" (a list of texts), "name" and "id", in label order.

    Raises:
      UsageError: a class has no words, and its name is a number or mere signs.
    """
    found = []
    for label, entry in enumerate(classes):
        texts = [*entry["words"]] or [str(entry["name"] or entry["id"])]
        plain = (" ".join(text.replace("_", " ").split()) for text in texts)
        words = [text for text in dict.fromkeys(plain) if any(sign.isalpha() for sign in text)]
        if not words:
            raise UsageError(
                f"Expected words of every class for a text tower; class {label} is called "
                f"{quote(texts[0])}. Give names with words, or do without it: `enabled=false`."
            )
        found.append(words)
    return found


def class_prompt_vectors(
    classes: Sequence[Mapping],
    encode: Callable[[Sequence[str]], np.ndarray],
    *,
    templates: Sequence[str] = TEMPLATES,
    report: Callable[[range], Iterable[int]] = lambda parts: parts,
) -> np.ndarray:
    """A vector of each class: float32 [C, E], L2-normalized.

    Args:
      classes: see `class_words`.
      encode: n texts → float [n, E], L2-normalized.
      templates: sentences with one {} each.
      report: wraps the loop over parts of the classes, for a progress bar.

    Raises:
      UsageError: see `class_words`.
    """
    words = class_words(classes)
    vectors = []
    for start in report(range(0, len(words), _CLASSES_AT_ONCE)):
        some = words[start : start + _CLASSES_AT_ONCE]
        prompts = [[text.format(word) for word in own for text in templates] for own in some]
        encoded = encode([prompt for own in prompts for prompt in own])
        starts = np.cumsum([0, *(len(own) for own in prompts[:-1])])
        sums = np.add.reduceat(np.asarray(encoded, np.float64), starts, axis=0)
        vectors.append(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _TINY))
    return np.concatenate(vectors).astype(np.float32)
