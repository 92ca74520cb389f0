"""The log of judgements: nothing is lost, whoever writes at once and whatever is killed; CSV and back."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet
import pytest

from urnet_tf.crawl import corrections
from urnet_tf.errors import UsageError
from urnet_tf.schema import CORRECTION_COLUMNS

ROW = {"content_hash": "aa", "path": "cat/1.jpg", "old_label": "cat", "verdict": "right", "queue": "doubtful",
       "who": "ann"}  # fmt: skip


def said(*rows):
    """What holds after rows, given as differences to ROW."""
    stamped = [
        {"new_label": "", **ROW, **row, "when": f"2024-01-01T00:00:{i:02d}.000Z"}
        for i, row in enumerate(rows)
    ]
    return corrections.current(pa.Table.from_pylist(stamped, corrections.SCHEMA))


def test_rows_are_added_in_order_with_growing_times(tmp_path, monkeypatch):
    log = tmp_path / "corrections.parquet"
    assert corrections.append(log, [ROW, ROW | {"content_hash": "bb"}]) == 2
    monkeypatch.setattr(corrections, "_stamp", lambda time: "1999-01-01T00:00:00.000Z")  # set back
    table = corrections.read([log])
    assert table.schema.names == list(CORRECTION_COLUMNS)
    monkeypatch.undo()
    times = table["when"].to_pylist()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)
    assert corrections.append(log, []) == 0


def test_a_clock_that_was_set_back_does_not_turn_the_order(tmp_path):
    log = tmp_path / "corrections.parquet"
    corrections.append(log, [ROW | {"when": "2999-12-31T23:59:59.999Z"}])
    corrections.append(log, [ROW | {"verdict": "undone"}])
    table = corrections.read([log])
    assert table["when"].to_pylist()[1] == "3000-01-01T00:00:00.000Z"
    assert corrections.current(table).undone == 1


def test_what_holds_is_the_last_word():
    found = said({}, {"verdict": "wrong_class", "new_label": "dog"}, {"content_hash": "bb"})
    rows = {row["content_hash"]: (row["verdict"], row["new_label"]) for row in found.table.to_pylist()}
    assert rows == {"aa": ("wrong_class", "dog"), "bb": ("right", "")}
    assert not found.conflicts and not found.undone


def test_undone_takes_back_what_that_person_said():
    assert said({}, {"verdict": "undone"}).undone == 1
    assert not len(said({}, {"verdict": "undone"}).table)
    found = said({}, {"verdict": "none_of_these", "who": "bob"}, {"verdict": "undone", "who": "bob"})
    assert found.table["verdict"].to_pylist() == ["right"] and not found.conflicts
    again = said({}, {"verdict": "undone"}, {"verdict": "none_of_these"})
    assert again.table["verdict"].to_pylist() == ["none_of_these"]


def test_people_who_disagree_are_counted_and_the_latest_holds():
    found = said({}, {"verdict": "none_of_these", "who": "bob"}, {"who": "bob", "content_hash": "bb"})
    assert found.conflicts == ("aa",)
    assert found.table.to_pylist()[0]["verdict"] == "none_of_these"


def test_who_is_unsure_contradicts_nobody():
    found = said({}, {"verdict": "unsure", "who": "bob"})
    assert found.table["verdict"].to_pylist() == ["right"] and not found.conflicts
    assert said({"verdict": "unsure"}).table["verdict"].to_pylist() == ["unsure"]


def test_the_random_sample_is_remembered_in_whatever_queue_an_image_is_judged_again():
    found = said({"queue": "random"}, {"verdict": "none_of_these"}, {"content_hash": "bb"})
    assert dict(zip(found.table["content_hash"].to_pylist(), found.table["in_random_sample"].to_pylist(),
                    strict=True)) == {"aa": True, "bb": False}  # fmt: skip


def test_files_are_merged_and_equal_rows_count_once(tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.csv"
    corrections.append(first, [ROW | {"when": "2024-01-02T00:00:00.000Z"}])
    corrections.append(first, [ROW | {"who": "bob", "when": "2024-01-01T00:00:00.000Z"}])
    corrections.write_csv(second, corrections.read([first]))
    merged = corrections.read([first, second, first])
    assert merged["who"].to_pylist() == ["bob", "ann"]


HOSTILE = [
    "=1+1",
    "+a",
    "-a",
    "@a",
    "\ta",
    "'",
    "'=x",
    "'a",
    'a "b",\r\n;c',
    "\u202eabc",
    "\x1b[2J",
    "",
    "＝1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_csv_and_back(tmp_path, text):
    log, copy = tmp_path / "corrections.parquet", tmp_path / "corrections.csv"
    corrections.append(log, [ROW | {"path": text, "old_label": text, "who": text, "queue": text}])
    table = corrections.read([log])
    corrections.write_csv(copy, table)
    assert corrections.read_csv(copy).equals(table)
    cells = copy.read_text(encoding="utf-8").splitlines()[1].split(",")
    assert not any(cell.strip('"')[:1] in set("=+-@＝") - {""} for cell in cells)


def test_any_text_comes_back_from_csv(tmp_path):
    draw = random.Random(0)
    signs = "".join(map(chr, range(1, 256))) + "\u2028\u3000\ud7ff\ufeff\uffff\U0001f9ff" + "'\"=,;\r\n" * 20
    texts = ["".join(draw.choices(signs, k=draw.randrange(8))) for _ in range(400)]
    rows = [
        ROW | {"content_hash": f"h{place}", "path": text, "who": text[::-1], "queue": text * 2,
               "new_label": "", "when": "2024-01-01T00:00:00.000Z"}
        for place, text in enumerate(texts)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, corrections.SCHEMA)
    corrections.write_csv(tmp_path / "a.csv", table)
    assert corrections.read_csv(tmp_path / "a.csv").equals(table)


def test_what_a_spreadsheet_writes_is_read(tmp_path):
    path = tmp_path / "judged.csv"
    path.write_bytes("\ufeffPath;Verdict;New_Label;note\r\na/1.jpg;wrong_class;dog;x\r\n;;;\r\n".encode())
    rows = corrections.read([path]).to_pylist()
    assert [(row["path"], row["verdict"], row["new_label"], row["content_hash"]) for row in rows] == [
        ("a/1.jpg", "wrong_class", "dog", "")
    ]
    assert rows[0]["when"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "maybe"}, "Expected a verdict (right, wrong_class, none_of_these, unsure, undone)"),
        ({"verdict": "wrong_class"}, "Expected a new_label where the verdict is wrong_class"),
        ({"new_label": "dog"}, "judgement 1 says right with 'dog'"),
        ({"content_hash": "", "path": ""}, "both are empty"),
        ({"when": "yesterday"}, "Expected a time in UTC such as"),
        ({"who": 3}, "Expected a text as who"),
        ({"path": "\udc80"}, "valid text"),
        ({"verdict": "wrong_class", "new_label": "unicorn"}, "received 'unicorn'"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_is_refused_with_all_beside_it(tmp_path, change, words):
    log = tmp_path / "corrections.parquet"
    with pytest.raises(UsageError, match=re.escape(words)):
        corrections.append(log, [ROW | change, ROW], ["cat", "dog"])
    assert not log.exists()


def test_other_files_are_refused_in_one_sentence(tmp_path):
    log = tmp_path / "corrections.parquet"
    with pytest.raises(UsageError, match="there is none"):
        corrections.read([log])
    log.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match="damaged or no Parquet file"):
        corrections.append(log, [ROW])
    assert log.read_bytes() == b"PAR1 and then nothing"
    pyarrow.parquet.write_table(pa.table({"path": ["a"]}), log)
    with pytest.raises(UsageError, match="Is it a file of judgements"):
        corrections.read([log])
    newer = corrections.SCHEMA.empty_table().replace_schema_metadata({"format": "urnet corrections 9"})
    pyarrow.parquet.write_table(newer, log)
    with pytest.raises(UsageError, match="of another version"):
        corrections.read([log])
    bad = pa.Table.from_pylist([ROW | {"verdict": "hm", "new_label": "", "when": ""}], corrections.SCHEMA)
    pyarrow.parquet.write_table(bad, log)
    with pytest.raises(UsageError, match="row 1 of"):
        corrections.read([log])
    (tmp_path / "a.csv").write_text("path,label\na,b\n")
    with pytest.raises(UsageError, match="Expected the columns verdict and"):
        corrections.read([tmp_path / "a.csv"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        corrections.append(tmp_path / "corrections.parquet", [ROW])


def _add(log, who):
    for number in range(15):
        corrections.append(log, [ROW | {"content_hash": f"{who}{number}", "who": who}])


def test_two_who_write_at_once_lose_nothing(tmp_path):
    log = tmp_path / "corrections.parquet"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(log, who)) for who in ("ann", "bob")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    table = corrections.read([log])
    assert len(table) == 30 and len(set(table["when"].to_pylist())) == 30
    for who in ("ann", "bob"):
        mine = [row["content_hash"] for row in table.to_pylist() if row["who"] == who]
        assert mine == [f"{who}{number}" for number in range(15)]


WRITER = """
import sys
from urnet_tf.crawl import corrections
for number in range(10_000):
    corrections.append(sys.argv[1], [{"content_hash": str(number), "verdict": "right"}])
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_told(tmp_path):
    log = tmp_path / "corrections.parquet"
    process = subprocess.Popen([sys.executable, "-c", WRITER, log], stdout=subprocess.PIPE, text=True)
    told = [process.stdout.readline() for _ in range(5)]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait()
    whole = [line for line in told if line.endswith("\n")]
    assert len(corrections.read([log])) in (len(whole), len(whole) + 1)
    assert corrections.append(log, [ROW]) == 1, "nobody waits for the dead one"
