"""What is compared: names of rows to the settings that make them, in groups.

A setting is a text `section.key=value` of the configuration, or one of the harness's own:

  ensemble.members     the mean prediction of so many networks that differ in their seeds (`members.py`)
  figures.model        whose figures the row shows, as `evaluate` names it: urnet, baseline, folds, ensemble
  cleanlab.filter_by   what cleanlab's `find_label_issues(filter_by=...)` finds is left out
  cleanlab.quality     cleanlab's `get_label_quality_scores(method=...)` are the sample weights
  co_teaching.forget_rate   two networks choose for each other (`co_teaching.py`)
  knn.neighbors        the share of so many nearest images with the same label are the sample weights
  oracle.drop_wrong    leaves out every wrong label, by the truth; an upper bound, not a method
  oracle.correct_wrong gives wrong labels the true class and leaves out what is of no class; another bound

A later setting of the same key wins, and a row's settings come after those of the command line.
"""

import dataclasses
import re

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.factors import weighing

BEST, SOUND = ("preset=best",), ("preset=sound",)
# One view as the others: many views are a trick of Table 1 (`tricks`), not a part of the ladder.
PAPER = ("preset=paper", "evaluate.crops=1", "evaluate.scales=[1.0]")

_FORMS = {"sound": SOUND, "paper": PAPER}
_FACTORS_OFF = {factor: f"{factor.switch}=false" for factor in weighing()}
# The steps of the paper in its order (Fig. 7), self-confidence beside the other evidence; how each is off.
OFF = {
    **{factor.step: off for factor, off in _FACTORS_OFF.items() if factor.in_sound},
    "bag": "train.bag.loss_weight=0",
    "label": "reweight.soft_label.enabled=false",
}
NOTHING = {"sound": "nothing", "paper": "paper_nothing"}  # the first rung of each ladder
STEPS = {"sound": tuple(OFF), "paper": tuple(step for step in OFF if step != "self")}


# What makes `best`, and how each of it is off.
BEST_OFF = {
    "second_round": "reweight.rounds=1",
    # Scores of someone else and text towers are there only where a file or a preset is given.
    **{
        factor.step: off
        for factor, off in _FACTORS_OFF.items()
        if not factor.in_sound and factor.name not in ("other_score", "zero_shot", "page_fit")
    },
    "fitted_head": "train.head=trained",  # bags, mixup and logit adjustment in its place
}
# What fits a linear head to convergence, its strength chosen out of fold, as `best` does.
_FITTED = ("train.head=mean",)


# The tricks of Table 1 in its order, with the views of the preset `paper`.
TRICKS = {
    "flickr_top15": ("ingest.max_rank={flickr: 15}", "ingest.max_rank_per=class"),
    "ensemble": ("ensemble.members=3",),
    "multi_crop": ("evaluate.crops=10",),
    "multi_scale": ("evaluate.scales=[1.0, 1.15, 1.3]",),
}


def keep_only(*steps: str) -> tuple[str, ...]:
    """The settings that switch every step off but these."""
    return tuple(setting for step, setting in OFF.items() if step not in steps)


@dataclasses.dataclass(frozen=True)
class Method:
    """What others would use: the train stage with one thing changed and all our steps off."""

    key: str  # the setting that is searched
    values: tuple  # the first is taken where nothing was searched
    fixed: tuple[str, ...] = ()
    with_class: bool = True  # whether our class weights may stand beside it
    kept: tuple[str, ...] = ()  # our steps that it changes rather than replaces


METHODS = {
    "cleanlab_filter": Method(
        "cleanlab.filter_by", ("prune_by_noise_rate", "both", "confident_learning"), _FITTED
    ),
    "cleanlab_weights": Method("cleanlab.quality", ("self_confidence", "normalized_margin"), _FITTED),
    "knn_weights": Method("knn.neighbors", (20, 10, 40, 80), _FITTED),
    "label_smoothing": Method("train.fit.label_smoothing", (0.1, 0.2, 0.4)),
    "mixup": Method("train.fit.mixup", (0.2, 0.4, 1.0, 2.0)),
    "gce": Method("train.fit.loss.gce_q", (0.7, 0.4), ("train.fit.loss.kind=gce",)),
    "sce": Method("train.fit.loss.sce_reverse", (1, 0.3, 3, 10), ("train.fit.loss.kind=sce",)),
    "elr": Method("train.fit.loss.elr_weight", (3, 1, 7), ("train.fit.loss.kind=elr",)),
    "co_teaching": Method("co_teaching.forget_rate", (0.2, 0.35, 0.5)),
    "focal": Method("train.fit.loss.focal_gamma", (2, 1), ("train.fit.loss.kind=focal",)),
    "effective_number": Method(
        "reweight.class_weight.effective_beta", (0.999, 0.99, 0.9999),
        ("reweight.class_weight.kind=effective_number",), with_class=False, kept=("class",),
    ),
    "logit_adjustment": Method("train.fit.loss.logit_adjustment", (1, 0.5, 1.5), with_class=False),
}  # fmt: skip


def _build_groups():
    presets = {"baseline": (*BEST, "figures.model=baseline"), "best": BEST, "sound": SOUND, "paper": PAPER}
    # The literal weights have a mean far from 1, and with it the learning rate.
    presets["paper_unit_mean"] = (*PAPER, "reweight.combine.unit_mean=true")
    ladders = {}
    for form, settings in _FORMS.items():
        steps, ladder = STEPS[form], {NOTHING[form]: (*settings, *keep_only())}
        for number, step in enumerate(steps, 1):
            ladder[f"{form}_to_{step}"] = (*settings, *keep_only(*steps[:number]))
        ladder |= {f"{form}_only_{step}": (*settings, *keep_only(step)) for step in steps}
        for step in steps:
            ladder[f"{form}_without_{step}"] = (*settings, *keep_only(*(s for s in steps if s != step)))
        ladders[f"ladder_{form}"] = ladder
    others = {}
    for name, method in METHODS.items():
        for suffix, kept in (("", method.kept), ("+class", ("class",)))[: 1 + method.with_class]:
            first = f"{method.key}={method.values[0]}"
            others[name + suffix] = (*SOUND, *keep_only(*kept), *method.fixed, first)
    others["class_weights"] = (*SOUND, *keep_only("class"))
    # Plain classifiers that ignore the noise, as well fitted as the others.
    for kind in ("discriminant", "logistic", "mean"):
        others[f"plain_{kind}"] = (*SOUND, *keep_only(), f"train.head={kind}")
    return {
        "presets": presets,
        **ladders,
        "parts_of_best": {
            "best": BEST,
            **{f"best_without_{part}": (*BEST, setting) for part, setting in BEST_OFF.items()},
        },
        "others": others,
        "oracle": {
            "oracle": (*SOUND, *_FITTED, *keep_only(), "oracle.drop_wrong=true"),
            "corrected_oracle": (*SOUND, *_FITTED, *keep_only(), "oracle.correct_wrong=true"),
        },
        **{f"tricks_{form}": _build_tricks(form) for form in ("paper", "best")},
    }


def stack_tricks(form: str) -> dict[str, tuple[str, ...]]:
    """Table 1: a form of the system, "paper" or "best", and one trick on top of the other."""
    settings, name = {"paper": PAPER, "best": BEST}[form], form
    rows = {name: settings}
    for trick, more in TRICKS.items():
        name, settings = f"{name}+{trick}", (*settings, *more)
        rows[name] = settings
    return rows


def _build_tricks(form):
    """Table 1, and each trick alone."""
    stacked = stack_tricks(form)
    return stacked | {f"{form}+{trick}": (*stacked[form], *more) for trick, more in TRICKS.items()}


GROUPS = _build_groups()
# Rows that add one thing to another row.
BEFORE = {
    **{f"{form}_to_{step}": f"{form}_to_{before}"
       for form, steps in STEPS.items() for before, step in zip(steps, steps[1:], strict=False)},
    **{f"{form}_to_{steps[0]}": NOTHING[form] for form, steps in STEPS.items()},
    **{name: name.rpartition("+")[0]
       for form in ("paper", "best") for name in GROUPS[f"tricks_{form}"] if "+" in name},
}  # fmt: skip
DEFAULT_GROUPS = ("presets", "ladder_sound", "ladder_paper", "others")
FREE = "rows of this call"

_OWN_KEYS = (
    "ensemble.members", "figures.model", "cleanlab.filter_by", "cleanlab.quality", "co_teaching.forget_rate",
    "knn.neighbors", "oracle.drop_wrong", "oracle.correct_wrong",
)  # fmt: skip


def choose_groups(names: list[str], free: list[str] = ()) -> dict[str, dict[str, tuple[str, ...]]]:
    """The rows that were requested, by group and in its order.

    Args:
      names: of groups and of rows.
      free: rows of the caller's own, `name=setting;setting`; they form the group `FREE`.

    Returns:
      Group to row to settings. A row of several groups is in each requested one.

    Raises:
      UsageError: an unknown name, or a free row is malformed or has the name of another.
    """
    every = {row for rows in GROUPS.values() for row in rows}
    unknown = [name for name in names if name not in GROUPS and name not in every]
    if unknown:
        raise UsageError(
            f"Expected rows or groups; received {', '.join(unknown)}. Groups: {', '.join(GROUPS)}. "
            f"Rows: {', '.join(sorted(every))}."
        )
    chosen, wanted = {}, [name for name in names if name not in GROUPS]
    for group, rows in GROUPS.items():
        found = dict(rows) if group in names else {}
        found |= {name: rows[name] for name in wanted if name in rows}
        wanted = [name for name in wanted if name not in found]
        if found:
            chosen[group] = {name: rows[name] for name in rows if name in found}
    own = {}
    for text in free:
        name, equals, settings = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+", name) or name in every or name in own:
            raise UsageError(
                "Expected --row name=section.key=value;section.key=value with a new name of letters, digits "
                f"and . + - _; received {text!r}."
            )
        own[name] = tuple(setting.strip() for setting in settings.split(";") if setting.strip())
    return chosen | ({FREE: own} if own else {})


def split_settings(settings: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Settings of the configuration, and the harness's own as a dictionary.

    Raises:
      UsageError: an own setting that does not exist.
    """
    sections = {key.split(".")[0] for key in _OWN_KEYS}
    config, own = [], {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key.split(".")[0] not in sections:
            config.append(setting)
        elif key in _OWN_KEYS:
            own[key] = value
        else:
            raise UsageError(f"Expected one of {', '.join(_OWN_KEYS)}; received {key}.")
    return config, own


def method_of(name: str) -> Method | None:
    """The method of a row of the group `others`."""
    return METHODS.get(name.removesuffix("+class"))


def candidates(name: str, settings: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """What the search tries for a row: the searched setting to all settings; {} where there is none."""
    method = method_of(name)
    if method is None:
        return {}
    texts = [f"{method.key}={value}" for value in method.values]
    return {text: (*settings, text) for text in texts}
