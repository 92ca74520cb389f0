"""`urnet review` as a program: it is killed or stopped, exchanges files, and refuses in one sentence."""

import os
import shutil
import signal
import socket

import pytest
from urnet_fixtures.review_server import Browser
from urnet_fixtures.reviewed import HOSTILE

from urnet_tf.crawl import corrections


def test_judgements_survive_kill_9_and_ctrl_c_ends_it(reviewed, started):
    root, _ = reviewed
    (root / corrections.FILE_NAME).unlink(missing_ok=True)
    process, lines, browser = started(root)
    assert "120 images of 5 classes" in lines[0] and "corrections.parquet" in lines[0]
    for item in browser.get("/api/items?queue=doubtful")["items"][:3]:
        browser.judge([item], "none")
    process.kill()
    process.wait()
    process, _, after = started(root)
    page = after.get("/api/items?queue=doubtful")
    assert [item["truth"] for item in page["items"][:4]] == ["none"] * 3 + [None]
    assert Browser(after.port, "old").send("GET", "/api/start")[0].status == 401
    assert after.post("/api/undo", {})["images"] == 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors.count("\n") == 1
    assert "stopped by Ctrl-C; every judgement is on the disk" in errors


def test_judgements_go_to_csv_and_back(reviewed, urnet_here, tmp_path):
    root, _ = reviewed
    log = root / corrections.FILE_NAME
    log.unlink(missing_ok=True)
    assert urnet_here("review", "--workdir", root, "--export", tmp_path / "o.csv").returncode == 2
    rows = [
        {"content_hash": f"{i:032x}", "path": HOSTILE[i], "verdict": "right", "who": "=A1"} for i in range(4)
    ]
    corrections.append(log, rows)
    done = urnet_here("review", "--workdir", root, "--export", tmp_path / "out.csv")
    assert done.returncode == 0 and "4 judgements written" in done.stdout
    kept = corrections.read([log])
    log.unlink()
    for added in (4, 0):
        done = urnet_here("review", "--workdir", root, "--import", tmp_path / "out.csv")
        assert done.returncode == 0 and f"{added} judgements added" in done.stdout
    assert corrections.read([log]).equals(kept)
    log.unlink()


def test_what_cannot_be_reviewed_is_one_sentence(urnet_here, tmp_path, reviewed):
    done = urnet_here("review", "--workdir", tmp_path / "nowhere")
    assert done.returncode == 2 and "came as far as `reweight`" in done.stderr
    shutil.copytree(reviewed[0], tmp_path / "early", ignore=shutil.ignore_patterns("reweight"))
    done = urnet_here("review", "--workdir", tmp_path / "early")
    assert done.returncode == 2 and "reweight is not complete" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        done = urnet_here("review", "--workdir", reviewed[0], "--port", taken)
    assert done.returncode == 2 and f"port {taken}" in done.stderr


def test_without_a_right_to_write_it_is_for_looking(reviewed, started, tmp_path):
    # Root may write everywhere, unless that right is given away.
    through = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
    if through and not shutil.which("setpriv"):
        pytest.skip("there is no setpriv, and root may write everywhere")
    root = tmp_path / "run"
    shutil.copytree(reviewed[0], root, ignore=shutil.ignore_patterns("*corrections*"))
    root.chmod(0o555)
    try:
        process, lines, browser = started(root, through=through)
        assert "corrections" not in lines[0] and browser.get("/api/start")["writable"] is False
        item = browser.get("/api/items?queue=doubtful")["items"][0]
        assert "Cannot write judgements" in browser.judge([item], "none", status=507)["error"]
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
        assert errors.count("cannot be written, so that judgements cannot be kept") == 1
    finally:
        root.chmod(0o755)


@pytest.mark.slow
def test_the_next_run_obeys_what_was_judged(finished_run, drawn_crawl, urnet, small_run, started, tmp_path):
    from urnet_tf import store

    root = tmp_path / "run"
    shutil.copytree(finished_run[0], root)
    classes = [entry["name"] for entry in store.read_json(root / "pack" / "classes.json")]
    _, _, browser = started(root)
    said = {}
    items = browser.get("/api/items?queue=doubtful&limit=30")["items"]
    for number, item in enumerate(items):
        label = item["labels"][0]["label"]
        truth = ("given", "none", (label + 1) % len(classes))[number % 3]
        now = browser.get(f"/api/image?id={item['id']}")
        if now["item"]["truth"] is not None:
            continue  # a copy of one that was judged
        browser.judge([now["item"]], truth)
        said[now["about"]["path"]] = label if truth == "given" else -1 if truth == "none" else truth
    done = urnet("run", "--data", drawn_crawl, "--workdir", root, *small_run)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = store.read_table(root / "pack" / "instances.parquet", ["path", "label"]).to_pylist()
    labels = {row["path"]: row["label"] for row in rows}
    assert {path: labels.get(path, -1) for path in said} == said
    _, _, again = started(root)
    assert again.get("/api/progress")["judged"] + again.get("/api/progress")["elsewhere"] >= len(said)
