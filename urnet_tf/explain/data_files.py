"""What lies beside the page and is loaded when it is asked for: all classes, the matrix, and a file a class.

    data/classes.js     a row a class
    data/matrix.js      which classes the models take for which
    data/class-N.js     what the page of class N shows, pictures included

Each is a script of one assignment, `urnetData["NAME"] = JSON`, since a page that was opened as a file may
load scripts that lie beside it and nothing else. The page makes text of all that it finds there, never HTML.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf.explain import pictures, queries, summary
from urnet_tf.explain.inputs import ReportInputs, Share
from urnet_tf.explain.matrix import Matrix, order_classes
from urnet_tf.store.progress import progress
from urnet_tf.text_rules import one_line

DIRECTORY = "data"
MOST_PICTURES = 60_000  # of all classes together
_FEWEST_PICTURES = 4  # of a class
_TRUSTED = 0.25  # share of the pictures of a class that are of trusted images
_MIXED_UP = 8  # classes that a page names in each direction
_SEARCHES = 30
_WORD_IMAGES = 8  # a class with fewer has no words
_AT_ONCE = 64  # classes in memory


def write_data(
    inputs: ReportInputs, matrix: Matrix, out: pathlib.Path, *, images: int, thumbnail_px: int
) -> int:
    """Writes all files; returns how many bytes they have.

    Args:
      out: the directory of the page.
      images: pictures on the page of a class; fewer where there are so many classes that all together would
        be more than `MOST_PICTURES`. 0 = no pages of classes.
    """
    (out / DIRECTORY).mkdir(exist_ok=True)
    total = _write(out, "classes", class_rows(inputs))
    if not inputs.is_weighed:
        return total
    total += _write(out, "matrix", matrix_cells(inputs, matrix))
    if images:
        images = max(min(images, MOST_PICTURES // inputs.num_classes), min(images, _FEWEST_PICTURES))
        labels = np.flatnonzero(inputs.size).tolist()
        pages = class_pages(inputs, matrix, labels, images, thumbnail_px)
        for label, page in zip(
            labels, progress(pages, "report", total=len(labels), unit="classes"), strict=True
        ):
            total += _write(out, f"class-{label}", page)
    return total


def class_rows(inputs: ReportInputs) -> dict[str, Any]:
    """A row a class: name, images, share wrong and its interval, mean weight, accuracies."""
    rows: list[list[Any]] = []
    weighed = inputs.is_weighed
    weight = (
        summary.class_means(inputs.relative_weight, inputs.label, inputs.num_classes) if weighed else None
    )
    accuracies = [np.asarray(values, float) for values in inputs.per_class.values()]
    for label in range(inputs.num_classes):
        wrong = inputs.wrong_by_class[label] if weighed else None
        row = [inputs.name(label), int(inputs.size[label]), *(_rounded(wrong) if wrong else [None] * 3)]
        row.append(round(float(weight[label]), 3) if weight is not None and inputs.size[label] else None)
        row.append(None if inputs.held is None else int(inputs.held[label]))
        rows.append(row + [round(float(a[label]), 4) if np.isfinite(a[label]) else None for a in accuracies])
    return {"models": list(inputs.per_class), "rows": rows}


def matrix_cells(inputs: ReportInputs, matrix: Matrix) -> dict[str, Any]:
    """The cells beside the diagonal, most images first, and the order in which mix-ups stand together."""
    return {
        "order": order_classes(matrix, inputs.size),
        "agreed": matrix.agreed,
        "given": matrix.given,
        "predicted": matrix.predicted,
        "count": matrix.count,
        "wrong": matrix.wrong.round(1),
        "leftOut": matrix.left_out,
    }


def class_pages(
    inputs: ReportInputs, matrix: Matrix, labels: Sequence[int], images: int, thumbnail_px: int
) -> Iterator[dict[str, Any]]:
    """What the page of each class shows, in order."""
    thumbnails = pictures.Thumbnails(inputs, thumbnail_px, limited=False)
    neighbors = _Neighbors(matrix)
    searched = _searches_by_class(inputs)
    with_titles = queries.have_titles(inputs)
    for start in range(0, len(labels), _AT_ONCE):
        some = labels[start : start + _AT_ONCE]
        chosen = [_choose(inputs, neighbors, label, images) for label in some]
        uris = thumbnails.encode_many([ids for ids, _ in chosen])
        for label, (ids, mixed), shown in zip(some, chosen, uris, strict=True):
            cards = pictures.build_cards(inputs, ids, shown)
            by_id = {card["id"]: card for card in cards}
            own = inputs.ids_of(label)
            telling = with_titles and len(own) >= _WORD_IMAGES
            yield {
                "cards": [_plain_card(card) for card in cards],
                "out": [
                    [other, count, [i for i in examples if i in by_id]] for other, count, examples in mixed
                ],
                "in": [[other, count] for other, count in neighbors.taken_for(label)[:_MIXED_UP]],
                "agreed": int(matrix.agreed[label]),
                "doubtful": int(inputs.doubtful[own].sum()),
                "histogram": np.histogram(inputs.wrong_prob[own], bins=10, range=(0, 1))[0],
                "searches": searched.get(label, [])[:_SEARCHES],
                "words": queries.telling_words(inputs, own) if telling else None,
                "classWeight": pictures.class_factor(inputs, label),
            }


class _Neighbors:
    """The cells of the matrix by row and by column."""

    def __init__(self, matrix: Matrix):
        self._rows = _slices(matrix.given, matrix.predicted, matrix.count)
        self._columns = _slices(matrix.predicted, matrix.given, matrix.count)

    def called(self, label: int) -> list[tuple[int, int]]:
        """What the models call images of a class: (class, images), most first."""
        return self._rows.get(label, [])

    def taken_for(self, label: int) -> list[tuple[int, int]]:
        """The images of which classes the models call this one."""
        return self._columns.get(label, [])


def _slices(key: np.ndarray, other: np.ndarray, count: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """The cells are in order of falling counts already."""
    found: dict[int, list[tuple[int, int]]] = {}
    for k, o, n in zip(key.tolist(), other.tolist(), count.tolist(), strict=True):
        found.setdefault(k, []).append((o, n))
    return found


def _choose(
    inputs: ReportInputs, neighbors: _Neighbors, label: int, images: int
) -> tuple[list[int], list[tuple[int, int, list[int]]]]:
    """The images that are shown of a class, most doubtful first, and its mix-ups with examples among them."""
    own = inputs.ids_of(label)
    order = own[np.argsort(-inputs.wrong_prob[own], kind="stable")]
    trusted = min(max(1, round(_TRUSTED * images)), len(order) // 2)
    mixed = [
        (other, count, [int(i) for i in summary.clear_examples(inputs, label, other)[:3]])
        for other, count in neighbors.called(label)[:_MIXED_UP]
    ]
    wanted = [int(i) for i in order[::-1][:trusted]]
    # One example of each mix-up, then doubtful ones until the places are filled.
    examples = [ids[0] for _, _, ids in mixed if ids][: max((images - trusted) // 3, 0)]
    for i in (*examples, *order.tolist()):
        if len(wanted) >= images:
            break
        if i not in wanted:
            wanted.append(int(i))
    return sorted(wanted, key=lambda i: (-inputs.wrong_prob[i], i)), mixed


def _searches_by_class(inputs: ReportInputs) -> dict[int, list[list[Any]]]:
    """(source, query, images, share wrong) of each search of each class, most images first."""
    if not queries.have_queries(inputs):
        return {}
    group, keys = queries.number_searches(inputs)
    size = np.bincount(group, minlength=len(keys))
    wrong = np.bincount(group, weights=inputs.wrong_prob, minlength=len(keys)) / np.maximum(size, 1)
    found: dict[int, list[list[Any]]] = {}
    for number in np.argsort(-size, kind="stable"):
        label, source, query = keys[number]
        entry = [inputs.source_names[source], inputs.query_names[query], int(size[number])]
        found.setdefault(label, []).append([*entry, round(float(wrong[number]), 4)])
    return found


_CARD_KEYS = ("id", "uri", "path", "title", "source", "rank", "predicted", "agrees", "why")
_CARD_SHARES = ("relative", "right")


def _plain_card(card: Mapping) -> dict[str, Any]:
    return {key: card[key] for key in _CARD_KEYS} | {key: round(card[key], 4) for key in _CARD_SHARES}


def _rounded(share: Share) -> list[float]:
    return [round(value, 4) for value in share]


def _write(out: pathlib.Path, name: str, value: Any) -> int:
    """Writes one script; no text from the web steers the page or its reader."""
    text = json.dumps(_plain(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # A script is no HTML, but a "<" may do no harm wherever the file is put.
    text = f'(self.urnetData = self.urnetData || {{}})["{name}"] = {text.replace("<", chr(92) + "u003c")};\n'
    (out / DIRECTORY / f"{name}.js").write_text(text, encoding="ascii")
    return len(text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
