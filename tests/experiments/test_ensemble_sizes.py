"""The measurement of ensembles: independent groups, figures by hand, and what is told of them."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))

import ensemble_sizes  # noqa: E402


def test_ensembles_of_a_size_have_no_member_in_common():
    # Two images of two classes. Members 0-2 are right of the first, 3-5 of the second; 0 and 5 are surest.
    sure = np.array([0.9, 0.6, 0.6, 0.4, 0.4, 0.2])
    probs = np.stack([np.stack([sure, 1 - sure], 1), np.stack([sure, 1 - sure], 1)], 1).astype(np.float32)
    found = ensemble_sizes.measure_sizes(probs, np.array([0, 1]), [1, 3, 4])
    assert [len(found[size]["mean_probability"]["balanced_top1"]) for size in (1, 3, 4)] == [6, 2, 1]
    # All members call both images alike, so that one of the two is right.
    assert found[1]["rank"]["balanced_top1"] == [50] * 6
    told = {"crawl": {"split": "val", "images": 2, "members": 6, "sizes": found}}
    table = ensemble_sizes.format_table(told, {"processor": "a processor", "cores": 2})
    assert "On a processor, 2 cores." in table and "| crawl | 3 | 2 | 50.00 ± 0.00 | 100.00 ± 0.00 |" in table
    assert "| crawl | 4 | 1 | 50.00 | 100.00 |" in table


def test_the_spread_is_that_of_a_sample():
    assert ensemble_sizes.spread([1.0, 3.0]) == pytest.approx(2**0.5) and np.isnan(ensemble_sizes.spread([1]))
