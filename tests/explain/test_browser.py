"""The page in a browser, opened as a file: what a person sees, clicks and types."""

import pathlib
import re
import shutil

import numpy as np
import pytest
from urnet_fixtures.reports import make_inputs

from urnet_tf.explain import build_report

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

HOSTILE = ("<img src=x onerror=stolen()>", "</script><script>stolen()</script>", "{{7*7}} 'quoted'", '"><b>')


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of hostile texts in a work directory whose name asks for quotes."""
    out = tmp_path_factory.mktemp("it's a run") / "report"
    out.mkdir()
    inputs = make_inputs(
        names=HOSTILE, source_names=HOSTILE[:2], held=np.full(4, 20),
        read_rows=lambda ids: [
            {"title": HOSTILE[i % 4], "path": f"{HOSTILE[3]}/{i}", "query": ""} for i in ids
        ],
        reweighting={"clean_rate_estimate": 0.7}, missing={"export": HOSTILE[0]},
    )  # fmt: skip
    build_report(inputs, out)
    return out / "index.html"


class Visit:
    """One opened page, and what went wrong in it."""

    def __init__(self, browser, report, width=1300, scheme="light", route=""):
        self.problems, self.asked = [], []
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=False
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri() + route)
        self.page.wait_for_selector("#class-table button", state="attached")

    def close(self):
        """Ends the visit; nothing was refused or failed, and nothing was asked of another place."""
        assert not self.problems and all(url.startswith(("file:", "data:")) for url in self.asked)
        self.page.context.close()


@pytest.fixture
def visit(chromium, report):
    made = []

    def start(**options):
        made.append(Visit(chromium, report, **options))
        return made[-1].page

    yield start
    for one in made:
        one.close()


def text_of(page, selector):
    return re.sub(r"\s+", " ", page.inner_text(selector)).replace("\xa0", " ")


def test_hostile_texts_are_texts_everywhere(visit):
    page = visit()
    for route, place in (("", "#report"), ("#/class/1", "#view")):
        page.evaluate("route => { location.hash = route }", route)
        page.wait_for_selector(place, state="visible")
        assert HOSTILE[1] in page.inner_text(place)
        assert page.evaluate("typeof stolen") == "undefined"
        assert (
            page.locator(f"{place} img[src='x']").count() == 0
            and page.locator(f"{place} script").count() == 0
        )


def test_a_page_of_a_class_by_link_and_back(visit):
    page = visit()
    page.locator("#wrong .bars a").nth(1).click()
    page.wait_for_selector("#view h1")
    name = text_of(page, "#view h1")
    assert name in HOSTILE and page.evaluate("document.activeElement.tagName") == "H1"
    assert "37 % of 12 images look wrong." in text_of(page, "#view .lead")
    assert page.title().startswith(name) and page.locator("#report").is_hidden()
    assert page.locator("#view .card img").count() == 12
    page.go_back()
    page.wait_for_selector("#report", state="visible")
    assert page.locator("#view").is_hidden() and not page.title().startswith(name)
    page.click("nav a >> text=All classes")
    assert page.locator("#classes").is_visible()


def test_a_link_to_a_class_opens_it_at_once(visit):
    page = visit(route="#/class/2")
    page.wait_for_selector("#view h1")
    assert text_of(page, "#view h1") == HOSTILE[2]
    page.click("#view .way >> text=Next")
    page.locator("#view h1", has_text='">').wait_for()  # functions that are waited for break the policy


def test_the_table_of_classes_is_searched_and_ordered(visit):
    page = visit()
    rows = page.locator("#class-table tbody tr")
    assert rows.count() == 4
    page.fill("#class-name", "quoted")
    assert rows.count() == 1 and "1 class" in text_of(page, "#class-count")
    page.fill("#class-name", "")
    page.click("#class-table button >> text=Class")
    assert page.locator("th[aria-sort=ascending]").inner_text().strip() == "Class"
    page.click("#class-table button >> text=URNet right")
    page.click("#class-table button >> text=URNet right")
    shown = [text_of(page, f"#class-table tbody tr:nth-child({row}) td:last-child") for row in (1, 2, 3, 4)]
    assert shown == ["60 %", "50 %", "40 %", "30 %"]


def test_the_matrix_by_keys(visit):
    page = visit()
    page.focus("#matrix-open")
    page.keyboard.press("Enter")
    page.wait_for_selector("#matrix canvas")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    told = text_of(page, "#matrix-cell")
    assert (
        told == f"{HOSTILE[0]} called {HOSTILE[1]}: 4 images, 33 % of {HOSTILE[0]}. "
        "About 4 of these labels are wrong."
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("#matrix .card")
    assert page.locator("#matrix .card").count() >= 1
    cells = {told}
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "+", "-", "Home"):
        page.keyboard.press(key)
        cells.add(text_of(page, "#matrix-cell"))
    assert len(cells) >= 3 and any("agree with the label of 8 images, 67 %" in cell for cell in cells)


def test_the_matrix_by_mouse(visit):
    page = visit()
    page.click("#matrix-open")
    canvas = page.locator("#matrix canvas")
    before = text_of(page, "#matrix-cell")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] - 5, "y": box["height"] - 5})
    assert text_of(page, "#matrix-cell") != before
    page.mouse.wheel(0, -200)
    page.click("#matrix >> text=Whole")


def test_commands_are_copied_with_the_place_of_the_work_directory(visit, report):
    page = visit()
    block = page.locator(".command", has_text="urnet review").first
    quoted = str(report.parent.parent).replace("'", "'\\''")
    assert block.locator("code").inner_text() == f"urnet review --workdir '{quoted}'"
    block.locator("button").click()
    assert page.evaluate("navigator.clipboard.readText()") == f"urnet review --workdir '{quoted}'"
    assert f"--config '{quoted}/config.yaml' --workdir '{quoted}'" in text_of(page, ".lacking")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1300, "light")])
def test_nothing_is_cut_and_axe_finds_nothing_serious(chromium, report, width, scheme):
    visit = Visit(chromium, report, width=width, scheme=scheme)
    page = visit.page
    page.click("#matrix-open")
    page.wait_for_selector("#matrix canvas")
    for route in ("#wrong", "#/class/0"):
        page.evaluate("route => { location.hash = route }", route)
        page.wait_for_selector("#report" if route == "#wrong" else "#view h1", state="visible")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # All columns of a chart are inside of it: none is cut on a phone.
        assert page.evaluate(
            """() => [...document.querySelectorAll(".columns")].every((plot) => !plot.offsetWidth ||
            [...plot.querySelectorAll("i")].every((column) =>
              column.getBoundingClientRect().right <= plot.getBoundingClientRect().right + 1 &&
              column.getBoundingClientRect().width > 0))"""
        )
        found = axe.Axe().run(page).response["violations"]
        assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    visit.close()


def test_a_page_that_was_sent_alone_says_what_is_missing(chromium, report, tmp_path):
    alone = pathlib.Path(shutil.copy(report, tmp_path / "index.html"))
    page = chromium.new_page()
    page.goto(alone.as_uri() + "#/class/1")
    page.wait_for_selector("#view h1")
    assert "data/class" in page.inner_text("#view") or "data/classes.js" in page.inner_text("#view")
    page.click("#view >> text=Report")
    assert page.locator("#classes tbody tr").count() == 4
    code = page.locator(".command code").first.inner_text()
    assert code.endswith("--workdir DIR"), "a page elsewhere does not know its work directory"
    page.close()
