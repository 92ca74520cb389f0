"""The review application behind its addresses: what is answered, what is kept, what is refused."""

import concurrent.futures
import os

import numpy as np
import pytest
from urnet_fixtures.review_server import Browser, served
from urnet_fixtures.reviewed import HOSTILE, NAMES, make_reviewed_run

from urnet_tf.crawl import corrections

# ------------------------------------------------------------------------------- what is answered


def test_hostile_texts_are_plain_texts_and_turn_nothing(browser):
    item = browser.get("/api/items?queue=class:3")["items"][0]
    assert item["labels"] == [{"label": 3, "name": HOSTILE[0]}]
    about = browser.get(f"/api/image?id={2}")["about"]
    assert about["title"] == HOSTILE[2].replace("\u202e", "")
    answer, _ = browser.send("GET", "/api/image?id=2")
    assert answer.getheader("content-type") == "application/json"
    for text in (*HOSTILE, "class 0/0001.jpg", "../../etc/passwd", "x" * 4000):
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        assert browser.send("GET", f"/api/find?image={quoted}")[0].status in (200, 404)
        assert browser.send("GET", f"/api/items?queue={quoted}")[0].status == 404
        assert browser.send("GET", f"/api/classes?search={quoted}")[0].status == 200


def test_a_page_of_a_queue_is_a_page(browser):
    whole = browser.get("/api/items?queue=doubtful&limit=100")
    assert whole["total"] == 120 and len(whole["items"]) == 100
    parts = [browser.get(f"/api/items?queue=doubtful&offset={o}&limit=7")["items"] for o in (0, 7, 14)]
    assert [i["id"] for part in parts for i in part] == [i["id"] for i in whole["items"][:21]]
    probs = [item["right_prob"] for item in whole["items"]]
    assert probs == sorted(probs)
    assert browser.get("/api/items?queue=doubtful&offset=500")["items"] == []
    for query in ("limit=0", "limit=101", "offset=-1", "limit=x"):
        browser.get(f"/api/items?queue=doubtful&{query}", status=422)
    for name in ("", "nothing", "class:", "class:5", "class:-1", "group:0", "group:0:99", "group:x:y"):
        browser.get(f"/api/items?queue={name}", status=404)


def test_every_queue_holds_every_image_once(served_run):
    browser, session, _ = served_run
    for name in ("doubtful", "valuable", "random", "none"):
        assert sorted(session.order_of(name).tolist()) == list(range(120))
    by_class = np.concatenate([session.order_of(f"class:{j}") for j in range(5)])
    assert sorted(by_class.tolist()) == list(range(120))
    groups = [g["queue"] for p in range(5) for g in browser.get(f"/api/groups?place={p}")["groups"]]
    assert sorted(np.concatenate([session.order_of(g) for g in groups]).tolist()) == list(range(120))


def test_images_beyond_what_is_grouped_are_counted(served_run, monkeypatch):
    monkeypatch.setattr("urnet_tf.review.groups._MOST_ROWS", 20)
    found = served_run[0].get("/api/groups?place=0")
    assert sum(group["images"] for group in found["groups"]) == 20 and found["left_out"] == 4


def test_an_image_comes_with_all_that_is_known(browser):
    found = browser.get("/api/image?id=3")
    assert found["item"]["labels"][0]["name"] == "red" and found["item"]["choices"][0]["label"] == 1
    about = found["about"]
    assert about["path"] == "class 0/0003.jpg" and about["packed"] == ""
    assert about["factors"][0]["name"] == "label posterior"
    assert "times as much as an average image" in about["amount"]
    for bad in ("-1", "120", "x"):
        browser.get(f"/api/image?id={bad}", status=422)


def test_links_lead_to_images_and_classes(served_run):
    browser, session, _ = served_run
    known = session.run.text("content_hash", 7)
    for what in ("7", known, "class%200/0007.jpg"):
        assert browser.get(f"/api/find?image={what}") == {"id": 7}
    assert browser.get("/api/find?label=blue")["label"] == 2
    browser.get("/api/find?label=nothing", status=404)
    browser.get("/api/find?image=120", status=404)


def test_look_alikes_are_of_one_color(served_run):
    browser, session, truth = served_run
    session.look_alikes.wait()
    found = browser.get("/api/look_alikes?id=0")
    assert found["ready"] and len(found["items"]) == 12
    assert {int(truth[item["id"]]) for item in found["items"]} == {int(truth[0])}
    assert 0 not in [item["id"] for item in found["items"]]


def test_pictures_are_made_anew_and_fall_back_on_the_packed_ones(served_run, tmp_path):
    from PIL import Image

    browser, session, _ = served_run
    results = session.run.results
    for row in (1, 2):
        small = browser.get(f"/api/thumbnail/{results}/{row}/160")
        large = browser.get(f"/api/large/{results}/{row}")
        (tmp_path / "s.jpg").write_bytes(small), (tmp_path / "l.jpg").write_bytes(large)
        with Image.open(tmp_path / "s.jpg") as image:
            assert max(image.size) == 160
        with Image.open(tmp_path / "l.jpg") as image:
            assert max(image.size) == 40 + row % 3 * 200
    original = session.run.image_root + "/class 0/0001.jpg"
    kept = open(original, "rb").read()
    try:
        for change, reason in ((b"other bytes", "other bytes"), (None, "No such file")):
            if change is None:
                os.unlink(original)
            else:
                open(original, "wb").write(change)
            assert reason in browser.get("/api/image?id=1")["about"]["packed"]
            assert browser.get(f"/api/large/{results}/1")[:2] == b"\xff\xd8"
    finally:
        open(original, "wb").write(kept)
    for path in (
        f"thumbnail/{results}/120/160",
        f"thumbnail/{results}/1/161",
        "thumbnail/other/1/160",
        "large/other/1",
    ):
        assert browser.send("GET", f"/api/{path}")[0].status in (404, 422)


def test_classes_are_found_by_a_part_of_their_name(browser):
    assert browser.get("/api/classes")["total"] == 5
    assert [c["name"] for c in browser.get("/api/classes?search=RE")["items"]] == ["red", "green"]
    assert [c["label"] for c in browser.get("/api/classes?search=onerror")["items"]] == [3]
    assert browser.get("/api/classes?search=zebra") == {"total": 0, "offset": 0, "items": []}


# ------------------------------------------------------------------------------- what is kept


def test_classes_of_one_name_are_told_apart(tmp_path, mark_complete):
    root = tmp_path / "cranes"
    make_reviewed_run(root, mark_complete, per_class=8, names=("crane", "blue", "crane"))
    with served(root) as (browser, session):
        assert [
            c["name"] for c in browser.get("/api/classes?search=crane (n0)".replace(" ", "%20"))["items"]
        ] == ["crane (n0)"]
        item = browser.get("/api/items?queue=class:0")["items"][0]
        browser.judge([item], 2)
        assert browser.get(f"/api/image?id={item['id']}")["item"]["truth_name"] == "crane (n2)"
        (row,) = corrections.read([session.journal.path]).to_pylist()
        assert (row["old_label"], row["new_label"]) == ("n0", "n2")
        assert browser.get("/api/find?label=n2")["label"] == 2


def held(session):
    rows = corrections.current(corrections.read([session.journal.path])).table.to_pylist()
    return {row["path"]: (row["verdict"], row["new_label"]) for row in rows}


def test_judgements_say_what_was_meant(served_run):
    browser, session, _ = served_run
    items = browser.get("/api/items?queue=class:2")["items"]
    for item, truth in zip(items, ("given", 2, 4, "none", "unsure"), strict=False):
        browser.judge([item], truth, queue="class:2")
    names = [session.run.text("path", item["id"]) for item in items]
    expected = [
        ("right", ""),
        ("right", ""),
        ("wrong_class", NAMES[4]),
        ("none_of_these", ""),
        ("unsure", ""),
    ]
    assert [held(session)[name] for name in names[:5]] == expected
    row = corrections.read([session.journal.path]).to_pylist()[2]
    assert (row["old_label"], row["queue"], row["who"]) == ("blue", "class", "tester")
    assert row["content_hash"] == session.run.text("content_hash", items[2]["id"])
    again = browser.get("/api/items?queue=class:2")
    assert [item["truth"] for item in again["items"][:5]] == [2, 2, 4, "none", "unsure"]
    assert again["done"] == 5 and browser.get("/api/next?queue=class:2")["place"] == 5
    assert browser.get("/api/next?queue=class:2&after=9&back=true")["place"] == 8
    counts = browser.get("/api/progress")["counts"]
    assert counts == {"right": 2, "wrong_class": 1, "none_of_these": 1, "unsure": 1}


def test_a_picture_under_two_labels_is_settled_for_both(served_run):
    browser, session, _ = served_run
    page = browser.get("/api/items?queue=copies")
    assert page["total"] == 1 and page["items"][0]["ids"] == [23, 24]
    assert [label["name"] for label in page["items"][0]["labels"]] == ["red", "green"]
    done = browser.judge(page["items"], 1, queue="copies")
    states = session.journal.states()
    assert states.truth[[23, 24]].tolist() == [1, 1]
    assert done["items"][0]["ids"] == [23, 24] and browser.get("/api/items?queue=copies")["done"] == 1
    assert list(held(session).values()) == [("wrong_class", "green")]
    # Whichever label is right, the log names the one that is not.
    browser.judge(browser.get("/api/items?queue=copies")["items"], 0, queue="copies")
    assert list(held(session).values()) == [("wrong_class", "red")]


def test_the_random_sample_asks_for_what_was_judged_elsewhere_as_well(served_run):
    browser, session, _ = served_run
    first = browser.get("/api/items?queue=random")["items"][:2]
    browser.judge(first[:1], "none", queue="doubtful")
    assert browser.get("/api/next?queue=random")["place"] == 0
    assert browser.get("/api/items?queue=random")["done"] == 0
    now = browser.get(f"/api/image?id={first[0]['id']}")["item"]
    browser.judge([now], "none", queue="random")
    assert browser.get("/api/next?queue=random")["place"] == 1
    assert session.journal.states().sampled.sum() == 1


def test_a_judgement_of_what_has_changed_is_refused(served_run):
    browser, session, _ = served_run
    items = browser.get("/api/items?queue=doubtful")["items"][:3]
    browser.judge(items[1:2], "none")
    assert browser.judge(items, "given", status=409)["kind"] == "stale"
    assert len(held(session)) == 1
    fresh = browser.get("/api/items?queue=doubtful")["items"][:3]
    browser.judge(fresh, "given")
    assert set(held(session).values()) == {("right", "")}


@pytest.mark.parametrize(
    "change",
    [
        {"ids": []}, {"ids": [120], "revisions": [0]}, {"ids": [-1], "revisions": [0]}, {"truth": 5},
        {"truth": -2},
        {"truth": "purple"}, {"revisions": [0, 0]}, {"queue": "x" * 101}, {"ids": "0"}, {"truth": None},
    ],
)  # fmt: skip
def test_a_judgement_that_makes_no_sense_is_refused(browser, change):
    item = browser.get("/api/items?queue=doubtful")["items"][0]
    results = browser.get("/api/start")["results"]
    body = {"results": results, "ids": item["ids"], "revisions": [0], "truth": "none", "queue": "x"} | change
    answer, _ = browser.send("POST", "/api/judge", body)
    assert answer.status in (404, 422)
    assert browser.get("/api/progress")["rows"] == 0
    assert browser.send("POST", "/api/judge", b"{")[0].status == 422


def test_undo_takes_back_one_action_after_the_other(served_run):
    browser, session, _ = served_run
    items = browser.get("/api/items?queue=class:1")["items"]
    browser.judge(items[:1], "none")
    first = browser.judge(browser.get("/api/items?queue=class:1")["items"][:3], "unsure", queue="group:1:0")
    last = browser.judge(browser.get("/api/items?queue=class:1")["items"][:1], "given")
    paths = [session.run.text("path", item["id"]) for item in items]
    assert browser.post("/api/undo", {"when": first["when"]}, 409)["kind"] == "stale"
    undone = browser.post("/api/undo", {"when": last["when"], "queue": "class:1"})
    assert undone["ids"] == [items[0]["id"]] and undone["place"] == 0
    assert held(session)[paths[0]] == ("unsure", "")
    assert browser.post("/api/undo", {})["images"] == 3
    assert held(session) == {paths[0]: ("none_of_these", "")}
    browser.post("/api/undo", {})
    assert held(session) == {} and browser.get("/api/progress")["undo"] is None
    assert browser.post("/api/undo", {}) == {"ids": [], "images": 0, "place": -1}


def test_the_log_says_which_valuable_images_came_by_chance(served_run):
    browser, session, _ = served_run
    items = browser.get("/api/items?queue=valuable&limit=10")["items"]
    for item in items[-2:]:  # every tenth is any one
        browser.judge([item], "none", queue="valuable")
    rows = corrections.read([session.journal.path]).to_pylist()
    assert [row["queue"] for row in rows] == ["valuable", "valuable_random"]


def test_many_browsers_at_once_lose_nothing(served_run):
    browser, session, _ = served_run
    items = browser.get("/api/items?queue=doubtful&limit=40")["items"]

    def judge(item):
        return Browser(browser.port).judge([item], "none")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(judge, items))
    assert len(held(session)) == 40
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # all judge the same image: one is the first
        item = browser.get("/api/items?queue=doubtful&offset=50&limit=1")["items"][0]
        body = {
            "results": session.run.results,
            "ids": item["ids"],
            "revisions": [0],
            "truth": "given",
            "queue": "x",
        }
        statuses = list(pool.map(lambda _: browser.send("POST", "/api/judge", body)[0].status, range(8)))
    assert sorted(statuses) == [200] + [409] * 7


def test_what_others_add_to_the_log_is_seen(served_run):
    browser, session, _ = served_run
    row = {
        "content_hash": session.run.text("content_hash", 5),
        "path": "elsewhere",
        "verdict": "none_of_these",
    }
    other = {"content_hash": "f" * 32, "path": "gone.jpg", "verdict": "right", "old_label": "red"}
    corrections.append(session.journal.path, [row | {"who": "Eve"}, other | {"who": "Eve"}])
    item = browser.get("/api/image?id=5")["item"]
    assert item["truth"] == "none" and item["who"] == "Eve" and item["revisions"] == [1]
    assert browser.get("/api/progress")["elsewhere"] == 1
    browser.judge([item], "given")
    progress = browser.get("/api/progress")
    assert progress["conflicts"] == 1 and progress["undo"]["images"] == 1
    session.journal.path.unlink()
    assert browser.get("/api/progress")["rows"] == 0


def test_a_damaged_log_is_told_and_not_written_over(served_run):
    browser, session, _ = served_run
    session.journal.path.write_bytes(b"no parquet")
    item = {"ids": [0], "revisions": [0]}
    assert "damaged" in browser.judge([item], "none", status=507)["error"]
    assert session.journal.path.read_bytes() == b"no parquet"


def test_a_run_that_was_made_again_is_noticed(reviewed, tmp_path, mark_complete):
    root = tmp_path / "again"
    make_reviewed_run(root, mark_complete)
    with served(root) as (browser, _):
        item = browser.get("/api/items?queue=doubtful")["items"][0]
        assert browser.judge([item], "none", status=410, results="other")["kind"] == "rerun"
        table = root / "reweight" / "weights.parquet"
        table.write_bytes(table.read_bytes() + b" ")
        mark_complete(root)
        assert browser.judge([item], "none", status=410)["kind"] == "rerun"
        assert browser.get("/api/progress")["current"] is False


# ------------------------------------------------------------------------------- the panel


def test_the_panel_tells_what_was_judged(served_run):
    browser, session, truth = served_run
    before = browser.get("/api/progress")
    assert before["accuracy"] is None and before["doubt"] is None and not before["wrong"]["enough"]
    assert before["wrong"]["missing"] > 0
    for item in browser.get("/api/items?queue=random&limit=100")["items"]:
        now = browser.get(f"/api/image?id={item['id']}")["item"]
        browser.judge([now], int(truth[item["id"]]), queue="random")
    panel = browser.get("/api/progress")
    wrong = float(np.mean(truth != session.run.label))
    assert abs(panel["wrong"]["share"] - wrong) < 0.03 and panel["wrong"]["high"] < before["wrong"]["high"]
    assert panel["wrong"]["enough"] and panel["wrong"]["sampled"] >= 99
    assert panel["accuracy"]["at_random"] and 0.75 < panel["accuracy"]["share"] < 1
    assert panel["doubt"]["share"] > 0.95 and panel["doubt"]["at_random"]
    assert panel["queues"]["random"]["done"] >= 99 and len(panel["by_class"]) == 5
