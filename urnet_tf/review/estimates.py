"""What judgements tell of a crawl: the share of wrong labels, how good the models are, how good our doubt is.

The share of wrong labels joins what the models say of every image with what was found in the random sample.
With p_i the probability that label i is wrong, w_i = 1 where a person found it wrong and b the error of the
models' mean,

    share = (sum over judged of w_i + sum over the others of (p_i + b)) / N
    b     ~ Normal(0, s0)                     before: s0 from the interval that comes with the run
    mean over the sample of (w_i - p_i)  ~ Normal(b, s^2 / n * (1 - n / N))

so that one judgement moves the estimate little, three hundred carry it alone, and chosen images, which are no
sample, count as what they are and say nothing of others.

Source: not in the paper. The difference estimator of survey sampling (Cochran, Sampling Techniques, 1977,
7.9), lately known as prediction-powered inference (Angelopoulos et al., Science 382, 2023), with a prior.
"""

import dataclasses

import numpy as np

from urnet_tf.evaluation.metrics import auroc

ENOUGH_WIDTH = 0.06  # of the 95 % interval of the share of wrong labels: then the sample is large enough
FEWEST = 5  # images of either kind from which an AUROC is told, and images from which an accuracy is
_Z = 1.96
_UNKNOWN = 0.25  # s0 where a run tells no interval
_PRIOR_ROWS = 4.0  # images' worth of what the models expect of (w - p)^2
_LEAST_VARIANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Share:
    """A share with its 95 % interval.

    share, low, high: 0 to 1.
    sampled: images of the random sample that it rests on.
    """

    share: float
    low: float
    high: float
    sampled: int = 0

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low


def estimate_share(
    wrong_prob: np.ndarray, wrong: np.ndarray, judged: np.ndarray, sampled: np.ndarray, prior_sd: float | None
) -> Share:
    """The share of wrong labels among some images; see the module.

    Args:
      wrong_prob: float [n], of each.
      wrong: bool [n], what people found; read where `judged`.
      judged: bool [n], where they were sure.
      sampled: bool [n], judged ones of a random sample of these images.
      prior_sd: s0.
    """
    total = len(wrong_prob)
    if not total:
        return Share(float("nan"), 0.0, 1.0)
    probs = np.asarray(wrong_prob, np.float64)
    prior = prior_sd if prior_sd is not None else _UNKNOWN
    bias, error = _posterior_of_bias(
        np.asarray(wrong, np.float64)[sampled] - probs[sampled], probs, total, prior
    )
    left = ~judged
    share = (np.count_nonzero(wrong & judged) + probs[left].sum() + bias * left.sum()) / total
    error *= left.sum() / total
    low, high = np.clip([share - _Z * error, share + _Z * error], 0.0, 1.0)
    return Share(float(np.clip(share, 0.0, 1.0)), float(low), float(high), int(sampled.sum()))


def _posterior_of_bias(
    differences: np.ndarray, probs: np.ndarray, total: int, prior_sd: float
) -> tuple[float, float]:
    """b and its standard deviation."""
    count = len(differences)
    if not count:
        return 0.0, prior_sd
    expected = max(float((probs * (1 - probs)).mean()), _LEAST_VARIANCE)
    centered = np.square(differences - differences.mean()).sum()
    variance = (centered + _PRIOR_ROWS * expected) / (count - 1 + _PRIOR_ROWS)
    of_mean = max(variance / count * (1 - count / total), 1e-12)
    precision = 1 / prior_sd**2 + 1 / of_mean
    return float(differences.mean() / of_mean / precision), float(precision**-0.5)


def count_missing(
    wrong_prob: np.ndarray, wrong: np.ndarray, sampled: np.ndarray, prior_sd: float | None, width: float
) -> int:
    """About how many more random images make the interval as narrow as `width`.

    Args: as of `estimate_share`.
    """
    probs, total = np.asarray(wrong_prob, np.float64), len(wrong_prob)
    differences = np.asarray(wrong, np.float64)[sampled] - probs[sampled]
    count = len(differences)
    expected = max(float((probs * (1 - probs)).mean()), _LEAST_VARIANCE)
    centered = np.square(differences - differences.mean()).sum() if count else 0.0
    variance = (centered + _PRIOR_ROWS * expected) / max(count - 1 + _PRIOR_ROWS, 1.0)
    prior = prior_sd if prior_sd is not None else _UNKNOWN
    wanted = (2 * _Z / width) ** 2 - 1 / prior**2  # precision that the sample has to bring
    if wanted <= 0:
        return 0
    # count / (variance (1 - count / total)) = wanted
    needed = wanted * variance / (1 + wanted * variance / total)
    return max(int(np.ceil(needed)) - count, 0)


def share_of(hits: np.ndarray) -> Share:
    """The share of hits among images that were drawn at random, with Wilson's interval: NaN without any."""
    count = len(hits)
    if not count:
        return Share(float("nan"), 0.0, 1.0)
    share = float(np.mean(hits))
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    error = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Share(share, float(max(middle - error, 0.0)), float(min(middle + error, 1.0)), count)


def auroc_of(wrong_prob: np.ndarray, wrong: np.ndarray) -> Share | None:
    """How well doubt tells wrong labels from right ones; None where either are fewer than `FEWEST`.

    Args:
      wrong_prob: float [n].
      wrong: bool [n].

    Source: the error after Hanley and McNeil, Radiology 143, 1982, at an area that one pair more on either
    side has moved away from 1, where it would be 0.
    """
    many, few = int(np.sum(wrong)), int(np.sum(~wrong))
    if min(many, few) < FEWEST:
        return None
    area = auroc(wrong_prob, wrong)
    a = (area * many * few + 0.5) / (many * few + 1)
    a = min(max(a, 0.5 / (min(many, few) + 1)), 1 - 0.5 / (min(many, few) + 1))
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (many - 1) * (q1 - a * a) + (few - 1) * (q2 - a * a)) / (many * few)
    error = _Z * float(np.sqrt(variance))
    return Share(area, max(area - error, 0.0), min(area + error, 1.0), many + few)
