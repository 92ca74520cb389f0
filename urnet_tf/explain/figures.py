"""Drawings of the report: columns of HTML and small inline SVG, colored by classes of the style sheet.

Each function returns `Markup` and escapes every text it is given. Widths of SVG are in CSS pixels: a
drawing shrinks with its column but does not grow beyond its size. Series 0, 1, ... take the
colors `s0`, `s1`, ...; equal input gives equal text.
"""

from collections.abc import Callable, Mapping, Sequence

import markupsafe
import numpy as np
from markupsafe import Markup

from urnet_tf.explain.formats import format_percent
from urnet_tf.text_rules import one_line

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 40
SERIES_COLORS = 6


def draw_columns(parts: np.ndarray, names: Sequence[str], label: str, x_label: str) -> Markup:
    """Stacked columns: a profile of many classes, as wide as there is room.

    Args:
      parts: float [M, S], heights of S series in M columns.
      names: of the S series.
      label: what the drawing shows, for those who cannot see it.
    """
    top = _nice_top(parts.sum(1).max())
    columns = []
    for column in parts:
        tall = "".join(
            f'<b class="s{s % SERIES_COLORS}" style="height:{100 * float(value) / top:.2f}%"></b>'
            for s, value in reversed(list(enumerate(column)))
            if value > 0
        )
        columns.append(f"<i>{tall}</i>")
    ticks = [(0.0, _plain_number(0)), (0.5, _plain_number(top / 2)), (1.0, _plain_number(top))]
    tight = " tight" if len(parts) > 60 else ""
    return _plot(columns, ticks, [], label, x_label, tight) + draw_legend(names)


def draw_lines(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], label: str, x_label: str, y_label: str
) -> Markup:
    """Curves of shares (0..1) against a number: (name, x [b], y [b]) each."""
    x_all = np.concatenate([x for _, x, _ in curves])
    x_range = [0.0, float(x_all.max()) * 1.02]
    peak = max(float(np.max(y)) for _, _, y in curves)
    step = _nice_top(peak / 5)
    ticks = np.arange(np.ceil(peak / step) + 1) * step
    top = max(float(ticks[-1]), step)
    body = [_y_axis(ticks, [0, top], WIDTH, HEIGHT, format_percent)]
    body.append(_x_axis(_nice_ticks(x_range[0], x_range[1]), x_range, WIDTH, HEIGHT, _plain_number))
    for s, (name, x, y) in enumerate(curves):
        px, py = _across(x, x_range, WIDTH), _up(y, [0, top], HEIGHT)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
        body.append(f'<polyline class="line l{s % SERIES_COLORS}" points="{points}"/>')
        for a, b, value, at in zip(px, py, y, x, strict=True):
            tip = f"{name}, {x_label} {at:.0f}: {format_percent(value)}"
            body.append(_dot(a, b, s, tip))
    body.append(_text((_LEFT + WIDTH) / 2, HEIGHT - 6, x_label, "middle"))
    svg = _svg(WIDTH, HEIGHT, f"{label}; {y_label} against {x_label}", body)
    return svg + draw_legend([name for name, _, _ in curves])


def draw_histogram(histogram: dict, label: str, mark: float | None = 1.0) -> Markup:
    """One histogram of `summary.histogram_of`; a dashed line stands at `mark`, an average image."""
    counts, edges = histogram["counts"], histogram["edges"]
    scale = np.log if histogram["ratio"] else np.asarray
    span = [float(scale(edges[0])), float(scale(edges[-1]))]

    def across(value: float) -> float:
        return (float(scale(value)) - span[0]) / (span[1] - span[0])

    columns = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        tip = _escaped(f"{_short(low)} to {_short(high)}: {int(count):,} images")
        tall = max(100 * count / counts.max(), 1.0) if count else 0.0
        columns.append(f'<i title="{tip}"><b class="s0" style="height:{tall:.2f}%"></b></i>')
    ticks = _ratio_ticks(edges[0], edges[-1]) if histogram["ratio"] else _nice_ticks(edges[0], edges[-1])
    below, last = [], -1.0
    for tick in ticks:
        if across(tick) - last >= 0.12:
            last = across(tick)
            below.append((last, _short(tick)))
    at = across(mark) if mark is not None and edges[0] < mark < edges[-1] else None
    return _plot(columns, [], below, label, mark=at)


def draw_reliability(curves: Sequence[tuple[str, Mapping]], label: str) -> Markup:
    """Accuracy against confidence for each model: (name, `metrics.reliability_curve`)."""
    span, width, height = [0.0, 1.0], 340, 300
    ticks = np.linspace(0, 1, 5)
    body = [
        _y_axis(ticks, span, width, height, format_percent),
        _x_axis(ticks, span, width, height, format_percent),
    ]
    x, y = _across(np.array(span), span, width), _up(np.array(span), span, height)
    body.append(f'<line class="mark" x1="{x[0]:.1f}" y1="{y[0]:.1f}" x2="{x[1]:.1f}" y2="{y[1]:.1f}"/>')
    for s, (name, bins) in enumerate(curves):
        px, py = _across(bins["confidence"], span, width), _up(bins["accuracy"], span, height)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
        body.append(f'<polyline class="line m{s}" points="{points}"/>')
        table = zip(px, py, bins["confidence"], bins["accuracy"], bins["count"], strict=True)
        for a, b, sure, right, n in table:
            tip = f"{name}: {format_percent(sure)} sure, {format_percent(right)} right, {n:,} images"
            body.append(_dot(a, b, s, tip, "m"))
    body.append(_text((_LEFT + width) / 2, height - 6, "how sure the model is", "middle"))
    return _svg(width, height, label, body) + draw_legend([name for name, _ in curves], "m")


def draw_legend(names: Sequence[str], kind: str = "s") -> Markup:
    """Colored squares with names; nothing for a single series without a name."""
    if len(names) == 1 and not names[0]:
        return Markup()
    items = [
        f'<span><i class="key {kind}{i % SERIES_COLORS}"></i>{_escaped(name or "source not given")}</span>'
        for i, name in enumerate(names)
    ]
    return Markup(f'<div class="legend">{"".join(items)}</div>')


def _plot(
    columns: Sequence[str],
    left: Sequence[tuple[float, str]],
    below: Sequence[tuple[float, str]],
    label: str,
    x_label: str = "",
    kind: str = "",
    mark: float | None = None,
) -> Markup:
    """Columns of HTML, which are as wide as there is room and keep the size of their texts.

    Args:
      columns: HTML of one column each.
      left, below: ticks: (place from 0 to 1, text).
    """
    lines = "".join(
        f'<span class="level" style="bottom:{100 * at:.2f}%"><small>{_escaped(text)}</small></span>'
        for at, text in left
    )
    if mark is not None:
        lines += f'<span class="average" style="left:{100 * mark:.2f}%"></span>'
    ticks = "".join(
        f'<small class="{_anchor(at)}" style="left:{100 * at:.2f}%">{_escaped(text)}</small>'
        for at, text in below
    )
    under = f'<div class="ticks">{ticks}</div>' if below else ""
    under += f'<div class="x">{_escaped(x_label)}</div>' if x_label else ""
    sides = " leveled" if left else ""
    return Markup(
        f'<div class="plot{sides}" role="img" aria-label="{_escaped(label)}">'
        f'<div class="columns{kind}">{lines}{"".join(columns)}</div>{under}</div>'
    )


def _anchor(at: float) -> str:
    return "first" if at < 0.03 else "last" if at > 0.97 else ""


def _svg(width: int, height: int, label: str, body: list[str]) -> Markup:
    box = f'viewBox="0 0 {width} {height}" style="max-width:{width}px"'
    return Markup(
        f'<svg {box} role="img" aria-label="{_escaped(label)}"><title>{_escaped(label)}</title>'
        f"{''.join(map(str, body))}</svg>"
    )


def _dot(x: float, y: float, s: int, tip: str, kind: str = "s") -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="3.2"'
    return f'<circle class="{kind}{s % SERIES_COLORS}" {place}><title>{_escaped(tip)}</title></circle>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escaped(text)}</text>'


def _across(values: np.ndarray, span: list[float], width: int) -> np.ndarray:
    return _LEFT + (np.asarray(values, float) - span[0]) / (span[1] - span[0]) * (width - _LEFT - _RIGHT)


def _up(values: np.ndarray, span: list[float], height: int) -> np.ndarray:
    share = (np.asarray(values, float) - span[0]) / (span[1] - span[0])
    return height - _BOTTOM - share * (height - _BOTTOM - _TOP)


def _y_axis(ticks: np.ndarray, span: list[float], width: int, height: int, form: Callable) -> str:
    lines = []
    for tick, y in zip(ticks, _up(ticks, span, height), strict=True):
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{width - _RIGHT}" y2="{y:.1f}"/>')
        lines.append(_text(_LEFT - 6, y + 4, form(tick), "end"))
    return "".join(lines)


def _x_axis(ticks: np.ndarray, span: list[float], width: int, height: int, form: Callable) -> str:
    base = height - _BOTTOM
    places = _across(ticks, span, width)
    return "".join(_text(x, base + 16, form(t), "middle") for t, x in zip(ticks, places, strict=True))


def _nice_ticks(low: float, high: float, wanted: int = 5) -> np.ndarray:
    step = _nice_top((high - low) / wanted) if high > low else 1.0
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _ratio_ticks(low: float, high: float) -> np.ndarray:
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = (np.array([1.0, 2.0, 5.0])[None] * 10.0 ** powers[:, None]).ravel()
    if high / low > 1000:
        ticks = 10.0**powers
    return ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)]


def _nice_top(value: float) -> float:
    """The smallest of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten that is not below `value`."""
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(m for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * power >= value * 0.9999) * power)


def _plain_number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _escaped(text: str) -> Markup:
    return markupsafe.escape(one_line(text))
