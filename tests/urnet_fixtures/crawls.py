"""Crawls of a few files, by hand."""

import os


def plant(root, *names, data=b"x"):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def listed(crawl, *columns):
    return [tuple(row[c] for c in columns) for row in crawl.rows.to_pylist()]


def write_list(tmp_path, text, name="list.csv", **options):
    (tmp_path / name).write_text(text, newline="", **options)
    return str(tmp_path / name)
