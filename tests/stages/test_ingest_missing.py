"""Files that are missing, or cannot be read now: a fault of the disk is no verdict on an image."""

import errno
import os
import re
import time

import pytest
from urnet_fixtures.ingests import draw_images, folder as folder, run

from urnet_tf.errors import RunError
from urnet_tf.images import probe
from urnet_tf.stages import crawl_files, ingest
from urnet_tf.store import Workdir, read_table


def test_a_disk_that_fails_stops_probing_and_is_no_verdict(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(crawl_files, "FILES_PER_UNIT", 16)
    undisturbed, _ = run(tmp_path / "undisturbed", path=folder)
    read = probe._read

    def fails(path, max_bytes):
        if path.endswith("dog/f/3.png"):
            raise OSError(errno.EIO, "Input/output error")
        return read(path, max_bytes)

    monkeypatch.setattr(probe, "_read", fails)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(RunError, match="Cannot read .*dog/f/3.png: Input/output error") as caught:
        run(tmp_path / "work", path=folder)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(probe, "_read", read)
    metadata, _ = run(tmp_path / "work", path=folder)
    assert metadata == undisturbed


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
@pytest.mark.parametrize("kind", ["folder", "list"])
def test_folders_that_are_gone_since_an_earlier_run_stop_it(folder, tmp_path, kind, left):
    """A disk that is not mounted costs no image, and what is removed on purpose can be told."""
    path, work = folder, tmp_path / "work"
    if kind == "list":
        path = tmp_path / "list.csv"
        names = [file.relative_to(tmp_path) for file in sorted(folder.rglob("*.png"))]
        path.write_text("\n".join(["path,label", *(f"{name},{name.parts[1]}" for name in names)]))
    undisturbed, _ = run(work, path=path)
    Workdir(work).finish("ingest", {"key": "k", "metadata": undisturbed})
    (folder / "dog" / "g").rename(tmp_path / "away")
    if left != "nothing":
        (folder / "dog" / "g").mkdir()
    with pytest.raises(
        RunError, match=f"11 images .* gone with .*{folder}/dog/g. If .*--from ingest"
    ) as told:
        run(work, path=path)
    assert "\n" not in str(told.value)
    assert run(work, path=path, named=True)[0]["images"] == undisturbed["images"] - 11
    assert run(tmp_path / "other", path=path)[0]["images"] == undisturbed["images"] - 11, "never seen"
    if left != "nothing":
        (folder / "dog" / "g").rmdir()
    (tmp_path / "away").rename(folder / "dog" / "g")
    assert run(work, path=path)[0] == undisturbed
    (folder / "dog" / "f" / "1.png").unlink()
    assert run(work, path=path)[0]["images"] == undisturbed["images"] - 1, "someone removed it"


@pytest.mark.parametrize("missing, stops", [(1, False), (18, True), (20, True)])
def test_nearly_all_files_missing_is_a_disk_that_is_not_there(tmp_path, monkeypatch, missing, stops):
    monkeypatch.setattr(ingest, "inputs", lambda config: "as it was before the disk went")
    rows = [f"{label}/{n}.png,{label}" for label in "ab" for n in range(10)]
    draw_images(tmp_path, [row.split(",")[0] for row in rows])
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    gone = [tmp_path / row.split(",")[0] for row in rows[:missing]]
    for path in gone:
        path.rename(f"{path}.hidden")
    if stops:
        with pytest.raises(RunError, match=f"^{missing} of the 20 listed files are not there, .*mount"):
            run(tmp_path / "work", path=tmp_path / "list.csv")
        for path in gone:
            os.rename(f"{path}.hidden", path)
        missing = 0
    metadata, _ = run(
        tmp_path / "work", path=tmp_path / "list.csv"
    )  # what was found missing is not remembered
    assert metadata["quarantined"].get("missing", 0) == missing


def test_many_missing_files_are_told(tmp_path, caplog):
    draw_images(tmp_path, [f"{label}/{n}.png" for label in "ab" for n in range(4)])
    rows = [f"{label}/{n}.png,{label}" for label in "ab" for n in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    with caplog.at_level("WARNING"):
        run(tmp_path / "work", path=tmp_path / "list.csv")
    assert "2 of the 10 listed files are not there" in caplog.text


def test_a_list_whose_files_are_elsewhere_tells_where(tmp_path):
    draw_images(tmp_path / "there", [f"{n}.png" for n in range(4)])
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{n}.png,c{n % 2}\n" for n in range(4)))
    with pytest.raises(RunError) as caught:
        run(tmp_path / "work", path=tmp_path / "list.csv")
    message = str(caught.value)
    assert f"for example 0.png, 1.png, 2.png in {tmp_path}; files of these names are found with" in message
    assert f"ingest.image_root={tmp_path / 'there'}: give that" in message
    table = read_table(re.search(r"All missing rows are in (.*)\.$", message)[1])
    assert table["status"].to_pylist() == ["missing"] * 4
    metadata, _ = run(tmp_path / "work", path=tmp_path / "list.csv", image_root=str(tmp_path / "there"))
    assert metadata["images"] == 4
