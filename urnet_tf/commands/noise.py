"""`urnet noise`: what is wrong in a crawl, as early as that can be said.

The stages up to the weights run, and the report of what is known then; no final network is trained and
nothing is exported. `urnet run` with the same settings goes on from there.
"""

from collections.abc import Collection

from urnet_tf.explain.advice import fill_command
from urnet_tf.flow import plan
from urnet_tf.store import Workdir

_LAST, _REPORT = "reweight", "report"


def stages_of_noise() -> Collection[str]:
    """The stages that run."""
    return plan.with_needs(_LAST) | {_REPORT}


def closing_lines(workdir: Workdir) -> list[str]:
    """What was found, what to do next, and where the page is."""
    metadata = workdir.completed(_REPORT)["metadata"]
    workdir.bring(f"{_REPORT}/*")
    lines = list(metadata["lines"])
    for one in metadata["suggestions"][:1]:
        command = fill_command(one["command"], str(workdir.root))
        lines.append(f"Next: {one['title']}" + (f": {command}" if command else "."))
    if "train" in metadata["missing"]:
        lines.append("To train and export a classifier: the same command with `run` repeats nothing of this.")
    return [*lines, f"Page: {workdir.path(_REPORT) / metadata['path']}"]
