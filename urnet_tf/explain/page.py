"""Puts the report together: numbers, drawings, pictures and suggestions, in the order of people's questions.

index.html holds what is asked first, with its style, its script and a few pictures inside, so that it can be
sent alone. What is asked of single classes lies beside it, see `data_files`.
"""

import base64
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import markupsafe

from urnet_tf.costs.units import format_bytes
from urnet_tf.explain import advice, comparison, data_files, look_alikes, overview
from urnet_tf.explain.formats import format_count, format_few, format_percent, format_points, format_times
from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.matrix import count_confusions
from urnet_tf.explain.pictures import Thumbnails
from urnet_tf.explain.sections import build_sections
from urnet_tf.schema import REVIEW_ADDRESS
from urnet_tf.text_rules import one_line

PAGE = "index.html"
_HERE = pathlib.Path(__file__).parent
_SCRIPTS = ("basics", "commands", "class_table", "class_page", "matrix", "start")
_GROUPS = 6


@dataclasses.dataclass(frozen=True)
class Built:
    """What was written, and what a terminal tells of it."""

    bytes: int
    lines: list[str]  # the most useful ones
    suggestions: list[advice.Suggestion]


def build_report(
    inputs: ReportInputs,
    out: pathlib.Path,
    *,
    title: str = "What is wrong in this crawl, and what to do about it",
    classes: int = 4,
    images_per_class: int = 8,
    thumbnail_px: int = 96,
    grouped_classes: int = 2,
    class_page_images: int = 24,
) -> Built:
    """Writes the page and the files beside it.

    Args:
      out: the directory, which must exist.
      classes: how many classes the page shows with pictures of what counted most and least.
      images_per_class: pictures of each of them, half of those that counted most, half least.
      thumbnail_px: side of a picture on the page.
      grouped_classes: how many classes are shown with the groups of look-alikes that they were weighed by.
      class_page_images: pictures on the page of each class; 0 = such pages are not made.

    Returns:
      What was written. Equal inputs give equal files; the page itself stops at 3 MB of pictures.
    """
    matrix = count_confusions(inputs)
    found = look_alikes.find_groups(inputs, _GROUPS) if inputs.is_weighed else []
    suggestions = advice.suggest(inputs, matrix, found)
    page = _render(
        thumbnail_px,
        title=title,
        inputs=inputs,
        suggestions=suggestions,
        class_pages=bool(class_page_images) and inputs.is_weighed,
        **build_sections(
            inputs, matrix, found, Thumbnails(inputs, thumbnail_px), classes=classes,
            images_per_class=images_per_class, grouped_classes=grouped_classes,
        ),
    )  # fmt: skip
    (out / PAGE).write_text(page, encoding="utf-8")
    beside = data_files.write_data(inputs, matrix, out, images=class_page_images, thumbnail_px=thumbnail_px)
    return Built(len(page.encode()) + beside, overview.format_lines(inputs, matrix), suggestions)


def _render(thumbnail_px: int, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    filters: dict[str, Callable] = {
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "count": format_count,
        "each_line": _shown_lines,
        "factor": lambda name: name.removesuffix("_weight").replace("_", " "),
        "few": format_few,
        "model": lambda name: comparison.MODEL_NAMES.get(name, name),
        "percent": format_percent,
        "points": format_points,
        "size": format_bytes,
        "times": format_times,
    }
    environment.filters |= filters
    script = "\n".join((_HERE / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    template = environment.get_template("page.html")
    return template.render(
        css=_style(thumbnail_px), script=markupsafe.Markup(script), script_hash=digest,
        review_address=REVIEW_ADDRESS, **values,
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """What an expression of the template gives: no text from the web steers the page or its reader."""
    is_plain = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return one_line(value) if is_plain else value


def _shown_lines(text: str) -> markupsafe.Markup:
    """As `_shown`, of a text whose lines are kept."""
    return markupsafe.Markup("\n").join(map(one_line, text.split("\n")))


def _style(thumbnail_px: int) -> markupsafe.Markup:
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    return markupsafe.Markup(f":root{{--thumb:{int(thumbnail_px)}px}}\n{css}")
