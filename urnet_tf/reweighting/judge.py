"""The judge: what a classifier fitted without an image says about it, calibrated on the given labels.

In: features [N, D] and the given, partly wrong labels. Out: the out-of-fold probability of the given label,
the likeliest classes, and the judge's head fitted to all images. Linear discriminant analysis, logistic
regression, or the mean of their log-probabilities; each with the strength of regularization at which
it agrees best with the labels of images that it did not see.

Source: not in the paper.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_moments import check_folds, deal_folds, sum_moments
from urnet_tf.reweighting.discriminant import PRIORS, fit_discriminant
from urnet_tf.reweighting.linear_head import LinearHead, check_rows, check_weight, read_blocks
from urnet_tf.reweighting.logistic import LogisticProblem, takes_hours

KINDS, AUTO = ("discriminant", "logistic", "mean"), "auto"
CRITERIA = ("agreement", "likelihood")
# What is tried, from strong to weak, and where to begin: most crawls end up within two places of it.
SHRINKAGES = (0.98, 0.94, 0.89, 0.8, 0.67, 0.5, 0.33, 0.2, 0.1, 0.03)
FIRST_SHRINKAGE = 0.8
STRENGTHS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
FIRST_STRENGTH = 3e-4
_SCORED_VALUES = 30_000_000  # features or logits held while a strength is chosen; more images are thinned out


@dataclasses.dataclass(frozen=True)
class StrengthScore:
    """How well one strength of regularization predicts the given labels out of fold, every class alike.

    strength: the shrinkage, or the strength of logistic regression.
    agreement: the share of images whose likeliest class is the given one.
    likelihood: the mean log-probability of the given label, in nats, at the best temperature.
    temperature: the best one, by which logits are divided.
    """

    strength: float
    agreement: float
    likelihood: float
    temperature: float


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judge says out of fold, and the judge itself.

    given_prob: float32 [N], the probability of the given label; classes count as equally frequent.
    topk_ids: int32 [N, K], topk_probs: float32 [N, K], the likeliest classes first.
    log_odds: float32 [N], log(given_prob / probability of the likeliest other class).
    folds: int64 [N], the fold whose head said it: the one that was fitted without the image.
    heads: one a fold, fitted without it, and last that of all images; the temperature is folded in.
    scores: by kind of head, what each strength that was tried did.
    strengths: by kind of head, the one that was chosen.
    agreement, likelihood: of the judge, like those of `StrengthScore`.
    """

    given_prob: np.ndarray
    topk_ids: np.ndarray
    topk_probs: np.ndarray
    log_odds: np.ndarray
    folds: np.ndarray
    heads: tuple[LinearHead, ...]
    scores: dict[str, list[StrengthScore]]
    strengths: dict[str, float]
    agreement: float
    likelihood: float

    @property
    def head(self) -> LinearHead:
        """The head of all images."""
        return self.heads[-1]


def out_of_fold_predictions(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    folds: int | np.ndarray = 5,
    num_classes: int | None = None,
    kind: str = "mean",
    top_k: int = 5,
    sample_weight: np.ndarray | None = None,
    trust: np.ndarray | None = None,
    targets: tuple[np.ndarray, np.ndarray] | None = None,
    priors: str = "equal",
    criterion: str | None = None,
) -> Judgement:
    """Judges every image by heads that were fitted without its fold, and fits the judge to all images.

    The strength of regularization is the best one by the criterion; one temperature, common to all
    images, makes the given labels likeliest out of fold. As these are partly wrong, the probabilities are
    those of the *given* label: with a share e of wrong labels they stay near 1 - e where the judge is sure.
    Criterion and temperature count every class alike, and nothing depends on a seed. A class all of whose
    images lie in one fold is unknown to the judge of that fold: its given_prob is near 0 there.

    Example:
      >>> import numpy as np, urnet_tf
      >>> features = np.repeat(np.eye(2), 10, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(20, 2))
      >>> labels = np.repeat([0, 1], 10)
      >>> labels[3] = 1  # a wrong one
      >>> judgement = urnet_tf.out_of_fold_predictions(features, labels, folds=2)
      >>> int(judgement.given_prob.argmin()), judgement.topk_ids[3].tolist()
      (3, [0, 1])

    Args:
      features: float16, float32 or float64 [N, D]; a memory map is read block by block.
      labels: int [N]. The criterion and the temperature always rest on them, each counting the same.
      folds: how many, dealt by `deal_folds`, or int [N] from 0 (copies of a file in the same fold, say).
      num_classes: None = the largest label + 1.
      kind: "discriminant", "logistic" or "mean", the mean of the log-probabilities of both; "auto": the mean,
        but the discriminant where `logistic.takes_hours`.
      top_k: how many of the likeliest classes are kept; num_classes = all probabilities.
      sample_weight: float [N], 0 or more, of each image in the fits.
      trust: float [N], 0 or more, what each label counts for the temperature; None = all alike. As labels
        are partly wrong, probabilities are too low by the share of wrong ones, unless these count little.
      targets: (ids int [N, K], probabilities float [N, K]) to fit instead of the labels; "logistic" only.
      priors: "equal" counts classes as equally frequent, "empirical" as frequent as their weights.
      criterion: "agreement" with the given labels or their "likelihood", both the mean over classes; None =
        agreement for the discriminant, likelihood for logistic regression. On samples of 1,500 images
        of five crawls the likelihood chose better strengths of logistic regression everywhere (up to 1.4
        points of balanced test accuracy); of the discriminant, neither was better.

    Raises:
      UsageError: arguments that do not fit each other, fewer than two classes or folds with images, NaN or
        infinity among features or weights.
    """
    labels, num_classes = check_rows(features, labels, num_classes)
    _check_choices(kind, criterion or CRITERIA[0], priors, targets)
    kind = settle_kind(kind, len(labels), features.shape[1], num_classes)
    folds = _open_folds(labels, folds)
    moments = sum_moments(features, labels, num_classes=num_classes, folds=folds, sample_weight=sample_weight)
    scorer = _Scorer(features, labels, folds, num_classes)
    certain = None if trust is None else check_weight(trust, len(labels))
    chosen, scores, strengths = [], {}, {}
    if kind != "logistic":

        def fit_shrunk(shrinkage: float, fold: int | None, start: LinearHead | None) -> LinearHead:
            return fit_discriminant(moments, shrinkage=shrinkage, without_fold=fold, priors=priors)

        heads, scores["discriminant"], strengths["discriminant"] = scorer.choose(
            SHRINKAGES, FIRST_SHRINKAGE, fit_shrunk, criterion or "agreement"
        )
        chosen.append(heads)
    if kind != "discriminant":
        problem = LogisticProblem(
            features,
            labels,
            num_classes=num_classes,
            folds=folds,
            sample_weight=sample_weight,
            targets=targets,
            prior_logits=None if priors == "equal" else np.zeros(num_classes),
            moments=moments,
        )

        def fit_penalized(strength: float, fold: int | None, start: LinearHead | None) -> LinearHead:
            tolerance = 1e-3 if fold is None else 1e-2
            return problem.fit(strength, without_fold=fold, start=start, tolerance=tolerance)

        heads, scores["logistic"], strengths["logistic"] = scorer.choose(
            STRENGTHS, FIRST_STRENGTH, fit_penalized, criterion or "likelihood"
        )
        chosen.append(heads)
    heads = [mean_head(several) for several in zip(*chosen, strict=True)]
    result = scorer.score(heads)
    temperature = result.temperature if certain is None else scorer.temperature(heads, certain)
    heads = [head.scaled(temperature) for head in heads]
    given, ids, probs, odds = _predict(features, labels, folds, heads, min(top_k, num_classes))
    return Judgement(
        given, ids, probs, odds, folds, tuple(heads), scores, strengths, result.agreement, result.likelihood
    )


def settle_kind(kind: str, images: int, width: int, num_classes: int) -> str:
    """What "auto" is for a crawl of this size; all others are what they are."""
    if kind != AUTO:
        return kind
    return "discriminant" if takes_hours(images, width, num_classes) else "mean"


def seen_predictions(
    judgement: Judgement, features: np.ndarray, labels: np.ndarray, *, top_k: int = 5
) -> Judgement:
    """What the head of all images says about the images that it was fitted to: one fold, nothing out of it.

    A head that has seen a label agrees with it more often than one that has not. The paper's predictions are
    of this kind (Sec. 4.2, the matrix M, and Eq. 10); the strength of regularization is still the one that
    was best out of fold.

    Args:
      judgement: of these features and labels.
      features: float [N, D].
      labels: int [N].
      top_k: how many of the likeliest classes are kept.
    """
    folds, head = np.zeros(len(labels), np.int64), judgement.head
    kept = min(top_k, len(head.bias))
    given, ids, probs, odds = _predict(features, np.asarray(labels), folds, [head], kept)
    return dataclasses.replace(
        judgement, given_prob=given, topk_ids=ids, topk_probs=probs, log_odds=odds, folds=folds
    )


def predict_others(
    judgement: Judgement, features: np.ndarray, *, top_k: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """What the heads of the folds say of images that none of them was fitted to, each asked about some.

    Args:
      features: float [m, D].
      top_k: how many of the likeliest classes are kept.

    Returns:
      ids int32 [m, K] and probabilities float32 [m, K], the likeliest classes first.
    """
    heads = judgement.heads[:-1]
    folds, labels = np.arange(len(features)) % len(heads), np.zeros(len(features), np.int64)
    kept = min(top_k, len(judgement.head.bias))
    _, ids, probs, _ = _predict(np.asarray(features), labels, folds, heads, kept)
    return ids, probs


def mean_head(heads: Sequence[LinearHead]) -> LinearHead:
    """The head whose logits are the mean of the heads' logits: the mean of their log-probabilities."""
    return LinearHead(
        np.mean([head.kernel for head in heads], axis=0, dtype=np.float64).astype(heads[0].kernel.dtype),
        np.mean([head.bias for head in heads], axis=0, dtype=np.float64).astype(heads[0].bias.dtype),
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The temperature T at which softmax(logits / T) makes the labels likeliest, and their log-likelihood.

    Args:
      logits: float [n, C].
      labels: int [n].
      weight: float [n], what each label counts.
    """
    from scipy import optimize

    logits = logits - logits.max(axis=1, keepdims=True)
    spread = float(np.abs(logits).max())
    given = logits[np.arange(len(labels)), labels].astype(np.float64)
    weight = weight / weight.sum()

    def surprise(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        sums = np.exp(logits * logits.dtype.type(scale)).sum(axis=1)
        return float(weight @ (np.log(sums) - given * scale))

    if not spread > 0:
        return 1.0, -surprise(0.0)  # all classes are alike at every temperature
    bounds = np.log(spread) + np.log([1e-3, 10.0])
    found = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)), -float(found.fun)


class _Scorer:
    """Rates heads by the labels of images that they did not see, every class alike."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, folds: np.ndarray, num_classes: int):
        # An image of a class that is unknown outside of its fold can tell nothing of strengths.
        by_fold = np.zeros((int(folds.max()) + 1, num_classes))
        np.add.at(by_fold, (folds, labels), 1.0)
        known = np.flatnonzero((by_fold.sum(axis=0) > by_fold)[folds, labels])
        most = max(_SCORED_VALUES // max(num_classes, features.shape[1]), 1000)
        if len(known) > most:  # evenly from each class, whatever the order of the images
            by_class = known[np.argsort(labels[known], kind="stable")]
            known = np.sort(by_class[np.linspace(0, len(known) - 1, most).astype(np.int64)])
        if not len(known):
            raise UsageError(
                "Expected a class with images in two folds; received none, so that no head can be compared "
                "with a label. Give more images a class, or other folds."
            )
        self._rows = known
        self._features = np.concatenate([block for _, block in read_blocks(features, known)])
        self._labels, self._folds = labels[known], folds[known]
        sizes = np.bincount(self._labels, minlength=num_classes)
        self._weight = 1.0 / (sizes[self._labels] * np.count_nonzero(sizes))
        self._num_classes = num_classes
        self._num_folds = len(by_fold)

    def score(self, heads: Sequence[LinearHead], strength: float = np.nan) -> StrengthScore:
        """Scores one head a fold; more of them are not looked at."""
        logits = self._logits(heads)
        agreement = min(float(self._weight @ (logits.argmax(axis=1) == self._labels)), 1.0)
        temperature, likelihood = fit_temperature(logits, self._labels, self._weight)
        return StrengthScore(strength, agreement, likelihood, temperature)

    def temperature(self, heads: Sequence[LinearHead], trust: np.ndarray) -> float:
        """The temperature at which the trusted labels are likeliest; trust float [N], of all images."""
        weight = self._weight * trust[self._rows]
        if not weight.any():
            return 1.0  # nobody to ask
        return fit_temperature(self._logits(heads), self._labels, weight)[0]

    def _logits(self, heads: Sequence[LinearHead]) -> np.ndarray:
        logits = np.empty((len(self._labels), self._num_classes), np.float32)
        for fold in np.unique(self._folds):
            here = self._folds == fold
            logits[here] = heads[fold].logits(self._features[here])
        return logits

    def choose(
        self, grid: Sequence[float], first: float, fit: Callable[..., LinearHead], criterion: str
    ) -> tuple[list[LinearHead], list[StrengthScore], float]:
        """Climbs along the grid from `first` to where the criterion is best: first weaker, else stronger.

        Returns:
          The heads without each fold and, last, of all images, with their temperature folded in; and the
          scores of all strengths on the way; and the strength chosen.
        """
        place = grid.index(first)
        tried = {place: self._try(grid[place], fit, [None] * self._num_folds)}
        for step in (1, -1):
            while 0 <= place + step < len(grid) and place + step not in tried:
                best = tried[place]
                tried[place + step] = self._try(grid[place + step], fit, best[1])
                if getattr(tried[place + step][0], criterion) <= getattr(best[0], criterion):
                    break
                place += step
                tried = {at: (score, heads if at == place else []) for at, (score, heads) in tried.items()}
        score, heads = tried[place]
        heads = [*heads, fit(grid[place], None, mean_head(heads))]
        return (
            [head.scaled(score.temperature) for head in heads],
            [tried[at][0] for at in sorted(tried)],
            grid[place],
        )

    def _try(
        self, strength: float, fit: Callable[..., LinearHead], starts: Sequence[LinearHead | None]
    ) -> tuple[StrengthScore, list[LinearHead]]:
        heads = [fit(strength, fold, starts[fold]) for fold in range(self._num_folds)]
        return self.score(heads, strength), heads


def _open_folds(labels: np.ndarray, folds: int | np.ndarray) -> np.ndarray:
    """int64 [N], of at least two folds and classes."""
    if np.ptp(labels) == 0:
        raise UsageError(
            f"Expected images of at least two classes; received {len(labels)} of class {labels[0]} alone. "
            "There is nothing to tell apart."
        )
    if isinstance(folds, np.ndarray) and folds.ndim:
        folds = check_folds(folds, len(labels))
    else:
        folds = deal_folds(labels, int(folds))
    if np.ptp(folds) == 0:
        raise UsageError(
            f"Expected at least two folds with images; received fold {folds[0]} for all {len(labels)}. "
            "Set folds to 2 or more."
        )
    return folds


def _check_choices(
    kind: str, criterion: str, priors: str, targets: tuple[np.ndarray, np.ndarray] | None
) -> None:
    for name, value, known in (
        ("kind", kind, (*KINDS, AUTO)),
        ("criterion", criterion, CRITERIA),
        ("priors", priors, PRIORS),
    ):
        if value not in known:
            raise UsageError(f"Expected {name} of {', '.join(known)}; received {value!r}.")
    if targets is not None and kind != "logistic":
        raise UsageError(
            f"Expected targets with kind='logistic' only; received them with {kind!r}, which fits the labels."
        )


def _predict(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, heads: Sequence[LinearHead], top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    count = len(labels)
    given, odds = np.empty(count, np.float32), np.empty(count, np.float32)
    ids, probs = np.empty((count, top_k), np.int32), np.empty((count, top_k), np.float32)
    for rows, block in read_blocks(features):
        logits = np.empty((len(rows), len(heads[0].bias)), np.float32)
        for fold in np.unique(folds[rows]):
            here = folds[rows] == fold
            logits[here] = heads[fold].logits(block[here])
        logits -= logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        best = np.argpartition(-log_probs, top_k - 1, axis=1)[:, :top_k]
        values = np.take_along_axis(log_probs, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids[rows] = np.take_along_axis(best, order, axis=1)
        probs[rows] = np.exp(np.take_along_axis(values, order, axis=1))
        here = np.arange(len(rows))
        own = log_probs[here, labels[rows]]
        log_probs[here, labels[rows]] = -np.inf
        given[rows], odds[rows] = np.exp(own), own - log_probs.max(axis=1)
    return given, ids, probs, odds
