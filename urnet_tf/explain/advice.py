"""What to do next: a few suggestions of different kinds, each with numbers and a command.

Each kind looks at the same question, where most wrong labels can be dealt with at once, and says how many
right images that would cost. Nothing is changed by the page: the commands are to be copied.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Sequence

import numpy as np

from urnet_tf.explain import copies
from urnet_tf.explain.formats import format_count, format_few, format_percent
from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.look_alikes import LookAlikes
from urnet_tf.explain.matrix import Matrix
from urnet_tf.schema import DRAWN, JUDGED, TEST, VAL
from urnet_tf.text_rules import one_line

WORKDIR = "DIR"  # stands for the work directory in commands; the page puts its own place there
# Only in front: what follows may hold texts of the crawl.
_PLACES = re.compile(rf"urnet \w+(?: --(?:workdir|config) {WORKDIR}(?:-2|/config\.yaml)?(?= |$))+")
_SUGGESTIONS = 3
_JUDGED = 200  # images of one sitting
_FEWEST = 20  # images of a source or behind a rank that are worth a setting
_FEWEST_CUT = 30
_CLASS_WRONG = 0.4  # the lower end of the interval of a class that is worth looking at as a whole
_MUTUAL = 0.15  # share of two classes that are taken for each other
_FEW_RIGHT = 20  # right images of a class that are too few


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """One thing to do."""

    title: str  # what, as an imperative
    why: str  # sentences with numbers
    command: str = ""  # to copy; "" = there is none
    score: float = 0.0  # wrong labels that are dealt with, in about the same time


def suggest(inputs: ReportInputs, matrix: Matrix, groups: Sequence[LookAlikes]) -> list[Suggestion]:
    """The three suggestions with the highest scores, of different kinds; the judging of images among them."""
    if not inputs.is_weighed:
        return list(_copies(inputs))
    kinds: tuple[Iterator[Suggestion], ...] = (
        _class(inputs), _cut(inputs), _source(inputs), _merge(inputs, matrix), _group(inputs, groups),
        _copies(inputs), _small(inputs), _test(inputs),
    )  # fmt: skip
    best = [max(some, key=lambda one: one.score) for kind in kinds if (some := list(kind))]
    best.sort(key=lambda one: -one.score)
    return [_judge(inputs), *best][:_SUGGESTIONS]


def _judge(inputs: ReportInputs) -> Suggestion:
    count = min(_JUDGED, int(inputs.doubtful.sum())) or min(_JUDGED, len(inputs.label))
    worst = np.sort(inputs.wrong_prob)[::-1][:count]
    total = inputs.wrong_prob.sum()
    return Suggestion(
        f"Judge the {format_few(count)} most doubtful images, one key each",
        f"About {format_count(worst.sum())} of them should be wrong: "
        f"{format_percent(float(worst.sum() / max(total, 1e-9)))} of all wrong labels that are expected.",
        f"urnet review --workdir {WORKDIR} --at queue/doubtful",
        float(worst.sum()),
    )


def _class(inputs: ReportInputs) -> Iterator[Suggestion]:
    for label, wrong in enumerate(inputs.wrong_by_class):
        size = int(inputs.size[label])
        if wrong is None or wrong[1] < _CLASS_WRONG or size < _FEWEST:
            continue
        name, count = inputs.name(label), wrong[0] * size
        yield Suggestion(
            f"Look at the class “{name}” as a whole",
            f"{format_percent(wrong[0])} of its {format_count(size)} images look wrong "
            f"({format_percent(wrong[1])} to {format_percent(wrong[2])}). If the search brought something "
            "else, search again with other words, or leave the class out.",
            _setting("exclude", [*inputs.left_out.get("exclude", ()), name]),
            count / 2,
        )


def _cut(inputs: ReportInputs) -> Iterator[Suggestion]:
    """Behind which rank of a source wrong images are in the majority."""
    for source, name in enumerate(inputs.source_names):
        rows = np.flatnonzero((inputs.source == source) & (inputs.rank > 0))
        if len(rows) < 2 * _FEWEST_CUT or not name:
            continue
        ranks, wrong = inputs.rank[rows], inputs.wrong_prob[rows]
        found = []
        for cut in np.unique(np.quantile(ranks, np.linspace(0.2, 0.95, 16)).astype(int)):
            behind = ranks > cut
            if behind.sum() >= _FEWEST_CUT and wrong[behind].mean() > 0.5:
                found.append((float((2 * wrong[behind] - 1).sum()), int(cut), behind))
        if found:
            gain, cut, behind = max(found, key=lambda one: one[:2])
            count, share = int(behind.sum()), float(wrong[behind].mean())
            yield Suggestion(
                f"Take only the first {format_few(cut)} results of each search from {name}",
                f"Of the {format_count(count)} images behind that, {format_percent(share)} look wrong; of "
                f"those before it, {format_percent(float(wrong[~behind].mean()))}.",
                _setting("max_rank", {**inputs.left_out.get("max_rank", {}), name: cut}),
                gain,
            )


def _source(inputs: ReportInputs) -> Iterator[Suggestion]:
    known = [i for i, name in enumerate(inputs.source_names) if name]
    for source in known if len(known) > 1 else ():
        rows = inputs.source == source
        wrong = inputs.wrong_prob[rows]
        if len(wrong) >= _FEWEST and len(wrong) < len(rows) and wrong.mean() > 0.5:
            others = [inputs.source_names[i] for i in known if i != source]
            yield Suggestion(
                f"Leave out what came from {inputs.source_names[source]}",
                f"{format_percent(float(wrong.mean()))} of its {format_count(len(wrong))} images look wrong, "
                f"and {format_percent(float(inputs.wrong_prob[~rows].mean()))} of all others.",
                _setting("sources", others),
                float((2 * wrong - 1).sum()),
            )


def _merge(inputs: ReportInputs, matrix: Matrix) -> Iterator[Suggestion]:
    """Two classes that are taken for each other, whichever the label is."""
    counts = {
        (int(a), int(b)): int(n)
        for a, b, n in zip(matrix.given[:2000], matrix.predicted, matrix.count, strict=False)
    }
    for (a, b), count in counts.items():
        back = counts.get((b, a), 0)
        if a < b or min(count / inputs.size[a], back / max(inputs.size[b], 1)) < _MUTUAL:
            continue
        names = inputs.name(a), inputs.name(b)
        yield Suggestion(
            f"Decide whether “{names[0]}” and “{names[1]}” are two classes",
            f"The models call {format_count(count)} of {format_count(inputs.size[a])} images of the one by "
            f"the name of the other, and {format_count(back)} of {format_count(inputs.size[b])} the other "
            "way round. If they mean the same, join them; if not, larger images or another network may tell "
            "them apart.",
            _setting("merge", {**inputs.left_out.get("merge", {}), names[0]: names[1]}),
            (count + back) / 4,
        )


def _group(inputs: ReportInputs, groups: Sequence[LookAlikes]) -> Iterator[Suggestion]:
    for group in groups[:1]:
        called = [inputs.name(label) for label, _ in group.called if label != group.label][:1]
        like = f" The models call most of them “{called[0]}”." if called else ""
        yield Suggestion(
            f"Judge {format_few(len(group.ids))} look-alikes of “{inputs.name(group.label)}” at one stroke",
            f"They show much the same, and {format_percent(group.wrong[0])} of them look wrong "
            f"({format_percent(group.wrong[1])} to {format_percent(group.wrong[2])}).{like}",
            f"urnet review --workdir {WORKDIR} --at {shlex.quote('group/' + inputs.name(group.label))}",
            group.wrong_images,
        )


def _copies(inputs: ReportInputs) -> Iterator[Suggestion]:
    pictures, files = copies.count_contradictions(inputs)["several_labels"]
    if pictures:
        one = pictures == 1
        yield Suggestion(
            f"Settle {format_few(pictures)} picture{'' if one else 's'} under several labels",
            f"{format_few(files, capital=True)} files hold {'this picture' if one else 'these pictures'}, "
            "byte by byte. At least one label of each is wrong for sure, whatever the models think.",
            f"urnet review --workdir {WORKDIR} --at queue/copies",
            0.7 * (files - pictures) + 1,
        )


def _small(inputs: ReportInputs) -> Iterator[Suggestion]:
    right = inputs.size - inputs.wrong_images
    few = [int(j) for j in np.argsort(right, kind="stable") if inputs.size[j] and right[j] < _FEW_RIGHT]
    if few:
        named = ", ".join(f"{one_line(inputs.name(j))} ({format_count(right[j])})" for j in few[:3])
        yield Suggestion(
            f"Collect more images for {format_few(len(few))} small class{'es' if len(few) != 1 else ''}",
            f"Fewer than {_FEW_RIGHT} of their images should be right: {named}"
            f"{', …' if len(few) > 3 else ''}.",
            score=len(few) / 2,
        )


def _test(inputs: ReportInputs) -> Iterator[Suggestion]:
    lists = (JUDGED, TEST, VAL)
    measured = next((inputs.held_labels[split] for split in lists if split in inputs.held_labels), None)
    if measured != DRAWN:
        return
    yield Suggestion(
        "Judge a random sample, for an honest test",
        "The images that the models are measured on come from the crawl itself, with its wrong labels. Some "
        "200 that were judged by eye tell the true accuracy within about 6 points.",
        f"urnet review --workdir {WORKDIR} --at queue/random",
        10.0,
    )


def fill_command(command: str, workdir: str) -> str:
    """A command with the place of the work directory.

    >>> fill_command("urnet review --workdir DIR", "my runs/1")
    "urnet review --workdir 'my runs/1'"
    """
    front = _PLACES.match(command)
    if front is None:
        return command
    filled = re.sub(rf" {WORKDIR}(\S*)", lambda found: f" {shlex.quote(workdir + found[1])}", front[0])
    return filled + command[front.end() :]


def _setting(key: str, value: list | dict) -> str:
    """A command for a shell: the same settings but for one of the ingest, in a work directory beside."""
    text = json.dumps(value, ensure_ascii=False).replace("'", "'\\''")
    return f"urnet noise --config {WORKDIR}/config.yaml --workdir {WORKDIR}-2 --set 'ingest.{key}={text}'"
