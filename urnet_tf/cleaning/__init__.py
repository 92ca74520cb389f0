"""The crawl without what is wrong in it, for any tool.

`decisions` says of each image whether it stays, under which label, and why not; a writer of `formats` writes
what stays.
"""
