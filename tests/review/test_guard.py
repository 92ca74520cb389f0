"""Who may talk to the review application, and what every answer forbids."""

import json
import re

import pytest
from urnet_fixtures.review_server import TOKEN


def test_the_token_becomes_a_cookie_and_leaves_the_address(browser):
    answer, _ = browser.send("GET", f"/?token={TOKEN}", Cookie=None)
    assert answer.status == 303 and answer.getheader("location") == "/"
    cookie = answer.getheader("set-cookie")
    assert cookie.startswith(f"urnet_review_{browser.port}={TOKEN};")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert browser.send("GET", "/?token=wrong", Cookie=None)[0].status == 403


@pytest.mark.parametrize(
    "path",
    ["/api/start", "/api/items?queue=doubtful", "/api/thumbnail/x/0/160", "/api/large/x/0", "/openapi.json"],
)
def test_without_the_cookie_nothing_is_told(browser, path):
    for cookie in (None, f"urnet_review_{browser.port}=wrong", "urnet_review_1=" + TOKEN, "\x7f=;;"):
        answer, content = browser.send("GET", path, Cookie=cookie)
        assert answer.status == 401 and json.loads(content)["kind"] == "gone"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "192.168.0.7"]
)
def test_a_foreign_name_that_leads_here_gets_nothing(browser, host):
    for path in ("/", f"/?token={TOKEN}", "/static/app.js", "/api/start"):
        assert browser.send("GET", path, Host=host)[0].status in (400, 403)
    for name in ("localhost", f"localhost:{browser.port}", "LOCALHOST:7", "[::1]:80"):
        assert browser.send("GET", "/api/start", Host=name)[0].status == 200


def test_other_pages_of_the_browser_get_nothing(browser):
    for site in ("cross-site", "same-site"):
        browser.get("/api/start", status=403, Sec_Fetch_Site=site)
    item = browser.get("/api/items?queue=doubtful")["items"][0]
    body = {"results": browser.get("/api/start")["results"], "ids": item["ids"], "revisions": [0]}
    body |= {"truth": "none", "queue": "x"}
    browser.post("/api/judge", body, 403, Origin="http://localhost:1")
    browser.post("/api/judge", body, 403, Origin="null")
    browser.post("/api/judge", body, 415, Content_Type="text/plain")
    browser.post("/api/judge", body, 413, Content_Length=str(1 << 21))
    assert browser.get("/api/progress")["rows"] == 0


def test_every_answer_forbids_foreign_code(browser):
    for path in ("/", "/static/app.js", "/api/start", "/api/nothing", "/nothing", f"/?token={TOKEN}"):
        headers = browser.send("GET", path)[0]
        policy = headers.getheader("content-security-policy")
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "http:" not in policy
        assert headers.getheader("x-content-type-options") == "nosniff"
        assert headers.getheader("cross-origin-resource-policy") == "same-origin"
        assert headers.getheader("access-control-allow-origin") is None
    assert browser.send("GET", "/static/../application.py")[0].status == 404
    assert browser.send("GET", "/static/%2e%2e/application.py")[0].status == 404


def test_the_page_asks_for_nothing_from_elsewhere(browser):
    files = ["app.js", "api.js", "style.css", "lit-html/lit-html.js"]
    texts = [browser.get("/").decode(), *(browser.get(f"/static/{name}").decode() for name in files)]
    for text in texts:
        found = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert not found
