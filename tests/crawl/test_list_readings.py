"""Lists as people have them, with the right reading of each: classes, rows, rows set aside, notes.

Every listed row is read or set aside, whatever the list: see `read`.
"""

import csv
import io

import numpy as np
import pytest
from urnet_fixtures.crawls import listed, write_list

from urnet_tf.crawl.list_reader import ListOptions, read_list
from urnet_tf.errors import UsageError

Q = '"'
THREE = "".join(f"{n}.jpg,{name}\n" for n, name in enumerate(("a", "a", "b", "b", "c", "c")))

# name → (file, text, encoding, classes, rows that are read, reasons of rows set aside, words of the notes)
READINGS = {
    "plain": ("l.csv", "path,label\n" + THREE, "utf-8", "a b c", 6, [], []),
    "mark": ("l.csv", "path,label\n" + THREE, "utf-8-sig", "a b c", 6, [], []),
    "utf-16": ("l.csv", "path,label\n" + THREE, "utf-16", "a b c", 6, [], ["UTF-16"]),
    "utf-16 without a mark": (
        "l.csv",
        "path,label\n" + THREE,
        "utf-16-le",
        "a b c",
        6,
        [],
        ["first bytes"],
    ),
    "cp1252": (
        "l.csv",
        "path,label\n1.jpg,café\n2.jpg,cafè\n3.jpg,thé\n",
        "cp1252",
        "cafè café thé",
        3,
        [],
        ["is read as cp1252", "line 2"],
    ),
    "cp1252 umlauts": (
        "l.csv",
        "path,label\n1.jpg,Müller Straße\n2.jpg,Äpfel\n",
        "cp1252",
        "Müller Straße|Äpfel",
        2,
        [],
        ["cp1252"],
    ),
    "cp1252 ñ": ("l.csv", "path,label\n1.jpg,niño\n2.jpg,niña\n", "cp1252", "niña niño", 2, [], ["cp1252"]),
    "columns of other things": (
        "l.csv",
        ",path,label,width,is_valid\n0,1.jpg,a,7,1\n1,2.jpg,b,9,0\n",
        "utf-8",
        "a b",
        2,
        [],
        ["not read: 'width'", "'is_valid' of l.csv looks like a split"],
    ),
    "semicolons": ("l.csv", "path;label\n1,5.jpg;a\n2.jpg;b\n", "utf-8", "a b", 2, [], []),
    "tabs in csv": ("l.csv", "path\tlabel\n1.jpg\ta\n2.jpg\tb\n", "utf-8", "a b", 2, [], []),
    "commas in tsv": ("l.tsv", "path,label\n1.jpg,a\n2.jpg,b\n", "utf-8", "a b", 2, [], []),
    "sep line": ("l.csv", "sep=;\npath;label\n1.jpg;a\n2.jpg;b\n", "utf-8", "a b", 2, [], []),
    "old Mac lines": ("l.csv", "path,label\r1.jpg,a\r2.jpg,b\r", "utf-8", "a b", 2, [], []),
    "quoted": ("l.csv", 'path,label\n"1,2.jpg","a ""b"""\n2.jpg, "c" \n', "utf-8", 'a "b"|c', 2, [], []),
    "quoted lines": (
        "l.csv",
        f"path,label,title\n1.jpg,a,{Q}two\nlines{Q}\n2.jpg,b,\n",
        "utf-8",
        "a b",
        2,
        [],
        [],
    ),
    "quotes at the beginning": (
        "l.csv",
        f"path,label,title\n1.jpg,a,{Q}5 inch\n2.jpg,b,x\n3.jpg,c,{Q}6 inch\n4.jpg,c,\n",
        "utf-8",
        "a b c",
        4,
        [],
        ["2 rows of l.csv hold quotes", "(lines 2, 4)"],
    ),
    "quote and more fields": (
        "l.csv",
        f"path,label,title\n1.jpg,a,{Q}5, inch\n2.jpg,b,x\n3.jpg,c,\n",
        "utf-8",
        "b c",
        2,
        ["line 2 of l.csv: 4 fields where the header has 3; a quote in it is not closed"],
        [],
    ),
    "quotes in tsv": (
        "l.tsv",
        f"path\tlabel\ttitle\n1.jpg\ta\t{Q}5 inch\n2.jpg\tb\t{Q}6 inch\n",
        "utf-8",
        "a b",
        2,
        [],
        [],
    ),
    "quoted tsv": (
        "l.tsv",
        '"path"\t"label"\n"1.jpg"\t"a"\n"2.jpg"\t"b"\n',
        "utf-8",
        "a b",
        2,
        [],
        ["quotes are read"],
    ),
    "empty fields at the end": (
        "l.csv",
        "path,label\n1.jpg,a,,\n2.jpg,b,\n3.jpg,b,x\n",
        "utf-8",
        "a b",
        2,
        ["line 4 of l.csv: 3 fields where the header has 2"],
        [],
    ),
    "blank lines": ("l.csv", "path,label\n\n1.jpg,a\n\n \n2.jpg,b\n\n", "utf-8", "a b", 2, [], []),
    "blanks": ("l.csv", " path , label \n 1.jpg , a \n2.jpg,a\n3.jpg,b\n", "utf-8", "a b", 3, [], []),
    "missing labels": (
        "l.csv",
        "path,label\n1.jpg,a\n2.jpg,nan\n3.jpg,NaN\n4.jpg,None\n5.jpg,\n6.jpg,null\n7.jpg,b\n",
        "utf-8",
        "a b",
        2,
        [
            "line 3 of l.csv: the label is missing (nan)",
            "line 4 of l.csv: the label is missing (NaN)",
            "line 5 of l.csv: the label is missing (None)",
            "line 6 of l.csv: the label is missing",
            "line 7 of l.csv: the label is missing (null)",
        ],
        [],
    ),
    "lists of labels": (
        "l.csv",
        f"path,label\n1.jpg,a\n2.jpg,{Q}['a', 'b']{Q}\n3.jpg,[]\n4.jpg,[b]\n5.jpg,{Q}[{Q}{Q}a{Q}{Q}]{Q}\n",
        "utf-8",
        "[b] a",
        2,
        [f"line {n} of l.csv: the label is a list; expected one label an image" for n in (3, 4, 6)],
        [],
    ),
    "zeros in front": ("l.csv", "path,label\n1.jpg,00\n2.jpg,01\n3.jpg,02\n", "utf-8", "00 01 02", 3, [], []),
    "0 and 00": ("l.csv", "path,label\n1.jpg,0\n2.jpg,00\n3.jpg,1\n", "utf-8", "0 00 1", 3, [], []),
    "years": (
        "l.csv",
        "path,label\n1.jpg,1999\n2.jpg,2005\n3.jpg,2017\n",
        "utf-8",
        "1999 2005 2017",
        3,
        [],
        [],
    ),
    "ten and two": ("l.csv", "path,label\n1.jpg,10\n2.jpg,2\n3.jpg,1\n", "utf-8", "1 2 10", 3, [], []),
    "no numbers": ("l.csv", "path,label\n1.jpg,1_0\n2.jpg,10\n3.jpg,٣\n", "utf-8", "10 1_0 ٣", 3, [], []),
    "whole decimals": (
        "l.csv",
        "path,label\n1.jpg,0.0\n2.jpg,1.0\n3.jpg,nan\n",
        "utf-8",
        "0 1",
        2,
        ["line 4 of l.csv: the label is missing (nan)"],
        ["0.0 is read as 0"],
    ),
    "decimals": ("l.csv", "path,label\n1.jpg,0.5\n2.jpg,1.0\n", "utf-8", "0.5 1.0", 2, [], []),
    "-1 is none": (
        "l.csv",
        "path,label\n1.jpg,0\n2.jpg,1\n3.jpg,-1\n",
        "utf-8",
        "0 1",
        2,
        ["line 4 of l.csv: the label is missing (-1)"],
        [],
    ),
    "-1 and 1": ("l.csv", "path,label\n1.jpg,-1\n2.jpg,1\n", "utf-8", "-1 1", 2, [], []),
    "file_name": (
        "l.csv",
        "file_name,category\n1.jpg,a\n2.jpg,b\n",
        "utf-8",
        "a b",
        2,
        [],
        ["'file_name' of l.csv is read as the path", "'category' of l.csv is read as the label"],
    ),
    "Image Path": ("l.csv", "Image Path,CLASS\n1.jpg,a\n2.jpg,b\n", "utf-8", "a b", 2, [], ["'Image Path'"]),
    "y": ("l.csv", "image,y\n1.jpg,3\n2.jpg,4\n", "utf-8", "3 4", 2, [], ["'y'"]),
    "own name first": (
        "l.csv",
        "path,label,class\n1.jpg,a,0\n2.jpg,b,1\n",
        "utf-8",
        "a b",
        2,
        [],
        ["is read, and 'class' is not"],
    ),
    "repeated": (
        "l.csv",
        "path,label\n1.jpg,a\n./1.jpg,a\n2.jpg,b\n1.jpg,a\n1.jpg,b\n",
        "utf-8",
        "a b",
        3,
        [
            f"line {n} of l.csv: the same file is listed before with the same label (line 2 of l.csv)"
            for n in (3, 5)
        ],
        [],
    ),
    "long text": (
        "l.csv",
        f"path,label,description\n1.jpg,a,{'x' * 200_000}\n2.jpg,b,{Q}{'y' * 200_000}{Q}\n",
        "utf-8",
        "a b",
        2,
        [],
        ["texts longer than 4,000 characters are cut there: 2 of the column description"],
    ),
    "some addresses": (
        "l.csv",
        "path,label\n1.jpg,a\nhttps://x/2.jpg,a\n3.jpg,b\n",
        "utf-8",
        "a b",
        2,
        ["line 3 of l.csv: the path is an address, not a file"],
        [],
    ),
    "spellings": (
        "l.csv",
        "path,label\n1.jpg,Red Fox\n2.jpg,Red  Fox\n3.jpg,cafe\u0301\n4.jpg,café\n",
        "utf-8",
        "Red Fox|café",
        4,
        [],
        ["2 names of classes are written in several ways"],
    ),
    "split words": (
        "l.csv",
        "path,label,subset\n1.jpg,a,Training\n2.jpg,b,TRAIN\n3.jpg,a,dev\n4.jpg,b,Test\n5.jpg,a,fold 1\n",
        "utf-8",
        "a b",
        4,
        ["line 6 of l.csv: the split is none of train, val, test"],
        ["'subset'"],
    ),
    "json lines": (
        "l.jsonl",
        '{"file_name": "1.jpg", "label": "a", "text": "x"}\n{"file_name": "2.jpg", "label": 3}\n'
        '{"file_name": "3.jpg", "label": null}\n{"file_name": "4.jpg", "label": ["a"]}\n[1]\n',
        "utf-8",
        "3 a",
        2,
        [
            "line 5 of l.jsonl: expected a JSON object",
            "line 3 of l.jsonl: the label is missing",
            "line 4 of l.jsonl: the label is a list; expected one label an image",
        ],
        ["'file_name'", "'text'"],
    ),
}


def read(path, rows=None, **options):
    """The crawl of a list, of which every row is read or set aside."""
    crawl = read_list(str(path), options=ListOptions(**options))
    if rows is not None:
        assert len(crawl.rows) + len(crawl.rejected) == rows
    return crawl


@pytest.mark.parametrize("name", READINGS)
def test_readings(tmp_path, name):
    file, text, encoding, classes, rows, aside, notes = READINGS[name]
    path = write_list(tmp_path, text, file, encoding=encoding)
    crawl = read(path, rows + len(aside))
    names = [entry["name"] for entry in crawl.classes]
    assert names == classes.split("|" if "|" in classes else " ")
    assert sorted(crawl.rejected["reason"].to_pylist()) == sorted(aside)
    assert len(crawl.rows) == rows
    assert len(crawl.notes) == 0 if not notes else all(any(n in m for m in crawl.notes) for n in notes)


REFUSALS = {
    "rows in a field": (
        f"path,label,title\n1.jpg,a,{Q}5 inch\n2.jpg,b,x\n3.jpg,c,6{Q}\n4.jpg,c,x\n",
        "closing quote in line 2 .* goes on to line 4 and holds 2 lines like rows",
    ),
    "ids in a field": (
        f"path,label,title\n00a1,a,{Q}5 inch\n00b2,b,x\n00c3,c,6{Q}\n00d4,c,x\n",
        "closing quote in line 2 .* goes on to line 4 and holds 2 lines like rows",
    ),
    "case": (
        "path,label\n1.jpg,Red Fox\n2.jpg,red fox\n",
        "'Red Fox' and 'red fox'; .* `merge={red fox: Red",
    ),
    "another encoding": ("path,label\n1.jpg,café\n2.jpg,thé\n", "line 2 is not"),
    "unknown encoding": (
        "path,label\n1.jpg,кошка\n2.jpg,жук\n",
        "line 2 is not.* name the encoding: `encod",
    ),
}


ENCODINGS = {"unknown encoding": "koi8-r", "another encoding": "mac_roman"}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path, name):
    text, words = REFUSALS[name]
    path = write_list(tmp_path, text, encoding=ENCODINGS.get(name, "utf-8"))
    with pytest.raises(UsageError, match=words):
        read(path)


def test_the_text_of_fields_is_that_of_the_file(tmp_path):
    rows = [("1.jpg", "a", f"a {Q}b{Q}"), ("2.jpg", "b", f"{Q}x"), ("3.jpg", "b", "l1\nl2, é")]
    stream = io.StringIO()
    csv.writer(stream).writerows([("path", "label", "title"), *rows])
    crawl = read(write_list(tmp_path, stream.getvalue()), 3)
    assert crawl.rows["title"].to_pylist() == [title for _, _, title in rows] and not crawl.notes
    tsv = f"path\tlabel\ttitle\n1.jpg\ta\t{Q}6 inch\n2.jpg\tb\t{Q}x{Q}\n"
    assert read(write_list(tmp_path, tsv, "l.tsv"), 2).rows["title"].to_pylist() == [f"{Q}6 inch", f"{Q}x{Q}"]


def test_a_long_text_of_many_lines_is_read(tmp_path):
    text = "\n".join(f"so, line {n}, of prose" for n in range(5000))
    crawl = read(write_list(tmp_path, f"path,label,description\n1.jpg,a,{Q}{text}{Q}\n2.jpg,b,\n"), 2)
    assert crawl.rows["description"][0].as_py() == text[:4000]
    assert crawl.notes == ("texts longer than 4,000 characters are cut there: 1 of the column description",)
    lines = [f"{n}.jpg,a,{'x' * length},{'y' * 4001}" for n, length in enumerate((3999, 4000, 4001, 9000))]
    crawl = read(write_list(tmp_path, "\n".join(["path,label,title,tags", *lines])), 4)
    assert list(map(len, crawl.rows["title"].to_pylist())) == [3999, 4000, 4000, 4000]
    counts = "2 of the column title, 4 of the column tags"
    assert crawl.notes == (f"texts longer than 4,000 characters are cut there: {counts}",)


def test_generated_lists_are_read_as_they_are_written(tmp_path):
    """Rows read and set aside are those listed; path, label and text are those that were written."""
    signs = np.array([*'abc,;"\t é☃\n', "'", "\\", "[", "1"])
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def draw(longest, rng=rng):
            return "".join(rng.choice(signs, rng.integers(longest + 1)))

        count = int(rng.integers(1, 30))
        rows = [
            (f"d{n}/{draw(3)}x.jpg".replace("\n", "_"), f"k{n % 3} {draw(4)}.", draw(12))
            for n in range(count)
        ]
        stream, delimiter = io.StringIO(), str(rng.choice([",", ";"]))
        writer = csv.writer(stream, delimiter=delimiter, quoting=int(rng.choice([0, 1])))
        writer.writerows([("path", "label", "title"), *rows])
        crawl = read(write_list(tmp_path, stream.getvalue()), count)
        assert len(crawl.rows) == count, seed
        names = [entry["name"] for entry in crawl.classes]
        found = [(p, names[label], t) for p, label, t in listed(crawl, "path", "label", "title")]
        wanted = [(p, " ".join(label.split()), t) for p, label, t in rows]
        assert found == wanted, seed


def test_damaged_lists_lose_no_row_without_a_word(tmp_path):
    """Stray quotes and bytes at random places: lines = rows read + rows set aside, or a refusal."""
    ends = {"read": 0, "refused": 0}
    for seed in range(80):
        rng = np.random.default_rng(seed)
        lines = [f"d/{n}.jpg,c{n % 3},some text {n}" for n in range(20)]
        for _ in range(rng.integers(1, 4)):
            n = rng.integers(len(lines))
            place = int(rng.choice([0, lines[n].rfind(",") + 1, rng.integers(len(lines[n]))]))
            sign = str(rng.choice(['"', "\udcff", "é", ","]))
            lines[n] = lines[n][:place] + sign + lines[n][place:]
        path = tmp_path / "l.csv"
        path.write_bytes("\n".join(["path,label,title", *lines]).encode("utf-8", "surrogateescape"))
        try:
            read(path, 20)
            ends["read"] += 1
        except UsageError as error:
            assert "line" in str(error)
            ends["refused"] += 1
    assert ends["read"] > 50
