"""The page at `/` of our own server, on which people try images; it asks nobody but this server."""

import base64
import hashlib
import html
import pathlib
import re
from typing import NamedTuple

_TEMPLATE = pathlib.Path(__file__).with_name("trial_page.html")


class Page(NamedTuple):
    """A page and what a browser must be told with it."""

    text: str
    headers: dict[str, str]


def build_page(model: str, needs_key: bool) -> Page:
    """Fills the template.

    Args:
      model: its name in the addresses.
      needs_key: whether the page asks for the server's key.
    """
    text = _TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("{{model}}", html.escape(model)).replace("{{needs_key}}", str(needs_key).lower())
    policy = (
        f"default-src 'none'; script-src {_hash_of('script', text)}; style-src {_hash_of('style', text)}; "
        "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return Page(text, headers)


def _hash_of(tag: str, text: str) -> str:
    """What allows the one inline script or style of the page, and no other."""
    (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
