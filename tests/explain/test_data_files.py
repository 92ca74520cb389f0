"""What lies beside the page: whether it says what the columns say, and is no code but one assignment."""

import json
import re

import numpy as np
import pytest
from urnet_fixtures.reports import build_files, make_inputs

from urnet_tf.explain import data_files
from urnet_tf.explain.matrix import count_confusions

HOSTILE = ("</script><script>alert(1)</script>", "a\u2028b\x00\u202ec", '"]; alert(1); ["')


def read(files):
    """Name → value of each data file."""
    found = {}
    for path, text in files.items():
        if path.startswith("data/"):
            name = path.removeprefix("data/").removesuffix(".js")
            start = f'(self.urnetData = self.urnetData || {{}})["{name}"] = '
            assert text.startswith(start) and text.endswith(";\n") and text.isascii()
            found[name] = json.loads(text[len(start) : -2])
    return found


def test_files_are_one_assignment_of_json_whatever_the_texts_are():
    inputs = make_inputs(
        names=[*HOSTILE, "d"], source_names=HOSTILE[:2], query=np.arange(48) % 2, query_names=HOSTILE[1:],
        read_rows=lambda ids: [{"title": HOSTILE[i % 3], "path": HOSTILE[2], "query": ""} for i in ids],
    )  # fmt: skip
    files = build_files(inputs)
    data = read(files)
    assert set(data) == {"classes", "matrix", "class-0", "class-1", "class-2", "class-3"}
    assert all("<" not in text for path, text in files.items() if path.startswith("data/"))
    assert data["classes"]["rows"][0][0] == HOSTILE[0]
    assert data["classes"]["rows"][1][0] == "a bc", "what steers a reader is left out"
    assert data["class-0"]["cards"][0]["path"] == HOSTILE[2]


def test_equal_inputs_give_equal_files():
    assert build_files(make_inputs()) == build_files(make_inputs())


def test_the_rows_of_classes():
    inputs = make_inputs(held=np.array([5, 6, 7, 8]))
    rows = data_files.class_rows(inputs)
    assert rows["models"] == ["baseline", "urnet"]
    name, images, wrong, low, high, weight, held, before, after = rows["rows"][1]
    assert (name, images, held, before, after) == ("thing 1", 12, 6, 0.4, 0.4)
    assert wrong == pytest.approx((0.9 + 2 * 0.1) / 3, abs=1e-4) and low < wrong < high
    assert weight == pytest.approx(inputs.relative_weight[12:24].mean(), abs=1e-3)
    without = data_files.class_rows(make_inputs(weights={}))
    assert without["rows"][0][1:6] == [12, None, None, None, None]


def test_the_page_of_a_class_says_what_the_columns_say():
    query = np.arange(48) % 2
    inputs = make_inputs(query=query, query_names=["one", "two"])
    inputs.weights["right_prob"][:12] = np.linspace(0.02, 0.97, 12)
    page = read(build_files(inputs, class_page_images=8))["class-0"]
    assert page["doubtful"] == 6 and page["agreed"] == 8 and sum(page["histogram"]) == 12
    assert page["out"][0][:2] == [1, 4] and page["in"] == [[3, 4]]
    assert sum(images for _, _, images, _ in page["searches"]) == 12
    cards = page["cards"]
    assert len(cards) == 8 and [card["right"] for card in cards] == sorted(card["right"] for card in cards)
    # Two trusted ones, an example of the mix-up, and the most doubtful ones.
    assert {card["id"] for card in cards} == {10, 11, 0, 1, 2, 3, 4, 5}
    assert all(card["uri"].startswith("data:image/jpeg;base64,") for card in cards)
    for card in cards:
        assert card["right"] == pytest.approx(float(inputs.right_prob[card["id"]]), abs=1e-4)
        assert card["predicted"] == f"thing {inputs.predicted[card['id']]}"
    # Only examples that are among the cards are named.
    assert set(page["out"][0][2]) <= {card["id"] for card in cards}


def test_the_matrix_has_every_cell():
    inputs = make_inputs()
    cells = read(build_files(inputs))["matrix"]
    assert sorted(zip(cells["given"], cells["predicted"], cells["count"], strict=True)) == [
        (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)
    ]  # fmt: skip
    assert cells["agreed"] == [8] * 4 and sorted(cells["order"]) == [0, 1, 2, 3] and cells["leftOut"] == 0


def test_many_classes_share_the_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(data_files, "MOST_PICTURES", 20)
    files = read(build_files(make_inputs(), class_page_images=12))
    assert [len(files[f"class-{label}"]["cards"]) for label in range(4)] == [5] * 4
    monkeypatch.setattr(data_files, "MOST_PICTURES", 1)
    files = read(build_files(make_inputs(), class_page_images=12))
    assert [len(files[f"class-{label}"]["cards"]) for label in range(4)] == [4] * 4
    assert "class-0" not in read(build_files(make_inputs(), class_page_images=0))


def test_damaged_pictures_leave_the_caption():
    inputs = make_inputs(read_images=lambda ids: [b"damaged"] * len(ids))
    page = read(build_files(inputs))["class-1"]
    assert {card["uri"] for card in page["cards"]} == {""} and page["cards"][0]["path"]


def test_a_class_without_images_has_no_page():
    inputs = make_inputs(label=np.repeat(np.int32([0, 1, 3]), 16))
    files = read(build_files(inputs))
    assert "class-2" not in files and files["classes"]["rows"][2][1] == 0


def test_links_of_the_page_lead_to_files_that_are_there():
    files = build_files(make_inputs())
    linked = set(re.findall(r'href="#/class/(\d+)"', files["index.html"]))
    assert linked and all(f"data/class-{label}.js" in files for label in linked)
    assert data_files.matrix_cells(make_inputs(), count_confusions(make_inputs()))["leftOut"] == 0
