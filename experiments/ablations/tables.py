"""Lines of the paper's tables as CSV and Markdown; figures are shares from 0 to 1, printed in percent."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

from ablations.statistics import FIGURES, PLAIN
from urnet_tf import schema

_NAMES = {
    "balanced_top1": "top-1, each class alike", "balanced_top5": "top-5, each class alike",
    "top1": "top-1, each image alike", "top5": "top-5, each image alike",
}  # fmt: skip
SPLITS = {schema.VAL: "validation", schema.TEST: "test"}
_NONE = "–"


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of a table: the figures of all seeds, and what changed."""

    row: str
    words: str
    seeds: list[int]
    split: str
    figures: Mapping[str, Mapping]  # figure → mean, sd, values
    change: Mapping[str, Mapping] | None  # figure → mean, low, high; to the row before, or to the first
    paper: float | None  # top-5 on WebVision, percent
    effective_share: float | None


def make_lines(
    summary: Mapping[str, dict], words: Mapping[str, str], papers: Mapping[str, float], change: str
) -> list[Line]:
    """The rows that were measured, in the order of the summary.

    Args:
      summary: as `statistics.summarize` gives it.
      words: row → what it is called.
      papers: row → the paper's figure.
      change: "step", to the row before, or "difference", to the first row.
    """
    return [
        Line(
            name, words[name], row["seeds"], row["split"], row["figures"][row["split"]], row.get(change),
            papers.get(name), row["effective_share"],
        )
        for name, row in summary.items()
        if row["seeds"]
    ]  # fmt: skip


def format_csv(lines: Sequence[Line]) -> str:
    """One line a row; means, deviations and changes in percent, the values of the seeds joined by ;."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["row", "name", "list", "seeds"]
    for figure in (*FIGURES, *PLAIN):
        head += [f"{figure}_mean", f"{figure}_sd", f"{figure}_values"]
    for figure in FIGURES:
        head += [f"{figure}_change", f"{figure}_change_low", f"{figure}_change_high"]
    writer.writerow([*head, "effective_share", "paper_top5"])
    for line in lines:
        cells = [line.row, line.words, line.split, len(line.seeds)]
        for figure in (*FIGURES, *PLAIN):
            found = line.figures[figure]
            values = ";".join(_percent(value) for value in found["values"])
            cells += [_percent(found["mean"]), _percent(found["sd"]), values]
        for figure in FIGURES:
            change = (line.change or {}).get(figure)
            cells += [_percent(change[key]) if change else "" for key in ("mean", "low", "high")]
        share = "" if line.effective_share is None else f"{line.effective_share:.3f}"
        writer.writerow([*cells, share, "" if line.paper is None else line.paper])
    return out.getvalue()


def format_page(
    title: str, tells: str, lines: Sequence[Line], summary: Mapping[str, dict], steps: int | None, seeds: int,
    after: str = "",
) -> str:  # fmt: skip
    """The table as Markdown, with what it shows, and which rows could not be measured."""
    failed = [f"{name} was not measured: {row['error']}" for name, row in summary.items() if row["error"]]
    if not lines:
        return "\n".join([f"## {title}", "", *(failed or ["Nothing has been measured."]), ""])
    paper = any(line.paper is not None for line in lines)
    trained = "" if steps is None else f" {steps:,} optimizer steps in every row that is trained by steps."
    head = ["", *(_NAMES[figure] for figure in (*FIGURES, *PLAIN)), "change of top-1", "change of top-5"]
    head += ["images' worth"] + ["the paper, top-5 on WebVision"] * paper
    text = [
        f"## {title}", "",
        f"{tells}{trained} Accuracy on the {SPLITS[lines[0].split]} list in percent, mean ± standard "
        f"deviation of {seeds} seeds. A change is the mean over the seeds with its 95 % interval; one that "
        "reaches over 0 may be chance. Images' worth: how many equal images the weighted ones are worth, as "
        "a share of all.",
        "", _line(head), _line(["---"] * len(head)),
    ]  # fmt: skip
    for line in lines:
        fewer = f" ({len(line.seeds)} seeds)" if len(line.seeds) < seeds else ""
        cells = [line.words + fewer]
        for figure in (*FIGURES, *PLAIN):
            found = line.figures[figure]
            cells.append(f"{_percent(found['mean'])} ± {_percent(found['sd']) or _NONE}")
        cells += [_change_cell((line.change or {}).get(figure)) for figure in FIGURES]
        cells.append(_NONE if line.effective_share is None else f"{line.effective_share:.2f}")
        cells += [_NONE if line.paper is None else f"{line.paper:.1f}"] * paper
        text.append(_line(cells))
    return "\n".join([*text, "", *([after, ""] if after else []), *failed, *([""] if failed else [])])


def _change_cell(change):
    if change is None:
        return _NONE
    mean, low, high = (100 * change[key] for key in ("mean", "low", "high"))
    return f"{mean:+.2f}" if low != low else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _percent(share):
    return "" if share != share else f"{100 * share:.2f}"


def _line(cells):
    return f"| {' | '.join(cells)} |"
