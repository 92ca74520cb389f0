"""Finds rows by 128-bit keys, such as hashes of contents, among millions.

Keys are uint64 [N, 2]; a row takes 24 bytes. All zeros stand for no key, which is never found.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_BYTES = 16
_AT_ONCE = 1 << 20


class RowsByKey:
    """Where keys stand in a list of keys.

    Args:
      keys: uint64 [N, 2]; of equal ones the first counts.
    """

    def __init__(self, keys: np.ndarray) -> None:
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable
        first = np.ones(len(order), bool)
        first[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        self._rows = order[first]
        self._high, self._low = keys[self._rows, 0], keys[self._rows, 1]

    def __len__(self) -> int:
        """The number of different keys."""
        return len(self._rows)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, int64 [M]; -1 where there is none.

        Of different keys with an equal first half, which hashes do not have, only one is found.
        """
        if not len(self._rows):
            return np.full(len(keys), -1, np.int64)
        place = np.minimum(np.searchsorted(self._high, keys[:, 0]), len(self._rows) - 1)
        found = (self._high[place] == keys[:, 0]) & (self._low[place] == keys[:, 1]) & keys.any(axis=1)
        return np.where(found, self._rows[place], -1)


def keys_of_hex(column: "Iterable[str] | pa.ChunkedArray") -> np.ndarray:
    """Keys of hashes in hexadecimal, of 32 digits, or of "" for none: uint64 [N, 2]."""
    import pyarrow as pa

    parts = []
    column = column if isinstance(column, pa.ChunkedArray) else list(column)
    for start in range(0, len(column), _AT_ONCE):
        some = column[start : start + _AT_ONCE]
        texts = some if isinstance(some, list) else some.to_pylist()
        digits = "".join(text or "0" * 2 * _BYTES for text in texts)
        parts.append(np.frombuffer(bytes.fromhex(digits), np.uint64).reshape(-1, 2))
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)


def keys_of(data: Sequence[bytes]) -> np.ndarray:
    """Keys of data: blake2b-128, uint64 [N, 2]."""
    hashes = b"".join(hashlib.blake2b(item, digest_size=_BYTES).digest() for item in data)
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)
