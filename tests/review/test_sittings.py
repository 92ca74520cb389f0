"""Whole reviews in a real browser: thirty images, a kill, several people, pages of earlier starts."""

import re
import signal

import pytest
from urnet_fixtures.review_browser import find_given, find_meaning, read_held
from urnet_fixtures.review_server import served

from urnet_tf.crawl import corrections

pytestmark = pytest.mark.slow


def test_thirty_judgements_by_keys_are_kept(reviewed, started, open_page, urnet_here, tmp_path):
    root, _ = reviewed
    log = root / corrections.FILE_NAME
    log.unlink(missing_ok=True)
    process, _, server = started(root)
    person = open_page(server.port, server.cookie.partition("=")[2])
    person.page.keyboard.press("Tab")
    person.go("#/queue/doubtful")
    items = {}
    for offset in (0, 100):
        page = server.get(f"/api/items?queue=doubtful&offset={offset}")
        items |= {item["id"]: item for item in page["items"]}
    said, plan = {}, ["r", "x", "u", "1", "2", "w"]
    for number in range(30):
        key = plan[number % 6]
        row = person.judge(key)
        said[row] = key
        if number == 9:  # undone, and judged otherwise
            person.undo(row)
            assert person.text(".said, .question") == f"Is this {find_given(items[row])}?"
            said[person.press("x")] = "x"
        if number == 14:
            person.reload()
            person.undo(row)  # also what was said before the reload
            said[person.press(key)] = key
        if number == 19:
            process.kill()
            process.wait()
            person.page.keyboard.press("r")
            person.page.wait_for_selector(".notice.bad")
            assert "Not saved" in person.text(".notice")
            process, _, server = started(root)
            person = open_page(server.port, server.cookie.partition("=")[2])
            person.go("#/queue/doubtful")
    assert len(said) == 30 and not person.foreign and not person.complaints
    person.page.keyboard.press("p")
    # One of them has a copy with the same bytes, which is judged with it.
    person.page.wait_for_selector("#panel .big-number:has-text('31 of 120')")
    expected = {}
    for row, key in said.items():
        verdict, label = find_meaning(items[row], key)
        expected[server.get(f"/api/image?id={row}")["about"]["path"]] = (verdict, label, "doubtful")
    assert read_held(log) == expected
    process.send_signal(signal.SIGINT)
    process.wait()
    done = urnet_here("review", "--workdir", root, "--export", tmp_path / "out.csv")
    assert done.returncode == 0 and read_held(tmp_path / "out.csv") == expected


def test_a_whole_group_of_look_alikes_goes_with_one_key(served_run, open_page):
    browser, session, _ = served_run
    person = open_page(browser.port)
    person.go("#/groups/0")
    page = person.page
    hash_before = page.evaluate("location.hash")
    label, number = map(int, re.findall(r"\d+", hash_before))
    ids = session.order_of(f"group:{label}:{number}")
    assert f"These {len(ids)} look alike" in person.text("h1")
    page.keyboard.press("x")
    page.wait_for_function("before => location.hash != before", arg=hash_before)
    page.wait_for_selector(".cell.open")
    assert (session.journal.states().truth[ids] == -2).all()
    page.keyboard.press("z")
    page.wait_for_function("before => location.hash == before", arg=hash_before)
    assert not session.journal.states().judged.any() and not person.complaints


def test_two_people_at_once_see_each_other(served_run, open_page):
    browser, session, _ = served_run
    one, other = open_page(browser.port), open_page(browser.port)
    for person in (one, other):
        person.go("#/queue/doubtful")
    row = one.shown
    # A key that comes before the next image is there judges nothing.
    one.page.evaluate("""() => ["x", "x"].forEach((key) =>
        document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })))""")
    one.page.wait_for_selector(f".stage[data-ready=true]:not([data-id='{row}'])")
    assert one.text(".notice").endswith("none of these") and session.journal.states().rows == 1
    assert other.shown == row
    other.page.keyboard.press("r")
    other.page.wait_for_selector(".notice.bad")
    assert "judged this meanwhile" in other.text(".notice") and "none of these" in other.text(".said")
    assert session.journal.states().truth[row] == -2
    assert other.press("r") == row  # seen now, and meant
    assert session.journal.states().truth[row] == session.run.label[row]
    one.page.wait_for_selector(".side .big-number:has-text('1 of')")


def test_a_page_of_an_earlier_start_says_so(reviewed, open_page):
    with served(reviewed[0]) as (browser, _):
        person = open_page(browser.port)
        person.go("#/queue/doubtful")
        person.page.context.clear_cookies()  # as after a restart, whose token is another one
        person.page.keyboard.press("r")
        person.page.wait_for_selector(".blocked")
        assert "Open the address that the terminal shows now" in person.text(".blocked")
        person.page.goto(f"{person.base}/#/image/3")
        person.page.wait_for_selector(".blocked")


def test_a_page_without_a_right_to_write_is_for_looking(served_run, open_page, monkeypatch):
    monkeypatch.setattr("urnet_tf.review.journal.Journal.is_writable", False)
    person = open_page(served_run[0].port)
    person.go("#/queue/doubtful")
    assert "cannot be written: this is for looking only" in person.text(".banner")
    assert person.page.is_disabled("button.right")
    person.page.keyboard.press("r")
    person.page.wait_for_selector(".notice.bad")
    assert not served_run[1].journal.states().judged.any()


def test_links_lead_in(served_run, open_page, tmp_path):
    browser, session, _ = served_run
    person = open_page(browser.port)
    # Of a page on the disk, like the report; it knows no token, the browser does.
    (tmp_path / "report.html").write_text(f'<a href="{person.base}/#/class/green/0">green</a>')
    person.page.goto((tmp_path / "report.html").as_uri())
    person.page.click("a")
    person.page.wait_for_selector(".stage[data-ready=true]")
    assert person.text("h1") == "Is this green?"
    known = session.run.text("content_hash", 7)
    person.go(f"#/image/{known}")
    assert person.shown == 7
    person.page.keyboard.press("x")
    person.page.wait_for_selector(".said.nothing")
    person.go("#/class/blue", "#grid .cell img")
    assert "Which are not blue" in person.text("h1")
    person.page.keyboard.press("g")
    person.page.wait_for_selector(".stage[data-ready=true]")
    person.page.go_back()
    person.page.wait_for_selector(".stage[data-id='7']")
