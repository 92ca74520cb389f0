"""The marker of a complete stage, `done.json`: every file with its size and hash, and a hash of itself."""

import pathlib
from typing import Any

from urnet_tf.errors import RunError
from urnet_tf.store.files import fingerprint, read_json

MARKER = "done.json"


class DamagedResult(RunError):
    """A file of a complete stage is not what its marker says.

    Attributes:
      stage: whose file it is.
      problem: what is wrong, naming the file.
    """

    def __init__(self, root: pathlib.Path, stage: str, problem: str):
        super().__init__(
            f"{root / stage} is damaged: {problem}. `urnet run` with the same settings makes it again."
        )
        self.stage, self.problem = stage, problem
        self._root = root

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedResult, (self._root, self.stage, self.problem)  # processes hand it on


def read_marker(directory: pathlib.Path) -> dict[str, Any] | None:
    """The marker in a directory, without its digest; None where there is none or where it was changed."""
    try:
        marker = whole_marker(read_json(directory / MARKER))
    except (OSError, ValueError, RecursionError):
        return None
    return None if marker is None else {key: value for key, value in marker.items() if key != "digest"}


def whole_marker(marker: Any) -> dict[str, Any] | None:
    """A marker as it was read, with its digest; None where it was changed."""
    if not isinstance(marker, dict) or "digest" not in marker:
        return None
    rest = {key: value for key, value in marker.items() if key != "digest"}
    return marker if marker["digest"] == fingerprint(rest) else None
