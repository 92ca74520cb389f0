"""The WebVision submission file: a line an image, `<name> <5 labels, best first>`.

In: names and best predictions of the test images; names of test images that cannot be read. Out:
text in the order of the test list, so that every listed image has its line.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.store import write_text

LABELS_PER_IMAGE = 5


def write_submission(path: str | os.PathLike, names: Sequence[str], top_ids: np.ndarray) -> None:
    """Writes the file atomically.

    Args:
      names: n file names, in list order.
      top_ids: int [n, K], best first; the first five columns are written.

    Raises:
      UsageError: there is not one row of predictions for each name.
    """
    if len(names) != len(top_ids):
        raise UsageError(f"Expected predictions for {len(names)} names; received {len(top_ids)}.")
    lines = [
        " ".join([name, *map(str, row)]) + "\n"
        for name, row in zip(names, np.asarray(top_ids)[:, :LABELS_PER_IMAGE].tolist(), strict=True)
    ]
    write_text(path, "".join(lines))


def short_names(paths: Sequence[str]) -> list[str]:
    """The file names without folders when they are unique, else the paths as listed."""
    names = [pathlib.PurePosixPath(p).name for p in paths]
    return names if len(set(names)) == len(names) else list(paths)


def with_unreadable(
    paths: Sequence[str],
    ranks: Sequence[int] | np.ndarray,
    top_ids: np.ndarray,
    unreadable_paths: Sequence[str],
    unreadable_ranks: Sequence[int] | np.ndarray,
    guess: Sequence[int] | np.ndarray,
) -> tuple[list[str], np.ndarray]:
    """Adds images that could not be read, with one guess for all of them, in list order.

    Args:
      ranks: place in the list of each image, 1-based; where ranks are equal the path decides.
      guess: K labels, best first.

    Returns:
      names [n + m] and top_ids int [n + m, K].
    """
    all_paths, all_ranks = [*paths, *unreadable_paths], [*ranks, *unreadable_ranks]
    rows = np.concatenate([top_ids, np.tile(np.asarray(guess, top_ids.dtype), (len(unreadable_paths), 1))])
    order = sorted(range(len(all_paths)), key=lambda i: (all_ranks[i], all_paths[i]))
    names = short_names(all_paths)
    return [names[i] for i in order], rows[order]
