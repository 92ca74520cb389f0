"""Numbers of the report as people read them, with a true minus sign."""

import math


def format_count(value: float) -> str:
    """Images as `1,234`."""
    return f"{round(value):,}"


def format_points(share: float) -> str:
    """A difference of shares in points of a hundred: `+1.2`."""
    return f"{100 * share:+.1f}".replace("-", "−")


def format_times(weight: float) -> str:
    """A weight with two or three digits: `0.042`, `0.87`, `12.3`."""
    if 0 < abs(weight) < 0.095:
        return f"{weight:.2g}".replace("-", "−")
    return (f"{weight:.2f}" if abs(weight) < 10 else f"{weight:.1f}").replace("-", "−")


def format_few(count: int, *, capital: bool = False) -> str:
    """A count in a sentence: words up to twelve."""
    words = "no one two three four five six seven eight nine ten eleven twelve".split()
    text = words[count] if 0 <= count < len(words) else format_count(count)
    return text[:1].upper() + text[1:] if capital else text


def format_percent(share: float | None, digits: int | None = None) -> str:
    """A share in percent; without `digits` small ones get one decimal. A dash for None and NaN."""
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 0.0005:
        return "under 0.1\N{NO-BREAK SPACE}%"
    if digits is None:
        digits = 1 if share < 0.0995 and round(100 * share, 1) % 1 else 0
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
