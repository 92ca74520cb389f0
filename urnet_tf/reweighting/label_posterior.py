"""The probability that a given label is right, and the share of wrong labels in the crawl.

In: out-of-fold probabilities. Out: P_i, calibrated without any truth: of images with P of .2 about one in
five is right (within .15 on four crawls; where wrong labels are drawn evenly from all classes, P is up to
.35 too low in the middle). The probability p of the given label says how well it predicts a label that is
itself often wrong, so it is far too low where labels are noisy or classes are many.

  s_ik = log p_ik - log max over j != k of p_ij     the score of label k on image i
  given pairs (i, y_i); planted pairs (i, k), k != y_i, which count P_i p_ik / (1 - p_iy)
  r(s) = density of given scores / density of planted scores, rising in s
  e    = min over c of  share of given scores up to c / share of planted scores up to c
  P_i  = 1 - e / r(s_i), then shifted in log-odds until mean(1 - P) = e

A label that was planted on an image whose own label is right is wrong for sure, and by the weights p_ik it
lands where such an image is most easily mistaken. So the planted pairs show what scores wrong labels
have, the lowest given scores show how many of these there are (e), and what is left are right labels.
P occurs in the weights of the planted pairs, so both are computed in turns. Nothing is drawn at random.

Source: not in the paper. Learning from positive and unlabeled examples: Elkan and Noto, 2008; the mixture
proportion from the lowest ratio of densities: Blanchard, Lee and Scott, 2010. Differs: here the known
examples are the wrong ones, and they are made.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.isotonic import isotonic_steps
from urnet_tf.reweighting.judged_labels import Anchors, Calibration, fit_calibration, unseen_share

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

_TURNS = 10  # e changes by less than .001 after four
_QUANTILES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of given scores, where c is looked for
_FEWEST = 5  # but at least as many images, of twenty and more
_PLAIN = 10  # images' worth of P as the probabilities say it, for crawls of few images
_TINY = 1e-12
_CERTAIN = 1e-3  # no image is surer than this
_MOST_SHIFT = 7.0  # of the log-odds: from .001 to .5
# Standard deviation of the estimated share around the true one beyond chance, as a constant and a share of
# the estimate: from two drawn and two simulated or relabeled crawls and one that was judged by eye.
_MODEL_ERROR = (0.03, 0.12)
_LEFT_ERROR = 0.01  # what is left of it, however many images people have judged
# The same of one class or source: with it, the truth of 89 of 89 classes of five crawls lay inside.
_GROUP_ERROR = (0.05, 0.15)


@dataclasses.dataclass(frozen=True)
class LabelPosterior:
    """What is known of the labels of N images.

    prob: float32 [N], P(the given label is right).
    wrong_share: the estimated share of wrong labels, images of no class among them.
    low, high: its 95 % interval, which covers chance and the errors measured on crawls with known truth.
    calibration: by people's judgements; None = nobody has judged.
    """

    prob: np.ndarray
    wrong_share: float
    low: float
    high: float
    calibration: Calibration | None = None

    def clean_rate(self, *, labels_seen: bool) -> dict[str, bool | float | list[float] | None]:
        """The share of right labels and its interval, for metadata.

        Args:
          labels_seen: whether the models were trained on these very labels. Wrong ones that they learned by
            heart do not show: of labels by people 41 % are wrong, and 18 % were found (8 to 30 %). So there
            is no interval, and the share of right labels is the largest that is believable.
        """
        return {
            "clean_rate_estimate": 1 - self.wrong_share,
            "clean_rate_interval": None if labels_seen else [1 - self.high, 1 - self.low],
            "labels_seen": labels_seen,
        }


def compute_label_posterior(
    given_prob: np.ndarray,
    topk_ids: np.ndarray,
    topk_probs: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    trusted: np.ndarray | None = None,
    anchors: Anchors | None = None,
) -> LabelPosterior:
    """P(the given label is right) for each image, and the share of wrong labels.

    Args:
      given_prob: float [N], out-of-fold probability of the given label.
      topk_ids: int [N, K], the likeliest classes, likeliest first.
      topk_probs: float [N, K]. What is missing to 1 is spread evenly over the other classes.
      labels: int [N].
      num_classes: C.
      trusted: bool [N], labels that people found right: P is 1, and nothing is learned from them.
      anchors: all images that people judged, the trusted ones under the labels that the crawl gave them: the
        crawl as it was is these and the images that are not trusted. P is calibrated on those of them that
        were judged by chance.

    Raises:
      ValueError: probabilities that are not finite.
    """
    labels = np.asarray(labels)
    rows = np.arange(len(labels)) if trusted is None else np.flatnonzero(~np.asarray(trusted, bool))
    prob = np.ones(len(labels))
    if not len(rows):
        return LabelPosterior(prob.astype(np.float32), 0.0, 0.0, 0.0)
    given, ids, probs, seen = (np.asarray(c)[rows] for c in (given_prob, topk_ids, topk_probs, labels))
    if anchors is not None:
        given = np.concatenate([given, anchors.given_prob])
        ids, probs = np.concatenate([ids, anchors.topk_ids]), np.concatenate([probs, anchors.topk_probs])
        seen = np.concatenate([seen, anchors.labels])
    mixture = fit_mixture(*score_pairs(given, ids, probs, seen, num_classes))
    found, share, calibration = mixture.prob(mixture.score), mixture.wrong_share, None
    model_error = _MODEL_ERROR[0] + _MODEL_ERROR[1] * share
    deviation = np.hypot(mixture.chance, model_error)
    if anchors is not None:
        found, judged = found[: len(rows)], found[len(rows) :][anchors.by_chance]
        calibration = fit_calibration(judged, anchors.right[anchors.by_chance])
        left = [calibration.share_deviation(found), model_error * unseen_share(found, judged), _LEFT_ERROR]
        found = calibration.apply(found)
        share, chance = float(np.mean(1 - found)), np.sqrt(np.mean(found * (1 - found)) / len(rows))
        deviation = min(deviation, np.linalg.norm([chance, *left]))
    prob[rows] = found
    part, margin = len(rows) / len(labels), 1.96 * float(deviation)
    low, high = max(share - margin, 0.0), min(share + margin, 1.0)
    return LabelPosterior(prob.astype(np.float32), part * share, part * low, part * high, calibration)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """P as a function of the score, and the share of wrong labels with its deviation by chance."""

    score: np.ndarray  # float64 [N], of the given labels
    places: np.ndarray  # float64 [S], rising scores
    values: np.ndarray  # float64 [S], what `right` is there
    shift: float  # of the log-odds
    wrong_share: float
    chance: float

    def prob(self, score: np.ndarray) -> np.ndarray:
        """P, float64 [n]."""
        rows = len(self.score)
        steps = rows * np.interp(score, self.places, self.values)
        return _shifted((steps + _PLAIN / (1 + np.exp(-score))) / (rows + _PLAIN), self.shift)


def fit_mixture(score: np.ndarray, planted: np.ndarray, share: np.ndarray) -> Mixture:
    """P as a function of the score, from given and planted pairs.

    Args:
      score: float [N], of given pairs, more = more probably right.
      planted: float [N, J], of labels planted on the same images.
      share: float [N, J], how much each of them counts among those of its image.
    """
    scores = np.concatenate([score, planted.ravel()])
    levels, level_of = np.unique(scores, return_inverse=True)
    own, others = level_of[: len(score)], level_of[len(score) :]
    mass = np.bincount(own, minlength=len(levels))  # of given pairs at each level
    places = np.clip(
        (np.asarray(_QUANTILES) * len(score)).astype(int), min(_FEWEST, max(len(score) // 4, 1)), len(score)
    )
    limits = np.unique(np.sort(own)[places - 1])
    given_low = np.cumsum(mass)[limits] / len(score)

    right = plain = 1 / (1 + np.exp(-score))
    for _ in range(_TURNS):
        weight = np.bincount(others, weights=(share * right[:, None]).ravel(), minlength=len(levels))
        ratios = given_low * weight.sum() / np.maximum(np.cumsum(weight)[limits], _TINY)
        best = int(ratios.argmin())
        wrong_share = (len(score) * min(ratios[best], 1.0) + _PLAIN * (1 - plain).mean()) / (
            len(score) + _PLAIN
        )
        total = mass + weight * (len(score) / max(weight.sum(), _TINY))
        among = np.clip(isotonic_steps(mass, total)[own], 1e-3, 1 - 1e-3)  # r / (1 + r)
        right = np.clip(1.0 - wrong_share * (1 - among) / among, 0.0, 1.0)
        if not right.any():
            break  # no label looks better than a planted one
    # The middles of the steps are joined, so that a better score inside of a step is not a tie.
    values, step = np.unique(right, return_inverse=True)
    middles = np.bincount(step, weights=score) / np.bincount(step)
    chance = np.sqrt(wrong_share * (1 - wrong_share) / max(given_low[best] * len(score), 1))
    found = Mixture(score, middles, values, 0.0, float(wrong_share), float(chance))
    return dataclasses.replace(found, shift=_find_shift(found.prob(score), wrong_share))


def estimate_wrong_share(right_prob: np.ndarray) -> tuple[float, float, float]:
    """The share of wrong labels among some images, like those of a class or source, and its 95 % interval.

    Args:
      right_prob: float [n], P(right) of each, n >= 1.
    """
    wrong = 1.0 - np.asarray(right_prob, np.float64)
    share = float(wrong.mean())
    chance = np.sqrt((wrong * (1 - wrong)).sum()) / len(wrong)
    error = 1.96 * float(np.hypot(chance, _GROUP_ERROR[0] + _GROUP_ERROR[1] * share))
    return share, max(share - error, 0.0), min(share + error, 1.0)


def score_pairs(
    given: np.ndarray, ids: np.ndarray, probs: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of given pairs [N]; scores and shares [N, K + 1] of planted ones, the last for all others.

    Args:
      given, ids, probs, labels, num_classes: see `compute_label_posterior`.

    Raises:
      ValueError: probabilities that are not finite.
    """
    given, probs = np.asarray(given, np.float64), np.asarray(probs, np.float64)
    if not (np.isfinite(given).all() and np.isfinite(probs).all()):
        raise ValueError("Expected finite probabilities; received NaN or infinity.")
    is_given = np.asarray(ids) == np.asarray(labels)[:, None]
    kept = probs.sum(axis=1) + np.where(is_given.any(axis=1), 0.0, given)
    rest = np.maximum(1.0 - kept, 0.0)[:, None]
    each = np.minimum(rest / max(num_classes - probs.shape[1], 1), probs[:, -1:])
    other = np.concatenate([np.where(is_given, 0.0, probs), each], axis=1).max(axis=1)
    score = np.log(given + _TINY) - np.log(other + _TINY)

    ranked = np.concatenate([probs, each], axis=1)
    best = np.maximum(ranked[:, :1], given[:, None])
    second = np.maximum(ranked[:, 1:2], given[:, None])
    rival = np.concatenate([second, np.broadcast_to(best, probs[:, 1:].shape)], axis=1)
    planted = np.log(ranked + _TINY)
    planted -= np.log(np.concatenate([rival, best], axis=1) + _TINY)
    share = np.concatenate([np.where(is_given, 0.0, probs), rest], axis=1)
    return score, planted, share / np.maximum(share.sum(axis=1, keepdims=True), _TINY)


def _find_shift(right: np.ndarray, wrong_share: float) -> float:
    """Planted scores below all given ones are in no P, so that P is too high by them: a shift of log-odds."""
    low, high = -_MOST_SHIFT, _MOST_SHIFT
    for _ in range(40):
        middle = 0.5 * (low + high)
        if np.mean(1.0 - _shifted(right, middle)) > wrong_share:
            low = middle
        else:
            high = middle
    return low


def _shifted(right: np.ndarray, shift: float) -> np.ndarray:
    right = np.clip(right, _CERTAIN, 1.0 - _CERTAIN)
    return 1.0 / (1.0 + np.exp(np.log1p(-right) - np.log(right) - shift))


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray:
    """The row of `factors.FACTORS`: float32 [N]."""
    return instances.posterior.prob
