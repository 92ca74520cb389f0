"""Where a review opens: a text that means a queue, a class or an image, as a link of the page.

queue/random     a queue by its name
class/red fox    a class by its name or number, the least probable labels first
group/red fox    the look-alikes of a class; `groups` those of the class with most wrong labels
image/1f3c…      an image by the hash of its bytes, its id or its path; also without `image/`
"""

import urllib.parse

from urnet_tf import schema
from urnet_tf.errors import UsageError
from urnet_tf.explain.find_image import find_image
from urnet_tf.review.session import QUEUES, Session, UnknownQueue
from urnet_tf.text_rules import one_line, quote

GROUPS = "groups"
_QUEUE_NAMES = tuple(name for name, *_ in QUEUES)


def find_place(session: Session, text: str) -> str:
    """The fragment of the address, from `#`.

    Raises:
      UsageError: there is no such queue, class or image, or several images fit.
    """
    kind, _, name = text.partition("/")
    if text == GROUPS:
        return "#/groups/0"
    if kind == "queue":
        if name not in _QUEUE_NAMES:
            raise UsageError(f"Expected --at queue/ with {', '.join(_QUEUE_NAMES)}; received {quote(name)}.")
        return f"#/queue/{name}"
    if kind in ("class", "group"):
        try:
            label = session.label_of(name)
        except UnknownQueue:
            raise UsageError(
                f"Expected --at {kind}/NAME of a class of this run; received {quote(name)}."
            ) from None
        return f"#/class/{_quoted(name)}" if kind == "class" else f"#/group/:{label}/0"
    wanted = name if kind == "image" and name else text
    row = session.find(wanted)
    row = _find_row(session, wanted) if row is None else row
    return f"#/image/{_quoted(session.run.text('content_hash', row) or str(row))}"


def _find_row(session: Session, wanted: str) -> int:
    """The training image that a path or a piece of it means."""
    found = find_image(session.run.workdir.root, wanted)
    rows = [row for row in found.rows if row["split"] == schema.TRAIN]
    if not rows:
        is_held = found.rows and found.rows[0]["split"]
        reason = f"one of the {is_held} images" if is_held else "not used"
        raise UsageError(
            f"Expected a training image with --at; {one_line(wanted)[:200]} is {reason}, see `urnet why`."
        )
    if len(rows) > 1:
        paths = ", ".join(one_line(row["path"])[:200] for row in rows[:3])
        raise UsageError(f"Expected --at with more of the path; {len(rows)} images fit, like {paths}.")
    return int(rows[0]["instance_id"])


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
