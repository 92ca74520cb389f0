"""What the application answers, as plain JSON: queues and their pages, one image, classes, groups, progress.

One object for all browsers. Orders of images are arrays that are computed once; an answer holds a page of
them at most, whatever the size of the crawl.
"""

import collections
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from urnet_tf.crawl.class_names import plain_name
from urnet_tf.review import queues
from urnet_tf.review.groups import Groups
from urnet_tf.review.journal import (
    NOT_SURE,
    OF_ANOTHER_CRAWL,
    OF_NO_CLASS,
    UNJUDGED,
    Journal,
    States,
)
from urnet_tf.review.look_alikes import LookAlikes
from urnet_tf.review.pictures import Pictures
from urnet_tf.review.progress import summarize
from urnet_tf.review.reviewed_run import ReviewedRun, run_name
from urnet_tf.review.words import Describer, rank_classes, show_name
from urnet_tf.reweighting.judging_order import JudgingOrder, compute_judging_value, draw_judging_order
from urnet_tf.reweighting.label_posterior import estimate_wrong_share
from urnet_tf.schema import CHANCE_QUEUE, RANDOM_QUEUE

PAGE = 100  # entries of an answer at most
_CHOICES = 9  # classes with a key
_SCANNED = 8192  # entries of a queue that are looked at together
_TRUTHS = {UNJUDGED: None, OF_NO_CLASS: "none", NOT_SURE: "unsure", OF_ANOTHER_CRAWL: "other"}

# name, title, what it is for
QUEUES = (
    ("valuable", "Most valuable next", "Where one judgement changes the result most."),
    ("doubtful", "Most doubtful first", "Labels that are probably wrong."),
    (RANDOM_QUEUE, "Random sample", "An honest test list, and an honest estimate of how much is wrong."),
    ("copies", "Copies under several labels", "One picture, two answers: at least one is wrong."),
    ("none", "Like none of the classes", "Pictures that look like nothing you search for."),
    ("judged", "What you judged", "The latest first, to look again."),
)


class UnknownQueue(LookupError):
    """There is no such queue, class or group."""


class Session:
    """A review of one run.

    Args:
      run: what is judged.
      journal: where judgements go.
    """

    def __init__(self, run: ReviewedRun, journal: Journal):
        self.run, self.journal = run, journal
        self.pictures = Pictures(run)
        self.look_alikes = LookAlikes(run.features, len(run))
        self._describer = Describer(run)
        self._groups = Groups(run)
        self._orders: dict[str, np.ndarray] = {}
        self._locks: collections.defaultdict[str, threading.Lock] = collections.defaultdict(threading.Lock)

    # ------------------------------------------------------------------------------- queues

    def order_of(self, queue: str) -> np.ndarray:
        """The images of a queue: int64 [n]; of `copies` the first of each picture.

        Raises:
          UnknownQueue: there is none of this name.
        """
        name, _, rest = queue.partition(":")
        if name == "judged":
            return self.journal.states().order
        if name == "class":
            return self._of_class(_number(rest))
        if name == "group":
            label, _, group = rest.partition(":")
            return self._group(_number(label), _number(group)).ids
        makers: dict[str, Callable[[], np.ndarray]] = {
            "doubtful": lambda: queues.order_by_doubt(self.run.right_prob),
            "valuable": lambda: self.drawn.order,
            "none": self._order_by_strangeness,
            RANDOM_QUEUE: lambda: queues.order_at_random(self.run.keys),
            "copies": lambda: np.array([ids[0] for ids in self._contradictions.values()], np.int64),
        }
        if queue not in makers:
            raise UnknownQueue(queue)
        with self._locks[queue]:
            if queue not in self._orders:
                self._orders[queue] = makers[queue]()
            return self._orders[queue]

    def _of_class(self, label: int) -> np.ndarray:
        if not 0 <= label < self.run.num_classes:
            raise UnknownQueue(f"class:{label}")
        start, stop = self.run.bounds[label : label + 2]
        return start + np.argsort(self.run.right_prob[start:stop], kind="stable")

    @functools.cached_property
    def drawn(self) -> JudgingOrder:
        """The order of the most valuable images."""
        run = self.run
        value = compute_judging_value(
            run.right_prob, run.label, run.top_ids, run.top_probs, num_classes=run.num_classes
        )
        return draw_judging_order(value)

    def chosen_by(self, queue: str, rows: Sequence[int]) -> str:
        """How images of a queue were chosen, as the log calls it."""
        if queue == "valuable" and self.drawn.at_random[rows].all():
            return CHANCE_QUEUE
        return queue.partition(":")[0]

    def _order_by_strangeness(self) -> np.ndarray:
        run = self.run
        strangeness = queues.compute_strangeness(run.features, run.label, run.right_prob, run.top_ids)
        return queues.order_by_strangeness(strangeness, run.top_probs[:, 0], run.right_prob)

    @functools.cached_property
    def _contradictions(self) -> dict[int, np.ndarray]:
        """The first image of a picture → all of it."""
        paths = self.run.table.column("path").to_pylist()
        found = queues.find_contradictions(self.run.duplicates, paths, self.run.label)
        return {int(ids[0]): ids for ids in found}

    def _done(self, queue: str, states: States) -> np.ndarray:
        """bool [N], read where a queue has an entry: whether that needs nobody any more."""
        if queue == RANDOM_QUEUE:
            return states.sampled
        if queue != "copies":
            return states.judged
        done = np.zeros(len(self.run), bool)
        for first, ids in self._contradictions.items():
            done[first] = states.judged[ids].all()
        return done

    def page(self, queue: str, offset: int, limit: int) -> dict[str, Any]:
        """Entries of a queue from `offset` on, and how many it has."""
        order, states = self.order_of(queue), self.journal.states()
        rows = order[offset : offset + min(limit, PAGE)]
        return {
            "queue": queue,
            "total": len(order),
            "done": int(np.count_nonzero(self._done(queue, states)[order])),
            "offset": offset,
            "items": [self.item(int(row), queue) for row in rows],
        }

    def next_open(self, queue: str, after: int, backwards: bool = False) -> int:
        """The place of the next entry that is not judged, after or before a place; -1 = there is none."""
        order, done = self.order_of(queue), self._done(queue, self.journal.states())
        if backwards:
            places = np.flatnonzero(~done[order[: max(after, 0)]])
            return int(places[-1]) if len(places) else -1
        for start in range(after + 1, len(order), _SCANNED):
            places = np.flatnonzero(~done[order[start : start + _SCANNED]])
            if len(places):
                return start + int(places[0])
        return -1

    def place_of(self, queue: str, row: int) -> int:
        """The place of an image in a queue, -1 where it is not in it."""
        places = np.flatnonzero(self.order_of(queue) == row)
        return int(places[0]) if len(places) else -1

    # ------------------------------------------------------------------------------- images

    def item(self, row: int, queue: str = "") -> dict[str, Any]:
        """What a queue shows of an entry."""
        run, states = self.run, self.journal.states()
        rows = self._contradictions.get(row, np.array([row])) if queue == "copies" else np.array([row])
        given = list(dict.fromkeys(run.label[rows].tolist()))
        choices = [(label, None) for label in given] if len(given) > 1 else rank_classes(run, row)[:_CHOICES]
        truth = int(states.truth[row])
        held = self.journal.held(row) or {}
        return {
            "id": row,
            "ids": rows.tolist(),
            "revisions": [self.journal.revision(int(i)) for i in rows],
            "members": [{"id": int(i), "name": show_name(run.names[run.label[i]])} for i in rows],
            "labels": [{"label": i, "name": show_name(run.names[i])} for i in given],
            "choices": [{"label": i, "name": show_name(run.names[i]), "prob": p} for i, p in choices],
            "right_prob": float(run.right_prob[row]),
            "truth": _TRUTHS.get(truth, truth),
            "truth_name": show_name(run.names[truth]) if truth >= 0 else held.get("new_label", ""),
            "who": held.get("who", ""),
            "sampled": bool(states.sampled[row]),
        }

    def with_copies(self, rows: Sequence[int]) -> list[int]:
        """Images and those with the same bytes, which are judged with them."""
        keys = dict.fromkeys(bytes(self.run.keys[row]) for row in rows)
        return [int(row) for key in keys for row in self.run.rows_of(key)]

    def describe(self, row: int) -> dict[str, Any]:
        """All that stands beside a large picture."""
        return {**self._describer.describe(row), "packed": self.pictures.why_packed(row)}

    def look_alike(self, row: int, count: int) -> dict[str, Any]:
        """The images that look most like one, without files that are the same."""
        same = self.run.rows_of(bytes(self.run.keys[row]))
        rows, cosines = self.look_alikes.find(row, count, same)
        items = [{**self.item(int(i)), "cosine": float(c)} for i, c in zip(rows, cosines, strict=True)]
        return {"ready": self.look_alikes.is_ready, "items": items}

    def find(self, what: str) -> int | None:
        """The image that a link means: an id, a content hash or a path."""
        if what.isascii() and what.isdigit() and len(what) < 12:
            return int(what) if int(what) < len(self.run) else None
        rows = self.run.rows_of(what.encode()[:64])
        if len(rows):
            return int(rows[0])
        import pyarrow.compute as pc

        place = pc.index(self.run.table.column("path"), what).as_py()
        return place if place >= 0 else None

    # ------------------------------------------------------------------------------- classes and groups

    def classes(self, search: str, offset: int, limit: int) -> dict[str, Any]:
        """Classes whose names hold a text, those with the most labels that look wrong first."""
        wanted = search.casefold().strip()
        found = [label for label in self._class_order if wanted in self._folded[label]]
        if wanted:  # names that begin with it, or are it, come first
            found.sort(key=lambda j: (self._folded[j] != wanted, not self._folded[j].startswith(wanted)))
        states = self.journal.states()
        judged = np.bincount(self.run.label[states.judged], minlength=self.run.num_classes)
        entries = [self._class_entry(label, judged) for label in found[offset : offset + min(limit, PAGE)]]
        return {"total": len(found), "offset": offset, "items": entries}

    @functools.cached_property
    def _folded(self) -> list[str]:
        return [name.casefold() for name in self.run.names]

    @functools.cached_property
    def _class_order(self) -> list[int]:
        known = self._groups.classes.tolist()
        return [*known, *sorted(set(range(self.run.num_classes)) - set(known))]

    def _class_entry(self, label: int, judged: np.ndarray) -> dict[str, Any]:
        size = int(self.run.class_sizes[label])
        rows = slice(self.run.bounds[label], self.run.bounds[label + 1])
        wrong = estimate_wrong_share(self.run.right_prob[rows])[0] if size else 0.0
        return {
            "label": label,
            "name": show_name(self.run.names[label]),
            "images": size,
            "judged": int(judged[label]),
            "wrong": wrong,
        }

    def label_of(self, name: str) -> int:
        """The label of a class by its name, or by its number, in any case as `:12`.

        Raises:
          UnknownQueue: there is none.
        """
        number = name.removeprefix(":")
        label = self.run.label_of.get(plain_name(name))
        if (label is None or number != name) and number.isascii() and number.isdigit() and len(number) < 12:
            label = int(number) if int(number) < self.run.num_classes else None
        if label is None:
            raise UnknownQueue(name)
        return label

    def groups(self, place: int) -> dict[str, Any]:
        """The groups of the class at a place of the order of classes."""
        classes = self._groups.classes
        if not 0 <= place < len(classes):
            raise UnknownQueue(f"class {place}")
        label, judged = int(classes[place]), self.journal.states().judged
        groups: list[dict[str, Any]] = [
            {
                "queue": f"group:{label}:{number}",
                "images": len(group.ids),
                "judged": int(np.count_nonzero(judged[group.ids])),
                "wrong": group.wrong,
                "predicted": None
                if group.predicted in (-1, label)
                else {"label": group.predicted, "name": show_name(self.run.names[group.predicted])},
                "agreeing": group.agreeing,
            }
            for number, group in enumerate(self._groups.of_class(label))
        ]
        name = show_name(self.run.names[label])
        left_out = int(self.run.class_sizes[label]) - sum(group["images"] for group in groups)
        return {
            "place": place, "places": len(classes), "label": label, "name": name, "groups": groups,
            "left_out": left_out,
        }  # fmt: skip

    def place_of_class(self, label: int) -> int:
        """The place of a class in the order in which groups are shown; 0 where it has no images."""
        places = np.flatnonzero(self._groups.classes == label)
        return int(places[0]) if len(places) else 0

    def _group(self, label: int, number: int) -> Any:
        groups = self._groups.of_class(label) if 0 <= label < self.run.num_classes else []
        if not 0 <= number < len(groups):
            raise UnknownQueue(f"group:{label}:{number}")
        return groups[number]

    # ------------------------------------------------------------------------------- all of it

    def start(self) -> dict[str, Any]:
        """What the page has to know once."""
        root = self.run.workdir.root
        return {
            "run": show_name(run_name(root)),
            "results": self.run.results,
            "images": len(self.run),
            "classes": self.run.num_classes,
            "who": self.journal.who,
            "writable": self.journal.is_writable,
            "log": str(self.journal.path),
            "command": f"urnet run --workdir {root}",
            "queues": [{"name": n, "title": t, "note": note} for n, t, note in QUEUES],
        }

    def progress(self) -> dict[str, Any]:
        """What judgements tell so far, and how far each queue is."""
        states = self.journal.states()
        last = self.journal.last_action()
        lists = {}
        for name in ("copies", RANDOM_QUEUE):
            order = self.order_of(name)
            lists[name] = {
                "total": len(order),
                "done": int(np.count_nonzero(self._done(name, states)[order])),
            }
        return {
            "rows": states.rows,
            "current": self.run.is_current(),
            "counts": self.journal.counts(),
            "undo": None if last is None else {"when": last.when, "images": len(last.images)},
            "queues": lists,
            **summarize(self.run, states, self.drawn),
        }


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UnknownQueue(text)
    return int(text)
