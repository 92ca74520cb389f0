"""Films a short sitting of `urnet review` on a copy of a run: the animated picture of the README.

    python experiments/record_review.py --workdir runs/quickstart [--out experiments/images/review.gif]

The judgements are those that the models propose, so nothing is learned from them. Needs Playwright, and a
Chromium on the PATH or in $URNET_CHROMIUM.
"""

import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from absl import app, flags
from PIL import Image

WIDTH_PX, HEIGHT_PX = 1100, 690
FILM_WIDTH_PX = 800
COLORS = 64
SHORT_MS, LONG_MS = 650, 1700
# Keys in the queue of doubtful labels, each with how long one looks at what it does.
KEYS = (("1", LONG_MS), ("1", SHORT_MS), ("x", SHORT_MS), ("1", SHORT_MS), ("r", SHORT_MS), ("z", LONG_MS),
        ("1", SHORT_MS), ("1", SHORT_MS))  # fmt: skip


def define_flags():
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_string("workdir", None, "a run that came as far as `reweight`; it is copied", required=True)
    flags.DEFINE_string("out", "experiments/images/review.gif", "the film")


def main(_):
    chosen = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / pathlib.Path(chosen.workdir).resolve().name
        shutil.copytree(chosen.workdir, copy, ignore=shutil.ignore_patterns("corrections.parquet"))
        frames = film(copy)
    write_film(frames, chosen.out)
    print(f"{chosen.out}: {len(frames)} frames, {os.path.getsize(chosen.out) / 1e3:.0f} kB")


def film(workdir):
    """Frames of a sitting: (picture, milliseconds) each."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "urnet_tf", "review", "--workdir", os.fspath(workdir)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=os.environ.get("URNET_CHROMIUM") or shutil.which("chromium"),
                args=["--no-sandbox"],
            )
            page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            frames = list(act(page, address))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return frames


def act(page, address):
    """Judges some images one by one, then a group of look-alikes; yields (picture, milliseconds)."""

    def take(milliseconds):
        page.wait_for_timeout(900)  # all pictures are there
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB"), milliseconds

    page.goto(address)
    page.wait_for_function("() => document.querySelectorAll('.samples').length >= 5")
    yield take(LONG_MS)
    page.evaluate("() => { location.hash = '#/queue/doubtful' }")
    page.wait_for_selector(".alike img")
    yield take(LONG_MS)
    for key, milliseconds in KEYS:
        page.keyboard.press(key)
        yield take(milliseconds)
    page.evaluate("() => { location.hash = '#/groups/0' }")
    page.wait_for_selector(".cell img")
    yield take(LONG_MS)
    frames = [page.locator(f"#cell-{place}").bounding_box() for place in (0, 2)]
    page.mouse.move(frames[0]["x"] + 20, frames[0]["y"] + 20)
    page.mouse.down()
    page.mouse.move(frames[1]["x"] + 90, frames[1]["y"] + 120, steps=4)
    yield take(SHORT_MS)
    page.mouse.up()
    page.keyboard.press("1")
    yield take(LONG_MS)
    page.keyboard.press("1")
    yield take(2 * LONG_MS)


def write_film(frames, path):
    """Writes frames as an animated GIF with one palette, which keeps what does not change unchanged."""
    height = round(HEIGHT_PX * FILM_WIDTH_PX / WIDTH_PX)
    small = [picture.resize((FILM_WIDTH_PX, height), Image.Resampling.LANCZOS) for picture, _ in frames]
    strip = Image.new("RGB", (FILM_WIDTH_PX, height * len(small)))
    for place, picture in enumerate(small):
        strip.paste(picture, (0, place * height))
    palette = strip.quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in small)
    durations = [milliseconds for _, milliseconds in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
