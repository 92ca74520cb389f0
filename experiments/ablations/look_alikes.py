"""Fig. 6: the groups of look-alikes of a class, the images of its four most confused classes among them."""

import csv
import io
import pathlib
import textwrap

import numpy as np

from ablations import measure
from ablations.truth import read_truth
from urnet_tf import store
from urnet_tf.explain.groups import describe_groups
from urnet_tf.images.image_store import ImageStore
from urnet_tf.reweighting.cluster_weight import Groups, compute_group_score
from urnet_tf.stages.report import open_members

_OTHER, _INK, _SOFT = "#c2510c", "#1d1f23", "#5d636e"


def write_figure(
    experiment: measure.Experiment, settings: tuple[str, ...], directory: pathlib.Path, seed: int
) -> str:
    """Writes fig6.csv, .md and .png of the class that is most often taken for others; returns the Markdown.

    Args:
      settings: of the row whose groups are shown.
    """
    context = measure.open_baseline(experiment, settings, seed)
    classes = [entry["name"] for entry in store.read_json(context.path("pack", "classes.json"))]
    table = store.read_table(context.path("pack", "instances.parquet"), ["label", "path"])
    predicted = np.asarray(store.read_array(context.path("extract", "topk_ids.npy")))[:, 0]
    table = table.slice(0, len(predicted))  # training images come first
    labels = store.column(table, "label")
    label = choose_class(labels, predicted, len(classes))
    members = open_members(context, labels, len(classes))(label)
    size = np.bincount(members.group)
    scores = compute_group_score(Groups(members.group, size, size, np.ones(len(size))), kind="size")
    groups = describe_groups(members, labels, scores[members.group[: members.num_own]])
    right = None
    if experiment.truth_path is not None:
        known = read_truth(experiment.truth_path, table.column("path").to_pylist())
        own = members.group[: members.num_own]
        counts = np.bincount(own, weights=known[members.ids[: members.num_own]], minlength=len(size))
        right = counts.astype(int).tolist()
    lines = [_describe(group, classes, right) for group in groups]
    title = f"Fig. 6: the groups of {classes[label]}"
    joined = [classes[j] for j in dict.fromkeys(labels[members.ids[members.num_own :]].tolist())]
    tells = (
        f"k-means sorted the {members.num_own} images of {classes[label]}, and those of the classes that its "
        f"images are most often taken for ({', '.join(joined)}), into {len(groups)} groups of look-alikes. "
        "The paper weighs an image by the share of its group. Pictures are those nearest to the middle of "
        "the group; framed ones came under the label above them."
    )
    store.write_text(directory / "fig6.csv", _format_csv(lines))
    text = _format_page(title, tells, lines)
    store.write_text(directory / "fig6.md", text)
    images = ImageStore(context.path("pack")).read
    _draw(directory / "fig6.png", title, tells, groups, lines, labels, label, classes, images)
    return f"{text}\n![{title}](fig6.png)\n"


def choose_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> int:
    """The class that loses most of its images to others, among the larger half of the classes."""
    size = np.bincount(labels, minlength=num_classes)
    lost = np.bincount(labels[predicted != labels], minlength=num_classes) / np.maximum(size, 1)
    lost[size < np.median(size)] = -1.0
    return int(lost.argmax())


def _describe(group, classes, right):
    line = {
        "weight": group.weight, "images": group.size, "own": group.own,
        "others": "; ".join(f"{count} {classes[other]}" for other, count in group.others),
    }  # fmt: skip
    if right is not None:
        line["own_right"] = right[group.number]
    return line


def _format_csv(lines):
    out = io.StringIO()
    writer = csv.DictWriter(out, ["group", *lines[0]], lineterminator="\n")
    writer.writeheader()
    for number, line in enumerate(lines, 1):
        writer.writerow({"group": number, **line, "weight": _weight(line)})
    return out.getvalue()


def _format_page(title, tells, lines):
    known = "own_right" in lines[0]
    head = [
        "group",
        "weight",
        "images",
        "of the class",
        *(["… of these with a right label"] * known),
        "of others",
    ]
    text = [f"## {title}", "", tells, "", _row(head), _row(["---"] * len(head))]
    for number, line in enumerate(lines, 1):
        cells = [number, _weight(line), line["images"], line["own"], *([line["own_right"]] if known else [])]
        text.append(_row([*cells, line["others"]]))
    return "\n".join([*text, ""])


def _row(cells):
    return f"| {' | '.join(map(str, cells))} |"


def _weight(line):
    return "–" if line["weight"] is None else f"{line['weight']:.3f}"


def _draw(path, title, tells, groups, lines, labels, label, classes, read_images):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    columns = max(len(group.ids) for group in groups)
    height = 1.3 + 1.5 * len(groups)
    canvas, grid = pyplot.subplots(
        len(groups), columns + 2, figsize=(1.35 * (columns + 2), height), squeeze=False
    )
    for row, group, line in zip(grid, groups, lines, strict=True):
        for axes in row:
            axes.set_axis_off()
        known = f"\n{line['own_right']} of these labels right" if "own_right" in line else ""
        words = f"{line['images']} images\n{line['own']} of {textwrap.shorten(classes[label], 22)}{known}"
        row[0].text(0, 0.98, f"weight {_weight(line)}", fontsize=12, fontweight="bold", color=_INK, va="top")
        row[0].text(0, 0.7, words, fontsize=10, color=_INK, va="top", linespacing=1.35)
        pictures = zip(row[2:], group.ids, read_images([int(i) for i in group.ids]), strict=False)
        for axes, i, data in pictures:
            with Image.open(io.BytesIO(data)) as file:
                axes.imshow(file.convert("RGB").resize((128, 128)))
            if labels[i] != label:
                axes.set_axis_on()
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_title(textwrap.shorten(classes[labels[i]], 18), fontsize=10, color=_OTHER, pad=3)
                for spine in axes.spines.values():
                    spine.set(color=_OTHER, linewidth=3)
    canvas.suptitle(title, fontsize=15, fontweight="bold", x=0.01, y=0.995, ha="left", color=_INK)
    words = textwrap.fill(tells, 15 * (columns + 2))
    bottom = 0.03 + 0.2 * (words.count("\n") + 1) / height
    canvas.subplots_adjust(
        left=0.01, right=0.99, top=1 - 0.75 / height, bottom=bottom, wspace=0.08, hspace=0.3
    )
    canvas.text(0.01, 0.01, words, fontsize=10.5, color=_SOFT, ha="left", va="bottom")
    with store.atomic_path(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=110, facecolor="white")
    pyplot.close(canvas)
