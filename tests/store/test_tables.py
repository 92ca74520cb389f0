"""Tables of texts: 64-bit offsets, numbers in place of texts, rows in slices."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from urnet_tf import schema, store
from urnet_tf.crawl.table import REJECTED_SCHEMA, ROW_SCHEMA
from urnet_tf.store.table_rows import TableRows


def test_encoded_texts_agree_over_chunks():
    column = pa.chunked_array([["b", "", "b"], ["a"]], pa.large_string())
    numbers, texts = store.encode_texts(column)
    assert (numbers.tolist(), texts.to_pylist()) == ([0, 1, 0, 2], ["b", "", "a"])
    assert store.number_groups(column).tolist() == [0, -1, 0, 2]
    none = store.encode_texts(column.slice(0, 0))
    assert len(none[0]) == len(none[1]) == 0 and len(store.number_groups(column.slice(0, 0))) == 0
    # In the order of code points, which is that of Python's strings, and not that of UTF-16.
    texts = ["\U0001f600", "\uff61", "z", "É"]
    assert store.codes_of(pa.chunked_array([texts]), ordered=True)[1] == sorted(texts)


def test_texts_have_64_bit_offsets_in_memory_and_none_of_that_in_the_file(tmp_path):
    path = tmp_path / "t.parquet"
    store.write_table(path, {"s": ["a", ""], "n": [1, 2]}, {"s": "string", "n": "uint64"}, {"format": "f 1"})
    table = store.read_table(path)
    assert [str(field.type) for field in table.schema] == ["large_string", "uint64"]
    assert table.schema.metadata == {b"format": b"f 1"}
    assert pyarrow.parquet.read_schema(path).field("s").type == pa.string()  # as other readers see it
    assert store.is_equal(table, "s", "").tolist() == [False, True]


@pytest.mark.slow
def test_a_column_of_more_than_two_gibibytes_of_text(tmp_path):
    """300 texts of 8 MiB, all the same, of which Parquet keeps one: joined, numbered, written, read again."""
    texts = pa.array(["x" * (8 << 20), ""], pa.large_string())
    column = pa.chunked_array([texts.take(pa.array([0, 1] * 50))] * 6)
    assert column.nbytes > 2**31
    path = tmp_path / "t.parquet"
    store.write_table(path, {"s": column.combine_chunks()}, {"s": "string"})
    assert path.stat().st_size < 2**20
    table = store.read_table(path)
    assert len(table["s"].combine_chunks()) == 600
    numbers, distinct = store.encode_texts(table["s"])
    assert numbers.tolist() == [0, 1] * 300 and len(distinct) == 2


def test_slices_of_rows_of_a_table(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"n": np.arange(25), "s": [str(i) for i in range(25)]})
    pyarrow.parquet.write_table(table, path, row_group_size=10)
    rows = TableRows(path, ["s"])
    assert len(rows) == 25
    for start, stop in ((0, 4), (4, 10), (8, 23), (20, 25), (0, 25), (24, 99), (5, 5), (25, 30)):
        read = rows.read(start, stop)
        assert read.column_names == ["s"] and read["s"].type == pa.large_string()
        assert read["s"].to_pylist() == [str(i) for i in range(start, min(stop, 25))]
    pyarrow.parquet.write_table(table.slice(0, 0), path)
    assert len(TableRows(path, ["s"]).read(0, 5)) == 0


def test_no_column_of_a_schema_has_32_bit_offsets():
    tables = {name: value for name, value in vars(schema).items() if name.endswith("_COLUMNS")}
    dtypes = [dtype for table in tables.values() if isinstance(table, dict) for dtype in table.values()]
    assert "string" in dtypes and len(tables) > 4
    assert not {store.arrow_type(dtype) for dtype in dtypes} & {pa.string(), pa.binary()}
    assert not {field.type for rows in (ROW_SCHEMA, REJECTED_SCHEMA) for field in rows} & {pa.string()}
