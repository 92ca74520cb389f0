"""Images inside of archives and tables: read where they lie, and refused as files are."""

import concurrent.futures
import io
import os
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures.layouts import example, hf_table, jpeg, samples, write_records, write_tar, write_zip

from urnet_tf.images import containers, tf_records
from urnet_tf.images.headers import Refused
from urnet_tf.images.probe import probe_file, read_file


def refused(path, max_bytes=10**6):
    with pytest.raises(Refused) as caught:
        read_file(str(path), max_bytes)
    return caught.value.status


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_archives(tmp_path, name):
    write = write_tar if name.endswith("tar") else write_zip
    write(tmp_path / name, [("./x/é.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("empty.jpg", b"")])
    assert read_file(str(tmp_path / name / "x/é.jpg"), 10**6) == jpeg(1)
    result = probe_file(str(tmp_path / name / "b.jpg"), 10**6, 10**6, 1)
    assert (result.status, result.width, result.num_bytes) == (None, 16, len(jpeg(2)))
    assert refused(tmp_path / name / "b.jpg", 10) == "too_many_bytes"
    assert refused(tmp_path / name / "empty.jpg") == "empty"
    assert probe_file(str(tmp_path / name / "no.jpg"), 10**6, 10**6, 1).status == "missing"
    assert probe_file(str(tmp_path / name / "x"), 10**6, 10**6, 1).status == "missing"
    assert sorted(containers.open_container(str(tmp_path / name)).members()) == [
        "b.jpg",
        "empty.jpg",
        "x/é.jpg",
    ]


def test_a_file_that_is_no_container(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    assert probe_file(str(tmp_path / "a.jpg/b.jpg"), 10**6, 10**6, 1).status == "missing"
    assert containers.find_container(str(tmp_path / "no/b.jpg")) is None
    assert containers.find_container(str(tmp_path / "no.jpg")) is None


def test_damaged_archives(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "b.zip").write_bytes(data)
    assert refused(tmp_path / "b.zip/a.jpg") == "unreadable"
    assert read_file(str(tmp_path / "b.zip/b.jpg"), 10**6) == jpeg(2)
    (tmp_path / "c.zip").write_bytes(b"nothing")
    assert refused(tmp_path / "c.zip/a.jpg") == "unreadable"
    write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: whole.index(jpeg(2)) + 50])
    assert read_file(str(tmp_path / "b.tar/a.jpg"), 10**6) == jpeg(1)
    assert refused(tmp_path / "b.tar/b.jpg") == "unreadable"


def test_an_archive_that_changes_is_read_anew(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(1))])
    assert read_file(str(tmp_path / "a.tar/a.jpg"), 10**6) == jpeg(1)
    write_tar(tmp_path / "a.tar", [("b.jpg", jpeg(3)), ("a.jpg", jpeg(2))])
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    assert read_file(str(tmp_path / "a.tar/a.jpg"), 10**6) == jpeg(2)


def test_links_in_tars_and_encrypted_zips(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg(1))
        archive.addfile(info, io.BytesIO(jpeg(1)))
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.jpg"
            archive.addfile(link)
    assert read_file(str(tmp_path / "a.tar/hard.jpg"), 10**6) == jpeg(1)
    assert probe_file(str(tmp_path / "a.tar/soft.jpg"), 10**6, 10**6, 1).status == "missing"
    write_zip(tmp_path / "a.zip", [("a.jpg", jpeg(1))])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert refused(tmp_path / "a.zip/a.jpg") == "unreadable"


def test_zip_names_without_their_mark(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cafe.jpg", jpeg(1))
    data = (tmp_path / "a.zip").read_bytes().replace(b"cafe.jpg", "caé.jpg".encode())
    (tmp_path / "a.zip").write_bytes(data)
    assert list(containers.open_container(str(tmp_path / "a.zip")).members()) == ["caé.jpg"]


def test_tables_are_read_by_many_threads_in_any_order(tmp_path, monkeypatch):
    rows = [(n, "cat", jpeg(n)) for n in range(30)]
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(hf_table(rows), path, row_group_size=4)
    monkeypatch.setattr(containers, "_GROUP_BYTES", 8 * len(jpeg(0)))
    order = [n * 7 % 30 for n in range(90)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: read_file(f"{path}/image/{n}", 10**6), order))
    assert found == [jpeg(n) for n in order]
    for member in ("image/30", "image/-1", "image/x", "label/0", "no/0"):
        status = probe_file(f"{path}/{member}", 10**6, 10**6, 1).status
        assert status in ("missing", "empty"), member
    assert len(containers._Parquet._groups) <= 4


def test_records(tmp_path):
    path = tmp_path / "a.tfrecord-00000-of-00001"
    write_records(path, [example(data, 300 + n) for n, _, data in samples()])
    offsets = tf_records.find_records(str(path))
    assert len(offsets) == 6
    assert tf_records.parse_example(tf_records.read_record(str(path), offsets[4])) == {
        "image": [jpeg(4)], "label": [304]
    }  # fmt: skip
    assert read_file(f"{path}/image/2", 10**6) == jpeg(2)
    assert probe_file(f"{path}/image/6", 10**6, 10**6, 1).status == "missing"
    path.write_bytes(path.read_bytes()[:-10])
    assert len(tf_records.find_records(str(path))) == 5
    with pytest.raises(KeyError, match="no tf.train.Example"):
        tf_records.parse_example(b"\xff\xff\xff")
