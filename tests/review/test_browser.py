"""The review as a person meets it: a real browser, driven by keys and mouse, looked at by axe.

Longer sittings are in test_sittings.py, phones and the dark in test_everybody.py.
"""

from urnet_fixtures.review_browser import check_views, find_given, find_meaning, read_held
from urnet_fixtures.reviewed import HOSTILE


def test_judgements_by_keys_are_kept(served_run, open_page):
    browser, session, _ = served_run
    person = open_page(browser.port)
    person.go("#/queue/doubtful")
    items = {item["id"]: item for item in browser.get("/api/items?queue=doubtful")["items"]}
    said = {}
    for number, key in enumerate(("r", "x", "u", "1", "w", "2")):
        row = person.judge(key)
        said[row] = key
        if number == 1:  # undone, and judged otherwise
            person.undo(row)
            assert person.text(".said, .question") == f"Is this {find_given(items[row])}?"
            said[person.press("u")] = "u"
        if number == 3:
            person.reload()
            person.undo(row)  # also what was said before the reload
            said[person.press("x")] = "x"
    assert len(said) == 6 and not person.foreign and not person.complaints
    assert read_held(session.journal.path) == {
        session.run.text("path", row): (*find_meaning(items[row], key), "doubtful")
        for row, key in said.items()
    }


def test_a_group_is_judged_by_mouse_and_keyboard(served_run, open_page):
    browser, session, _ = served_run
    person = open_page(browser.port)
    page = person.page
    person.go("#/class/green")
    page.wait_for_selector("#cell-9 img")
    page.click("#cell-0")
    page.click("#cell-3", modifiers=["Shift"])
    person.expect(".cell.selected", 4)
    page.click("#cell-1", modifiers=["Control"])
    person.expect(".cell.selected", 3)
    page.keyboard.press("x")
    page.wait_for_selector("#cell-3.nothing")
    assert [session.page("class:1", 0, 5)["items"][i]["truth"] for i in range(5)] == [
        "none", None, "none", "none", None,
    ]  # fmt: skip
    first, last = (page.locator(f"#cell-{n}").bounding_box() for n in (6, 8))
    page.mouse.move(first["x"] + 5, first["y"] + 5)
    page.mouse.down()
    page.mouse.move(last["x"] + 20, last["y"] + 20, steps=4)
    person.expect(".band", 1)
    page.mouse.up()
    person.expect(".cell.selected", 3)
    page.keyboard.press("u")
    page.wait_for_selector("#cell-6.unsure")
    page.focus("#grid")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("r")
    page.wait_for_selector("#cell-1.right")
    states = [item["truth"] for item in session.page("class:1", 0, 9)["items"]]
    assert states[:2] == [1, 1] and states.count("unsure") == 3
    page.keyboard.press("z")
    page.wait_for_selector("#cell-0.nothing")
    assert not person.complaints


def test_nothing_hinders_anybody(served_run, open_page):
    check_views(served_run, open_page, "wide", "light", ["one"], [("w", "search")])


def test_hostile_texts_stay_texts_everywhere(served_run, open_page):
    browser, session, _ = served_run
    person = open_page(browser.port)
    page = person.page
    session.look_alikes.wait()
    for place in (
        "#/queue/doubtful",
        "#/queue/copies",
        "#/class/3",
        "#/class/4/2",
        "#/groups/1",
        "#/image/80",
    ):
        person.go(place)
    page.wait_for_selector(".alike img")
    assert person.text(".question b") == HOSTILE[0]
    assert HOSTILE[0] in person.text(".page-text")
    person.go("#/classes", ".classes li")
    assert HOSTILE[0] in person.text(".classes")
    person.go(f"#/class/{''.join(f'%{byte:02x}' for byte in HOSTILE[3].encode())}/0")
    assert HOSTILE[3] in person.text(".question")
    page.keyboard.press("w")
    page.keyboard.type("<img")
    page.wait_for_selector("#search-list li:only-child")
    assert person.text("#search-list li span") == HOSTILE[0]
    page.keyboard.press("Escape")
    for place in (
        "#/queue/<script>alert(1)</script>",
        "#/class/nothing",
        "#/image/..%2f..%2fetc%2fpasswd",
        "#/%ff/%",
    ):
        page.evaluate("place => { location.hash = place }", place)
        page.wait_for_timeout(100)
    assert page.locator("#app script, #app img[onerror], #app img[src=x]").count() == 0
    assert not person.foreign
    assert [text for text in person.complaints if "404" not in text] == []
