"""`urnet ensemble RUN RUN ...`: joins runs and tells what came of it."""

import os
import sys
from collections.abc import Sequence

from urnet_tf.commands import closing
from urnet_tf.evaluation import wording
from urnet_tf.flow import joined_runs


def join_runs(runs: Sequence[str], out: str, overrides: Sequence[str], *, dry_run: bool) -> int:
    """Joins finished runs, or prints what that would take; the exit status.

    Args:
      runs: their work directories.
      out: the work directory of the results.
      overrides: see `joined_runs.join_runs`.

    Raises:
      UsageError: runs that cannot be joined, or a directory that cannot be used.
    """
    if dry_run:
        print(joined_runs.format_plan(*joined_runs.open_runs(runs, out, overrides)))
        return 0
    done = joined_runs.join_runs(runs, out, overrides)
    print("\n".join(wording.format_models(done["metrics"])))
    if "no_export" in done:
        print(f"urnet: No model was exported, since {done['no_export']}.", file=sys.stderr)
        print(f"Results: {os.path.join(out, 'evaluate')}")
        return 0
    status = closing.tell_refusals(done["export"]["formats"])
    print(f"Results: {os.path.join(out, 'evaluate')}  {os.path.join(out, 'export', done['export']['path'])}")
    return status
