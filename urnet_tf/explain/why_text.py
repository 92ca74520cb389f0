"""What `why.describe_image` knows of an image, as lines for a terminal: the reason first."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from urnet_tf import schema
from urnet_tf.explain.reasons import describe_amount
from urnet_tf.text_rules import one_line

_JUDGED = {
    schema.RIGHT: "A person judged its label to be right.",
    schema.WRONG_CLASS: "Its label is what a person judged it to be; the crawl gave it another one.",
    schema.NONE_OF_THESE: "A person judged it to show none of the classes.",
}
_SHOWN = 10  # matches, copies
_WIDTH = 100


def format_image(told: Mapping[str, Any]) -> str:
    """What `describe_image` gives, for a terminal."""
    if told["found"] == "several":
        return _format_matches(told)
    if told["found"] == "set_aside":
        meaning = f", {told['meaning']}." if told["meaning"] else ""
        lines = [_one_line(told["path"]), f"  Not used: {told['status']}{meaning}"]
        return "\n".join([*lines, *([f"  {_one_line(told['reason'])}"] if told["reason"] else [])])
    size = f"{told['width_px']} x {told['height_px']} px"
    lines = [f"{_one_line(told['path'])}  (id {told['instance_id']}, {size})"]
    if told["judged"]:
        lines.append(f"  {_JUDGED[told['judged']]}")
    if told["split"] == schema.JUDGED:
        lines.append("  It is kept out of training, to measure the models.")
    elif told["split"] != schema.TRAIN:
        use = "to measure the models" if told["split"] == schema.TEST else "to check the models"
        lines.append(f"  It belongs to the {told['split']} images, which serve {use}; it has no weight.")
    elif "weight" not in told:
        lines.append("  The images of this run have no weights yet; they come with `urnet reweight`.")
    else:
        lines += _wrapped(f"It {_one_line(told['sentence'], 600)}.")
        lines += _wrapped(_amount(told))
    lines += ["", *_where_from(told)]
    if "weight" in told:
        lines += ["", *_format_factors(told), "", *_format_opinions(told), *_format_look_alikes(told)]
    lines += _format_copies(told)
    if "review" in told:
        lines += ["", f"  To judge it: {_one_line(told['review'], 600)}"]
    return "\n".join(lines)


def _format_matches(told: Mapping[str, Any]) -> str:
    matches = told["matches"]
    lines = [f"{len(matches)} images are called {told['asked']!r}; give more of the path, or the id:"]
    for match in matches[:_SHOWN]:
        number = "-" if match["instance_id"] is None else match["instance_id"]
        state = f"not used: {match['status']}" if match["status"] else match["split"]
        lines.append(f"  {number:>9}  {_one_line(match['path'])}  ({state})")
    hidden = len(matches) - _SHOWN
    return "\n".join(lines + ([f"  ... and {hidden} more"] if hidden > 0 else []))


def _amount(told: Mapping[str, Any]) -> str:
    return (
        f"In training it {describe_amount(told['relative_weight'])} (in its class of {told['class_images']}: "
        f"{told['standing']}); its label is right with a probability of {_percent(told['right_prob'])}."
    )


def _where_from(told: Mapping[str, Any]) -> list[str]:
    label = "no label" if told["label"] < 0 else f"label {told['label']} ({_one_line(told['class'])})"
    parts = [f"{told['split']} image, {label}"]
    parts += [_one_line(told["source"])] if told["source"] else []
    parts += [f"rank {told['rank']}"] if told["rank"] > 0 else []
    parts += [f"query {_one_line(told['query'])!r}"] if told["query"] else []
    return ["  " + ", ".join(parts), *([f"  Title: {_one_line(told['title'])}"] if told["title"] else [])]


def _format_factors(told: Mapping[str, Any]) -> list[str]:
    shown = [factor for factor in told["factors"] if factor["differs"]]
    lines = [
        f"  {factor['question']:<58} {_value(factor['value']):>7}  {factor['standing']}" for factor in shown
    ]
    lines = [f"  {'asked of it':<58} {'value':>7}  in its class", *lines] if shown else []
    equal = [f["name"].removesuffix("_weight").replace("_", " ") for f in told["factors"]
             if f["enters"] and not f["differs"]]  # fmt: skip
    return lines + ([f"  Equal for all images here: {', '.join(equal)}."] if equal else [])


def _format_opinions(told: Mapping[str, Any]) -> list[str]:
    lines, baseline, predicted, group = [], told["baseline"], told["predicted"], told["group"]
    given = _one_line(told["class"])
    if baseline is not None:
        author = "The out-of-fold baseline" if baseline["out_of_fold"] else "The baseline"
        if baseline["label"] == told["label"]:
            lines.append(f"  {author} agrees with its label.")
        else:
            likeliest = f"{baseline['label']} ({_one_line(baseline['class'])})"
            sure = _percent(baseline["probability"])
            lines.append(f"  {author} would call it {likeliest} with a probability of {sure}.")
        lines.append(
            f"  It gives the label {given!r} a probability of {_percent(baseline['given_probability'])}."
        )
    by = f", by {predicted['by']}," if predicted["by"] else ""
    same = predicted["label"] == told["label"]
    called = "its label" if same else f"{predicted['label']} ({_one_line(predicted['class'])})"
    lines.append(f"  Its predicted label{by} is {called}.")
    if group is not None:
        lines += [
            f"  It lies in group {group['number']} of its class with {group['images']} of "
            f"{told['class_images']} images.",
            f"  The predicted label of {group['agree']:.0%} of them is their label; of "
            f"{group['agree_in_class']:.0%} in the whole class.",
        ]
    return lines


def _format_look_alikes(told: Mapping[str, Any]) -> list[str]:
    if not told["look_alikes"]:
        return []
    lines = ["", "  Look-alikes that were trusted:"]
    for entry in told["look_alikes"]:
        lines.append(
            f"    {_one_line(entry['path'])}  ({_one_line(entry['class'])}, similarity "
            f"{entry['similarity']:.2f}, label right with {_percent(entry['right_prob'])})"
        )
    return lines


def _format_copies(told: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    copies = told["copies"]
    for equal, what in ((True, "The same file occurs"), (False, "The same picture occurs in other files")):
        some = [copy for copy in copies if copy["equal"] == equal]
        if some:
            lines += ["", f"  {what} {len(some)} more time{'s' if len(some) > 1 else ''}:"]
            lines += [
                f"    {_one_line(r['path'])}  ({r['split']}, label {r['label']})" for r in some[:_SHOWN]
            ]
    if _are_several(told["label"], copies):
        sure = _are_several(told["label"], [copy for copy in copies if copy["equal"]])
        doubt = "" if sure else " unless they only look alike"
        lines.append(f"  It stands under several labels, so at least one of them is wrong{doubt}.")
    return lines


def _are_several(label: int, copies: Sequence[Mapping[str, Any]]) -> bool:
    return len({label, *(copy["label"] for copy in copies)} - {-1}) > 1


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _percent(share: float) -> str:
    return "less than 0.1%" if share < 0.001 else f"{100 * share:.1f}%"


def _value(value: float) -> str:
    if 0 < abs(value) < 0.001:
        return "<0.001" if value > 0 else "-0.000"
    return f"{value:.3f}"


def _one_line(text: str, limit: int = 200) -> str:
    """Text from the web for a terminal."""
    return one_line(text)[:limit]
