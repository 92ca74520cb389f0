"""The picture of the report in the README: the first page of the report of a drawn crawl.

urnet draw --out crawl
urnet run --data crawl --workdir runs/drawn
python experiments/report_picture.py --page runs/drawn/report/index.html --out experiments/images/report.png

Chromium opens the page as a file and shoots its top. Few colors make the picture a quarter as large.
"""

import io
import pathlib
import shutil

from absl import app, flags
from PIL import Image


def define_flags() -> None:
    """Of this script alone."""
    flags.DEFINE_string("page", None, "index.html of a report", required=True)
    flags.DEFINE_string("out", "experiments/images/report.png", "the picture to write")
    flags.DEFINE_integer("width", 1100, "pixels", lower_bound=100)
    flags.DEFINE_integer("height", 1400, "pixels", lower_bound=100)
    flags.DEFINE_enum("scheme", "light", ["light", "dark"], "colors")


def shoot(page_path: pathlib.Path, width: int, height: int, scheme: str) -> Image.Image:
    """The top of a page as a person sees it.

    Raises:
      RuntimeError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise RuntimeError("Expected chromium or google-chrome on the path; found neither.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.goto(page_path.resolve().as_uri())
        page.wait_for_selector("#class-table .sort", state="attached")
        shot = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(shot))


def main(argv: list[str]) -> None:
    """Writes the picture."""
    del argv
    values = flags.FLAGS
    picture = shoot(pathlib.Path(values.page), values.width, values.height, values.scheme)
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(values.out, optimize=True)
    print(f"{values.out}: {pathlib.Path(values.out).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    define_flags()
    app.run(main)
