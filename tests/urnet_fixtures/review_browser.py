"""Somebody at a browser, which Playwright drives."""

from urnet_fixtures.review_server import TOKEN

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

    def expect(self, selector, count):
        """Waits until so many elements are there."""
        self.page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length == count",
            arg=[selector, count],
            polling=_POLLING_MS,
        )

    def text(self, selector):
        return " ".join(self.page.text_content(selector).split())
