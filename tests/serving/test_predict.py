"""`urnet predict`: which files are answered, how answers are written, what happens after a kill."""

import csv
import errno
import io
import json
import os
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from urnet_tf.drawn.hostile_files import USABLE, write_hostile_files
from urnet_tf.errors import UsageError
from urnet_tf.export.preparation import Preparation
from urnet_tf.serving import predict as predict_lib
from urnet_tf.serving.answer_formats import Csv, JsonLines, Row, Table, cells
from urnet_tf.serving.predict import list_images, predict
from urnet_tf.serving.predictor import Answer, open_classifier

LABELS = ["great white", "Käfer", "c, d", "魚"]
GOOD = Answer(True, (1, 0), ("Käfer", "great white"), (0.75, 0.00025))


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """A Keras model that knows colors, in the layout of an export."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 32)(image))
    model = keras.Model(image, layers.Dense(len(LABELS))(x))
    directory = tmp_path_factory.mktemp("saved_models")
    version = directory / "tiny" / "3"
    version.mkdir(parents=True)
    model.save(version / "tiny.keras")
    (version / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    metadata = {"name": "tiny", "version": 3, "preparation": Preparation(16).to_dict()}
    (version / "export.json").write_text(json.dumps(metadata))
    return directory


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """70 images of one color each in two folders: three batches."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("images")
    colors = np.random.default_rng(0).integers(0, 256, (70, 1, 1, 3), dtype=np.uint8)
    for number, color in enumerate(colors):
        folder = directory / ("b" if number % 2 else "a, c")
        folder.mkdir(exist_ok=True)
        encoded = tf.io.encode_png(np.tile(color, (20, 24, 1))).numpy()
        (folder / f"{number}.png").write_bytes(encoded)
    return directory


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_command_answers_hostile_neighbors_and_tells_reasons(saved_models, tmp_path, urnet_here):
    colors = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    hostile = write_hostile_files(tmp_path, Image.fromarray(colors).resize((96, 72)))
    done = urnet_here("predict", tmp_path, tmp_path / "nowhere.jpg", "--model", saved_models, "--top_k", "2")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "tiny, version 3 (Keras)" in done.stderr
    rows = {row["path"].rpartition("/")[2]: row for row in rows_of(done.stdout)}
    assert list(rows["hostile_png.jpg"]) == [
        "path", "valid", "reason", "label_1", "probability_1", "label_2", "probability_2",
    ]  # fmt: skip
    usable = {h.name for h in hostile if h.expectation in (USABLE, "bad_name")}
    shown = {name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in usable}
    assert "hostile_caf\\xe9.jpg" in shown
    assert {name for name, row in rows.items() if row["valid"] == "true"} == shown
    assert len(rows) == len(hostile) + 1
    for name, row in rows.items():
        assert (row["reason"] == "") == (row["label_1"] != "") == (name in shown)
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons["hostile_html.jpg"] == "the file is an HTML page, not an image"
    assert reasons["hostile_truncated.jpg"] == "the image data is damaged"
    assert "header promises 20000 x 20000" in reasons["hostile_bomb.jpg"]
    assert reasons["hostile_animated.jpg"] == "an animated WebP"
    assert reasons["hostile_directory.jpg"] == "a directory, not a file"
    assert reasons["nowhere.jpg"] == "No such file or directory"
    assert "5 images answered, 8 could not be used" in done.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(saved_models, images, urnet_command):
    command = urnet_command("predict", images, "--model", saved_models)
    process = subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    error = process.stderr.read()
    assert "Traceback" not in error and "Broken" not in error and "Exception" not in error


def test_all_formats_tell_the_same_in_the_order_of_the_files(saved_models, images, tmp_path):
    order = [f"{images}/{'b' if n % 2 else 'a, c'}/{n}.png" for n in (*range(0, 70, 2), *range(1, 70, 2))]
    assert list(list_images([str(images)])) == order
    outs = {name: tmp_path / f"answers.{name}" for name in ("csv", "jsonl", "table")}
    for name, out in outs.items():
        assert predict(saved_models, [str(images)], top_k=4, out=out, answer_format=name) == 0
    table = rows_of(outs["csv"].read_text(encoding="utf-8"))
    objects = [json.loads(line) for line in outs["jsonl"].read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in table] == [o["path"] for o in objects] == order
    answers = open_classifier(saved_models).classify([open(path, "rb").read() for path in order], 4)
    assert len({a.classes for a in answers}) > 3
    for row, o, answer in zip(table, objects, answers, strict=True):
        assert o["valid"] and row["valid"] == "true" and o["reason"] == "" and "none_of_these" not in o
        assert [p["label"] for p in o["predictions"]] == [row[f"label_{k}"] for k in range(1, 5)]
        assert [p["class"] for p in o["predictions"]] == list(answer.classes)
        np.testing.assert_allclose([p["probability"] for p in o["predictions"]], answer.probabilities, 1e-5)
        assert [float(row[f"probability_{k}"]) for k in range(1, 5)] == [
            p["probability"] for p in o["predictions"]
        ]
    assert len(outs["table"].read_text().splitlines()) == 2 + 4 * 70
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.csv", "answers.jsonl", "answers.table"]


def stop_after(monkeypatch, batches, then=lambda stream: None):
    """Makes the next run stop, as Ctrl-C would, after so many batches were written."""

    def passed(rows, total, done, stream):
        for number, batch in enumerate(rows, 1):
            yield batch
            if number == batches:
                then(stream)
                raise KeyboardInterrupt

    monkeypatch.setattr(predict_lib, "_shown_progress", passed)


def count_reads(monkeypatch):
    """The list to which every path that is read from now on is added."""
    paths, read = [], predict_lib._read
    monkeypatch.setattr(predict_lib, "_read", lambda path: paths.append(path) or read(path))
    return paths


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_killed_run_goes_on_where_it_was(saved_models, images, tmp_path, monkeypatch, suffix):
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs = [str(tmp_path / "bad.png"), str(images)]
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"answers.{suffix}"
    assert predict(saved_models, inputs, out=whole) == 1
    half_a_row = whole.read_text(encoding="utf-8")[-40:-5]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, lambda stream: stream.write(half_a_row))
        predict(saved_models, inputs, out=out)
    assert not out.exists() and len(list(tmp_path.glob("*.partial"))) == 1
    read = count_reads(monkeypatch)
    assert predict(saved_models, inputs, out=out) == 1  # the bad one is in the part that is kept
    assert out.read_bytes() == whole.read_bytes()
    assert len(read) == 71 - 64
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_names_the_file_and_keeps_what_was_done(saved_models, images, tmp_path, monkeypatch):
    def fill(stream):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # names no file, as `write` does

    out = tmp_path / "answers.csv"
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        stop_after(patch, 2, fill)
        predict(saved_models, [str(images)], out=out)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(out)
    assert not out.exists()
    read = count_reads(monkeypatch)
    assert predict(saved_models, [str(images)], out=out) == 0
    assert len(read) == 70 - 64 and [p.name for p in tmp_path.iterdir()] == ["answers.csv"]


def test_an_error_that_names_a_file_keeps_its_name():
    with pytest.raises(FileNotFoundError) as caught, predict_lib._named("out.csv"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "other")
    assert caught.value.filename == "other"


def test_only_rows_of_the_same_question_are_kept(saved_models, images, tmp_path, monkeypatch):
    out, inputs = tmp_path / "answers.csv", [str(images)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        predict(saved_models, inputs, out=out)
    (partial,) = tmp_path.glob("*.partial")
    read = count_reads(monkeypatch)
    predict(saved_models, inputs, out=out, top_k=2)
    assert len(read) == 70 and "label_3" not in out.read_text() and partial.exists()
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*lines[:5], *lines[6:]]))  # as if the fifth image were new
    del read[:]
    predict(saved_models, inputs, out=out)
    assert len(read) == 70 - 4 and len(rows_of(out.read_text(encoding="utf-8"))) == 70


def test_directories_are_searched_for_what_ingest_would_take(tmp_path):
    for name in (
        "10.JPG",
        "9.jfif",
        "notes.txt",
        "raw",
        "x.jpg?w=640",
        "list.csv",
        "a.heic",
        ".hidden.jpg",
        "sub/x.webp",
        ".git/y.png",
        "z.gif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    strange = os.fsdecode(b"caf\xe9")
    (tmp_path / strange).mkdir()
    (tmp_path / strange / "a.bmp").touch()
    (tmp_path / strange / "a.txt").touch()
    found = [os.path.relpath(path, tmp_path) for path in list_images([str(tmp_path)])]
    assert sorted(found) == sorted([
        "9.jfif", "10.JPG", "a.heic", f"{strange}/a.bmp", "raw", "sub/x.webp", "x.jpg?w=640", "z.gif",
    ])  # fmt: skip
    assert found.index("9.jfif") < found.index("10.JPG")
    assert list(list_images([str(tmp_path / "raw"), "nowhere"])) == [str(tmp_path / "raw"), "nowhere"]


def test_files_that_only_pillow_reads_are_answered_like_the_same_picture_in_png(saved_models, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((60, 75), Image.BICUBIC)
    kinds = {"a.png": "PNG", "b.tif": "TIFF", "c.jp2": "JPEG2000", "d.bmp?w=60": "BMP"}
    for name, kind in kinds.items():
        picture.save(tmp_path / name, kind)
    data = (tmp_path / "d.bmp?w=60").read_bytes()  # as an OS/2 file, whose header has 12 bytes
    sizes = b"".join(value.to_bytes(2, "little") for value in (60, 75, 1, 24))
    head = b"BM" + (26 + len(data) - 54).to_bytes(4, "little") + bytes(4) + (26).to_bytes(4, "little")
    (tmp_path / "d.bmp?w=60").write_bytes(head + (12).to_bytes(4, "little") + sizes + data[54:])
    out = tmp_path.parent / "answers.csv"
    assert predict(saved_models, [str(tmp_path)], out=out) == 0
    rows = rows_of(out.read_text(encoding="utf-8"))
    assert [row["path"].rpartition("/")[2] for row in rows] == list(kinds)
    for row in rows[1:]:
        assert {k: v for k, v in row.items() if k != "path"} == {
            k: v for k, v in rows[0].items() if k != "path"
        }


def test_large_files_are_not_read_and_batches_are_bounded(tmp_path, monkeypatch):
    huge = tmp_path / "huge.jpg"
    with open(huge, "wb") as file:
        file.truncate(predict_lib.MAX_BYTES + 1)  # takes no place on disk
    assert predict_lib._read(huge) == b""
    assert predict_lib._read("\0") == b""
    monkeypatch.setattr(predict_lib, "_BATCH_BYTES", 3 * predict_lib.MAX_BYTES)
    assert [len(b) for b in predict_lib._batches([huge] * 5 + ["nowhere"] * 70)] == [3, 32, 32, 8]


def test_bad_questions_are_named(saved_models, images, tmp_path):
    with pytest.raises(UsageError, match="at least one IMAGE or DIR"):
        predict(saved_models, [])
    with pytest.raises(UsageError, match=r"Expected images in .*received no file, or only hidden"):
        predict(saved_models, [str(tmp_path)])
    with pytest.raises(UsageError, match="existing directory for the answers"):
        predict(saved_models, [str(images)], out=tmp_path / "no" / "x.csv")
    with pytest.raises(UsageError, match="existing directory for the answers"):
        predict(saved_models, [str(images)], out=tmp_path)
    with pytest.raises(UsageError, match="top_k from 1 to 4"):
        predict(saved_models, [str(images)], top_k=5)
    assert not list(tmp_path.iterdir())


def test_odd_names_survive_csv_and_json():
    rows = [Row('a "b",\nc.jpg', GOOD), Row("x\r.jpg", Answer(False), "why, then"), Row("é\u2028.jpg", GOOD)]
    for written in (Csv(2, False), JsonLines()):
        text = written.header() + "".join(map(written.lines, rows))
        read = list(written.read(io.BytesIO(text.encode())))
        assert [(path, valid) for path, valid, _ in read] == [(r.path, r.answer.valid) for r in rows]
        assert read[-1][2] == len(text.encode())
        for cut in range(len(text.encode())):  # whatever a kill leaves
            kept = list(written.read(io.BytesIO(text.encode()[:cut])))
            assert kept == [r for r in read if r[2] <= cut]


FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x"]


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_holds_no_formula_and_is_read_back(text):
    answer = Answer(True, (0,), (text,), (0.5,))
    written = Csv(1, False)
    line = written.header() + written.lines(Row(text, answer)) + written.lines(Row(text, Answer(False), text))
    for row in csv.reader(io.StringIO(line, newline="")):
        assert not any(field[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") for field in row)
        assert row[0] in ("path", "'" + text)
    assert [path for path, _, _ in written.read(io.BytesIO(line.encode()))] == [text, text]
    assert ",0.5" in line  # numbers stay numbers


@pytest.mark.parametrize("text", ["'quoted", "a=1", "/x/-y.jpg", " =1", "é"])
def test_csv_leaves_other_texts_as_they_are(text):
    line = Csv(1, False).lines(Row(text, GOOD._replace(classes=(0,), labels=(text,), probabilities=(1.0,))))
    assert next(csv.reader([line]))[0] == text


def open_partials(out):
    return [predict_lib._open_partial(out, "key") for _ in range(2)]


def test_partial_files_have_names_that_nobody_can_foresee_and_one_owner(tmp_path):
    out = tmp_path / "answers.csv"
    (one, first), (two, second) = open_partials(out)
    assert one != two  # two runs at once never share a file
    assert (
        one.parent == tmp_path and one.name.startswith("answers.csv.key.") and one.stat().st_mode & 0o077 == 0
    )
    os.write(first, b"kept")
    os.close(first)
    os.close(second)
    two.unlink()
    again, descriptor = predict_lib._open_partial(out, "key")
    assert again == one and os.pread(descriptor, 9, 0) == b"kept"
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "directory"])
def test_files_that_others_laid_out_are_not_gone_on_with(tmp_path, kind):
    victim, trap = tmp_path / "victim", tmp_path / "answers.csv.key.trap.partial"
    victim.write_text("precious")
    make = {"link": trap.symlink_to, "second name": trap.hardlink_to}
    if kind in make:
        make[kind](victim)
    else:
        os.mkfifo(trap) if kind == "pipe" else trap.mkdir()
    path, descriptor = predict_lib._open_partial(tmp_path / "answers.csv", "key")
    os.close(descriptor)
    assert path != trap and victim.read_text() == "precious"


def test_answers_do_not_follow_a_link(saved_models, images, tmp_path):
    victim, out = tmp_path / "victim", tmp_path / "answers.csv"
    for exists in (False, True):
        if exists:
            victim.write_text("precious")
        out.unlink(missing_ok=True)
        out.symlink_to(victim)
        with pytest.raises(UsageError, match="no link for the answers; .*answers.csv leads to .*victim"):
            predict(saved_models, [str(images)], out=out)
    assert victim.read_text() == "precious" and out.is_symlink()
    assert predict_lib._check_out("/dev/null") is not None  # devices are written to


def test_answers_have_the_rights_of_any_new_file(saved_models, images, tmp_path):
    (tmp_path / "usual").touch()
    predict(saved_models, [next(list_images([str(images)]))], out=tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_ids_stand_beside_names_where_the_export_tells_them():
    ids = [f"n{number}" for number in range(1 + max(GOOD.classes))]
    told = json.loads(JsonLines(ids).lines(Row("a.jpg", GOOD)))["predictions"]
    assert [one["id"] for one in told] == [f"n{number}" for number in GOOD.classes]
    (row,) = rows_of(Csv(2, False, ids).header() + Csv(2, False, ids).lines(Row("a.jpg", GOOD)))
    assert [row["id_1"], row["id_2"]] == [one["id"] for one in told]
    (row,) = rows_of(
        Csv(2, False, ids).header() + Csv(2, False, ids).lines(Row("a.jpg", Answer(False), "no"))
    )
    assert row["id_1"] == row["label_1"] == ""
    assert "id" not in json.loads(JsonLines().lines(Row("a.jpg", GOOD)))["predictions"][0]


def test_none_of_these_is_written(tmp_path):
    row = Row("a.jpg", GOOD._replace(none_of_these=0.125))
    assert rows_of(Csv(2, True).header() + Csv(2, True).lines(row))[0]["none_of_these"] == "0.125"
    assert json.loads(JsonLines().lines(row))["none_of_these"] == 0.125
    assert "(none of these)        12.5%" in Table(LABELS, 5, 80).lines(row)


@pytest.mark.parametrize("width", [20, 44, 60, 100])
def test_the_table_is_aligned(width):
    long = Row("crawl/魚/a very long name of a picture.jpg", GOOD)
    table = Table(
        [*LABELS, "a label that is much too long for a terminal of usual width"], cells(long.path), width
    )
    bad = Row("bad\x1b[31m.jpg", Answer(False), "an animated WebP")
    lines = (table.header() + table.lines(long) + table.lines(bad)).splitlines()
    assert len({cells(line) for line in lines[:4]}) == 1 and cells(lines[0]) <= max(width, 40)
    assert lines[2].split("  ")[0].endswith("picture.jpg") and lines[2].endswith("75.0%")
    assert lines[3].endswith("below 0.1%") and lines[3].startswith("     ")
    assert "\x1b" not in lines[4] and lines[4].endswith("not used: an animated WebP")
