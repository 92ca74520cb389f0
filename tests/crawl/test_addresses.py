"""Which image of a crawl came from an address."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures.layouts import write_img2dataset

from urnet_tf.crawl.addresses import find_address
from urnet_tf.crawl.list_tables import ListOptions

ROWS = [
    {"path": "a/1.jpg", "label": "a", "url": "http://x.org/1.jpg?w=1&h=2"},
    {"path": "b/2.jpg", "label": "b", "url": "http://x.org/2.jpg"},
    {"path": "b/3.jpg", "label": "b", "url": "http://x.org/2.jpg"},
]


def write_list(path, rows=ROWS):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows))
    else:
        sign = "\t" if path.suffix == ".tsv" else ","
        lines = [sign.join(rows[0]), *(sign.join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_lists(tmp_path, suffix):
    path = write_list(tmp_path / f"list.{suffix}")
    assert find_address(path, "list", ROWS[0]["url"], ListOptions()) == ["a/1.jpg"]
    assert find_address(path, "list", ROWS[1]["url"], ListOptions()) == ["b/2.jpg", "b/3.jpg"]
    assert find_address(path, "list", "http://x.org/1.jpg", ListOptions()) == []


def test_the_column_of_paths_that_the_user_named(tmp_path):
    rows = [{"image file": "a/1.jpg", "label": "a", "url": "http://x.org/1"}]
    path = write_list(tmp_path / "list.csv", rows)
    options = ListOptions(columns={"path": "image file"})
    assert find_address(path, "list", "http://x.org/1", options) == ["a/1.jpg"]


def test_search_results_of_a_webvision_tree(drawn_crawl):
    records = json.loads((drawn_crawl / "meta" / "google" / "q0001.json").read_text())
    record = records[1]
    (path,) = find_address(str(drawn_crawl), "webvision", record["url"], ListOptions())
    assert path.startswith("google/q0001/") and record["id"] in path
    assert find_address(str(drawn_crawl), "webvision", "http://example.org/nowhere", ListOptions()) == []


@pytest.mark.parametrize("output", ["files", "webdataset", "parquet"])
def test_shards(tmp_path, output):
    write_img2dataset(tmp_path, output)
    (path,) = find_address(str(tmp_path), "dataset", "http://x/4.jpg", ListOptions())
    assert path.startswith("00001") and ("000010001" in path or path.endswith("/1"))
    # What was not downloaded has no image.
    assert find_address(str(tmp_path), "dataset", "http://x/99.jpg", ListOptions()) == []


def test_a_crawl_that_is_gone_or_damaged_tells_nothing(tmp_path):
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "list.jsonl").write_text('{"path": "http://x"\n')
    for name in ("list.parquet", "list.jsonl", "gone.csv"):
        assert find_address(str(tmp_path / name), "list", "http://x", ListOptions()) == []
    assert find_address(str(tmp_path), "folder", "http://x", ListOptions()) == []
