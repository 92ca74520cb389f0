"""Features of one's own, from any encoder, in place of the backbone's: `model.features`.

In: FILE.npy, numbers [M, D], and beside it the path of the image of each row, in FILE.txt (one a line) or
FILE.parquet (a column `path`, and `split` where one path is in several). Rows may come in any order; those of
images that the crawl lacks are counted and left out, an image without a row is an error. Out: the rows of
the images of the crawl, by id.

Rows are never taken by their position alone: nothing would tell that an order is another one.
"""

import dataclasses
import os
import pathlib
import posixpath
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.config import Config
from urnet_tf.errors import UsageError
from urnet_tf.store.bucket_trees import place_of
from urnet_tf.text_rules import quote, reason_of, show_path

_BLOCK_ROWS = 4096
_SHOWN = 3
_KINDS = "fiu"  # of NumPy: floating point and whole numbers
_ADVICE = "Save features [images, D] with numpy.save, one row of numbers an image."


@dataclasses.dataclass(frozen=True)
class OwnFeatures:
    """The file, and whose its rows are.

    path: of FILE.npy.
    values: numbers [M, D], mapped from the disk.
    list_path: the list of paths beside it.
    """

    path: pathlib.Path
    values: np.ndarray
    list_path: pathlib.Path

    @property
    def dtype(self) -> np.dtype:
        """Of the features that are kept: float16 stays, all else becomes float32."""
        return np.dtype(np.float16 if self.values.dtype == np.float16 else np.float32)


def open_own_features(config: Config) -> OwnFeatures:
    """Opens `model.features` and looks at the shape; reads no row.

    Raises:
      UsageError: a file is missing or is no array of numbers [M, D].
    """
    path = pathlib.Path(config.model.features or "")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UsageError(
            f"Cannot read the features {show_path(path)} (model.features): {error.strerror or error}."
        ) from None
    except (ValueError, EOFError):
        raise UsageError(
            f"Expected a .npy file of numbers as model.features; {show_path(path)} is none. {_ADVICE}"
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _KINDS:
        found = f"{values.dtype} values" if isinstance(values, np.ndarray) else "several arrays"
        raise UsageError(
            f"Expected numbers in {show_path(path)} (model.features); received {found}. {_ADVICE}"
        )
    if values.ndim != 2 or 0 in values.shape:
        hint = " Average maps of features over their places first." if values.ndim > 2 else ""
        raise UsageError(
            f"Expected features [images, D] in {show_path(path)} (model.features); received the shape "
            f"{values.shape}. {_ADVICE}{hint}"
        )
    return OwnFeatures(path, values, _find_list(path))


def fingerprint_own_features(config: Config) -> dict[str, str]:
    """`Stage.inputs` of the stage that reads the files.

    Raises:
      UsageError: see `open_own_features`.
    """
    own = open_own_features(config)
    found = {}
    for name, path in (("the file of model.features", own.path), ("its list of paths", own.list_path)):
        status = os.stat(path)
        found[name] = store.fingerprint(status.st_size, status.st_mtime_ns)
    return found


def match_rows(
    own: OwnFeatures, paths: Sequence[str], splits: Sequence[str], roots: Sequence[str | os.PathLike] = ()
) -> np.ndarray:
    """The row of each image.

    Args:
      paths: of the images, as `instances.parquet` has them.
      splits: of the images.
      roots: folders of the crawl; a listed path that lies in one of them counts from there.

    Returns:
      int64 [n], rows of `own.values`.

    Raises:
      UsageError: the list has another length than the features, one image has two different rows, an
        image has none, or one path in two splits cannot be told apart.
    """
    listed, listed_splits = _read_list(own)
    wanted = [_plain(path) for path in paths]
    keys: list[tuple[str, str]] | list[tuple[str]]
    if listed_splits is None:
        _check_distinct(own, wanted, splits)
        keys = [(path,) for path in wanted]
    else:
        keys = list(zip(splits, wanted, strict=True))
    known, bases = set(wanted), [f"{os.path.realpath(root)}/" for root in roots]
    rows: dict[tuple, int] = {}
    for row, path in enumerate(listed):
        plain = _below(path, known, bases)
        key = (plain,) if listed_splits is None else (listed_splits[row], plain)
        first = rows.setdefault(key, row)
        if first != row and not np.array_equal(own.values[first], own.values[row], equal_nan=True):
            raise UsageError(
                f"Expected one row an image; {show_path(own.list_path)} has {quote(path)} as rows "
                f"{first + 1} and {row + 1}, whose features differ. Leave out one of them."
            )
    if listed_splits is not None:  # of another run, say, in which the image was of another split
        keys = _found_elsewhere(list(zip(splits, wanted, strict=True)), rows)
    missing = [path for key, path in zip(keys, paths, strict=True) if key not in rows]
    left_over = len(rows) - len(set(keys) & rows.keys())
    if missing:
        others = (
            f" {left_over:,} rows are of other paths, {quote(listed[0])} comes first." if left_over else ""
        )
        raise UsageError(
            f"Expected a row in {show_path(own.list_path)} for each of {len(paths):,} images of the crawl; "
            f"{len(missing):,} have none ({_some(missing)}).{others} Add them, or leave these images out of "
            "the crawl."
        )
    if left_over:
        logging.warning(
            "%s: %d of %d rows are of no image that the crawl uses; they are left out.",
            own.path, left_over, len(listed),
        )  # fmt: skip
    return np.array([rows[key] for key in keys], np.int64)


def _found_elsewhere(keys: Sequence[tuple[str, str]], rows: Mapping[tuple, int]) -> list[tuple[str, str]]:
    """The keys, but where there is none of the split the only one of the path."""
    splits: dict[str, set[str]] = {}
    for split, path in rows:
        splits.setdefault(path, set()).add(split)
    found = []
    for split, path in keys:
        others = splits.get(path, set())
        found.append((next(iter(others)) if split not in others and len(others) == 1 else split, path))
    return found


def copy_features(own: OwnFeatures, rows: np.ndarray, paths: Sequence[str], out: np.ndarray) -> None:
    """Writes the rows into a column, [n, D] in the order of the images.

    Raises:
      UsageError: a feature is NaN or infinite, or too large for float32.
    """
    for start in range(0, len(rows), _BLOCK_ROWS):
        chosen = rows[start : start + _BLOCK_ROWS]
        with np.errstate(over="ignore"):
            block = np.asarray(own.values[chosen]).astype(out.dtype)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise UsageError(
                f"Expected finite features in {show_path(own.path)} (model.features); received NaN, infinity "
                f"or a number beyond float32 for {quote(paths[start + bad[0]])} (row {chosen[bad[0]] + 1}). "
                "Compute the features of that image again, or leave it out of the crawl."
            )
        out[start : start + len(block)] = block


def folders_of(config: Config) -> list[str]:
    """The folders that paths of the crawl start from."""
    settings = config.ingest
    path = None if settings.path is None else place_of(settings.path)
    places = (settings.image_root, path, settings.val_path, settings.test_path)
    return [place if os.path.isdir(place) else os.path.dirname(place) or "." for place in places if place]


def _find_list(path: pathlib.Path) -> pathlib.Path:
    found = [other for ending in (".parquet", ".txt") if (other := path.with_suffix(ending)).is_file()]
    if len(found) != 1:
        names = f"{path.with_suffix('.txt').name} (one path a line) or {path.with_suffix('.parquet').name}"
        received = "both" if found else "neither"
        raise UsageError(
            f"Expected the path of the image of each row beside {show_path(path)} (model.features), in "
            f"{names} (a column path); there is {received}. A copy of pack/instances.parquet will do for "
            "features in its order."
        )
    return found[0]


def _read_list(own: OwnFeatures) -> tuple[list[str], list[str] | None]:
    """The paths, and the splits where the list tells them."""
    path, splits = own.list_path, None
    try:
        if path.suffix == ".txt":
            text = path.read_text(encoding="utf-8-sig")
            paths = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        else:
            paths, splits = _read_parquet(path)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors, too
        reason = reason_of(error)
        raise UsageError(
            f"Cannot read the paths {show_path(path)} beside model.features: {reason}."
        ) from None
    if len(paths) != len(own.values):
        raise UsageError(
            f"Expected a path for each of the {len(own.values):,} rows of {show_path(own.path)}; "
            f"{show_path(path)} has {len(paths):,}. Write both from the same list."
        )
    return paths, splits


def _read_parquet(path: pathlib.Path) -> tuple[list[str], list[str] | None]:
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(path).names
    table = pyarrow.parquet.read_table(path, columns=["path", *(["split"] if "split" in names else [])])
    if "path" not in names:
        raise KeyError("it has no column path")
    columns = table.to_pydict()
    return [str(value) for value in columns["path"]], columns.get("split")


def _plain(path: str) -> str:
    """One spelling for one path: `./cat\\1.jpg` → `cat/1.jpg`."""
    return posixpath.normpath(path.replace("\\", "/"))


def path_in_crawl(known: Sequence[str], roots: Sequence[str | os.PathLike]) -> Callable[[str], str]:
    """A function from a path, absolute or however it is written, to the crawl's own.

    Args:
      known: the paths of the crawl.
      roots: folders of the crawl.
    """
    wanted, bases = {_plain(path) for path in known}, [f"{os.path.realpath(root)}/" for root in roots]
    return lambda path: _below(path, wanted, bases)


def _below(path: str, known: set[str], bases: Sequence[str]) -> str:
    """A path as the crawl has it: as it is, or from the crawl's folder on."""
    plain = _plain(path)
    if plain in known:
        return plain
    whole = os.path.realpath(plain)
    return next((whole.removeprefix(base) for base in bases if whole.startswith(base)), plain)


def _check_distinct(own: OwnFeatures, paths: Sequence[str], splits: Sequence[str]) -> None:
    where: dict[str, str] = {}
    for path, split in zip(paths, splits, strict=True):
        if where.setdefault(path, split) != split:
            raise UsageError(
                f"Expected {own.path.with_suffix('.parquet').name} with the columns path and split beside "
                f"{show_path(own.path)}, as {quote(path)} is an image of {where[path]} and one of {split}; "
                f"received {own.list_path.name} without splits."
            )


def _some(paths: Sequence[str]) -> str:
    return ", ".join(map(quote, paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")
