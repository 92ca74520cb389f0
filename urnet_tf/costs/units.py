"""Seconds, bytes and counts as people write them."""


def format_seconds(seconds: float | None) -> str:
    """Seconds as `45 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_bytes(count: float | None) -> str:
    """Bytes as `950 bytes`, `12.3 kB`, `3.4 GB`, `651 MB`."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count:.0f} bytes"
    units = ["kB", "MB", "GB", "TB"]
    count /= 1000
    while count >= 999.5 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.1f} {units[0]}" if count < 99.95 else f"{count:,.0f} {units[0]}"


def format_count(count: float) -> str:
    """Counts as `950`, `86.7 M`, `16.4 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
