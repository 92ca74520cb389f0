"""The review page for everybody: without a mouse or good eyes, on a phone, in the dark, with 100,000 images.

Accessibility is looked at by axe, whose serious and critical findings count.
"""

import time

import pytest
from urnet_fixtures.review_server import served
from urnet_fixtures.reviewed import make_reviewed_run

_VIEWS = {
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


def test_nothing_hinders_anybody(served_run, open_page):
    check_views(served_run, open_page, "wide", "light")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [("wide", "dark"), ("phone", "light"), ("phone", "dark")])
def test_nothing_hinders_anybody_in_the_other_schemes(served_run, open_page, size, scheme):
    check_views(served_run, open_page, size, scheme)


def check_views(served_run, open_page, size, scheme):
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    browser, session, _ = served_run
    session.look_alikes.wait()
    for truth in ("given", "none", "unsure", 2):
        browser.judge(browser.get("/api/items?queue=class:1&limit=9")["items"][:2], truth)
    person = open_page(browser.port, size=size, scheme=scheme)
    page = person.page
    for name, (place, ready) in _VIEWS.items():
        person.go(place, ready)
        page.wait_for_timeout(150)
        assert not find_faults(page), name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    person.go("#/queue/doubtful")
    page.wait_for_selector(".alike img")
    page.keyboard.press("r")
    page.wait_for_selector(".notice")
    for key, dialog in (("p", "panel"), ("?", "keys"), ("w", "search"), ("f", "full")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#{dialog}[open]")
        assert not find_faults(page), dialog
        page.keyboard.press("Escape")
        page.wait_for_selector(f"#{dialog}:not([open])", state="hidden")
    assert not person.complaints


def test_a_finger_judges_on_a_phone(served_run, open_page):
    browser, session, _ = served_run
    person = open_page(browser.port, size="phone")
    person.go("#/queue/doubtful")
    page = person.page
    row = person.shown
    for selector in (".choices .right", ".verdicts .nothing", ".verdicts .unsure"):
        frame = page.locator(selector).bounding_box()
        assert frame["height"] >= 38 and frame["y"] + frame["height"] <= 800
    page.tap(".verdicts .nothing")
    page.wait_for_function("row => document.querySelector('.stage').dataset.id != row", arg=str(row))
    assert session.journal.states().truth[row] == -2
    person.go("#/class/2")
    page.tap("#cell-1")
    page.tap("#cell-2")
    person.expect(".cell.selected", 2)


# ------------------------------------------------------------------------------- large runs


@pytest.mark.slow
def test_a_hundred_thousand_images_stay_fast(tmp_path, mark_complete, open_page):
    root = tmp_path / "large"
    make_reviewed_run(
        root, mark_complete, per_class=5000, names=[f"class {j}" for j in range(20)], pictures=False
    )
    start = time.monotonic()
    with served(root) as (browser, session):
        assert time.monotonic() - start < 10
        for name in ("doubtful", "valuable", "random"):
            browser.get(f"/api/items?queue={name}")
        for path in (
            "/api/items?queue=doubtful&offset=99950",
            "/api/next?queue=random&after=90000",
            "/api/progress",
        ):
            start = time.monotonic()
            answer = browser.send("GET", path)[1]
            assert time.monotonic() - start < 0.5 and len(answer) < 100_000, path
        session.look_alikes.wait()
        start = time.monotonic()
        assert len(browser.get("/api/look_alikes?id=5")["items"]) == 12
        assert time.monotonic() - start < 0.5
        person = open_page(browser.port)
        person.go("#/queue/doubtful")
        page = person.page
        page.keyboard.press("g")
        page.wait_for_selector(".cell img")
        start = time.monotonic()
        page.focus("#grid")
        page.keyboard.press("End")
        page.wait_for_selector("#cell-99999 img")
        assert time.monotonic() - start < 3
        assert page.locator(".cell").count() < 120
        page.keyboard.press("Home")
        page.wait_for_selector("#cell-0 img")
