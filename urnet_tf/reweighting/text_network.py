"""The network of Fig. 5: words and image features, each through two layers, meet in one space (Sec. 4.3).

In: image features [n, D], labels, one text vector a class [C, T]. Out: four layers, and the cosines of images
and texts. Numpy only; gradients by hand.

  side(x) = relu(x A + a) B + b,   v_i = side_I(x_i),   w_c = side_T(t_c),   both of E numbers
  s_ic = cos(v_i, w_c)
  pairwise (Eq. 8):   loss = -(s_iy - s_in), n one random other class
  contrastive:        loss = -log softmax(s_i / temperature)_y over all classes

Source: Fig. 5, Eq. 8, Sec. 4.3.
Differs: in the contrastive loss and in negatives drawn again each step, where they are asked for.
Reading: a random other label for each image is drawn once. The paper gives no width, no nonlinearity and no
optimizer. All four layers have E units (300, as many as its text vectors), with a rectifier between the two
of a side; Adam with a rate that falls linearly to 0.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

EACH_STEP, ONCE = "each_step", "once"  # when the negatives of Eq. 8 are drawn
_MAX_BATCH = 256  # images a step; small sets have smaller batches, so that an epoch has 16 steps
_TINY = 1e-12
_LEARNING_RATE = 1e-3  # Adam's usual one
_CHUNK = 1024  # classes embedded at a time

Side = list[np.ndarray]  # [A, a, B, b]


@dataclasses.dataclass(frozen=True)
class TwoSidedNetwork:
    """What `fit_two_sided` found."""

    image_side: Side  # float32 [D, E], [E], [E, E], [E]
    text_embeddings: np.ndarray  # float32 [C, E], L2-normalized

    def confidence(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The cosine of each image and the text of its given label: float32 [n]; Eq. 9."""
        embedded = _forward(self.image_side, np.asarray(features, np.float32))[0]
        unit, _ = unit_rows(embedded)
        return np.einsum("ne,ne->n", unit, self.text_embeddings[labels])


def fit_two_sided(
    features: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    *,
    embedding_dim: int,
    loss: str,
    temperature: float,
    negatives: str,
    epochs: int,
    seed: int,
) -> TwoSidedNetwork:
    """Trains both sides with Adam.

    Args:
      features: float [n, D].
      labels: int [n].
      text_vectors: float32 [C, T].
      embedding_dim: E.
      loss: "pairwise" or "contrastive".
      temperature: of the contrastive softmax.
      negatives: "once" or "each_step", see `stream_batches`.

    Source: Fig. 5, Eq. 8, Sec. 4.3.
    """
    generator = np.random.default_rng(seed)
    image_side = _first_side(generator, features.shape[1], embedding_dim)
    text_side = _first_side(generator, text_vectors.shape[1], embedding_dim)

    def gradients_of(batch: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
        return two_sided_gradients(
            image_side, text_side, np.asarray(features[batch], np.float32), labels[batch], text_vectors,
            other=other if loss == "pairwise" else None, temperature=temperature,
        )  # fmt: skip

    batches = stream_batches(
        labels, len(text_vectors), epochs=epochs, negatives=negatives, generator=generator
    )
    descend(
        [*image_side, *text_side], gradients_of, batches, total=epochs * steps_per_epoch(len(labels)),
        learning_rate=_LEARNING_RATE,
    )  # fmt: skip
    parts = range(0, len(text_vectors), _CHUNK)
    embedded = [unit_rows(_forward(text_side, text_vectors[i : i + _CHUNK])[0])[0] for i in parts]
    return TwoSidedNetwork(image_side, np.concatenate(embedded))


def two_sided_gradients(
    image_side: Side,
    text_side: Side,
    images: np.ndarray,
    labels: np.ndarray,
    text_vectors: np.ndarray,
    *,
    other: np.ndarray | None,
    temperature: float,
) -> list[np.ndarray]:
    """The gradients of the mean loss of a batch, of the image side's and then of the text side's arrays.

    Args:
      images: float [n, D].
      labels: int [n].
      other: int [n], the negatives of the pairwise loss; None = contrastive.
    """
    # The pairwise loss looks at few classes, so no others are embedded.
    classes = np.arange(len(text_vectors)) if other is None else np.unique([*labels, *other])
    embedded, hidden = _forward(image_side, images)
    embedded_text, hidden_text = _forward(text_side, text_vectors[classes])
    unit, length = unit_rows(embedded)
    unit_text, length_text = unit_rows(embedded_text)
    right = np.searchsorted(classes, labels)
    to_text: np.ndarray
    if other is None:
        error = softmax(unit @ unit_text.T / temperature)
        error[np.arange(len(labels)), right] -= 1.0
        error /= len(labels) * temperature
        to_image, to_text = error @ unit_text, error.T @ unit
    else:
        wrong = np.searchsorted(classes, other)
        to_image = (unit_text[wrong] - unit_text[right]) / len(labels)
        to_text = np.zeros_like(unit_text)
        np.add.at(to_text, right, -unit / len(labels))
        np.add.at(to_text, wrong, unit / len(labels))
    to_image = through_unit(to_image, unit, length)
    to_text = through_unit(to_text, unit_text, length_text)
    return [
        *_backward(image_side, images, hidden, to_image),
        *_backward(text_side, text_vectors[classes], hidden_text, to_text),
    ]


def stream_batches(
    labels: np.ndarray, num_classes: int, *, epochs: int, negatives: str, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields image numbers int [b] and another class than the own of each, int [b], all images once an epoch.

    Args:
      labels: int [n].
      negatives: "each_step": another class is drawn whenever an image is seen; "once": an image keeps the
        one that was drawn for it.

    Raises:
      ValueError: an unknown kind of negatives.
    """
    if negatives not in (EACH_STEP, ONCE):
        raise ValueError(f"Expected negatives {EACH_STEP!r} or {ONCE!r}; received {negatives!r}.")
    size = _batch_size(len(labels))

    def draw(rows: np.ndarray) -> np.ndarray:
        return (labels[rows] + generator.integers(1, num_classes, len(rows))) % num_classes

    kept = draw(np.arange(len(labels))) if negatives == ONCE else None
    for _ in range(epochs):
        order = generator.permutation(len(labels))
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            yield batch, draw(batch) if kept is None else kept[batch]


def steps_per_epoch(images: int) -> int:
    """How many batches `stream_batches` makes of one pass."""
    return -(-images // _batch_size(images))


def count_operations(
    images: int, num_classes: int, *, feature_dim: int, text_dim: int, embedding_dim: int, loss: str
) -> int:
    """Floating-point operations of one pass of `fit_two_sided` over its images, without Adam's.

    Each image goes forward and back through the two layers of its side, and so do, in each step, the words of
    the classes that the loss looks at: all of them, or the own class of each image and another one.
    """
    if not images:
        return 0
    steps, texts = steps_per_epoch(images), num_classes
    if loss == "pairwise":
        texts = min(texts, 2 * -(-images // steps))
    multiplied = images * (feature_dim + embedding_dim) + steps * texts * (text_dim + embedding_dim)
    return 6 * embedding_dim * multiplied  # two forward, four back


def descend(
    parameters: Sequence[np.ndarray],
    gradients_of: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    *,
    total: int,
    learning_rate: float,
) -> None:
    """Adam, in place, with a rate that falls linearly to 0 over `total` steps."""
    first = [np.zeros_like(values) for values in parameters]
    second = [np.zeros_like(values) for values in parameters]
    for step, (batch, other) in enumerate(batches, 1):
        rate = float(learning_rate * (1 - (step - 1) / total) / (1 - 0.9**step))
        for values, mean, square, gradient in zip(
            parameters, first, second, gradients_of(batch, other), strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (np.square(gradient) - square)
            values -= rate * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)


def unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows L2-normalized, and their lengths [n, 1]."""
    length = np.linalg.norm(rows, axis=1, keepdims=True) + _TINY
    return rows / length, length


def through_unit(gradient: np.ndarray, unit: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The gradient of rows from that of their L2-normalized ones."""
    return (gradient - unit * (unit * gradient).sum(axis=1, keepdims=True)) / length


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def _batch_size(images: int) -> int:
    return min(max(images // 16, 16), _MAX_BATCH)


def _first_side(generator: np.random.Generator, dim: int, width: int) -> Side:
    """Weights of Glorot's uniform distribution, and no bias."""
    layers: Side = []
    for rows in (dim, width):
        limit = np.sqrt(6.0 / (rows + width))
        layers += [generator.uniform(-limit, limit, (rows, width)).astype(np.float32)]
        layers += [np.zeros(width, np.float32)]
    return layers


def _forward(side: Side, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What comes out of the two layers, and between them."""
    hidden = np.maximum(rows @ side[0] + side[1], 0.0)
    return hidden @ side[2] + side[3], hidden


def _backward(side: Side, rows: np.ndarray, hidden: np.ndarray, gradient: np.ndarray) -> list[np.ndarray]:
    before = (gradient @ side[2].T) * (hidden > 0)
    return [rows.T @ before, before.sum(axis=0), hidden.T @ gradient, gradient.sum(axis=0)]
