"""The images whose features are nearest to those of one image.

Features are reduced by PCA to a matrix that stays in memory; of the best by that, the features themselves,
memory-mapped, decide. Made once, in the background.
"""

import threading

import numpy as np

from urnet_tf.reweighting.instance_weight import normalized

_DIMENSIONS = 64
_ROWS = 8192  # of features that are held at a time
_SAMPLE = 8192  # images that the directions are found on
_SHORTLIST = 256


class LookAlikes:
    """Nearest images by the cosine of features.

    Args:
      features: float [M, D], memory-mapped; the first N rows count.
      count: N.
    """

    def __init__(self, features: np.ndarray, count: int):
        self._features, self._count = features, count
        self._points: np.ndarray | None = None
        self._thread = threading.Thread(target=self._prepare, daemon=True)

    def start(self) -> None:
        """Begins to prepare in the background."""
        self._thread.start()

    def wait(self) -> None:
        """Until it is prepared."""
        self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Whether `find` can answer."""
        return self._points is not None

    def _prepare(self) -> None:
        step = max(self._count // _SAMPLE, 1)
        sample = normalized(self._features[: self._count : step])
        mean = sample.mean(axis=0)
        _, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
        directions = directions[:, ::-1][:, :_DIMENSIONS].astype(np.float32)
        points = np.empty((self._count, directions.shape[1]), np.float32)
        for start in range(0, self._count, _ROWS):
            stop = min(start + _ROWS, self._count)
            points[start:stop] = (normalized(self._features[start:stop]) - mean) @ directions
        self._points = points

    def find(self, row: int, count: int, left_out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images, best first, and their cosines: int64, float32 [n]; n = 0 until it is ready.

        Args:
          left_out: int [m], rows that are not wanted; the row itself never is.
        """
        if self._points is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        distance = np.square(self._points - self._points[row]).sum(axis=1)
        distance[row] = np.inf
        if left_out is not None:
            distance[left_out] = np.inf
        wanted = min(max(_SHORTLIST, 4 * count), len(distance) - 1)
        near = np.sort(np.argpartition(distance, wanted)[:wanted])
        near = near[np.isfinite(distance[near])]
        cosine = normalized(self._features[near]) @ normalized(self._features[row : row + 1])[0]
        best = np.argsort(-cosine, kind="stable")[:count]
        return near[best], cosine[best]
