"""Scores of someone else: matched by hash or path, counted, and worth what the crawl shows."""

import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import urnet_tf
from urnet_tf.errors import UsageError
from urnet_tf.reweighting import factors, recipe
from urnet_tf.schema import BALANCED_BASELINE
from urnet_tf.stages.other_scores import describe_scores, fingerprint_scores, read_scores
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import Workdir

IMAGES = pa.table({"path": ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], "content_hash": ["aa", "bb", "cc"]})


def context(tmp_path, scores, *overrides, suffix=".parquet", write=True):
    path = tmp_path / f"scores{suffix}"
    if write and suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(scores), path)
    elif write:
        path.write_text(scores)
    settings = [f"reweight.other_score.path={path}", f"ingest.path={tmp_path / 'crawl'}", *overrides]
    return StageContext(urnet_tf.load_config(None, settings), Workdir(tmp_path), pathlib.Path(tmp_path))


def test_by_hash(tmp_path):
    given = {"content_hash": ["cc", "aa", "zz", "bb"], "path": ["?"] * 4, "quality": [3, 1, 9, None]}
    found, told = read_scores(context(tmp_path, given), IMAGES)
    np.testing.assert_array_equal(found, [1, np.nan, 3])
    assert told == {"column": "quality", "matched": 2, "without": 1, "unmatched": 1}


def test_by_path_however_it_is_written(tmp_path):
    (tmp_path / "crawl").mkdir()
    text = f"path,a,b\n{tmp_path}/crawl/cat/1.jpg,1,4\n./cat/2.jpg,2,5\ndog\\1.jpg,3,6\nelse.jpg,0,0\n"
    found, told = read_scores(context(tmp_path, text, "reweight.other_score.column=b", suffix=".csv"), IMAGES)
    np.testing.assert_array_equal(found, [4, 5, 6])
    assert told["unmatched"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"file": ["a"], "x": [1.0]}, "Expected a column content_hash or path"),
        ({"path": ["cat/1.jpg"], "x": [1.0], "y": [2]}, "Expected one column of numbers in"),
        ({"path": ["cat/1.jpg"], "x": ["high"]}, "received none; name it"),
        ({"path": ["cat/1.jpg", "cat/1.jpg"], "x": [1.0, 2.0]}, "has 1 and 2 for 'cat/1.jpg'"),
        ({"path": ["other.jpg"], "x": [1.0]}, "none of its 1 rows is of one of the 3 training images"),
    ],
)  # fmt: skip
def test_files_that_tell_nothing(tmp_path, given, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        read_scores(context(tmp_path, given), IMAGES)


def test_columns_and_files_that_are_not_there(tmp_path):
    given = {"path": ["cat/1.jpg"], "x": ["high"]}
    for column, words in (("y", "Expected the column 'y'"), ("x", "Expected numbers in the column 'x'")):
        with pytest.raises(UsageError, match=re.escape(words)):
            read_scores(context(tmp_path, given, f"reweight.other_score.column={column}"), IMAGES)
    missing = context(tmp_path, None, suffix=".csv", write=False)
    with pytest.raises(UsageError, match="No such file"):
        fingerprint_scores(missing.config)
    (tmp_path / "scores.parquet").write_text("PAR1")
    with pytest.raises(UsageError, match="Cannot read the scores"):
        read_scores(context(tmp_path, None, write=False), IMAGES)


def test_the_file_is_an_input_only_where_it_counts(tmp_path):
    given = context(tmp_path, {"path": ["cat/1.jpg"], "x": [1.0]})
    assert list(fingerprint_scores(given.config)) == ["the file of scores"]
    off = context(tmp_path, None, "reweight.other_score.enabled=false", write=False)
    assert fingerprint_scores(off.config) == {} == fingerprint_scores(urnet_tf.load_config())


@pytest.fixture(scope="module")
def weighed():
    """Labels of which 40 % are wrong, seen badly by models; P with scores that tell, tell nothing, or lie."""
    generator = np.random.default_rng(0)
    rows, classes = 3000, 4
    truth = generator.integers(0, classes, rows)
    wrong = generator.random(rows) < 0.4
    labels = np.where(wrong, (truth + 1) % classes, truth)
    logits = 1.5 * np.eye(classes)[truth] + generator.normal(size=(rows, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prediction = factors.Prediction(
        BALANCED_BASELINE, probs[np.arange(rows), labels], np.argsort(-probs, 1), -np.sort(-probs, 1)
    )
    tells = ~wrong + generator.normal(0, 0.7, rows)
    scores = {"none": None, "tells": tells, "noise": generator.normal(size=rows), "lies": -tells,
              "half": np.where(np.arange(rows) % 2, tells, np.nan)}  # fmt: skip

    def weigh(score):
        instances = factors.Instances(
            labels, classes, prediction, np.arange(rows) % 4, np.zeros(rows, int), np.ones(rows, int),
            other_score=score,
        )  # fmt: skip
        settings = factors.Recipe({"label_posterior": {}, "other_score": {}})
        return recipe.apply_recipe(instances, settings)

    return {name: weigh(score) for name, score in scores.items()}, scores, wrong


def test_a_score_that_tells_makes_p_better_and_noise_no_worse(weighed):
    found, _, wrong = weighed
    right = ~wrong

    def surprise(name):
        prob = np.clip(found[name].right_prob, 1e-3, 1 - 1e-3)
        return -np.where(right, np.log(prob), np.log1p(-prob)).mean()

    assert surprise("tells") < surprise("half") < surprise("none") - 0.01
    assert surprise("noise") < surprise("none") + 0.005
    np.testing.assert_allclose(found["lies"].right_prob, found["none"].right_prob, atol=0.02)


def test_the_ledger_shows_by_how_much_it_moved_p(weighed):
    found, scores, _ = weighed
    column = found["tells"].factors["other_score"]
    np.testing.assert_allclose(
        column * found["tells"].factors["label_posterior"], found["tells"].right_prob, rtol=1e-4
    )
    assert (found["none"].factors["other_score"] == 1).all()
    assert describe_scores(scores["tells"], found["tells"])["correlation"] > 0.2


def test_a_score_that_falls_is_told(weighed, caplog):
    found, scores, _ = weighed
    describe_scores(scores["lies"], found["lies"])
    assert "give them with the other sign" in caplog.text
