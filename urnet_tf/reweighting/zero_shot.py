"""What a text tower says of a label: the picture beside the words of all classes, in a space that both share.

In: vectors of the images and of the classes by one network of images and texts (CLIP, SigLIP), and its own
scale of logits. Out: probabilities of the classes, and P(the label is right) that counts them in.

  l_ik = scale cos(v_i, t_k)              the network's own logits; the bias of SigLIP is the same for all k
  q_ik = exp l_ik / sum_j exp l_ij        CLIP's probability of class k; for SigLIP, whose exp l are odds of
                                          pairs, the same, given that one of the classes is right
  m_ik = l_ik - max over j != k of l_ij   the margin of class k, beside the score s_ik of the models

The models that judge the labels see the same picture, often by the same image tower, so s and m err together,
and multiplying what each says (as `evidence` does with pages and ranks) would count the picture twice. Both
are weighed at once instead, by the pairs that `label_posterior` plants:

  logit P(given rather than planted | s, m) = a + b s + c m          by logistic regression

c is what the texts add to what the models say anyway. Where that is not more than chance (two standard
errors) or points the wrong way, P stays as it was. Else b s + c m takes the place of s in the mixture of
`label_posterior`, and P moves by as much, in log-odds, as the mixture does.

Source: not in the paper, which learns a map from pictures to words (Sec. 4.3). Zero-shot probabilities:
Radford et al., Learning transferable visual models from natural language supervision, 2021, Sec. 3.1; odds of
pairs: Zhai et al., Sigmoid loss for language image pre-training, 2023.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.label_posterior import fit_mixture

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

_CHUNK = 2048  # rows compared at a time: [rows, C] numbers
_TINY = 1e-12
_FARTHEST = 20.0  # log-odds beyond which a score says no more
_LEARNED_FROM = 100_000  # images; two numbers need no more
_FEWEST = 10
_STEPS = 50
_PRECISION = np.diag([1e-6, 0.04, 0.04])  # of a and weights before anything is seen
_STANDARD_ERRORS = 2.0
_CERTAIN = 1e-3  # as `label_posterior` has it


@dataclasses.dataclass(frozen=True)
class Compared:
    """N images beside the texts of C classes.

    given_prob: float32 [N], q of the given label.
    best: int32 [N], the class with the largest q.
    margin: float32 [N], m of the given label.
    planted: float32 [N, K + 1], m of K other labels, and of one that stands for all that are left.
    cosine: float32 [N], of the image and the given label's texts.
    """

    given_prob: np.ndarray
    best: np.ndarray
    margin: np.ndarray
    planted: np.ndarray
    cosine: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageText:
    """Images and classes in the space of one network.

    image_vectors: float [N or more, E], of any length; may be a memory map.
    class_vectors: float32 [C, E], L2-normalized, C >= 2.
    logit_scale: what the network multiplies cosines by.
    """

    image_vectors: np.ndarray
    class_vectors: np.ndarray
    logit_scale: float

    def logits(self, start: int, stop: int) -> np.ndarray:
        """l of images from one to before another: float32 [n, C]."""
        return np.float32(self.logit_scale) * (
            unit_rows(self.image_vectors[start:stop]) @ self.class_vectors.T
        )

    def compare(
        self,
        labels: np.ndarray,
        other_ids: np.ndarray,
        *,
        report: Callable[[range], Iterable[int]] = lambda chunks: chunks,
    ) -> Compared:
        """How each image stands to its given label, and to K others.

        Args:
          labels: int [N].
          other_ids: int [N, K], classes, each once in a row.
          report: wraps the loop over chunks, for a progress bar.
        """
        labels, other_ids = np.asarray(labels), np.asarray(other_ids)
        rows = len(labels)
        given_prob, margin, cosine = (np.empty(rows, np.float32) for _ in range(3))
        best, planted = np.empty(rows, np.int32), np.empty((rows, other_ids.shape[1] + 1), np.float32)
        for start in report(range(0, rows, _CHUNK)):
            here = slice(start, min(start + _CHUNK, rows))
            logits = self.logits(here.start, here.stop)
            each = np.arange(len(logits))
            own, others = logits[each, labels[here]], np.take_along_axis(logits, other_ids[here], axis=1)
            best[here] = top = logits.argmax(axis=1)
            first = logits[each, top]
            cosine[here] = own / np.float32(self.logit_scale)
            shares = np.exp(logits - first[:, None])
            total = shares.sum(axis=1)
            given_prob[here] = shares[each, labels[here]] / total
            planted[here, -1] = self._of_the_rest(shares, labels[here], other_ids[here])
            logits[each, top] = -np.inf
            second = logits.max(axis=1)
            margin[here] = own - np.where(labels[here] == top, second, first)
            planted[here, :-1] = others - np.where(
                other_ids[here] == top[:, None], second[:, None], first[:, None]
            )
        return Compared(given_prob, best, margin, planted, cosine)

    def _of_the_rest(self, shares: np.ndarray, labels: np.ndarray, other_ids: np.ndarray) -> np.ndarray:
        """The margin of a class that is neither given nor among the others, by their mean: float32 [n].

        Args:
          shares: float32 [n, C], exp(l - the largest l).
        """
        left = shares.copy()
        np.put_along_axis(left, other_ids, 0.0, axis=1)
        left[np.arange(len(left)), labels] = 0.0
        count = shares.shape[1] - other_ids.shape[1] - (~(other_ids == labels[:, None]).any(axis=1))
        mean = left.sum(axis=1) / np.maximum(count, 1)
        return np.log(np.maximum(np.where(count > 0, mean, shares.min(axis=1)), _TINY))


def update_by_texts(
    right_prob: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    margin: np.ndarray,
    planted_margin: np.ndarray,
) -> tuple[np.ndarray, tuple[float, float]]:
    """P(right) with the texts, and the weights b of what models say and c of the texts.

    Args:
      right_prob: float [N], P(right) without the texts.
      pairs: scores and shares of given and planted pairs, see `label_posterior.score_pairs`.
      margin: float [N], of the given labels.
      planted_margin: float [N, J], of the planted ones.

    Returns:
      float64 [N]; `right_prob` itself, and c = 0, where the texts say no more than chance would.
    """
    score, planted, share = pairs
    right_prob = np.asarray(right_prob, np.float64)
    if len(score) < _FEWEST:
        return right_prob, (1.0, 0.0)
    seen = fit_mixture(score, planted, share).prob(score)
    own, second = weigh_scores(score, margin, planted, planted_margin, share * seen[:, None])
    if second <= 0.0:
        return right_prob, (1.0, 0.0)
    joined = own * _near(score) + second * _near(margin)
    beside = own * _near(planted) + second * _near(planted_margin)
    moved = _logit(fit_mixture(joined, beside, share).prob(joined)) - _logit(seen)
    odds = np.clip(_logit(right_prob) + moved, _logit(_CERTAIN), -_logit(_CERTAIN))
    return 1.0 / (1.0 + np.exp(-odds)), (own, second)


def weigh_scores(
    score: np.ndarray,
    margin: np.ndarray,
    planted: np.ndarray,
    planted_margin: np.ndarray,
    planted_weight: np.ndarray,
) -> tuple[float, float]:
    """b and c of the module, neither below 0; c is 0 where it is not above two of its standard errors.

    Args:
      score, margin: float [N], of given pairs.
      planted, planted_margin: float [N, J], of planted pairs.
      planted_weight: float [N, J], how much each counts; together they count like all given ones.

    The standard error allows for the pairs of one image being alike (sandwich estimator by image).
    """
    some = slice(None, None, max(1, -(-len(score) // _LEARNED_FROM)))
    given = np.stack([np.ones(len(score[some])), _near(score[some]), _near(margin[some])], axis=1)
    other = np.stack(
        [np.ones_like(planted[some], np.float64), _near(planted[some]), _near(planted_margin[some])], axis=2
    )
    weight = planted_weight[some] * (len(given) / max(planted_weight[some].sum(), _TINY))
    found = np.zeros(3)
    for _ in range(_STEPS):  # Newton's; the prior makes for one maximum
        missed, wrong = 1.0 - _sigmoid(given @ found), weight * _sigmoid(other @ found)
        by_image = given * missed[:, None] - np.einsum("nj,njd->nd", wrong, other)
        gradient = by_image.sum(axis=0) - _PRECISION @ found
        flat = (wrong * (1.0 - _sigmoid(other @ found)))[..., None] * other
        curvature = (given * (missed * (1.0 - missed))[:, None]).T @ given + _PRECISION
        curvature += np.einsum("njd,nje->de", flat, other)
        step = np.linalg.solve(curvature, gradient)
        found = found + step * min(1.0, 1.0 / max(float(np.abs(step).max()), _TINY))
        if np.abs(step).max() < 1e-8:
            break
    inverse = np.linalg.inv(curvature)
    deviation = float(np.sqrt((inverse @ (by_image.T @ by_image) @ inverse)[2, 2]))
    own, second = max(float(found[1]), 0.0), float(found[2])
    return own, second if second > _STANDARD_ERRORS * deviation else 0.0


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """L2-normalized rows, float32; a row of zeros stays one."""
    rows = np.asarray(vectors, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)


def _near(score: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(score, np.float64), -_FARTHEST, _FARTHEST)


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -500.0, 500.0)))


def _logit(prob: np.ndarray | float) -> np.ndarray:
    prob = np.clip(np.asarray(prob, np.float64), _CERTAIN / 10, 1.0 - _CERTAIN / 10)
    return np.log(prob) - np.log1p(-prob)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where there is no text tower.

    By how much the texts of the classes change P(right), as a factor.
    """
    if instances.image_text is None:
        return None
    return instances.share_of_evidence("zero_shot", recipe)
