"""Numbers of the report as people read them, with a true minus sign."""


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
