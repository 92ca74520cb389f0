"""What `urnet run` says at its end."""

import sys

from urnet_tf.evaluation import wording
from urnet_tf.export.parity import explain_refusals
from urnet_tf.store import Workdir, read_json


def closing_lines(workdir: Workdir) -> str:
    """Baseline beside URNet, and, as the last line, where the results are."""
    lines = wording.format_models(
        read_json(workdir.checked("evaluate", "metrics.json")), ("baseline", "urnet")
    )
    export = workdir.completed("export")["metadata"]
    workdir.bring("report/*", "export/*")  # what is told below is to be opened
    places = [workdir.path("report") / "index.html"]
    places.append(workdir.path("export") / export["path"] if export["path"] else workdir.path("train"))
    if workdir.address is not None:
        lines.append(f"All of it is in {workdir.address}, too.")
    lines.append("Results: " + "  ".join(map(str, places)))
    return "\n".join(lines)


def report_refusals(workdir: Workdir) -> int:
    """Tells which files lie too far from Keras; the exit status."""
    return tell_refusals(workdir.completed("export")["metadata"]["formats"])


def tell_refusals(formats: dict[str, dict]) -> int:
    sentences, is_error = explain_refusals(formats)
    for sentence in sentences:
        print(f"urnet: {sentence} --allow_drift keeps it.", file=sys.stderr)
    return 1 if is_error else 0
