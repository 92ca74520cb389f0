"""What people's judgements tell of labels that nobody judged: P(right), calibrated on the judged ones.

In: P_i as the models see it (`label_posterior`) of judged images, from models that did not see them, and
whether their given labels were right. Out: two numbers that set P right,

  logit P'_i = a + b logit P_i        a ~ N(0, .6^2), b ~ N(1, .3^2) before anybody has judged

at their most probable values. The priors are as wide as P was off on crawls of known truth (within .15 in the
middle), so a few judgements move little, and hundreds decide. Only images that were judged by chance count:
what was chosen for being doubtful is wrong more often than others of the same P, since models err on it once
and, fitted again, not twice. By 200 of the most doubtful labels of a crawl, 97 % of them wrong, P of all
others fell until 69 % instead of 30 % seemed wrong.

Source: not in the paper. Platt, Probabilistic outputs for support vector machines, 1999; with priors and the
normal approximation of what is left unknown, MacKay, 1992.
"""

import dataclasses

import numpy as np

_PRIOR_MEAN = np.array([0.0, 1.0])
_PRIOR_DEVIATION = np.array([0.6, 0.3])
_STEPS = 50
_NEAREST = 1e-3  # as `label_posterior` has it
_LARGEST_STEP = 1.0
_BINS, _HALF_SEEN = 10, 5


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Judged images, each under the label that the crawl gave it.

    labels: int [m], the given ones.
    given_prob: float [m]; topk_ids: int [m, K]; topk_probs: float [m, K]: what models predict that did not
      see the image, as `label_posterior.compute_label_posterior` takes it.
    right: bool [m], whether people found the given label right.
    by_chance: bool [m], whether the image was judged whatever the models say of it.
    """

    labels: np.ndarray
    given_prob: np.ndarray
    topk_ids: np.ndarray
    topk_probs: np.ndarray
    right: np.ndarray
    by_chance: np.ndarray


def describe_anchors(
    labels: np.ndarray,
    topk_ids: np.ndarray,
    topk_probs: np.ndarray,
    right: np.ndarray,
    by_chance: np.ndarray,
    *,
    num_classes: int,
) -> Anchors:
    """Anchors of which only the likeliest classes are known; what is missing to 1 is spread over others."""
    labels, probs = np.asarray(labels), np.asarray(topk_probs, np.float64)
    is_given = np.asarray(topk_ids) == labels[:, None]
    rest = np.maximum(1 - probs.sum(axis=1), 0.0) / max(num_classes - probs.shape[1], 1)
    given = np.where(is_given.any(axis=1), (probs * is_given).sum(axis=1), np.minimum(rest, probs[:, -1]))
    found = np.asarray(right, bool), np.asarray(by_chance, bool)
    return Anchors(labels, given, np.asarray(topk_ids), probs, *found)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How P is set right.

    offset, slope: a and b.
    covariance: float [2, 2], of both.
    judged: images that it rests on.
    """

    offset: float
    slope: float
    covariance: np.ndarray
    judged: int

    def apply(self, prob: np.ndarray) -> np.ndarray:
        """P', float64 [N]."""
        return 1.0 / (1.0 + np.exp(-self.offset - self.slope * _logit(prob)))

    def share_deviation(self, prob: np.ndarray) -> float:
        """The standard deviation of mean(1 - P') that is left, by what is not known of a and b.

        Args:
          prob: float [N], P.
        """
        changed = self.apply(prob)
        slopes = changed * (1 - changed)
        gradient = np.array([slopes.mean(), (slopes * _logit(prob)).mean()])
        return float(np.sqrt(gradient @ self.covariance @ gradient))


def fit_calibration(prob: np.ndarray, right: np.ndarray) -> Calibration:
    """The most probable a and b.

    Args:
      prob: float [m], P of judged images; m may be 0.
      right: bool [m].
    """
    design = np.stack([np.ones(len(prob)), _logit(prob)], axis=1)
    precision = np.diag(_PRIOR_DEVIATION**-2.0)
    found = _PRIOR_MEAN.copy()
    for _ in range(_STEPS):  # Newton's; the posterior has one maximum
        fitted = 1.0 / (1.0 + np.exp(-design @ found))
        gradient = design.T @ (np.asarray(right, np.float64) - fitted) - precision @ (found - _PRIOR_MEAN)
        curvature = (design * (fitted * (1 - fitted))[:, None]).T @ design + precision
        step = np.linalg.solve(curvature, gradient)
        found = found + step * min(1.0, _LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(float(found[0]), float(found[1]), np.linalg.inv(curvature), len(prob))


def unseen_share(prob: np.ndarray, judged: np.ndarray) -> float:
    """How much of a crawl nobody has looked at, from 1 to near 0: a and b are guesses there.

    A tenth of the crawl, by P, is seen half with five judged images in it.

    Args:
      prob: float [N], P of images that nobody judged.
      judged: float [m], P of judged ones.

    >>> unseen_share(np.linspace(0, 1, 101), np.full(5, 0.02))
    0.95
    """
    edges = np.quantile(prob, np.linspace(0, 1, _BINS + 1)[1:-1])
    counts = np.bincount(np.searchsorted(edges, judged), minlength=_BINS)
    return float(np.mean(_HALF_SEEN / (_HALF_SEEN + counts)))


def _logit(prob: np.ndarray) -> np.ndarray:
    prob = np.clip(np.asarray(prob, np.float64), _NEAREST, 1.0 - _NEAREST)
    return np.log(prob) - np.log1p(-prob)
