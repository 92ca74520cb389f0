"""In which order images are shown: arrays of ids, computed once when a queue is first asked for.

doubtful   the least probable labels first
valuable   where a judgement changes the result most, see `reweighting.judging_order`
none       images that look like none of the classes first
random     a random sample: its order is made of the files' hashes, so that it stays the same in a later run
judged     what was judged, the latest first
copies     one picture under several labels: an entry a picture
class:J    the images of class J, the least probable labels first
"""

from collections.abc import Mapping

import numpy as np

from urnet_tf import schema
from urnet_tf.reweighting.instance_weight import normalized
from urnet_tf.store.hashing import splitmix64

_ROWS = 4096  # of features that are held at a time
_RIVALS = 5  # classes whose mean is compared with an image


def order_by_doubt(right_prob: np.ndarray) -> np.ndarray:
    """Least probable labels first: int64 [N]."""
    return np.argsort(right_prob, kind="stable")


def order_at_random(keys: np.ndarray) -> np.ndarray:
    """A random order that depends on nothing but the files: int64 [N].

    Files that come or go later leave the order of the others as it is, and so the sample that was judged.

    Args:
      keys: bytes [N] of 32 hexadecimal digits. Equal ones stand beside each other.
    """
    whole = [int(key, 16) for key in keys.tolist()]
    numbers = np.array([(number >> 64) ^ (number & (1 << 64) - 1) for number in whole], np.uint64)
    return np.argsort(splitmix64(numbers), kind="stable")


def compute_strangeness(
    features: np.ndarray, label: np.ndarray, right_prob: np.ndarray, top_ids: np.ndarray
) -> np.ndarray:
    """How little an image looks like any class: 1 - its largest cosine with the mean of a likely class.

    Means are those of images whose labels are probably right. An image is compared with its own class and
    with those that the models find likely.

    Args:
      features: float [N, D]; a memory map is read in blocks, twice.
      label: int [N], from 0; fastest where they rise.
      right_prob: float [N].
      top_ids: int [N, K].

    Returns:
      float32 [N], 0 to 2.
    """
    num_classes = int(max(label.max(), top_ids.max())) + 1
    means = np.zeros((num_classes, features.shape[1]), np.float32)
    trust = np.square(np.asarray(right_prob, np.float32))
    blocks = range(0, len(label), _ROWS)
    for start in blocks:
        rows = slice(start, start + _ROWS)
        points = normalized(features[start : min(start + _ROWS, len(label))]) * trust[rows, None]
        first = np.flatnonzero(np.diff(label[rows], prepend=-1))
        np.add.at(means, label[rows][first], np.add.reduceat(points, first))
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    likely = np.concatenate([label[:, None], top_ids[:, :_RIVALS]], axis=1)
    nearest = np.empty(len(label), np.float32)
    for start in blocks:
        rows = slice(start, min(start + _ROWS, len(label)))
        points = normalized(features[rows])
        cosines = np.stack(
            [np.einsum("nd,nd->n", points, means[likely[rows, k]]) for k in range(likely.shape[1])]
        )
        nearest[rows] = cosines.max(axis=0)
    return 1.0 - nearest


def order_by_strangeness(
    strangeness: np.ndarray, best_prob: np.ndarray, right_prob: np.ndarray
) -> np.ndarray:
    """Images that look like none of the classes first: int64 [N].

    By the sum of three ranks: looks like no class, no class is probable, the label is improbable. On a
    simulated crawl with 13 % such images, 82 % of the first 200 were; by the first alone 51 %.

    Args:
      strangeness: float [N], of `compute_strangeness`.
      best_prob: float [N], of the likeliest class.
      right_prob: float [N].
    """
    total = np.zeros(len(strangeness))
    for score in (strangeness, -np.asarray(best_prob), -np.asarray(right_prob)):
        total[np.argsort(score, kind="stable")] += np.arange(len(total))
    return np.argsort(-total, kind="stable")


def find_contradictions(
    duplicates: Mapping[str, np.ndarray], paths: list[str], label: np.ndarray
) -> list[np.ndarray]:
    """Training images that show one picture under several labels: int64 [n] each, the largest groups first.

    Args:
      duplicates: columns of duplicates.parquet.
      paths: of the training images, by id.
      label: int [N] of the training images.
    """
    wanted = np.isin(duplicates["kind"].astype(str), _SEVERAL) & (duplicates["split"] == schema.TRAIN)
    if not wanted.any():
        return []
    listed = set(duplicates["path"][wanted].tolist())
    id_of = {path: number for number, path in enumerate(paths) if path in listed}
    members: dict[str, set[int]] = {}
    for picture, path in zip(duplicates["picture"][wanted], duplicates["path"][wanted], strict=True):
        if path in id_of:
            members.setdefault(picture, set()).add(id_of[path])
    groups = [np.array(sorted(ids), np.int64) for ids in members.values()]
    groups = [ids for ids in groups if len(np.unique(label[ids])) > 1]
    return sorted(groups, key=lambda ids: (-len(ids), int(ids[0])))


_SEVERAL = ("several_labels", schema.NEAR + "several_labels", "train_and_evaluation",
            schema.NEAR + "train_and_evaluation")  # fmt: skip
