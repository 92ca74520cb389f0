"""The review page for everybody: without a mouse or good eyes, on a phone, in the dark, with 100,000 images.

Accessibility is looked at by axe, whose serious and critical findings count.
"""

import time

import pytest
from urnet_fixtures.review_browser import VIEWS, check_views
from urnet_fixtures.review_server import served
from urnet_fixtures.reviewed import make_reviewed_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "scheme"), [("wide", "light"), ("wide", "dark"), ("phone", "light"), ("phone", "dark")]
)
def test_nothing_hinders_anybody_anywhere(served_run, open_page, size, scheme):
    dialogs = [("p", "panel"), ("?", "keys"), ("w", "search"), ("f", "full")]
    check_views(served_run, open_page, size, scheme, VIEWS, dialogs)


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
