"""Somebody at a browser, which Playwright drives."""

import pytest

from urnet_fixtures.review_server import TOKEN
from urnet_fixtures.reviewed import NAMES
from urnet_tf.crawl import corrections

_POLLING_MS = 40  # rather than with each frame, which has to be drawn for it
SIZES = {"wide": (1300, 850), "phone": (400, 800)}


class Person:
    """Somebody at a browser; knows what the page has asked for and complained of."""

    def __init__(self, context, port, token=TOKEN):
        self.page, self.port = context.new_page(), port
        self.base = f"http://127.0.0.1:{port}"
        self.foreign, self.complaints = [], []
        self.page.on("request", lambda r: None if r.url.startswith(self.base) else self.foreign.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(f"{self.base}/?token={token}")
        self.page.wait_for_selector(".cards, [role=alert]")

    def go(self, place, wait=".stage[data-ready=true], .cell img"):
        before = self.page.get_attribute("#app", "data-followed")
        self.page.evaluate("place => { location.hash = place }", place)
        self.page.wait_for_selector(f"#app:not([data-followed='{before}'])")
        self.page.wait_for_selector(wait)

    @property
    def shown(self):
        return int(self.page.get_attribute(".stage", "data-id"))

    def press(self, *keys):
        """Presses keys; waits until another image is there."""
        before = self.shown
        for key in keys:
            self.page.keyboard.press(key)
        self.page.wait_for_function(
            "before => { const stage = document.querySelector('.stage');"
            " return stage.dataset.id != before && stage.dataset.ready == 'true' }",
            arg=str(before),
            polling=_POLLING_MS,
        )
        return before

    def judge(self, key):
        """Presses a key of a judgement, `w` for the class blue; returns the image that was judged."""
        if key == "w":
            self.page.keyboard.press("w")
            self.page.wait_for_selector("#search-list li")
            self.page.keyboard.type("blu")
            self.page.wait_for_selector("#search-list li:only-child")
            key = "Enter"
        return self.press(key)

    def undo(self, row):
        """Takes back what was said last, which was of this image."""
        self.press("z")
        assert self.shown == row

    def reload(self):
        self.page.reload()
        self.page.wait_for_selector(".stage[data-ready=true]")

    def expect(self, selector, count):
        """Waits until so many elements are there."""
        self.page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length == count",
            arg=[selector, count],
            polling=_POLLING_MS,
        )

    def text(self, selector):
        return " ".join(self.page.text_content(selector).split())


def read_held(path):
    """What a log says of each image: {path: (verdict, new label, queue)}."""
    rows = corrections.current(corrections.read([path])).table.to_pylist()
    return {row["path"]: (row["verdict"], row["new_label"], row["queue"]) for row in rows}


def find_given(item):
    """The given label of an item of a queue."""
    return item["labels"][0]["name"]


def find_meaning(item, key):
    """Verdict and new label of a key."""
    label = {"1": 0, "2": 1}.get(key)
    name = "blue" if key == "w" else NAMES[item["choices"][label]["label"]] if label is not None else None
    if key == "r" or name == find_given(item):
        return "right", ""
    return ("wrong_class", name) if name else ({"x": "none_of_these", "u": "unsure"}[key], "")


VIEWS = {
    "home": ("#/", ".samples img"),
    "one": ("#/queue/doubtful", ".stage[data-ready=true]"),
    "many": ("#/class/1", ".cell img"),
    "group": ("#/groups/0", ".cell img"),
    "classes": ("#/classes", ".classes li"),
}


def find_faults(page):
    """Serious findings of axe, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {node['target']}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def check_views(served_run, open_page, size, scheme, views, dialogs):
    """Opens views and dialogs of a few judged images: axe finds nothing serious, and nothing is cut."""
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    browser, session, _ = served_run
    session.look_alikes.wait()
    for truth in ("given", "none", "unsure", 2):
        browser.judge(browser.get("/api/items?queue=class:1&limit=9")["items"][:2], truth)
    person = open_page(browser.port, size=size, scheme=scheme)
    page = person.page
    for name in views:
        person.go(*VIEWS[name])
        page.wait_for_timeout(150)
        assert not find_faults(page), name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    person.go("#/queue/doubtful")
    page.wait_for_selector(".alike img")
    page.keyboard.press("r")
    page.wait_for_selector(".notice")
    for key, dialog in dialogs:
        page.keyboard.press(key)
        page.wait_for_selector(f"#{dialog}[open]")
        assert not find_faults(page), dialog
        page.keyboard.press("Escape")
        page.wait_for_selector(f"#{dialog}:not([open])", state="hidden")
    assert not person.complaints
