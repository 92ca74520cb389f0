"""Confusion, k-means groups and their weights; the same with and without worker processes."""

import multiprocessing

import numpy as np
import pytest
import sklearn.decomposition

from urnet_tf.errors import RunError
from urnet_tf.executors import Processes
from urnet_tf.reweighting import cluster_weight as cw

SETTINGS = {"clusters": 3, "pca_dim": 4, "n_init": 2}


def blobs(sizes, dim=16, seed=0):
    """One far-away blob for each size."""
    generator = np.random.default_rng(seed)
    rows = np.repeat(np.eye(dim)[: len(sizes)] * 10, sizes, axis=0)
    return (rows + 0.1 * generator.standard_normal(rows.shape)).astype(np.float16)


def test_confusion_and_neighbors_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 3])
    predicted = np.array([0, 1, 2, 0, 1, 0, 3])
    confusion = cw.confusion_from_predictions(labels, predicted, num_classes=4)
    np.testing.assert_array_equal(confusion, [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    # 0-1 and 0-2 are both confused twice; equal counts go to the smaller id.
    np.testing.assert_array_equal(cw.most_confused(confusion, neighbors=2), [[1, 2], [0, 2], [0, 1], [0, 1]])


def test_both_directions_of_confusion_count():
    confusion = np.zeros((3, 3), int)
    confusion[2, 0] = 5  # images of 2 taken for 0
    np.testing.assert_array_equal(cw.most_confused(confusion, neighbors=1), [[2], [0], [0]])
    row = cw.most_confused(confusion, neighbors=1, direction="row")
    np.testing.assert_array_equal(row, [[1], [0], [0]])  # the paper's: images of 0 taken for others
    with pytest.raises(ValueError, match="both or row; received 'column'"):
        cw.most_confused(confusion, neighbors=1, direction="column")


def test_there_are_never_more_neighbors_than_other_classes():
    assert cw.most_confused(np.eye(3, dtype=int), neighbors=4).shape == (3, 2)
    assert cw.most_confused(np.eye(3, dtype=int), neighbors=0).shape == (3, 0)


def test_groups_find_the_blobs_whatever_the_length_of_the_features():
    features = blobs([20, 10, 15])
    features[::2] *= 3  # only the direction counts
    groups = cw.compute_groups(features, 30, seed=1, **SETTINGS)
    assert len(groups.group) == 30 and groups.group.dtype == np.int32
    first, second = groups.group[0], groups.group[20]
    assert (groups.group[:20] == first).all() and (groups.group[20:] == second).all() and first != second
    assert groups.size.tolist()[first] == 20 and sorted(groups.size) == [10, 15, 20]
    assert sorted(groups.own) == [0, 10, 20]
    assert (groups.spread < 0.05).all()


def test_features_as_they_are_have_a_length():
    """Two lengths of one direction are two groups; normalized they are one point."""
    features = np.repeat(np.float16([[1, 0, 0, 0], [9, 0, 0, 0]]), 10, axis=0)
    settings = {"clusters": 2, "pca_dim": None, "n_init": 1, "seed": 0}
    raw = cw.compute_groups(features, 20, normalize=False, **settings)
    assert sorted(raw.size) == [10, 10] and (raw.spread == 0).all()
    assert cw.compute_groups(features, 20, **settings).size.tolist() == [20]


def test_components_of_some_rows_find_the_same_groups(monkeypatch):
    features = blobs([200, 100, 150])  # blobs in slices: the first rows alone would know one of them
    settings = {"seed": 1, "normalize": False, **SETTINGS}
    of_all = cw.compute_groups(features, 300, **settings)
    fitted = []

    class Counted(sklearn.decomposition.PCA):
        def fit(self, rows, y=None):
            fitted.append(np.bincount(rows.argmax(axis=1)).tolist())
            return super().fit(rows, y)

    monkeypatch.setattr(sklearn.decomposition, "PCA", Counted)
    monkeypatch.setattr(cw, "PCA_ROWS", 30)
    of_some = cw.compute_groups(features, 300, **settings)
    assert fitted == [[13, 7, 10]] and sorted(of_some.size) == [100, 150, 200]
    pairs = set(zip(of_all.group.tolist(), of_some.group.tolist(), strict=True))
    assert len(pairs) == 2  # the class's own 300 rows are two blobs
    np.testing.assert_allclose(np.sort(of_some.spread), np.sort(of_all.spread), rtol=0.3)


@pytest.mark.parametrize("pca_dim", [None, 4, 100])
def test_groups_repeat_bitwise(pca_dim):
    features = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float16)
    settings = {**SETTINGS, "pca_dim": pca_dim}
    once, again = (cw.compute_groups(features, 40, seed=5, **settings) for _ in range(2))
    np.testing.assert_array_equal(once.group, again.group)
    np.testing.assert_array_equal(once.spread, again.spread)


@pytest.mark.parametrize(("rows", "distinct"), [(0, 0), (1, 1), (4, 1), (6, 2)])
def test_few_distinct_points_make_fewer_groups(rows, distinct, recwarn):
    features = np.zeros((rows, 16), np.float16)
    features[:, 0] = 1.0
    if distinct == 2:
        features[::2, 1] = 1.0
    groups = cw.compute_groups(features, rows, seed=0, **SETTINGS)
    assert len(groups.size) == distinct and groups.size.sum() == rows
    scores = cw.compute_group_score(groups, kind="density")
    assert np.isfinite(scores).all()
    assert not [w for w in recwarn if "cluster" in str(w.message).lower()]


def test_scores_by_hand():
    groups = cw.Groups(
        group=np.int32([0, 0, 1]), size=np.array([4, 6]), own=np.array([2, 1]), spread=np.array([0.5, 2.0])
    )
    quality = np.array([0.2, 0.4, 0.9])
    for kind, expected in {
        "size": [0.4, 0.6],
        "purity": [2 / 4, 1 / 6],
        "quality": [0.3, 0.9],
        "density": [4 / 10 / 0.5, 6 / 10 / 2.0],
    }.items():
        np.testing.assert_allclose(cw.compute_group_score(groups, kind=kind, quality=quality), expected)
    for kind in ("quality", "beauty"):
        with pytest.raises(ValueError, match="Expected size, purity, density"):
            cw.compute_group_score(groups, kind=kind)


def test_paper_weight_is_the_score_and_sound_weight_has_mean_one():
    scores, labels = np.array([0.4, 0.4, 0.6, 0.5]), np.array([0, 0, 0, 1])
    paper = cw.compute_cluster_weight(scores, labels, num_classes=2, formulas="literal")
    np.testing.assert_array_equal(paper, scores.astype(np.float32))
    sound = cw.compute_cluster_weight(scores, labels, num_classes=2)
    np.testing.assert_allclose(sound, [1.2 / 1.4, 1.2 / 1.4, 1.8 / 1.4, 1.0], rtol=1e-6)


@pytest.fixture
def clustering(tmp_path):
    """Arguments for 60 classes of 10 rows, each with the next one as its neighbor."""
    features = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float16)
    path = tmp_path / "features.npy"
    np.save(path, features)
    slices = [[(10 * c, 10 * c + 10), (10 * (c + 1) % 600, 10 * (c + 1) % 600 + 10)] for c in range(60)]
    return {
        "labels": list(range(60)), "slices": slices, "features": str(path), "seed": 7,
        "settings": SETTINGS,
    }  # fmt: skip


def test_workers_do_not_change_the_result(clustering):
    alone = dict(cw.cluster_classes(**clustering))
    together = dict(cw.cluster_classes(**clustering, executor=Processes(2)))
    assert sorted(together) == list(alone)
    for label, groups in alone.items():
        np.testing.assert_array_equal(groups.group, together[label].group)
        np.testing.assert_array_equal(groups.spread, together[label].spread)


def test_a_class_does_not_depend_on_which_others_are_pending(clustering):
    everything = dict(cw.cluster_classes(**clustering))
    rest = {**clustering, "labels": [41], "slices": [clustering["slices"][41]]}
    np.testing.assert_array_equal(dict(cw.cluster_classes(**rest))[41].group, everything[41].group)


def test_a_killed_worker_is_one_clear_error(clustering):
    many = {**clustering, "labels": clustering["labels"] * 50, "slices": clustering["slices"] * 50}
    running = cw.cluster_classes(**many, executor=Processes(2))
    next(running)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(RunError, match="was killed"):
        for _ in running:
            pass


def test_quality_is_that_of_the_own_images():
    features = blobs([10, 10, 20])  # class 0 holds the first two blobs, class 1 the third
    labels = np.repeat([0, 1], 20)
    given = np.repeat([0.2, 0.6, 0.9], [10, 10, 20])
    group, scores = cw.score_clusters(
        features, labels, labels, given, num_classes=2, kind="quality", seed=0, neighbors=1, **SETTINGS
    )
    np.testing.assert_allclose(scores, given)
    assert len(set(group[:20])) == 2


def test_pca_leaves_the_other_directions_out():
    features = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float16)
    settings = {"clusters": 3, "n_init": 1, "seed": 0}
    full, one = (cw.compute_groups(features, 60, pca_dim=dim, **settings) for dim in (None, 1))
    assert one.spread.mean() < 0.2 * full.spread.mean()


def test_the_members_of_the_groups_are_those_that_were_counted():
    """Own images first; sizes, own members and spread of `cluster_class`, counted from the members."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4), 20)
    features = (np.eye(4, 8)[labels] + rng.normal(scale=0.4, size=(80, 8))).astype(np.float16)
    predicted = np.where(np.arange(80) % 5 == 0, (labels + 1) % 4, labels)
    slices = cw.join_neighbors(labels, predicted, num_classes=4, neighbors=2, confusion="row")
    assert slices[1] == [(20, 40), (40, 60), (0, 20)]  # taken for 2 four times; else the smaller class
    settings = {"clusters": 5, "pca_dim": None, "n_init": 3, "normalize": True}
    groups = cw.cluster_class(1, slices[1], features=features, seed=7, settings=settings)
    members = cw.find_members(1, slices[1], features=features, seed=7, settings=settings)
    assert members.ids.tolist() == [*range(20, 40), *range(40, 60), *range(20)] and members.num_own == 20
    np.testing.assert_array_equal(members.group[:20], groups.group)
    np.testing.assert_array_equal(np.bincount(members.group, minlength=5), groups.size)
    np.testing.assert_allclose(
        np.bincount(members.group, weights=members.distance, minlength=5) / groups.size, groups.spread
    )


def test_distinct_rows_are_counted_beyond_the_first_ones():
    points = np.zeros((300, 3), np.float32)
    assert cw._count_distinct(points, at_most=5) == 1
    points[200:203] = np.eye(3)
    assert cw._count_distinct(points, at_most=5) == 4
    points[:5] = np.arange(15).reshape(5, 3)
    assert cw._count_distinct(points, at_most=5) == 5
    assert cw._count_distinct(points[:0], at_most=5) == 0
