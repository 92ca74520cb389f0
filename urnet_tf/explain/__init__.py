"""The page that shows what a crawl holds, what was noisy, and why each image counted as it did.

`build_page(ReportInputs(...))` takes arrays and returns one HTML file that needs nothing else: no
script, no font, no picture from outside. Text from the web is escaped, thumbnails are re-encoded.
"""

from urnet_tf.explain.page import build_page
from urnet_tf.explain.summary import ReportInputs

__all__ = ["ReportInputs", "build_page"]
