"""This machine's Chromium, which Playwright drives."""

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


# For the tests of one file: while Playwright waits for calls, an event loop counts as running in this thread,
# so that tests of other files that run one of their own would fail.
@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = os.environ.get("URNET_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, or set URNET_CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
