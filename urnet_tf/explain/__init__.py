"""The page that shows what is wrong in a crawl, what to do about it, and why each image counted as it did.

`build_report(ReportInputs(...), directory)` takes arrays and writes HTML that needs nothing from elsewhere.
Text from the web is escaped, thumbnails are re-encoded.
"""

from urnet_tf.explain.inputs import ReportInputs
from urnet_tf.explain.page import build_report

__all__ = ["ReportInputs", "build_report"]
