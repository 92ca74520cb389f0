"""What people judged, as far as a run obeys it: a part of the stage ingest.

`ingest.corrections` names the files; the work directory's own log is taken where it says so. What is judged
decides results, not where it lies or who changed their mind in between: the fingerprint is of what holds.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from urnet_tf.config import Config
from urnet_tf.errors import UsageError
from urnet_tf.schema import OBEYED_COLUMNS, UNSURE
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import fingerprint, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.crawl.corrections import Judgements
    from urnet_tf.crawl.table import Crawl

AUTO, NONE = "auto", "none"


def corrections_files(config: Config, root: pathlib.Path) -> list[pathlib.Path]:
    """The files of judgements that a run in this work directory obeys.

    Raises:
      UsageError: `none` beside other files.
    """
    from urnet_tf.crawl.corrections import FILE_NAME

    wanted = config.ingest.corrections
    if NONE in wanted and len(wanted) > 1:
        raise UsageError(f"Expected ingest.corrections={NONE} alone, or files; received {', '.join(wanted)}.")
    own = root / FILE_NAME
    files = [own if name == AUTO else pathlib.Path(name) for name in wanted if name != NONE]
    return [file for file in files if file is not own or own.exists()]


def read_judgements(config: Config, root: pathlib.Path) -> "Judgements | None":
    """What holds by these files; None where nobody has judged anything.

    Raises:
      UsageError: a file is missing or damaged.
    """
    files = corrections_files(config, root)
    if not files:
        return None
    from urnet_tf.crawl import corrections

    judgements = corrections.current(corrections.read(files))
    return judgements if len(judgements.table) else None


def fingerprint_judgements(config: Config, root: pathlib.Path) -> dict[str, str]:
    """`Stage.inputs_of_workdir` of ingest."""
    judgements = read_judgements(config, root)
    if judgements is None:
        return {}
    names = ("content_hash", "path", "old_label", "verdict", "new_label", "who", "in_random_sample")
    rows = judgements.table.select(names).to_pylist()
    sure = sorted(tuple(row[name] for name in names) for row in rows if row["verdict"] != UNSURE)
    return {"the judgements": fingerprint(sure)} if sure else {}


def obey_judgements(
    context: StageContext, crawl: "Crawl", probes: "pa.Table"
) -> tuple["Crawl", "pa.Table", dict[str, Any]]:
    """The listing and its probes as people judged them, and metadata; writes judged.parquet."""
    from absl import logging

    from urnet_tf.crawl.correcting import obey

    judgements = read_judgements(context.config, context.workdir.root)
    if judgements is None:
        return crawl, probes, {}
    obeyed = obey(crawl, probes, judgements)
    for place, note in enumerate(obeyed.notes):
        (logging.warning if place else logging.info)("ingest: %s.", note)
    columns = {name: obeyed.table[name] for name in OBEYED_COLUMNS}
    write_table(context.out / "judged.parquet", columns, OBEYED_COLUMNS)
    return obeyed.crawl, obeyed.probes, {"judgements": obeyed.counts}
