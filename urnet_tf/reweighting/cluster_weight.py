"""Cluster weights against diversity inside and similarity between classes (Sec. 4.2, Eq. 5-6).

For every class: k-means over the features of the class and the classes it is most confused with; an
instance gets the weight of its group. In: predictions of the baseline, class-sorted
features [N, D] on disk. Out: a group and a weight an instance.

  size:    n_g / n                 the group's share of everything clustered (paper)
  purity:  own_g / n_g             the share of the group that carries the class's own label
  quality: mean quality of the class's own members
  density: n_g / (n s_g)           s_g = mean squared distance to the group's center
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.executors import Executor, InProcess, Job
from urnet_tf.reweighting import REPAIRED, is_literal
from urnet_tf.reweighting.combine import scale_to_class_mean
from urnet_tf.reweighting.instance_weight import normalized
from urnet_tf.reweighting.units import OpenUnits, open_in_memory

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

Slice = tuple[int, int]

IN_PROCESS = InProcess()

_FEW_ROWS = 64
# Of more rows PCA sees as many, evenly spaced: of 16,000 x 1,280 it took 20 to 40 times as long as k-means.
PCA_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of one class."""

    group: np.ndarray  # int32 [n]: group of each of the class's own instances
    size: np.ndarray  # int64 [k]: members from all of the classes
    own: np.ndarray  # int64 [k]: members from the class itself
    spread: np.ndarray  # float64 [k]: mean squared distance to the center


@dataclasses.dataclass(frozen=True)
class Members:
    """Who is in the groups of one class, instances of its neighbors among them; every column has n rows."""

    ids: np.ndarray  # int64 [n]: first the class's own instances
    num_own: int
    group: np.ndarray  # int32 [n]
    distance: np.ndarray  # float64 [n]: squared, to the center of the group


def confusion_from_predictions(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """How many instances of class i were predicted as class j: int32 [C, C] (100 MB at C = 5000).

    Source: Sec. 4.2, the matrix M.
    Differs: `predicted` may come from models that did not see the image (`baseline.folds` above 1).
    """
    pairs = np.asarray(labels, np.int64) * num_classes + predicted
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int32)


def most_confused(confusion: np.ndarray, *, neighbors: int, direction: str = "both") -> np.ndarray:
    """The classes that every class is most confused with.

    Equal counts go to the smaller class id, so there are always min(neighbors, C - 1) of them.

    Args:
      confusion: int [C, C], see `confusion_from_predictions`.
      direction: "row": images of the class that are taken for another; "both": also images of the other
        that are taken for this class.

    Returns:
      int32 [C, min(neighbors, C - 1)], most confused first.

    Raises:
      ValueError: an unknown direction.

    Source: Sec. 4.2, row j of M: "row".
    Differs: "both" also finds the classes whose images lie among those of this class.
    Reading: the paper does not say what happens to equal counts, or to a class that is confused with fewer
    than four others: classes that were never predicted fill the places.
    """
    if direction not in ("both", "row"):
        raise ValueError(f"Expected the direction both or row; received {direction!r}.")
    num_classes = len(confusion)
    count = min(neighbors, num_classes - 1)
    chosen = np.empty((num_classes, count), np.int32)
    for label in range(num_classes):
        mistakes = confusion[label].astype(np.int64)
        if direction == "both":
            mistakes += confusion[:, label]
        mistakes[label] = -1
        chosen[label] = np.argsort(-mistakes, kind="stable")[:count]
    return chosen


def compute_groups(
    features: np.ndarray,
    num_own: int,
    *,
    clusters: int,
    pca_dim: int | None,
    n_init: int,
    seed: int,
    normalize: bool = True,
) -> Groups:
    """k-means over the features of a class (the first `num_own` rows) and of its neighbors.

    One thread and a given seed: the result repeats bitwise. Fewer distinct points than `clusters`
    make as many groups as there are points.

    Args:
      features: float [n, D]; float16 is cast to float32 (scikit-learn would go to float64).
      pca_dim: principal components kept before k-means, or None for all features (see `PCA_ROWS`).
      n_init: how often k-means starts; the start with the smallest sum of squares counts.
      normalize: whether features are L2-normalized, or taken as they are.

    Source: Sec. 4.2: `clusters` 5, `pca_dim` None, `normalize` False.
    Differs: else features are L2-normalized, and reduced by PCA to be ten times faster.
    Reading: the paper says nothing of starts; these are k-means++ ones, `n_init` of them.
    """
    group, squared, count = _run_kmeans(features, clusters, pca_dim, n_init, seed, normalize)
    size = np.bincount(group, minlength=count)
    spread = np.bincount(group, weights=squared, minlength=count) / np.maximum(size, 1)
    own = np.bincount(group[:num_own], minlength=count)
    return Groups(group[:num_own], size, own, spread)


def _run_kmeans(
    features: np.ndarray, clusters: int, pca_dim: int | None, n_init: int, seed: int, normalize: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """The group int32 [n], the squared distance to its center float64 [n], and how many groups there are."""
    import sklearn.cluster
    import threadpoolctl

    points = normalized(features) if normalize else np.asarray(features, np.float32)
    clusters = _count_distinct(points, at_most=clusters)
    with threadpoolctl.threadpool_limits(1):
        if pca_dim is not None and pca_dim < min(points.shape):
            points = _reduce(points, pca_dim, seed)
        if clusters <= 1:
            group, centers = np.zeros(len(points), np.int32), points[:1]
        else:
            kmeans = sklearn.cluster.KMeans(clusters, n_init=n_init, algorithm="lloyd", random_state=seed)
            fitted = kmeans.fit(points)
            group, centers = fitted.labels_.astype(np.int32), fitted.cluster_centers_
    squared = np.square(points - centers[group], dtype=np.float64).sum(axis=1)
    return group, squared, len(centers)


def _reduce(points: np.ndarray, pca_dim: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    if len(points) <= PCA_ROWS:
        reduced = PCA(pca_dim, svd_solver="randomized", random_state=seed).fit_transform(points)
    else:
        chosen = points[
            np.linspace(0, len(points) - 1, PCA_ROWS).astype(np.int64)
        ]  # from each class its share
        # k-means needs most of the variance, not each component exactly: two iterations instead of seven.
        reduce = PCA(pca_dim, svd_solver="randomized", iterated_power=2, random_state=seed).fit(chosen)
        reduced = reduce.transform(points)
    return np.ascontiguousarray(reduced)


def cluster_class(
    label: int, slices: Sequence[Slice], *, features: np.ndarray | str, seed: int, settings: Mapping
) -> Groups:
    """The groups of one class; depends on nothing but its arguments.

    Args:
      slices: rows of the features: first those of the class, then those of its neighbors.
      features: float [N, D], or the path of a `.npy` file that holds them.
      seed: of the run; the class draws its own from it.
      settings: clusters, pca_dim, n_init and normalize of `compute_groups`.
    """
    points = _read_points(features, slices)
    return compute_groups(points, slices[0][1] - slices[0][0], seed=_class_seed(seed, label), **settings)


def find_members(
    label: int, slices: Sequence[Slice], *, features: np.ndarray | str, seed: int, settings: Mapping
) -> Members:
    """Who is in the groups that `cluster_class` finds with these arguments: what Fig. 6 shows of a class.

    Source: Sec. 4.2, Fig. 6.
    """
    group, squared, _ = _run_kmeans(_read_points(features, slices), seed=_class_seed(seed, label), **settings)
    ids = np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in slices])
    return Members(ids, slices[0][1] - slices[0][0], group, squared)


def _read_points(features: np.ndarray | str, slices: Sequence[Slice]) -> np.ndarray:
    column = np.load(features, mmap_mode="r") if isinstance(features, str) else features
    return np.concatenate([column[start:stop] for start, stop in slices])


def _class_seed(seed: int, label: int) -> int:
    return int(np.random.SeedSequence([seed, label]).generate_state(1)[0])


def join_neighbors(
    labels: np.ndarray, predicted: np.ndarray, *, num_classes: int, neighbors: int, confusion: str
) -> list[list[Slice]]:
    """For each class the rows that are clustered: its own, then those of its most confused classes.

    Args:
      labels: int [N], rising.
      predicted: int [N], see `score_clusters`.
      neighbors, confusion: see `most_confused`.
    """
    matrix = confusion_from_predictions(labels, predicted, num_classes=num_classes)
    joined = most_confused(matrix, neighbors=neighbors, direction=confusion)
    bounds = np.searchsorted(labels, np.arange(num_classes + 1)).tolist()
    rows = [(bounds[label], bounds[label + 1]) for label in range(num_classes)]
    return [[rows[label], *(rows[other] for other in joined[label])] for label in range(num_classes)]


def cluster_classes(
    labels: Sequence[int],
    slices: Sequence[Sequence[Slice]],
    *,
    features: np.ndarray | str | os.PathLike,
    seed: int,
    settings: Mapping,
    executor: Executor = IN_PROCESS,
    shared: Sequence[str | os.PathLike] = (),
) -> Iterator[tuple[int, Groups]]:
    """Runs `cluster_class` over classes and yields (label, groups) as they become complete.

    The results do not depend on the executor. Give one that uses other processes a path, as an array would
    be copied for every class.

    Args:
      shared: see `executors.Job`.

    Raises:
      RunError: a class could not be clustered, as a process was killed.
    """
    features = os.fspath(features) if isinstance(features, os.PathLike) else features
    work = functools.partial(_open_clustering, features=features, seed=seed, settings=dict(settings))
    job = Job(work, "clusters classes", shared=tuple(shared))
    for (label, _), groups in executor.run(job, zip(labels, slices, strict=True)):
        yield label, groups


def _open_clustering(
    cores: int, *, features: np.ndarray | str, seed: int, settings: Mapping
) -> Callable[[tuple[int, Sequence[Slice]]], Groups]:
    """The work of `cluster_classes`: (label, slices) → groups, on one core."""

    def work(unit: tuple[int, Sequence[Slice]]) -> Groups:
        return cluster_class(*unit, features=features, seed=seed, settings=settings)

    return work


def compute_group_score(groups: Groups, *, kind: str, quality: np.ndarray | None = None) -> np.ndarray:
    """The score of every group of a class: float64 [k]; see the module's top for the kinds.

    Args:
      kind: "size", "purity", "quality" or "density".
      quality: float [n], of the class's own instances; for "quality".

    Raises:
      ValueError: an unknown kind, or "quality" without values.
    """
    total = groups.size.sum()
    if kind == "size":
        return groups.size / max(total, 1)
    if kind == "purity":
        return groups.own / np.maximum(groups.size, 1)
    if kind == "quality" and quality is not None:
        sums = np.bincount(groups.group, weights=quality, minlength=len(groups.size))
        return sums / np.maximum(groups.own, 1)
    if kind == "density":
        tightest = max(groups.spread.max(initial=0.0) * 1e-3, 1e-12)  # a group of equal images
        return groups.size / (max(total, 1) * np.maximum(groups.spread, tightest))
    raise ValueError(f"Expected size, purity, density, or quality with values; received {kind!r}.")


def score_clusters(
    features: np.ndarray | str | os.PathLike,
    labels: np.ndarray,
    predicted: np.ndarray,
    given_prob: np.ndarray,
    *,
    num_classes: int,
    kind: str,
    clusters: int,
    neighbors: int,
    pca_dim: int | None,
    n_init: int,
    seed: int,
    normalize: bool = True,
    confusion: str = "both",
    executor: Executor = IN_PROCESS,
    shared: Sequence[str | os.PathLike] = (),
    open_units: OpenUnits = open_in_memory,
    report: Callable[[Iterable, int], Iterable] = lambda found, total: found,
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters every class with the classes it is most confused with, and scores the groups.

    Args:
      features: float [N, D], or the path of a `.npy` file that holds them.
      labels: int [N], rising: class j is one slice.
      predicted: int [N], the likeliest class, to models that did not see the image or (paper) to one that
        did.
      given_prob: float [N], what they give the given label; for the kind "quality".
      kind: see `compute_group_score`.
      clusters, pca_dim, n_init, normalize: see `compute_groups`.
      neighbors, confusion: see `most_confused`.
      executor, shared: see `cluster_classes`.
      open_units: keeps the groups of complete classes.
      report: wraps the loop over (class, groups), told how many there will be.

    Returns:
      The group inside the class int32 [N], and the score of that group float64 [N].

    Source: Sec. 4.2, Eq. 5.
    """
    joined = join_neighbors(
        labels, predicted, num_classes=num_classes, neighbors=neighbors, confusion=confusion
    )
    column, units = open_units("cluster", "groups", num_classes, (len(labels),), np.int32)
    pending = units.pending()
    found = cluster_classes(
        pending,
        [joined[label] for label in pending],
        features=features,
        seed=seed,
        settings={"clusters": clusters, "pca_dim": pca_dim, "n_init": n_init, "normalize": normalize},
        executor=executor,
        shared=shared,
    )
    for label, groups in report(found, len(pending)):
        column[slice(*joined[label][0])] = groups.group
        units.complete(label, {name: getattr(groups, name).tolist() for name in ("size", "own", "spread")})

    group = np.array(column)
    scores = np.empty(len(labels))
    for label, metadata in enumerate(units.metadata()):
        own = slice(*joined[label][0])
        groups = Groups(group[own], *(np.array(metadata[name]) for name in ("size", "own", "spread")))
        scores[own] = compute_group_score(groups, kind=kind, quality=given_prob[own])[groups.group]
    return group, scores


def compute_cluster_weight(
    scores: np.ndarray, labels: np.ndarray, *, num_classes: int, formulas: str = REPAIRED
) -> np.ndarray:
    """The cluster weight of every instance from the score of its group: float32 [N].

    Source: Eq. 5-6, Sec. 4.2, with the scores of kind "size".
    Differs: in "repaired" the mean inside each class is 1, and the default score is purity: where many
    images show something else altogether, the largest group is where these gather.
    """
    if is_literal(formulas):
        return np.asarray(scores, np.float32)
    return scale_to_class_mean(scores, labels, num_classes=num_classes)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where no clusters are known."""
    if instances.cluster_score is None:
        return None
    return compute_cluster_weight(
        instances.cluster_score, instances.labels, num_classes=instances.num_classes,
        formulas=recipe.formulas,
    )  # fmt: skip


def _count_distinct(points: np.ndarray, at_most: int) -> int:
    """How many different rows there are, counting no further than `at_most`."""
    if len(points) > _FEW_ROWS and _count_distinct(points[:_FEW_ROWS], at_most) == at_most:
        return at_most  # nearly always: images differ, and a pass over all rows costs a tenth of k-means
    found = 0
    while len(points) and found < at_most:
        found += 1
        points = points[(points != points[0]).any(axis=1)]
    return found
