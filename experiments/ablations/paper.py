"""The paper's Fig. 7, Tables 1 and 2 and Fig. 6, redrawn for a crawl: which rows, and what is written.

    OUT/paper/fig7.csv, .md, .png      the ladder: one step after the other (Sec. 4), on the paper's form
    OUT/paper/table1_paper.*           the tricks, one on top of the other, on the paper's form
    OUT/paper/table1_best.*            ... and on `best`
    OUT/paper/table2.*                 beside other methods, where a test list has labels
    OUT/paper/fig6.csv, .md, .png      the groups of look-alikes of a class and of its four confusing ones
    OUT/paper/paper.md                 all of them on one page

Every row of a table has the same number of optimizer steps, or a head fitted to convergence, and is measured
with the same seeds. What the paper reports, top-5 on WebVision 2.0 (5,000 classes), stands beside it.
"""

import dataclasses
from collections.abc import Callable, Sequence

from ablations import look_alikes, measure, panels, rows, statistics, tables
from urnet_tf import schema, store
from urnet_tf.errors import RunError, UsageError

FIG7, TABLE1, TABLE2, FIG6 = "fig7", "table1", "table2", "fig6"
PARTS = (FIG7, TABLE1, TABLE2, FIG6)
# What a configuration of the whole paper has on already, and Table 1 adds one by one.
_NO_TRICKS = ("ingest.max_rank={}", "evaluate.crops=1", "evaluate.scales=[1.0]")
_FEWEST_SEEDS = 3  # for a spread

# Top-5 in percent: Fig. 7 on the validation list, Table 1 on top of its last row.
_PAPERS_LADDER = (71.7, 72.8, 75.3, 76.0, 76.3, 76.5)
_PAPERS_TRICKS = (76.5, 77.0, 78.3, 79.3, 79.8)
_STEP_NAMES = {
    "nothing": "plain training", "class": "class weights", "cluster": "cluster weights",
    "instance": "instance confidence", "bag": "bag attention", "label": "soft targets",
}  # fmt: skip
_TRICK_NAMES = {
    "flickr_top15": "only the top 15 of Flickr of each class", "ensemble": "several networks",
    "multi_crop": "10 crops of each image", "multi_scale": "at three sizes",
}  # fmt: skip
_METHOD_NAMES = {
    "baseline": "plain training, fitted to convergence", "paper": "the paper, to the letter",
    "paper_unit_mean": "the paper, its weights scaled to mean 1", "sound": "the paper with repaired formulas",
    "best": "best, the default", "class_weights": "class weights alone",
    "mixup+class": "mixup and class weights", "gce+class": "generalized cross entropy and class weights",
    "sce+class": "symmetric cross entropy and class weights", "elr+class": "ELR and class weights",
}  # fmt: skip
_CHALLENGE = (
    "For comparison, the paper's Table 2, top-5 on the test list of the WebVision 2018 challenge: Vibranium "
    "(the paper) 79.25, Overfit 75.30, ACRV_ANU 69.56, EBD_birds 69.44, INFIMIND 68.74, CMIC 61.14 "
    "(vision.ee.ethz.ch/webvision/2018/challenge_results.html)."
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One table and its plot."""

    name: str
    title: str
    tells: str  # what the reader sees, in plain words
    rows: dict[str, tuple[str, ...]]
    words: dict[str, str]  # row → what it is called
    papers: dict[str, float] = dataclasses.field(default_factory=dict)  # row → top-5 of the paper, percent
    after: str = ""  # below the table
    ladder: bool = True  # rows build on each other


def plan_parts(wanted: Sequence[str], members: int) -> list[Part]:
    """The tables of the wanted parts, in the order of the paper's steps.

    Raises:
      UsageError: an unknown part.
    """
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise UsageError(f"Expected parts of {', '.join(PARTS)}; received {unknown[0]!r}.")
    every = {name: settings for group in rows.GROUPS.values() for name, settings in group.items()}
    found = []
    if FIG7 in wanted:
        found.append(_plan_ladder(every))
    if TABLE1 in wanted:
        found += [_plan_tricks(form, members) for form in ("paper", "best")]
    if TABLE2 in wanted:
        found.append(_plan_comparison(every))
    return [
        dataclasses.replace(part, rows={name: (*_NO_TRICKS, *s) for name, s in part.rows.items()})
        for part in found
    ]


def _plan_ladder(every):
    steps = ["nothing", *rows.STEPS["paper"]]
    names = [rows.NOTHING["paper"], *(f"paper_to_{step}" for step in steps[1:])]
    plus = [_STEP_NAMES[step] if step == "nothing" else f"+ {_STEP_NAMES[step]}" for step in steps]
    return Part(
        FIG7, "Fig. 7: one step after the other",
        "Each row has everything of the rows above it. All are trained for the same number of steps, the "
        "plain one as well, with the literal formulas of the paper and one view of each image.",
        {name: every[name] for name in names}, dict(zip(names, plus, strict=True)),
        dict(zip(names, _PAPERS_LADDER, strict=True)),
    )  # fmt: skip


def _plan_tricks(form, members):
    stacked = {
        name: tuple(f"ensemble.members={members}" if s.startswith("ensemble.") else s for s in settings)
        for name, settings in rows.stack_tricks(form).items()
    }
    first = {"paper": "the paper, to the letter", "best": "best, the default"}[form]
    words = [first, *(f"+ {_TRICK_NAMES[trick]}" for trick in rows.TRICKS)]
    return Part(
        f"{TABLE1}_{form}", f"Table 1: tricks on top of {first}",
        f"Each row has the tricks of the rows above it. {members} networks that differ in their seeds are "
        "averaged (the paper: 29); fewer images are seen more often, to as many steps.",
        stacked, dict(zip(stacked, words, strict=True)),
        dict(zip(stacked, _PAPERS_TRICKS, strict=True)) if form == "paper" else {},
    )  # fmt: skip


def _plan_comparison(every):
    return Part(
        TABLE2, "Table 2: beside other methods",
        "One network and one view of each image in every row. The other methods have their usual settings, "
        "or those that an earlier call with --search found in the same directory.",
        {name: every[name] for name in _METHOD_NAMES}, _METHOD_NAMES, after=_CHALLENGE, ladder=False,
    )  # fmt: skip


def run(
    experiment: measure.Experiment, wanted: Sequence[str], seeds: Sequence[int], members: int,
    found: Callable[[dict], dict], report: Callable[[str], None], compute: bool = True,
) -> str:  # fmt: skip
    """Measures what the wanted parts need, writes them, and returns the page.

    Args:
      found: puts the settings of a search into rows.
      compute: False writes the tables of what is there.

    Raises:
      UsageError: an unknown part, too few seeds for a spread, or one network that should be several.
      RunError: rows have unequal numbers of steps.
    """
    if len(seeds) < _FEWEST_SEEDS:
        raise UsageError(
            f"Expected {_FEWEST_SEEDS} seeds or more for the paper's tables, which say how far they scatter; "
            f"received {len(seeds)}."
        )
    if members < 2:
        raise UsageError(f"Expected 2 members of an ensemble or more; received {members}.")
    parts = [dataclasses.replace(p, rows=found(p.rows)) for p in plan_parts(wanted, members)]
    pages, directory = [], experiment.out / "paper"
    directory.mkdir(parents=True, exist_ok=True)
    if TABLE2 in wanted and not measure.has_labels(experiment, schema.TEST):
        parts = [part for part in parts if part.name != TABLE2]
        pages.append("## Table 2\n\nIt is left out: no image of a test list has a label here.\n")
    needed = {name: settings for part in parts for name, settings in part.rows.items()}
    if compute and needed:
        measure.run_units(experiment, needed, list(seeds), report)
    for part in parts:
        pages.append(_write_part(experiment, part, seeds, directory))
    if FIG6 in wanted:
        pages.append(look_alikes.write_figure(experiment, rows.PAPER, directory, seeds[0]))
    page = "# The paper's tables and figures on this crawl\n\n" + "\n".join(pages)
    store.write_text(directory / "paper.md", page)
    return page


def _write_part(experiment, part, seeds, directory):
    units = measure.read_units(experiment, part.rows, list(seeds))
    first = next(iter(part.rows))
    before = dict(zip(list(part.rows)[1:], part.rows, strict=False)) if part.ladder else {}
    split = schema.TEST if part.name == TABLE2 else experiment.load((), 0)[0].evaluate.split
    try:
        steps = statistics.check_equal_steps(units)
    except RunError as error:
        return f"## {part.title}\n\nThere is no table: {error}\n"
    summary = statistics.summarize(units, first, before, split)
    lines = tables.make_lines(summary, part.words, part.papers, "step" if part.ladder else "difference")
    store.write_text(directory / f"{part.name}.csv", tables.format_csv(lines))
    text = tables.format_page(part.title, part.tells, lines, summary, steps, len(seeds), part.after)
    store.write_text(directory / f"{part.name}.md", text)
    drawn = panels.draw_panels(directory / f"{part.name}.png", part.title, part.tells, lines, part.ladder)
    return text + (f"\n![{part.title}]({part.name}.png)\n" if drawn else "")
