import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from urnet_fixtures.reports import draw_jpeg, make_inputs

from urnet_tf.errors import UsageError
from urnet_tf.explain import (
    ReportInputs,
    build_page,
    figures,
    page as page_lib,
    pictures,
    summary,
)
from urnet_tf.reweighting.factors import FACTORS

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "javascript:alert(3)",
    "' onload='x",
    "{{ 7 * 7 }}",
)


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parse(page):
    tags = Tags()
    tags.feed(page)
    return tags


def test_cards_say_why():
    inputs = make_inputs()
    cluster_weight = np.ones(48, np.float32)
    cluster_weight[2] = 0.1
    inputs.weights["cluster_weight"] = cluster_weight
    inputs.weights["sample_weight"][2] = 0.05
    (card,) = pictures.build_cards(inputs, [2], pictures.Thumbnails(inputs, 32))
    assert card["amount"] == "counted 0.05 times as much as an average image"
    assert card["reasons"] == ["its look-alikes are not typical of the class"]
    assert not card["agrees"]
    assert (card["predicted"], card["source"], card["rank"]) == ("thing 1", "flickr", 3)


CARD = re.compile(
    r'<div class="big" title="(?P<amount>[^"]*)">(?P<times>\S+)×</div>.*?#(?P<id>\d+)</span>.*?'
    r'<p class="why">(?P<why>.*?)</p>\s*<div class="parts">(?P<parts>.*?)</div>', re.S,
)  # fmt: skip


def test_cards_and_tables_say_what_the_columns_say():
    """Literal weights: some below 0, an average image of 0.05; every number of every card."""
    rng = np.random.default_rng(4)
    n = 48
    weight = rng.normal(0.03, 0.06, n).astype(np.float32)
    made = make_inputs(
        reweighting={"formulas": "literal", "predicted_by": "baseline"}, given_prob=rng.random(n),
        top_probs=rng.random((n, 2)),
    )  # fmt: skip
    made.weights["sample_weight"][:] = weight
    made.weights["confidence"] = rng.normal(0.1, 0.5, n)
    made.weights["cluster_weight"] = rng.lognormal(0, 1, n)
    made.weights["class_weight"] = np.repeat(np.float32([0.6, 0.52, 0.5, 0.5]), 12)
    average = np.abs(weight.astype(float)).mean()
    page = build_page(made, images_per_class=12)
    text = re.sub(r"\s+", " ", parse(page).text)

    cards = [match.groupdict() for match in CARD.finditer(page)]
    assert len(cards) >= 20
    for card in cards:
        i = int(card["id"])
        label, top = int(made.label[i]), int(made.top_ids[i, 0])
        assert number(card["times"]) == pytest.approx(weight[i] / average, rel=0.06, abs=0.0051)
        assert ("against its label" in card["amount"]) == (weight[i] < 0)
        given = figures.format_percent(float(made.given_prob[i]))
        likeliest = figures.format_percent(float(made.top_probs[i, 0]))
        said = f"Models say <b>thing {top}</b> "
        said += f"too ({given})." if top == label else f"({likeliest}), not thing {label} ({given})."
        assert said in card["why"]
        parts = dict(re.findall(r"<span>(\S+) <b>(\S+)</b></span>", card["parts"]))
        for name, column in (("confidence", "confidence"), ("cluster", "cluster_weight")):
            value = made.weights[column][i]
            assert number(parts[name]) == pytest.approx(value, rel=0.06, abs=0.0051)
            low, high = next((f.low, f.high) for f in FACTORS if f.name == column)
            mean = made.weights[column][made.label == label].mean()
            assert low not in card["why"].lower() or (weight[i] < average and value < mean)
            assert high not in card["why"].lower() or (weight[i] > average and value > mean)
    assert any(weight[int(card["id"])] < 0 for card in cards)

    relative = weight / average
    for told, share in (("count less than half", (relative < 0.5).mean()),
                        ("more than double", (relative > 2).mean()),
                        ("have a weight below 0 and count against their label",
                         (weight < 0).mean())):  # fmt: skip
        assert f"{figures.format_percent(share)} {told}".replace("\xa0", " ") in text.replace("\xa0", " ")
    for entry in summary.by_source(made):
        rows = made.source == made.source_names.index(entry["name"])
        assert entry["weight"] == pytest.approx(relative[rows].mean(), rel=1e-5)
    for row in page_lib._class_table(made)["rows"]:
        assert row["weight"] == pytest.approx(relative[made.label == row["label"]].mean(), rel=1e-5)
    assert f"where {average:.2g} is an average image" in text
    assert "The product of the factors; an average image has" in text and "within limits" not in text
    assert "each counts 1.13× for the size" in text  # 0.6 / 0.53


def number(text):
    return float(text.replace("−", "-"))


def test_weights_of_mean_one_are_told_as_before():
    text = re.sub(r"\s+", " ", parse(build_page(make_inputs())).text)
    assert "where 1.00 is an average image" in text and "count against" not in text
    assert "within limits; mean 1" in text


def test_the_say_of_doubtful_images_is_that_for_their_labels():
    made = make_inputs()
    made.weights["sample_weight"][:] = np.tile(np.float32([0.2, 0.1, -0.5]), 16)
    made.weights["right_prob"][:] = np.where(np.arange(48) % 3 != 0, 0.1, 0.9)
    metadata = page_lib._metadata(made)  # 0.1 of 0.3, and nothing
    assert metadata["doubtful_weight"] == pytest.approx(1 / 3)
    # 16 (0.2 + 0.1 + 0.5) squared / 16 (0.04 + 0.01 + 0.25)
    assert metadata["effective"] == pytest.approx(16 * 0.8**2 / 0.3, rel=1e-5)
    assert metadata["against"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("hostile", HOSTILE[:2])
def test_drawings_escape_their_tips_names_and_labels(hostile):
    one = np.array([0.2, 0.9])
    bins = {"confidence": one, "accuracy": one, "count": np.array([3, 4])}
    histogram = summary.histogram_of(np.geomspace(0.1, 10, 50))
    drawings = {
        "columns": figures.draw_columns(np.ones((2, 2)), [hostile, "b"], hostile, hostile),
        "lines": figures.draw_lines([(hostile, one, one)] * 2, hostile, hostile, hostile),
        "histogram": figures.draw_histogram(histogram, hostile),
        "reliability": figures.draw_reliability([(hostile, bins)] * 2, hostile),
    }
    known = {"svg", "title", "rect", "line", "text", "polyline", "circle", "div", "span", "i"}
    for name, drawing in drawings.items():
        tags = parse(str(drawing))
        assert {tag for tag, _ in tags.found} <= known, name
        for tag, attributes in tags.found:
            assert not [key for key in attributes if key.startswith("on") or key == "src"], (name, tag)
        labels = [attributes["aria-label"] for tag, attributes in tags.found if tag == "svg"]
        assert len(labels) == 1 and labels[0].startswith(hostile), name
        assert hostile in tags.text, name


def test_everything_from_the_web_is_escaped():
    def rows(ids):
        return [{"title": HOSTILE[i % 5], "path": HOSTILE[(i + 1) % 5], "query": HOSTILE[2]} for i in ids]

    hostile = np.array(HOSTILE, object)
    inputs = make_inputs(
        names=HOSTILE[:4],
        source_names=list(HOSTILE[:2]),
        read_rows=rows,
        quarantine={"path": hostile, "status": hostile, "reason": hostile},
        duplicates={"content_hash": hostile, "picture": hostile, "kind": hostile, "path": hostile},
        settings=HOSTILE[0],
        places=((HOSTILE[0], HOSTILE[1]),),
    )
    tags = parse(build_page(inputs, title=HOSTILE[0]))
    assert not {tag for tag, _ in tags.found} & {"script", "iframe", "object", "link", "base", "form"}
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
        assert tag != "img" or attributes["src"].startswith("data:image/jpeg;base64,")
    for text in HOSTILE:
        assert text in tags.text


def test_texts_cannot_turn_the_page_or_hide_in_it():
    steering = "a\0b\x1b[31mc\u202ed\u2066e"
    names = np.array([steering] * 5, object)
    inputs = make_inputs(
        names=[steering] * 4, source_names=[steering] * 2, settings=steering, places=((steering, steering),),
        read_rows=lambda ids: [{"title": steering, "path": steering, "query": steering} for _ in ids],
        quarantine={"path": names, "status": names, "reason": names},
        duplicates={"content_hash": names, "picture": names, "kind": names, "path": names},
    )  # fmt: skip
    page = build_page(inputs, title=steering)
    assert not [sign for sign in page if not sign.isprintable() and sign not in "\n\N{NO-BREAK SPACE}"]
    assert "ab[31mcde" in page
    one = np.array([0.2, 0.9])
    drawing = figures.draw_lines([(steering, one, one)], steering, steering, steering)
    assert str(drawing).translate({10: "", 0xA0: ""}).isprintable() and "ab[31mcde" in drawing


def test_settings_keep_their_lines():
    page = build_page(make_inputs(settings="seed: 0\ntrain:\n  init: <b>\x1b\u202e\n"))
    assert "<pre>seed: 0\ntrain:\n  init: &lt;b&gt;\n</pre>" in page


def test_page_is_one_offline_file_and_repeats():
    page = build_page(make_inputs(), title="My crawl")
    assert page == build_page(make_inputs(), title="My crawl")
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert "http" not in page.replace("http-equiv", "")
    text = parse(page).text
    for words in ("My crawl", "48 training images", "45.0\N{NO-BREAK SPACE}%", "+5.0 points", "thing 3"):
        assert words in text


def test_page_without_evaluation_ranks_or_weights():
    ones = np.ones(8, np.float32)
    label = np.repeat(np.arange(2, dtype=np.int32), 4)
    inputs = ReportInputs(
        classes=[{"name": "a"}, {"name": "b"}], label=label, source=np.zeros(8, np.int64), source_names=[""],
        rank=np.zeros(8, np.int32), given_prob=ones, top_ids=label[:, None], top_probs=ones[:, None],
        weights={name: ones for name in ("class_weight", "cluster_weight", "right_prob", "sample_weight")},
        quarantine={k: np.array([], object) for k in ("path", "status", "reason")},
        duplicates={k: np.array([], object) for k in ("content_hash", "picture", "kind", "path")},
        read_rows=lambda ids: [{"title": "", "path": f"{i}.jpg", "query": ""} for i in ids],
        read_images=lambda ids: [b"damaged"] * len(ids),
    )  # fmt: skip
    text = parse(build_page(inputs)).text
    assert "Did it help?" not in text and "Mix-ups" not in text
    assert "All images count the same." in text and "not shown" in text
    assert "had seen these images" in text


def test_thumbnail_is_encoded_anew():
    uri = pictures.encode_thumbnail(draw_jpeg(comment=b"hidden payload"), 20)
    data = base64.b64decode(uri.split(",")[1])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.size == (20, 15)
    assert b"payload" not in data
    assert pictures.encode_thumbnail(b"<svg onload=alert(1)>", 20) == ""
    assert pictures.encode_thumbnail(draw_jpeg()[:200], 20) == ""


def test_transparent_pictures_stand_on_white():
    out = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(out, "PNG")
    data = base64.b64decode(pictures.encode_thumbnail(out.getvalue(), 8).split(",")[1])
    with Image.open(io.BytesIO(data)) as image:
        assert min(image.getpixel((4, 4))) > 250


def test_pictures_stop_when_the_budget_is_spent(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 2000)
    page = build_page(make_inputs())
    assert 1 <= page.count("data:image") <= 8 < page.count("not shown")


def test_many_classes_stay_a_small_page():
    page = build_page(make_inputs(classes=2000, per_class=6), classes=6)
    assert len(page) < 1_000_000
    assert "the other 1,700 are in" in page
    assert page.count("<rect") < 600


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(UsageError, match="one length"):
        make_inputs(rank=np.ones(3, np.int32))


def test_ticks():
    assert figures._nice_ticks(0, 0.5).tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert figures._ratio_ticks(0.05, 10).tolist() == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert [figures._nice_top(v) for v in (0, 0.9, 1.2, 330, 700)] == [1, 1, 1.5, 400, 800]


def test_accuracies_come_with_intervals_and_whose_labels_they_rest_on():
    made = make_inputs(
        evaluation={"labels": "drawn", "wrong_share": 0.3},
        held=np.array([20, 20, 9, 20]),
    )
    made.per_class["urnet"][:] = [0.3, 0.5, 0.9, 0.4]
    measured = made.metrics["urnet"]
    measured["intervals"] = {"balanced_top1": (0.40125, 0.5)}
    measured["change"] = {"balanced_top1": (0.05, -0.01, 0.11)}
    text = re.sub(r"\s+", " ", parse(build_page(made)).text)
    assert "about 30% of them wrong" in text
    assert "(40.1 – 50.0)" in text and "(−1.0 to +11.0)" in text.replace("-1.0", "−1.0")
    assert "1 class gained, 1 lost, 1 stayed equal" in text
    assert "1 class with fewer than 10 such images is not ranked" in text and "n = 20" in text
    assert "Right among five" not in text  # of four classes
