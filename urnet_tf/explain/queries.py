"""Searches that brought the wrong thing, and the words of the titles that tell wrong images from right ones.

    d_w  = log-odds of w among the titles of doubtful images - log-odds of w among those of trusted ones
    z_w  = d_w / sqrt(1 / a + 1 / b),   a, b: how many titles of each kind hold w

with the counts of both kinds enlarged by a prior: _PRIOR titles that hold w as often as all titles do.

Source: Monroe, Colaresi and Quinn, 2008, "Fightin' Words" (log-odds with an informative Dirichlet prior).
Differs: a word is counted once a title, since titles repeat words for search engines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.reweighting.label_posterior import estimate_wrong_share

_WORD = re.compile(r"[^\W\d_]{2,}")
_PRIOR = 2.0
_SURE = 1.96  # the smallest z of a word that is told
_FEWEST_TITLES = 3  # that hold it
_TITLES = 4000  # of a group that are read
_FEWEST_IMAGES = 10  # of a search that is ranked
_SHOWN_WORDS = 5


def find_polluted(inputs: ReportInputs, limit: int) -> list[dict[str, Any]]:
    """The searches (class, source, query) with most labels that look wrong beyond doubt; with words.

    Ordered by the lower end of the interval of their share of wrong labels. Where no query is known, the
    classes themselves are the searches.
    """
    group, keys = number_searches(inputs)
    size = np.bincount(group, minlength=len(keys))
    sums = np.bincount(group, weights=inputs.wrong_prob, minlength=len(keys))
    enough = np.flatnonzero(size >= min(_FEWEST_IMAGES, size.max()))
    # A cheap order first: intervals of thousands of searches cost more than they are worth.
    likely = enough[np.argsort(-(sums / np.maximum(size, 1))[enough], kind="stable")][: 8 * limit]
    order = np.argsort(group, kind="stable")
    stops = np.cumsum(size)
    found: list[dict[str, Any]] = []
    for number in likely:
        ids = order[stops[number] - size[number] : stops[number]]
        wrong = estimate_wrong_share(np.asarray(inputs.right_prob)[ids])
        label, source, query = keys[number]
        found.append(
            {
                "label": int(label),
                "name": inputs.name(int(label)),
                "source": inputs.source_names[source] if source >= 0 else "",
                "query": inputs.query_names[query] if query >= 0 else "",
                "images": len(ids),
                "wrong": wrong,
                "ids": ids,
            }
        )
    found.sort(key=lambda entry: (-entry["wrong"][1], -entry["wrong"][0]))
    for entry in found[:limit]:
        entry["words"] = telling_words(inputs, entry.pop("ids"))
    return found[:limit]


def have_queries(inputs: ReportInputs) -> bool:
    """Whether it is known what was searched for."""
    return any(inputs.query_names)


def tell_more_than_classes(inputs: ReportInputs) -> bool:
    """Whether some class was searched for in several ways."""
    return len(number_searches(inputs)[1]) > inputs.num_classes


def have_titles(inputs: ReportInputs) -> bool:
    """Whether some image has a title: looks at a few hundred."""
    some = np.unique(np.linspace(0, len(inputs.label) - 1, 300).astype(int))
    return any(row["title"] for row in inputs.read_rows([int(i) for i in some]))


def number_searches(inputs: ReportInputs) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The number of its search for each image, int64 [N], and (class, source, query) of each search."""
    if not have_queries(inputs):
        return np.asarray(inputs.label, np.int64), [(j, -1, -1) for j in range(inputs.num_classes)]
    sources, queries = len(inputs.source_names), len(inputs.query_names)
    cell = (inputs.label.astype(np.int64) * sources + inputs.source) * queries + inputs.query
    cells, group = np.unique(cell, return_inverse=True)
    keys = [(c // queries // sources, c // queries % sources, c % queries) for c in cells.tolist()]
    return group, keys


def telling_words(inputs: ReportInputs, ids: np.ndarray) -> dict[str, list[tuple[str, int, int]]]:
    """Words of the titles that mark the doubtful and the trusted images.

    Returns:
      "doubtful" and "trusted" → (word, titles of doubtful images with it, of trusted ones), clearest first;
      "titles" → how many of each kind there are.
    """
    chosen = [int(i) for i in ids[np.unique(np.linspace(0, len(ids) - 1, _TITLES).astype(int))]]
    titles = [row["title"] for row in inputs.read_rows(chosen)]
    doubtful = inputs.doubtful[chosen]
    return compare_words(
        [title for title, is_doubtful in zip(titles, doubtful, strict=True) if is_doubtful],
        [title for title, is_doubtful in zip(titles, doubtful, strict=True) if not is_doubtful],
    )


def compare_words(doubtful: Sequence[str], trusted: Sequence[str]) -> dict[str, Any]:
    """See `telling_words`; titles without a word do not count."""
    held = [[words for title in titles if (words := set(_words(title)))] for titles in (doubtful, trusted)]
    totals = [len(titles) for titles in held]
    counts = [Counter(word for words in titles for word in words) for titles in held]
    names = sorted(set(counts[0]) | set(counts[1]))
    found: dict[str, Any] = {"titles": tuple(totals), "doubtful": [], "trusted": []}
    if not all(totals) or not names:
        return found
    a, b = (np.array([count[name] for name in names], float) for count in counts)
    usual = (a + b) / sum(totals)
    odds, variance = np.zeros(len(names)), np.zeros(len(names))
    for sign, count, total in ((1, a, totals[0]), (-1, b, totals[1])):
        with_it, without = count + _PRIOR * usual, total - count + _PRIOR * (1 - usual)
        odds += sign * (np.log(with_it) - np.log(np.maximum(without, 1e-9)))
        variance += 1 / with_it
    clear = odds / np.sqrt(variance)
    for kind, sign, own in (("doubtful", 1, a), ("trusted", -1, b)):
        order = np.lexsort((np.arange(len(names)), -sign * clear))
        told = [i for i in order if sign * clear[i] >= _SURE and own[i] >= _FEWEST_TITLES][:_SHOWN_WORDS]
        found[kind] = [(names[i], int(a[i]), int(b[i])) for i in told]
    return found


def _words(title: str) -> list[str]:
    return _WORD.findall(title.lower())
