r"""What each re-weighting is worth, beside what others would use: equal care, several seeds, paired.

    python experiments/ablation.py --data CRAWL --config experiments/configs/webtiny.yaml --search
    python experiments/ablation.py --data CRAWL --config experiments/configs/webtiny.yaml \
        [--out runs/ablation] [--seeds 5] [--truth TRUTH.csv] [--rows presets,others] [--against best]

    python experiments/ablation.py --paper --data CRAWL --config experiments/configs/quickstart.yaml --seeds 3

The first call chooses the settings of the other methods on the validation list with the first seed;
without it they have their defaults. Rows, groups and what they mean: `ablations/rows.py`; how a row
is measured: `ablations/measure.py`; the intervals: `ablations/statistics.py`. Writes ablation.json,
ablation.md and ablation.png. The last call writes the paper's Fig. 7, Tables 1 and 2 and Fig. 6 for this
crawl: `ablations/paper.py`. A killed call goes on when it is started again.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from ablations import figure, measure, paper, rows, search, statistics
from absl import app, flags, logging

from urnet_tf import store
from urnet_tf.errors import RunError, UsageError

_DATA = flags.DEFINE_string("data", None, "the crawl", required=True)
_OUT = flags.DEFINE_string("out", "runs/ablation", "directory for results")
_CONFIG = flags.DEFINE_string("config", None, "YAML configuration")
_SET = flags.DEFINE_multi_string("set", [], "section.key=value, for all rows")
_SEEDS = flags.DEFINE_integer("seeds", 5, "how many seeds", lower_bound=1)
_TRUTH = flags.DEFINE_string("truth", None, "CSV with the truth: scores weights, and allows the oracle")
_ROWS = flags.DEFINE_list("rows", None, "rows and groups; None = the main groups, with --truth the oracle")
_ROW = flags.DEFINE_multi_string("row", [], "a row of your own: name=section.key=value;section.key=value")
_AGAINST = flags.DEFINE_string("against", None, "row that others are compared with; None = the first one")
_SEARCH = flags.DEFINE_bool("search", False, "only choose settings of the other methods")
_PAPER = flags.DEFINE_bool("paper", False, "the paper's tables and figures instead of rows")
_PARTS = flags.DEFINE_list("paper_parts", list(paper.PARTS), "with --paper: which of them")
_MEMBERS = flags.DEFINE_integer("members", 3, "with --paper: networks of an ensemble (the paper: 29)")
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "compute nothing, write tables of what is there")


def main(_):
    logging.set_verbosity(logging.WARNING)  # stages tell much, and there are hundreds of them
    data = json.dumps(_DATA.value, ensure_ascii=False)
    experiment = measure.Experiment(
        pathlib.Path(_OUT.value), (*_SET.value, f"ingest.path={data}"), _CONFIG.value, _TRUTH.value
    )
    if _PAPER.value:
        print(_write_paper(experiment))
        return
    names = _ROWS.value
    if names is None:
        names = [] if _ROW.value else [*rows.DEFAULT_GROUPS, *(["oracle"] if _TRUTH.value else [])]
    groups = rows.choose_groups(names, _ROW.value)
    if _SEARCH.value:
        search.search_settings(experiment, _all_rows(groups), _report)
        return
    found = search.read_found(experiment)
    groups = {group: search.with_found(members, found) for group, members in groups.items()}
    wanted = _all_rows(groups)
    against = _AGAINST.value or next(iter(wanted))
    if against not in wanted:
        wanted |= _all_rows(rows.choose_groups([against]))
    seeds = list(range(_SEEDS.value))

    def write(_=None):
        return _write(experiment, groups, wanted, against, seeds)

    if not _TABLE_ONLY.value:
        measure.run_units(experiment, wanted, seeds, _report, finished=write)
    text, refused = write()
    print(text)
    if refused:
        raise RunError("A table was refused; see above.")


def _write_paper(experiment):
    found = search.read_found(experiment)
    return paper.run(
        experiment, _PARTS.value, list(range(_SEEDS.value)), _MEMBERS.value,
        lambda own: search.with_found(own, found), _report, compute=not _TABLE_ONLY.value,
    )  # fmt: skip


def _all_rows(groups):
    return {name: settings for members in groups.values() for name, settings in members.items()}


def _report(line):
    print(line, file=sys.stderr, flush=True)


def _write(experiment, groups, wanted, against, seeds):
    """Writes ablation.json, .md and .png of what is there; returns the tables and whether one was refused."""
    units = measure.read_units(experiment, wanted, seeds)
    split = experiment.load((), 0)[0].evaluate.split
    summary = statistics.summarize(units, against, rows.BEFORE, split)
    tables, refused = [], False
    for group, members in groups.items():
        listed = list(dict.fromkeys([against, *members]))
        try:
            steps = statistics.check_equal_steps({name: units[name] for name in listed})
        except RunError as error:
            tables.append(f"## {group}\n\nThere is no table: {error}\n")
            refused = True
            continue
        kept = {name: summary[name] for name in listed}
        tables.append(statistics.format_table(group, kept, against, steps, len(seeds)))
        tables += search.format_chosen(members)
    store.write_json(
        experiment.out / "ablation.json",
        {"against": against, "seeds": seeds, "groups": {g: list(m) for g, m in groups.items()},
         "rows": summary, "units": units},
    )  # fmt: skip
    text = "\n".join(tables)
    store.write_text(experiment.out / "ablation.md", text + "\n")
    methods = [name for group in ("presets", "others", "oracle") for name in groups.get(group, ())]
    figure.draw_figure(experiment.out / "ablation.png", summary, rows.STEPS, methods)
    return text, refused


if __name__ == "__main__":
    try:
        app.run(main)
    except UsageError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(1)
