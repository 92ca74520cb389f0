"""Scores of someone else, by content hash or path: a part of the stage reweight.

In: FILE.parquet or FILE.csv (`reweight.other_score.path`) with a column `content_hash` or `path`, and one of
numbers. Out: the score of each training image, NaN where the file has none; how many were matched is told.
"""

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf.config import Config
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.other_score import rises_with
from urnet_tf.stages.own_features import folders_of, path_in_crawl
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import column, fingerprint
from urnet_tf.text_rules import quote, reason_of, show_path

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.reweighting.recipe import Weighed

_KEYS = ("content_hash", "path")
_FALLS = -0.1  # a correlation below which a score rather means the opposite


def fingerprint_scores(config: Config) -> dict[str, str]:
    """`Stage.inputs` of the file.

    Raises:
      UsageError: there is none.
    """
    settings = config.reweight.other_score
    if not settings.enabled or settings.path is None:
        return {}
    try:
        status = os.stat(settings.path)
    except OSError as error:
        raise UsageError(f"Cannot read the scores {show_path(settings.path)}: {error.strerror}.") from None
    return {"the file of scores": fingerprint(status.st_size, status.st_mtime_ns)}


def read_scores(context: StageContext, table: "pa.Table") -> tuple[np.ndarray, dict[str, Any]]:
    """The score of each training image, float64 [N], NaN without one; and metadata.

    Args:
      table: of the N training images, with `path` and `content_hash`.

    Raises:
      UsageError: the file cannot be read, has no such columns, or two scores for one image, or none matches.
    """
    settings = context.config.reweight.other_score
    path = pathlib.Path(settings.path or "")
    given = _read(path)
    key = next((name for name in _KEYS if name in given.column_names), None)
    if key is None:
        raise UsageError(
            f"Expected a column content_hash or path in {show_path(path)} (reweight.other_score.path); "
            f"received the columns {', '.join(given.column_names)[:200]}."
        )
    name = settings.column or _only_numbers(path, given)
    values = _numbers(path, given, name)
    wanted = table[key].to_pylist()
    keys = [str(value) for value in given[key].to_pylist()]
    if key == "path":
        inside = path_in_crawl(wanted, folders_of(context.config))
        wanted, keys = [inside(value) for value in wanted], [inside(value) for value in keys]
    scores: dict[str, float] = {}
    for place, value in zip(keys, values.tolist(), strict=True):
        if np.isfinite(value) and scores.setdefault(place, value) != value:
            raise UsageError(
                f"Expected one score an image; {show_path(path)} has {scores[place]:g} and {value:g} for "
                f"{quote(place)}."
            )
    found = np.array([scores.get(place, np.nan) for place in wanted])
    matched, unmatched = int(np.isfinite(found).sum()), len(set(keys) - set(wanted))
    if not matched:
        raise UsageError(
            f"Expected scores of images of this crawl in {show_path(path)}; none of its {len(keys):,} rows "
            f"is of one of the {len(wanted):,} training images (it has {quote(keys[0] if keys else '')}, the "
            f"crawl {quote(wanted[0])})."
        )
    logging.info(
        "Scores of %s (%s): %d of %d training images have one; %d rows are of no training image.",
        path.name, name, matched, len(found), unmatched,
    )  # fmt: skip
    return found, {
        "column": name,
        "matched": matched,
        "without": len(found) - matched,
        "unmatched": unmatched,
    }


def describe_scores(score: np.ndarray, weighed: "Weighed") -> dict[str, Any]:
    """How the score goes with P(right) by the pictures; a warning where it goes the other way."""
    correlation = rises_with(score, weighed.posterior.prob)
    if correlation < _FALLS:
        logging.warning(
            "The scores fall where labels are probably right (correlation %.2f), so they move nothing: give "
            "them with the other sign, if less means more probably right.", correlation,
        )  # fmt: skip
    return {"correlation": correlation, "moved": float(np.mean(weighed.factors["other_score"] != 1.0))}


def _read(path: pathlib.Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".csv":
            return pyarrow.csv.read_csv(path)
        return pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UsageError(
            f"Cannot read the scores {show_path(path)} (reweight.other_score.path), a .parquet or .csv file: "
            f"{reason}."
        ) from None


def _only_numbers(path: pathlib.Path, table: "pa.Table") -> str:
    import pyarrow as pa

    names = [
        field.name for field in table.schema
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]  # fmt: skip
    if len(names) != 1:
        raise UsageError(
            f"Expected one column of numbers in {show_path(path)}; received "
            f"{', '.join(map(quote, names[:5])) or 'none'}; name it with reweight.other_score.column."
        )
    return str(names[0])


def _numbers(path: pathlib.Path, table: "pa.Table", name: str) -> np.ndarray:
    import pyarrow as pa

    if name not in table.column_names:
        raise UsageError(
            f"Expected the column {quote(name)} (reweight.other_score.column) in {show_path(path)}; received "
            f"{', '.join(table.column_names)[:200]}."
        )
    try:
        return column(table.select([name]).cast(pa.schema([(name, pa.float64())])), name).astype(np.float64)
    except pa.ArrowException:
        raise UsageError(
            f"Expected numbers in the column {quote(name)} of {show_path(path)}; received "
            f"{table.schema.field(name).type}."
        ) from None
