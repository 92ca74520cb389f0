"""Searches that brought the wrong thing, and words that tell doubtful from trusted titles."""

import numpy as np
import pytest
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import queries


def test_words_of_doubtful_and_of_trusted_titles():
    doubtful = ["Jaguar car dealer"] * 6 + ["Jaguar"] * 4
    trusted = ["Jaguar cat, wild cat"] * 8 + ["jaguar  in the ZOO"] * 12
    found = queries.compare_words(doubtful, trusted)
    assert found["titles"] == (10, 20)
    # "jaguar" is in all titles and tells nothing; "cat" counts once a title.
    assert found["doubtful"] == [("car", 6, 0), ("dealer", 6, 0)]
    assert ("zoo", 0, 12) in found["trusted"] and "jaguar" not in str(found["trusted"])


def test_the_log_odds_of_a_word_by_hand():
    # a = 9 of 10, b = 3 of 10; usual .6, so that 2 titles of a prior hold it 1.2 times.
    # odds: log(10.2 / 1.8) - log(4.2 / 7.8) = 2.354; deviation sqrt(1 / 10.2 + 1 / 4.2) = .580: z = 4.06
    found = queries.compare_words(["car"] * 9 + ["x y"], ["car"] * 3 + ["sky"] * 7)
    assert found["doubtful"] == [("car", 9, 3)] and found["trusted"] == [("sky", 0, 7)]
    # 6 against 4 of 10: log(7 / 5) - log(5 / 7) = .673, deviation sqrt(1 / 7 + 1 / 5) = .586: z = 1.15
    assert queries.compare_words(["car"] * 6 + ["sky"] * 4, ["car"] * 4 + ["sky"] * 6)["doubtful"] == []


def test_rare_words_and_titles_without_words_say_nothing():
    found = queries.compare_words(["zebra", "zebra", "", "123"], ["lion"] * 40)
    assert found["titles"] == (2, 40) and found["doubtful"] == []
    assert queries.compare_words([], ["a word"] * 5) == {"titles": (0, 5), "doubtful": [], "trusted": []}


def make_searched():
    """Class 0 was searched for by two queries; all of the second one's images are wrong."""
    query = np.zeros(48, int)
    query[1:12:2] = 1

    def rows(ids):
        titles = ["rotten fish" if i in range(1, 12, 2) else "fresh bread" for i in ids]
        return [{"title": title, "path": "p", "query": ""} for title in titles]

    inputs = make_inputs(query=query, query_names=["bread", "fish"], read_rows=rows,
                         source=np.zeros(48, int), source_names=["google"])  # fmt: skip
    inputs.weights["right_prob"][:] = np.where(query == 1, 0.05, 0.9)
    return inputs


def test_the_search_with_most_wrong_labels_comes_first(monkeypatch):
    monkeypatch.setattr(queries, "_FEWEST_IMAGES", 6)
    inputs = make_searched()
    first, second = queries.find_polluted(inputs, 2)
    assert (first["name"], first["source"], first["query"], first["images"]) == (
        "thing 0",
        "google",
        "fish",
        6,
    )
    assert first["wrong"][0] == pytest.approx(0.95, abs=1e-5)
    assert first["words"]["titles"] == (6, 0) and second["query"] == "bread"
    assert queries.have_queries(inputs) and queries.have_titles(inputs)
    assert queries.tell_more_than_classes(inputs)
    words = queries.telling_words(inputs, np.arange(12))
    assert [word for word, _, _ in words["doubtful"]] == ["fish", "rotten"]


def test_without_queries_the_classes_are_the_searches():
    inputs = make_inputs(query=np.zeros(48, int), query_names=[""])
    assert not queries.have_queries(inputs) and not queries.tell_more_than_classes(inputs)
    assert {row["label"] for row in queries.find_polluted(inputs, 9)} == {0, 1, 2, 3}
    assert queries.find_polluted(inputs, 1)[0]["query"] == ""
