import base64
import dataclasses
import hashlib
import html
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from urnet_fixtures.reports import DUPLICATE_COLUMNS, build_page, draw_jpeg, make_inputs, no_rows

from urnet_tf.errors import UsageError
from urnet_tf.explain import ReportInputs, figures, formats, overview, pictures, sections, summary
from urnet_tf.reweighting.factors import FACTORS
from urnet_tf.schema import REVIEW_ADDRESS

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
        if self.get_starttag_text() not in ("<script>", "<style>"):
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
    (card,) = pictures.build_cards(inputs, [2], [""])
    assert card["amount"] == "counted 0.05 times as much as an average image"
    assert card["why"] == (
        "counted next to nothing, since models that never saw it call it 'thing 1' and its look-alikes are "
        "not typical of the class"
    )
    assert not card["agrees"]
    assert (card["predicted"], card["source"], card["rank"]) == ("thing 1", "flickr", 3)


CARD = re.compile(
    r'<div class="big" title="(?P<amount>[^"]*)">(?P<times>\S+)×</div>.*?#(?P<id>\d+)</span>.*?'
    r'<p class="why">(?P<why>.*?)</p>', re.S,
)  # fmt: skip


def test_cards_and_tables_say_what_the_columns_say():
    """Literal weights: some below 0, an average image of 0.05; every number of every card."""
    rng = np.random.default_rng(4)
    n = 48
    weight = rng.normal(0.03, 0.06, n).astype(np.float32)
    made = make_inputs(reweighting={"formulas": "literal", "predicted_by": "baseline"})
    made.weights["sample_weight"][:] = weight
    made.weights["right_prob"][:] = rng.random(n)
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
        label, top = int(made.label[i]), int(made.predicted[i])
        why = html.unescape(card["why"])
        assert number(card["times"]) == pytest.approx(weight[i] / average, rel=0.06, abs=0.0051)
        assert ("against its label" in card["amount"]) == (weight[i] < 0)
        assert f"P(right) = {formats.format_percent(float(made.right_prob[i]))}." in why
        assert f"call it 'thing {top}'" + (" as well" if top == label else "") in why
        since, _, although = why.partition(", although ")
        low = weight[i] / average < 0.95
        for name in ("confidence", "cluster_weight"):
            value = made.weights[name][i]
            mean = made.weights[name][made.label == label].mean()
            factor = next(f for f in FACTORS if f.name == name)
            assert factor.low not in (since if low else although) or value < mean
            assert factor.high not in (although if low else since) or value > mean
            assert factor.low not in (although if low else since)
            assert factor.high not in (since if low else although)
    assert any(weight[int(card["id"])] < 0 for card in cards)

    relative = weight / average
    for told, share in (("count less than half", (relative < 0.5).mean()),
                        ("more than double", (relative > 2).mean()),
                        ("have a weight below 0 and count against their label",
                         (weight < 0).mean())):  # fmt: skip
        assert f"{formats.format_percent(share)} {told}".replace("\xa0", " ") in text.replace("\xa0", " ")
    for entry in summary.by_source(made):
        rows = made.source == made.source_names.index(entry["name"])
        assert entry["weight"] == pytest.approx(relative[rows].mean(), rel=1e-5)
    assert "The answers are multiplied" in text
    assert "The product of the factors; an average image has" in text and "within limits" not in text
    assert "since the class is small, each counts 1.13 times as much as the mean" in text  # 0.6 / 0.53


def number(text):
    return float(text.replace("−", "-"))


def test_weights_of_mean_one_are_told_as_before():
    text = re.sub(r"\s+", " ", parse(build_page(make_inputs())).text)
    assert "1× is an average image" in text and "count against" not in text
    assert "within limits; mean 1" in text and "for the size" not in text


def test_the_say_of_doubtful_images_is_that_for_their_labels():
    made = make_inputs()
    made.weights["sample_weight"][:] = np.tile(np.float32([0.2, 0.1, -0.5]), 16)
    made.weights["right_prob"][:] = np.where(np.arange(48) % 3 != 0, 0.1, 0.9)
    metadata = overview.count_everything(made)  # 0.1 of 0.3, and nothing
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
    known = {"svg", "title", "rect", "line", "text", "polyline", "circle", "div", "span", "i", "b", "small"}
    for name, drawing in drawings.items():
        tags = parse(str(drawing))
        assert {tag for tag, _ in tags.found} <= known, name
        for tag, attributes in tags.found:
            assert not [key for key in attributes if key.startswith("on") or key == "src"], (name, tag)
        labels = [attributes["aria-label"] for _, attributes in tags.found if "aria-label" in attributes]
        assert len(labels) == 1 and labels[0].startswith(hostile), name
        assert hostile in tags.text or name == "histogram", name


def make_hostile(texts):
    """Every text of a report is one of `texts`, in turn."""

    def rows(ids):
        return [{"title": texts[i % 5], "path": texts[(i + 1) % 5], "query": texts[2]} for i in ids]

    columns = np.array(texts, object)
    duplicates = {name: columns for name in ("content_hash", "picture", "path", "split")}
    return make_inputs(
        names=texts[:4], source_names=list(texts[:2]), read_rows=rows,
        query=np.arange(48) % 2, query_names=list(texts[3:5]),
        quarantine={"path": columns, "status": columns, "reason": columns},
        duplicates={
            **duplicates, "picture": np.array([texts[0]] * 5, object), "label": np.array([0, 1, 2, 0, 1]),
            "kind": np.array(["near_several_labels"] * 2 + [texts[4]] * 3, object),
        },
        settings=texts[0], places=((texts[0], texts[1]),), missing={texts[0]: texts[1], "export": texts[2]},
    )  # fmt: skip


def test_everything_from_the_web_is_escaped():
    tags = parse(build_page(make_hostile(HOSTILE), title=HOSTILE[0]))
    assert not {tag for tag, _ in tags.found} & {"iframe", "object", "link", "base", "form"}
    assert [attributes for tag, attributes in tags.found if tag == "script"] == [{}]  # our own
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("href", "#").startswith(("#", REVIEW_ADDRESS + "#/"))
        assert tag != "img" or attributes["src"].startswith("data:image/jpeg;base64,")
    for text in HOSTILE:
        assert text in tags.text


def test_texts_cannot_turn_the_page_or_hide_in_it():
    steering = "a\0b\x1b[31mc\u202ed\u2066e"
    page = build_page(make_hostile([steering] * 5), title=steering)
    assert not [sign for sign in page if not sign.isprintable() and sign not in "\n\N{NO-BREAK SPACE}"]
    assert "ab[31mcde" in page
    one = np.array([0.2, 0.9])
    drawing = figures.draw_lines([(steering, one, one)], steering, steering, steering)
    assert str(drawing).translate({10: "", 0xA0: ""}).isprintable() and "ab[31mcde" in drawing


def test_settings_keep_their_lines():
    page = build_page(make_inputs(settings="seed: 0\ntrain:\n  init: <b>\x1b\u202e\n"))
    assert ">seed: 0\ntrain:\n  init: &lt;b&gt;\n</pre>" in page


def test_page_loads_nothing_from_elsewhere_and_repeats():
    page = build_page(make_inputs(), title="My crawl")
    assert page == build_page(make_inputs(), title="My crawl")
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    # The review of this machine is linked to, and asked of nothing.
    assert "http" not in page.replace("http-equiv", "").replace(REVIEW_ADDRESS, "")
    assert not re.search(r"\b(fetch|XMLHttpRequest|eval)\(", page)
    text = parse(page).text
    for words in ("My crawl", "48 training images", "45.0\N{NO-BREAK SPACE}%", "+5.0 points", "thing 3"):
        assert words in text
    # The browser runs the script only if it is the one that the policy names.
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'strict-dynamic'" in page


def test_sections_stand_in_the_order_of_questions():
    page = build_page(make_inputs())
    order = re.findall(r'<section id="(\w+)">', page)
    assert order == ["wrong", "sure", "next", "help", "counted", "classes", "files"]
    assert re.findall(r'<a href="#(\w+)">', page.split("</nav>")[0])[-7:] == order


def test_page_without_evaluation_ranks_or_weights():
    ones = np.ones(8, np.float32)
    label = np.repeat(np.arange(2, dtype=np.int32), 4)
    inputs = ReportInputs(
        classes=[{"name": "a"}, {"name": "b"}], label=label, source=np.zeros(8, np.int64), source_names=[""],
        rank=np.zeros(8, np.int32),
        weights={name: ones for name in ("class_weight", "cluster_weight", "right_prob", "sample_weight")}
        | {"predicted_label": label},
        quarantine=no_rows(("path", "status", "reason")), duplicates=no_rows(DUPLICATE_COLUMNS),
        read_rows=lambda ids: [{"title": "", "path": f"{i}.jpg", "query": ""} for i in ids],
        read_images=lambda ids: [b"damaged"] * len(ids),
    )  # fmt: skip
    text = parse(build_page(inputs)).text
    assert "Did it help?" not in text and "What is taken for what" not in text
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
    assert 1 <= page.count('src="data:image') <= 8 < page.count("not shown")


def test_many_classes_stay_a_small_page():
    page = build_page(make_inputs(classes=2000, per_class=6), classes=6, class_page_images=0)
    assert len(page) < 1_000_000
    assert "the other 1,900 are in" in page
    assert page.count("<i") < 1500


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
    assert "One class gained, one lost, one stayed equal" in text
    assert "One class with fewer than 10 such images is not ranked" in text and "n = 20" in text
    assert "Right among five" not in text  # of four classes


def test_classes_that_did_not_change_are_counted_in_words():
    made = make_inputs(held=np.full(4, 20))
    made.per_class["urnet"][:] = [0.4, 0.4, 0.4, 0.3]
    text = re.sub(r"\s+", " ", parse(build_page(made)).text)
    assert "No class gained, one lost, three stayed equal." in text


def test_a_page_before_anything_was_weighed_says_so():
    missing = dict.fromkeys(("reweight", "train", "evaluate", "export"), "it was not run yet")
    made = make_inputs(weights={}, metrics={}, reliability={}, reweighting={}, missing=missing)
    page = build_page(dataclasses.replace(made, per_class={}))
    text = re.sub(r"\s+", " ", parse(page).text)
    assert "Whether labels look wrong is not known yet" in text and "Did it help?" not in text
    assert "Not here yet: which labels look wrong, the trained network, whether it helped" in text
    assert "urnet noise --config DIR/config.yaml --workdir DIR" in text
    assert "How sure is that" not in text and 'href="#/class/' not in page
    made = make_inputs(missing={"train": "it was not run yet"})
    text = re.sub(r"\s+", " ", parse(build_page(made)).text)
    assert "Not here yet: the trained network." in text and "train: it was not run yet" in text
    assert "urnet run --config DIR/config.yaml --workdir DIR" in text


def test_the_share_of_wrong_labels_comes_first():
    made = make_inputs(
        reweighting={"clean_rate_estimate": 0.7, "clean_rate_interval": [0.6, 0.82], "labels_seen": False}
    )
    text = re.sub(r"\s+", " ", parse(build_page(made)).text).replace("\xa0", " ")
    lead = text[text.index("About 30 %") :]
    assert lead.startswith(
        "About 30 % of the labels of 48 training images of 4 classes look wrong: 18 % to 40 %"
    )
    made = make_inputs(
        reweighting={"clean_rate_estimate": 0.7, "clean_rate_interval": None, "labels_seen": True}
    )
    text = re.sub(r"\s+", " ", parse(build_page(made)).text).replace("\xa0", " ")
    assert "At least 30 % of the labels of 48" in text and "at most 70 %" in text


def test_the_rows_of_a_table_are_those_of_the_columns():
    made = make_inputs()
    rows = sections._class_table(made)["rows"]
    assert [(row["label"], row["images"]) for row in rows] == [(0, 12), (1, 12), (2, 12), (3, 12)]
    assert rows[0]["wrong"][0] == pytest.approx((0.9 + 2 * 0.1) / 3, abs=1e-6)


def test_what_people_judged_is_told():
    judged = {"counts": {"random": 80}, "trusted": 7,
              "random_sample": {"images": 80, "wrong_share": 0.25, "interval": [0.16, 0.36]}}  # fmt: skip
    made = make_inputs(reweighting={"clean_rate_estimate": 0.7, "judged": judged})
    measured = {**made.metrics["urnet"], "n": 33, "top1": 0.65, "balanced_top1": 0.625}
    models = {"baseline": made.metrics["baseline"], "urnet": measured}
    made = dataclasses.replace(
        made, evaluation={"judged": {"split": "judged", "labels": "judged", "models": models}}
    )
    text = re.sub(r"\s+", " ", parse(build_page(made)).text).replace("\xa0", " ")
    assert "About 30 % of the labels of what is left to train on, 48 training images" in text
    assert "7 labels here are trusted" in text and "judge more" in text
    assert "Of 80 images of the random sample 25 % had a wrong label (16 % to 36 %)." in text
    assert "These labels were judged by people" in text and "33 images:" in text and "62.5 %" in text


def test_judgements_without_a_random_sample():
    judged = {"counts": {"random": 0}, "trusted": 7}  # as of a sitting with the most doubtful ones
    text = parse(build_page(make_inputs(reweighting={"clean_rate_estimate": 0.7, "judged": judged}))).text
    assert "7 labels here are trusted for that." in text and "of the random sample" not in text
