"""What the judgements of a run tell so far, in the numbers of the page's panel."""

from typing import Any

import numpy as np

from urnet_tf.review import estimates
from urnet_tf.review.estimates import Share
from urnet_tf.review.journal import States
from urnet_tf.review.reviewed_run import ReviewedRun
from urnet_tf.review.words import show_name
from urnet_tf.reweighting import label_posterior as posterior
from urnet_tf.reweighting.judging_order import JudgingOrder, estimate_wrong_share

_CLASSES_SHOWN = 8
_Z = 1.96
# From as many images on the estimate of the drawn order is used, with an error so much wider: on two crawls
# with known truth 89 to 95 % of its own intervals held it.
_FEWEST_DRAWN, _WIDER = 30, 1.2


def summarize(run: ReviewedRun, states: States, drawn: JudgingOrder) -> dict[str, Any]:
    """The estimates; plain JSON. None where too little was judged to say anything.

    Args:
      drawn: the order of the most valuable images.
    """
    wrong_prob = 1.0 - np.asarray(run.right_prob, np.float64)
    wrong = states.sure & (states.truth != run.label)
    sampled = states.sampled & states.sure
    prior = prior_sd(run)
    count, told = _told_by_order(run, drawn, wrong, states.sure)
    share = estimates.estimate_share(wrong_prob, wrong, states.sure, sampled, prior, told)
    rests_on = int(np.count_nonzero(sampled)) + count
    return {
        "judged": int(np.count_nonzero(states.judged)),
        "images": len(run),
        "elsewhere": states.elsewhere,
        "conflicts": states.conflicts,
        "wrong": {
            **_plain(share),
            "enough": share.width <= estimates.ENOUGH_WIDTH and rests_on >= _FEWEST_DRAWN,
            "enough_width": estimates.ENOUGH_WIDTH,
            "missing": estimates.count_missing(wrong_prob, wrong, sampled, estimates.ENOUGH_WIDTH),
            "found": int(np.count_nonzero(wrong)),
            "sampled": int(np.count_nonzero(sampled)),
            "drawn": count,
        },
        "by_class": _by_class(run, states, wrong_prob, wrong, sampled),
        "accuracy": _accuracy(run, states, sampled),
        "doubt": _doubt(wrong_prob, wrong, states.sure, sampled),
    }


def _told_by_order(
    run: ReviewedRun, drawn: JudgingOrder, wrong: np.ndarray, sure: np.ndarray
) -> tuple[int, list[tuple[float, float]]]:
    """How many of the most valuable images were judged without a gap, and what they tell of the share."""
    open_places = np.flatnonzero(~sure[drawn.order])
    count = int(open_places[0]) if len(open_places) else len(run)
    if count < _FEWEST_DRAWN:
        return 0, []
    share, low, high = estimate_wrong_share(drawn, wrong[drawn.order[:count]], run.right_prob)
    error = max(high - share, share - low) / _Z * _WIDER
    return count, [(share, max(error, 1e-3))]


def prior_sd(run: ReviewedRun) -> float | None:
    """Standard deviation of the run's own estimate of the share; None where it tells no interval."""
    between = run.reweighting.get("clean_rate_interval")
    return None if not between else max(float(between[1] - between[0]) / (2 * _Z), 1e-3)


def _plain(share: Share) -> dict[str, Any]:
    return {"share": share.share, "low": share.low, "high": share.high}


def _by_class(
    run: ReviewedRun, states: States, wrong_prob: np.ndarray, wrong: np.ndarray, sampled: np.ndarray
) -> list[dict[str, Any]]:
    """The classes of which most was judged."""
    judged = np.bincount(run.label[states.judged], minlength=run.num_classes)
    order = np.argsort(-judged, kind="stable")[:_CLASSES_SHOWN]
    found = []
    for label in order[judged[order] > 0].tolist():
        rows = slice(run.bounds[label], run.bounds[label + 1])
        _, low, high = posterior.estimate_wrong_share(run.right_prob[rows])
        prior = max((high - low) / (2 * _Z), 0.02)
        share = estimates.estimate_share(
            wrong_prob[rows], wrong[rows], states.sure[rows], sampled[rows], prior
        )
        entry = {"label": label, "name": show_name(run.names[label]), "judged": int(judged[label])}
        found.append({**entry, **_plain(share)})
    return found


def _accuracy(run: ReviewedRun, states: States, sampled: np.ndarray) -> dict[str, Any] | None:
    """How often the predicted class is what people say, among images that show one of the classes."""
    known = states.truth >= 0
    at_random = bool(np.count_nonzero(known & sampled) >= estimates.FEWEST)
    rows = np.flatnonzero(known & sampled if at_random else known)
    if len(rows) < estimates.FEWEST:
        return None
    share = estimates.share_of(run.predicted[rows] == states.truth[rows])
    return {**_plain(share), "images": len(rows), "at_random": at_random}


def _doubt(
    wrong_prob: np.ndarray, wrong: np.ndarray, sure: np.ndarray, sampled: np.ndarray
) -> dict[str, Any] | None:
    """How well the doubt of the models tells wrong labels from right ones."""
    for rows, at_random in ((sampled, True), (sure, False)):
        area = estimates.auroc_of(wrong_prob[rows], wrong[rows])
        if area is not None:
            return {**_plain(area), "images": int(np.count_nonzero(rows)), "at_random": at_random}
    return None
