"""Rows over several crawls: means by hand, intervals that hold what they should, rankings."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))

import over_crawls  # noqa: E402

from urnet_tf import store  # noqa: E402
from urnet_tf.errors import UsageError  # noqa: E402


def write_ablation(out, hits, labels, weights=None):
    """`hits`: row → seed → which test images are right."""
    (out / "units").mkdir(parents=True)
    rows = {}
    for row, by_seed in hits.items():
        rows[row] = {"seeds": sorted(by_seed), "split": "test"}
        for seed, right in by_seed.items():
            top = np.where(right, labels, 1 - labels)[:, None]
            splits = np.array(["test"] * len(labels) + ["val"])
            np.savez(
                out / "units" / f"{row}.seed{seed}.npz", labels=np.append(labels, 0), splits=splits,
                top_ids=np.append(top, [[0]], axis=0),
            )  # fmt: skip
            if weights is not None:
                right_labels, weight = weights
                np.savez(
                    out / "units" / f"{row}.seed{seed}.scores.npz", right=right_labels, sample_weight=weight
                )
    store.write_json(out / "ablation.json", {"rows": rows})
    return out


def test_means_over_crawls_by_hand(tmp_path):
    labels = np.array([0, 0, 0, 1])
    first = {"best": {0: np.array([1, 1, 1, 1], bool)}, "plain": {0: np.array([1, 1, 1, 0], bool)}}
    second = {"best": {0: np.array([1, 1, 0, 1], bool)}, "plain": {0: np.array([1, 1, 1, 1], bool)}}
    crawls = {
        name: over_crawls.read_units(write_ablation(tmp_path / name, hits, labels))
        for name, hits in (("one", first), ("two", second))
    }
    # Balanced: 1 - 1/2 on the first, (2/3 + 1)/2 - 1 on the second; plain: 1/4 and -1/4.
    mean, low, high = over_crawls.compare(crawls, "best", 200, balanced=True)["plain"]
    assert mean == pytest.approx((1 / 2 - 1 / 6) / 2) and low < mean < high
    mean, low, high = over_crawls.compare(crawls, "best", 200, balanced=False)["plain"]
    assert mean == pytest.approx(0.0) and low < 0 <= high
    text = over_crawls.format_accuracy(crawls, "best", 200)
    assert (
        "| `best` | 100.00 | 83.33 | 91.67 |  |" in text
        and "| `plain` | 50.00 | 100.00 | 75.00 | +16.67 [" in text
    )
    with pytest.raises(UsageError, match="Expected the row sound in every ablation"):
        over_crawls.compare(crawls, "sound", 100, balanced=True)
    with pytest.raises(UsageError, match="Expected a finished ablation"):
        over_crawls.read_units(tmp_path)


def test_rows_that_are_alike_differ_by_nothing(tmp_path):
    labels = np.arange(40) % 2
    right = np.arange(40) % 3 > 0
    units = over_crawls.read_units(
        write_ablation(tmp_path / "a", {"best": {0: right}, "twin": {0: right}}, labels)
    )
    assert over_crawls.compare({"a": units}, "best", 100, balanced=True)["twin"] == (0.0, 0.0, 0.0)


def test_rankings_by_hand(tmp_path):
    marks = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1, 1], np.int8)
    weight = np.arange(10) / 10
    weight[2] = -1.0  # the wrong ones: the lowest, and the fourth after it
    auc, share = over_crawls.rank_figures(marks == 1, weight)
    assert share == 0.5  # of the two lowest (a fifth of ten) one is wrong
    assert auc == pytest.approx((8 + 5) / 16)
    out = write_ablation(
        tmp_path / "a", {"best": {0: np.ones(4, bool)}}, np.array([0, 0, 1, 1]), (marks, weight)
    )
    scores = over_crawls.read_scores(out)
    assert "| `best` | 81.2 [" in over_crawls.format_rankings({"a": scores}, 100)
    assert over_crawls.format_rankings({"a": {}}, 100) == ""
