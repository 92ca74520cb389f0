"""Groups of images that show one picture: saved again, resized, cropped a little, mirrored, with a watermark.

Input: thumbnails (see `images.thumbnails`). Output: a group number each.

    v(x)    = the low frequencies 0 < i + j <= 14 of the cosine transform of the brightness of x, each times
              i + j, scaled to length 1
    s(a, b) = max over windows w of <v(a in w), v(b)>

Times i + j, since the amplitudes in photographs fall as 1 / frequency: unweighted, any dark thing on a light
ground would be like any other. The windows are the whole picture and places of about 90 % of its sides, so
that a crop is found as well. Copies are pairs with s at or above a limit whose colors agree, too, as they are
or with a mirrored from left to right; groups are what such pairs connect. The limits are measured by
experiments/near_copies.py.

Candidates come from an inverted file (Sivic & Zisserman 2003): 4 sqrt(N) of the vectors serve as centers,
each picture is listed at the nearest one, and a window is compared with the lists of its _PROBED nearest
centers, which takes time in proportion to N^1.5. Up to _COMPARED_DIRECTLY pictures all pairs are compared.

The transform is that of perceptual hashes (pHash), whose bits alone lose crops. A library would only add
dependencies to a cosine transform of 32 x 32 numbers.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import scipy.fft
import scipy.sparse
import scipy.sparse.csgraph
import threadpoolctl

from urnet_tf.images.thumbnails import COLOR_SIDE, SIDE
from urnet_tf.store import codes_of

COLOR_DIFFERENCE = 6.0  # the largest mean difference of colors, of 255
_HIGHEST = 14  # frequency; higher ones make 5 % more precise and lose crops
_CROP = 0.9  # the sides of the windows
_STEP = 0.025  # from a window to those near it, half the way to its neighbors
_MARGIN = 0.15  # what pairs gain at most by a window near by; see experiments/near_copies.py
_FLAT = 2.0  # weighted amplitude of about one gray level; below it there is only noise to compare
_BLOCK_ROWS = 1 << 15
_COMPARED_DIRECTLY = 4096
_PROBED = 32
_PAIRS_AT_ONCE = 1 << 20
_ROWS_AT_ONCE = 512  # products that the cache of a processor holds

Window = tuple[float, float, float]  # left, top, side, as parts of the picture
WHOLE: Window = (0.0, 0.0, 1.0)
WINDOWS = (WHOLE, *(((1 - _CROP) * x / 2, (1 - _CROP) * y / 2, _CROP) for y in range(3) for x in range(3)))


def name_pictures(
    content_hashes: pa.ChunkedArray,
    thumbnails: np.ndarray,
    similarity: float,
    mirrored: bool = True,
    report: Callable[[int], object] = lambda compared: None,
) -> tuple[pa.Array, int]:
    """The picture that each file shows: the first content hash, by the alphabet, of its group.

    Args:
      content_hashes: N texts, "" where a file cannot be used.
      thumbnails: uint8 [N, THUMBNAIL_BYTES].
      similarity, mirrored, report: see `group_copies`.

    Returns:
      N texts, whatever the order of the files; and how many different files could not be compared.
    """
    codes, texts = codes_of(content_hashes, ordered=True)
    _, rows = np.unique(codes, return_index=True)
    usable = np.array([text != "" for text in texts], bool)
    groups = np.arange(len(texts))
    with threadpoolctl.threadpool_limits(1):  # the products are small: more threads wait for each other
        found, left_out = group_copies(
            thumbnails, rows[usable], similarity=similarity, mirrored=mirrored, report=report
        )
    groups[usable] = np.flatnonzero(usable)[found]
    return pa.array(texts, pa.large_string()).take(pa.array(groups[codes])), left_out


def group_copies(
    thumbnails: np.ndarray,
    rows: np.ndarray,
    *,
    similarity: float,
    mirrored: bool = True,
    report: Callable[[int], object] = lambda compared: None,
) -> tuple[np.ndarray, int]:
    """Groups of the pictures in `rows`.

    Args:
      thumbnails: uint8 [M, THUMBNAIL_BYTES], may be a memory map.
      rows: int [N], which of them, in an order that does not depend on how they were listed.
      similarity: copies are at least so similar; see the module.
      mirrored: whether mirror images are copies.
      report: is told how many windows were compared, from time to time; N windows len(WINDOWS) times.

    Returns:
      int64 [N], the place in `rows` of the first of an image's group; and how many pictures are too plain to
      be compared, or could not be decoded, which are groups of their own.
    """
    groups = np.arange(len(rows))
    parts = [describe(thumbnails[part], WHOLE).astype(np.float16) for part in _blocks(rows)]
    vectors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float16)
    telling = np.flatnonzero(vectors.any(axis=1))
    if not len(telling):
        return groups, len(rows)
    index = _InvertedFile(vectors[telling])
    found: list[np.ndarray] = []
    for window in WINDOWS:
        for block in _blocks(telling):
            queries = describe(thumbnails[rows[block]], window)
            for query, place, flipped in index.search(queries, similarity - _MARGIN, mirrored):
                one, other = block[query], telling[place]
                new = np.flatnonzero(groups[one] != groups[other])
                one, other = one[new], other[new]
                same = _are_copies(thumbnails, rows[one], rows[other], window, similarity, flipped)
                found.append(np.unique(np.stack([groups[one[same]], groups[other[same]]]), axis=1))
            if sum(map(np.size, found)) > _PAIRS_AT_ONCE:
                groups, found = _joined(groups, found), []
            report(len(block))
    return _joined(groups, found), len(rows) - len(telling)


def describe(thumbnails: np.ndarray, window: Window) -> np.ndarray:
    """What `s` compares of pictures, in a window: float32 [n, D] of length 1, zeros for plain ones."""
    left, top, side = window
    brightness = thumbnails[:, : SIDE**2].reshape(-1, SIDE, SIDE).astype(np.float32)
    amplitude = _frequencies(top, side) @ brightness @ _frequencies(left, side).T
    vectors = amplitude[:, _LOW] * _FREQUENCY[_LOW]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    plain = length < _FLAT * SIDE
    return np.where(plain, 0, vectors / np.where(plain, 1, length))


_FREQUENCY = np.add.outer(np.arange(_HIGHEST + 1), np.arange(_HIGHEST + 1)).astype(np.float32)
_LOW = (_FREQUENCY > 0) & (_FREQUENCY <= _HIGHEST)
# What a mirror image changes: the sign of these, the odd frequencies from left to right.
_ODD = np.nonzero(_LOW)[1] % 2 == 1


@functools.cache
def _frequencies(start: float, side: float) -> np.ndarray:
    """Pixels of a thumbnail along an axis → amplitudes of a part of it: float32 [_HIGHEST + 1, SIDE]."""
    cosines = scipy.fft.dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")
    return cosines[: _HIGHEST + 1] @ _areas(start, side, SIDE)


@functools.cache
def _areas(start: float, side: float, cells: int) -> np.ndarray:
    """Cells along an axis → the means of as many cells of a part of it: float32 [cells, cells]."""
    edges = start * cells + side * np.arange(cells + 1)
    whole = np.arange(cells)
    overlap = np.minimum(edges[1:, None], whole + 1) - np.maximum(edges[:-1, None], whole)
    return (np.maximum(overlap, 0) / side).astype(np.float32)


class _InvertedFile:
    """Vectors by the nearest of some centers; see the module.

    Args:
      vectors: float16 [n, D] of length 1, in random order; n >= 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        number = 1 if len(vectors) <= _COMPARED_DIRECTLY else int(4 * len(vectors) ** 0.5)
        places = np.linspace(0, len(vectors) - 1, number).astype(np.int64)
        self._centers = vectors[places].astype(np.float32)
        nearest = np.concatenate(
            [
                self._nearest(vectors[part].astype(np.float32), 1)[:, 0]
                for part in _blocks(np.arange(len(vectors)))
            ]
        )
        self._order = np.argsort(nearest, kind="stable")
        self._starts = np.searchsorted(nearest[self._order], np.arange(number + 1))
        vectors = vectors[self._order]
        self._even, self._odd = vectors[:, ~_ODD], vectors[:, _ODD]

    def search(
        self, queries: np.ndarray, similarity: float, mirrored: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Similar pairs: places in `queries`, places in `vectors`, and whether one is mirrored, list by list.

        The product with a vector is the sum of those of its even and odd frequencies, and with that of a
        mirror image their difference, so that both take the time of one.

        Args:
          queries: float32 [q, D] of length 1 or 0.
          mirrored: whether pairs are looked for in which one is mirrored.
        """
        probed = [self._nearest(seen, _PROBED) for seen in (queries, _flipped(queries))[: 1 + mirrored]]
        pairs = np.concatenate(
            [lists * len(queries) + np.arange(len(queries))[:, None] for lists in probed], 1
        )
        pairs = np.sort(pairs, axis=None)  # faster than `numpy.unique`
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        probes, query = np.divmod(pairs, len(queries))
        starts = np.flatnonzero(np.diff(probes, prepend=-1))
        even, odd = queries[:, ~_ODD], queries[:, _ODD]
        for which, mine in zip(probes[starts], np.split(query, starts[1:]), strict=True):
            members = slice(self._starts[which], self._starts[which + 1])
            others = self._even[members].astype(np.float32).T, self._odd[members].astype(np.float32).T
            for some in np.split(mine, range(_ROWS_AT_ONCE, len(mine), _ROWS_AT_ONCE)):
                alike, turned = even[some] @ others[0], odd[some] @ others[1]
                for flipped in (False, True)[: 1 + mirrored]:
                    likeness = alike - turned if flipped else alike + turned
                    similar = np.flatnonzero(likeness >= similarity)  # few: faster than in two dimensions
                    if len(similar):
                        row, column = np.divmod(similar, likeness.shape[1])
                        yield some[row], self._order[members][column], flipped

    def _nearest(self, queries: np.ndarray, count: int) -> np.ndarray:
        """The numbers of the nearest centers: int64 [q, up to count], in any order."""
        if count >= len(self._centers):
            return np.tile(np.arange(len(self._centers)), (len(queries), 1))
        likeness = queries @ self._centers.T
        if count == 1:
            return likeness.argmax(axis=1)[:, None]
        return np.argpartition(-likeness, count, axis=1)[:, :count]


def _flipped(vectors: np.ndarray) -> np.ndarray:
    """What `describe` says of the mirror images of pictures, in the mirrored window."""
    return np.where(_ODD, -vectors, vectors)


def _are_copies(
    thumbnails: np.ndarray, one: np.ndarray, other: np.ndarray, window: Window, similarity: float,
    mirrored: bool,
) -> np.ndarray:  # fmt: skip
    """Whether pairs of rows show the same picture, the first in a window near the given one: bool [P].

    Args:
      mirrored: whether the second are mirrored before.
    """
    parts = _blocks(np.arange(len(one)))
    others = (mirror(thumbnails[other[part]]) if mirrored else thumbnails[other[part]] for part in parts)
    found = [compare(thumbnails[one[part]], some, window) for part, some in zip(parts, others, strict=True)]
    agree = [(likeness >= similarity) & (color <= COLOR_DIFFERENCE) for likeness, color in found]
    return np.concatenate(agree) if agree else np.zeros(0, bool)


def mirror(thumbnails: np.ndarray) -> np.ndarray:
    """The thumbnails of mirror images, left for right: uint8 [n, THUMBNAIL_BYTES]."""
    brightness = thumbnails[:, : SIDE**2].reshape(-1, SIDE, SIDE)[..., ::-1]
    colors = thumbnails[:, SIDE**2 :].reshape(-1, 2, COLOR_SIDE, COLOR_SIDE)[..., ::-1]
    return np.concatenate([some.reshape(len(thumbnails), -1) for some in (brightness, colors)], axis=1)


def compare(thumbnails: np.ndarray, others: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """How alike pictures in the best window near the given one are to others, and how colors differ there.

    Returns:
      float32 [n], 1 = equal; and float32 [n], see `color_difference`.
    """
    whole = describe(others, WHOLE)
    best = np.full(len(thumbnails), -2.0, np.float32)
    color = np.full(len(thumbnails), 255.0, np.float32)
    for near in _windows_near(window):
        likeness = (describe(thumbnails, near) * whole).sum(axis=1)
        better = likeness > best
        best[better] = likeness[better]
        color[better] = color_difference(thumbnails[better], others[better], near)
    return best, color


@functools.cache
def _windows_near(window: Window) -> list[Window]:
    """The window, and windows a little larger, smaller, or beside it."""
    left, top, side = window
    found = [window]
    for change in (-_STEP, 0.0, _STEP):
        for x in (-_STEP, 0.0, _STEP):
            for y in (-_STEP, 0.0, _STEP):
                new = min(side + change, 1.0)
                x_new, y_new = (
                    min(max(at - change / 2 + move, 0.0), 1 - new) for at, move in ((left, x), (top, y))
                )
                found.append((x_new, y_new, new))
    return list(dict.fromkeys(found))


def color_difference(thumbnails: np.ndarray, others: np.ndarray, window: Window) -> np.ndarray:
    """The mean difference of colors between pictures in a window and others: float32 [n], 0-255."""
    left, top, side = window
    shape = (-1, 2, COLOR_SIDE, COLOR_SIDE)
    colors, whole = (some[:, SIDE**2 :].reshape(shape).astype(np.float32) for some in (thumbnails, others))
    seen = _areas(top, side, COLOR_SIDE) @ colors @ _areas(left, side, COLOR_SIDE).T
    return np.abs(seen - whole).mean(axis=(1, 2, 3))


def _joined(groups: np.ndarray, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """Groups after pairs of them were united; each is called by its first member."""
    one, other = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    edges = scipy.sparse.coo_array((np.ones(len(one), bool), (one, other)), (len(groups),) * 2)
    _, component = scipy.sparse.csgraph.connected_components(edges, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component[groups]]


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BLOCK_ROWS] for start in range(0, len(rows), _BLOCK_ROWS)]
