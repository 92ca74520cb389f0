"""Looks into files: what `probe` says of them, whether they can be decoded, and what is kept of them.

A file whose bytes are known from earlier is read, and nothing else is done with it.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from urnet_tf.errors import RunError
from urnet_tf.images.packing import Packed, Packer
from urnet_tf.images.probe import (
    ProbeResult,
    content_hash,
    describe_refusal,
    map_in_threads,
    probe_bytes,
    try_to_read,
)

_FILES_PER_TASK = 4


class Inspection(NamedTuple):
    """What was found in one file.

    known: a row of what is known from earlier, for a file of the same bytes; -1 = none.
    probe: of a file that is not known.
    packed: None where it was not decoded.
    record_key: of the record, as `content_hash` gives it; "" where there is none.
    """

    known: int = -1
    probe: ProbeResult | None = None
    packed: Packed | None = None
    record_key: str = ""


class Inspector:
    """Looks into files, in several threads at once.

    Args:
      packer: decodes.
      decoders: how many files are decoded at once; more may be read meanwhile.
      max_bytes, max_pixels, min_side_px: see `probe.probe_file`.
      thumbnails: whether these are made.
      find: hash of a content, see `probe.content_hash` → row of what is known, or -1.
    """

    def __init__(
        self, packer: Packer, *, decoders: int, max_bytes: int, max_pixels: int, min_side_px: int,
        thumbnails: bool, find: Callable[[str], int] = lambda content: -1,
    ) -> None:  # fmt: skip
        self._packer, self._find, self._thumbnails = packer, find, thumbnails
        self._max_bytes, self._limits = max_bytes, (max_pixels, min_side_px)
        self._decoding = threading.Semaphore(decoders)  # each needs memory for its pixels

    def inspect(
        self, paths: Sequence[str], workers: int, report: Callable[[], object] = lambda: None
    ) -> list[Inspection]:
        """Looks into files; the results stand in the order of `paths`.

        Args:
          report: is called when a file is done.

        Raises:
          OSError: the disk or network fails; `filename` is the path.
          RunError: an image does not fit into memory.
        """
        found = []
        with contextlib.closing(map_in_threads(self._inspect, paths, workers, _FILES_PER_TASK)) as results:
            for result in results:
                found.append(result)
                report()
        # Now all threads are at rest, so that what is printed belongs to one image.
        return [
            self._inspect(path, alone=True) if result.packed is not None and result.packed.suspect else result
            for path, result in zip(paths, found, strict=True)
        ]

    def _inspect(self, path: str, alone: bool = False) -> Inspection:
        data = try_to_read(path, self._max_bytes)
        if isinstance(data, ProbeResult):
            return Inspection(probe=data)
        content = content_hash(data)
        known = self._find(content)
        if known >= 0:
            return Inspection(known)
        probe = probe_bytes(data, *self._limits, content)
        if probe.status is not None:
            return Inspection(probe=probe)
        pack = functools.partial(self._packer.pack_alone if alone else self._packer.pack, data)
        try:
            with self._decoding:
                packed = pack(thumbnail=self._thumbnails)
        except MemoryError as error:
            raise RunError(f"{path} cannot be decoded: it does not fit into memory.") from error
        if packed.refused is not None:
            refused = packed.refused
            probe = probe._replace(status=refused.status, reason=describe_refusal(refused), guessed="")
        record = packed.record
        key = content if record is data else content_hash(record) if record else ""
        return Inspection(probe=probe, packed=packed, record_key=key)
