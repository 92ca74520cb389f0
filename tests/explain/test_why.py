import re
import subprocess
import sys

import numpy as np
import pytest

from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.explain import why
from urnet_tf.reweighting.factors import FACTORS

WEIGHTS = np.array([0.1, 2.0, 0.9, 1.0], np.float32)


def make_workdir(root, weights=True):
    """Three images of class 0 and one of class 1, one validation image, one quarantined file."""
    for stage in ("pack", "ingest", "train", "extract"):
        (root / stage).mkdir()
    paths = ["flickr/cat/a.jpg", "google/cat/12.jpg", "google/cat/b.jpg", "google/dog/12.jpg", "val/c.jpg"]
    columns = {
        "instance_id": np.arange(5), "split": ["train"] * 4 + ["val"], "label": [0, 0, 0, 1, 1],
        "source": ["flickr", "google", "google", "google", ""], "rank": [1, 1, 2, 1, 0],
        "query": ["cat", "cat", "cat", "dog", ""], "title": ["A \x1b[31mcat", "", "", "", ""],
        "description": [""] * 5, "tags": [""] * 5, "path": paths, "content_hash": list("abcde"),
        "width_px": [640] * 5, "height_px": [480] * 5,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"name": "cat"}, {"name": "dog"}])
    bad = {
        "path": ["google/cat/bad.jpg"], "split": ["train"], "label": [0], "source": ["google"], "rank": [3],
        "status": ["decode_error"], "reason": ["17 bytes are missing"],
    }  # fmt: skip
    store.write_table(root / "pack" / "quarantine.parquet", bad, schema.QUARANTINE_COLUMNS)
    twice = {
        "content_hash": ["b", "b"], "kind": ["several_labels"] * 2, "split": ["train"] * 2, "label": [0, 1],
        "path": ["google/cat/12.jpg", "google/dog/copy.jpg"],
    }  # fmt: skip
    store.write_table(root / "ingest" / "duplicates.parquet", twice, schema.DUPLICATE_COLUMNS)
    write_opinions(root, [1, 0, 0, 1], [0.98, 0.9, 0.5, 0.5], [0.02, 0.9, 0.5, 0.5], schema.SECOND_ROUND)
    if weights:
        ones = np.ones(4, np.float32)
        columns = {
            "instance_id": np.arange(4), "label": [0, 0, 0, 1], "path": paths[:4], "class_weight": ones,
            "cluster": [1, 0, 0, 0], "cluster_weight": ones, "confidence": ones,
            "self_confidence": np.array([0.1, 1.9, 1.0, 1.0], np.float32), "saliency": ones,
            "page_text": ones, "rank_prior": ones,
            "predicted_label": [1, 0, 0, 1], "sample_weight": WEIGHTS,
        }  # fmt: skip
        store.write_table(root / "train" / "weights.parquet", columns, schema.WEIGHT_COLUMNS)
    return root


def write_opinions(root, top, top_prob, given_prob, author, out_of_fold=0.6):
    """What the baseline says, and the metadata of who said what."""
    top_ids, top_probs = np.array(top, np.int32)[:, None], np.array(top_prob, np.float32)[:, None]
    for name, values in (("topk_ids", top_ids), ("topk_probs", top_probs), ("given_prob", given_prob)):
        store.write_array(root / "extract" / f"{name}.npy", np.asarray(values, np.asarray(values).dtype))
    (root / "reweight").mkdir(exist_ok=True)
    metadata = {"extract": {"accuracy_out_of_fold": out_of_fold}, "reweight": {"predicted_by": author}}
    for stage, told in metadata.items():
        store.Workdir(root).write_marker(root / stage, {"key": "k", "metadata": told})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run"))


def test_explains_an_image_by_path_end_id_or_absolute_path(workdir):
    text = why.explain(workdir, "a.jpg")
    assert text == why.explain(workdir, "0") == why.explain(workdir, "/data/crawl/flickr/cat/a.jpg")
    for words in (
        "flickr/cat/a.jpg  (id 0, 640 x 480 px)",
        "train image, label 0 (cat), flickr, rank 1, query 'cat'",
        "counted 0.10 times as much as an average image (in its class of 3: lowest, as 33% are)",
        "Because the models find its label less probable than is usual in its class.",
        "The out-of-fold baseline would call it 1 (dog) with a probability of 98.0%.",
        "It gives the label 'cat' a probability of 2.0%.",
        "Its predicted label, by the weighted heads of the second round, is 1 (dog).",
        "It lies in group 1 of its class with 1 of 3 images.",
        "The predicted label of 0% of them is their label; of 67% in the whole class.",
    ):
        assert words in text
    assert "\x1b" not in text


def test_texts_from_the_web_do_not_steer_the_terminal(tmp_path):
    hostile = "x\x1b[2J\u202ey\x00\nz\u2066"
    root = make_workdir(tmp_path)
    store.write_json(root / "pack" / "classes.json", [{"name": hostile}, {"name": hostile}])
    tables = {
        "pack/instances": schema.INSTANCE_COLUMNS,
        "pack/quarantine": schema.QUARANTINE_COLUMNS,
        "ingest/duplicates": schema.DUPLICATE_COLUMNS,
    }
    for table, columns in tables.items():
        path = root / f"{table}.parquet"
        values = {name: store.read_table(path).column(name).to_pylist() for name in columns}
        for name in {"source", "query", "title", "reason"} & set(columns):
            values[name] = [hostile] * len(values[name])
        values["path"] = [f"{hostile}/{name}" for name in values["path"]]
        store.write_table(path, values, columns)
    for image in ("a.jpg", "12.jpg", "1", "4", "cat/bad.jpg"):
        text = why.explain(root, image)
        assert not [sign for sign in text if not sign.isprintable() and sign != "\n"], image
    text = why.explain(root, "a.jpg")
    assert "label 0 (x[2Jy z), x[2Jy z, rank 1, query 'x[2Jy z'\n  Title: x[2Jy z\n" in text
    assert "would call it 1 (x[2Jy z) with" in text and "is 1 (x[2Jy z)." in text


def test_duplicates_are_named(workdir):
    text = why.explain(workdir, "cat/12.jpg")
    assert "The same file occurs 1 more time:" in text and "google/dog/copy.jpg  (train, label 1)" in text
    assert "The out-of-fold baseline agrees with its label." in text
    assert "Its predicted label, by the weighted heads of the second round, is its label." in text


def test_several_matches_are_listed(workdir):
    text = why.explain(workdir, "12.jpg")
    assert text.startswith("2 images are called '12.jpg'")
    assert "google/cat/12.jpg" in text and "google/dog/12.jpg" in text


def test_quarantined_file(workdir):
    text = why.explain(workdir, "cat/bad.jpg")
    assert "Not used: decode_error, the image data is damaged." in text and "17 bytes are missing" in text


def test_validation_image_has_no_weight(workdir):
    assert "it has no weight" in why.explain(workdir, "val/c.jpg")


def test_names_the_nearest(workdir):
    with pytest.raises(UsageError, match=r"called 'bd\.jpg'.*Nearest: .*google/cat/(b|bad)\.jpg"):
        why.explain(workdir, "bd.jpg")
    with pytest.raises(UsageError, match="from 0 to 4"):
        why.explain(workdir, "77")
    with pytest.raises(UsageError, match="empty"):
        why.explain(workdir, " ")


def test_run_without_images_or_weights(tmp_path):
    with pytest.raises(UsageError, match="urnet run"):
        why.explain(tmp_path, "a.jpg")
    assert "no weights yet" in why.explain(make_workdir(tmp_path, weights=False), "a.jpg")


def test_amounts_in_words():
    assert why.describe_amount(1.02) == "counted as much as an average image"
    assert why.describe_amount(0.31) == "counted 0.31 times as much as an average image"
    assert why.describe_amount(0.0) == "did not count"
    # Where an average image counts 0.05, the heaviest may have 0.16.
    assert why.describe_amount(0.16, 0.05) == "counted 3.20 times as much as an average image"
    assert why.describe_amount(0.05, 0.05) == "counted as much as an average image"
    assert (
        why.describe_amount(-0.01, 0.05)
        == "counted against its label, 0.20 times as much as an average image"
    )
    assert why.describe_amount(-0.05, 0.05) == "counted against its label, as much as an average image"
    assert why.describe_amount(0.0002, 0.05) == "counted 0.004 times as much as an average image"


def test_standing_in_words():
    values = np.arange(100)
    assert why.describe_standing(values, 80) == "higher than 80%"
    assert why.describe_standing(values, 20) == "lower than 79%"
    assert why.describe_standing(values, 0) == "lowest"
    assert why.describe_standing(np.array([1, 2, 2, 2]), 2) == "highest, as 75% are"
    assert why.describe_standing(np.ones(3), 1) == "same for all"


def test_reasons_pull_in_the_direction_of_the_weight():
    means = {"class_weight": 1.0, "confidence": 1.0, "self_confidence": 1.0}
    factors = {"class_weight": 1.5, "confidence": 0.5, "self_confidence": 0.1}
    assert why.find_reasons(0.1, factors, means) == [
        "the models find its label less probable than is usual in its class",
        "the picture fits the words of the class badly",
    ]
    assert why.find_reasons(1.2, factors, means) == ["its class is small, so each of its images counts more"]


def test_a_negative_cosine_is_a_reason_whatever_is_usual_in_the_class():
    for mean in (0.4, 0.0, -0.2):
        (reason,) = why.find_reasons(-0.5, {"confidence": -0.1}, {"confidence": mean})
        assert reason == "the picture fits the words of the class badly"
    (reason,) = why.find_reasons(2.0, {"confidence": 0.1}, {"confidence": -0.2})
    assert reason == "the picture fits the words of the class well"
    assert why.find_reasons(2.0, {"confidence": -0.3}, {"confidence": -0.2}) == []


# ------------------------------------------------------------- every sentence against the files

CLAUSES = {clause: (factor.name, sign) for factor in FACTORS
           for clause, sign in ((factor.low, -1), (factor.high, 1))}  # fmt: skip


class Files:
    """What the files say of one training image, and for each pattern of a line whether it says the same."""

    def __init__(self, root, at):
        self.at = at
        directory = next(root / s for s in ("train", "reweight") if (root / s / "weights.parquet").exists())
        table = store.read_table(directory / "weights.parquet")
        self.all = {name: store.column(table, name) for name in schema.WEIGHT_COLUMNS}
        self.label = int(self.all["label"][at])
        self.own = self.all["label"] == self.label
        self.weight = float(self.all["sample_weight"][at])
        self.average = float(np.abs(self.all["sample_weight"].astype(float)).mean())
        (self.row,) = [
            row for row in store.read_table(root / "pack" / "instances.parquet").to_pylist()
            if row["instance_id"] == at
        ]  # fmt: skip
        self.names = [c["name"] for c in store.read_json(root / "pack" / "classes.json")]
        self.said = {
            name: np.load(root / "extract" / f"{name}.npy")[at]
            for name in ("topk_ids", "topk_probs", "given_prob")
        }
        self.author = store.read_json(root / "reweight" / store.MARKER)["metadata"]["predicted_by"]
        out_of_fold = store.read_json(root / "extract" / store.MARKER)["metadata"]["accuracy_out_of_fold"]
        self.baseline = "baseline" if out_of_fold is None else "out-of-fold baseline"
        self.lines = {
            r"(.+)  \(id (\d+), (\d+) x (\d+) px\)": self.title,
            r"train image, label (\d+) \((.+?)\)(.*)": self.source,
            r"Title: .*": lambda: bool(self.row["title"]),
            r"In training it counted( against its label,)?(?: (\S+) times)? as much as an average image "
            r"\(in its class of (\d+): (.+)\)\.": self.amount,
            r"In training it did not count \(in its class of \d+: .+\)\.": lambda: self.weight == 0,
            r"Because (.+)\.": self.because,
            r"factor +value +in its class +question": lambda: True,
            r"(\w+) +(-?[\d.e-]+)  (same for all|(?:low|high)est(?:, as \d+% are)?|(?:low|high)er than \d+%)"
            r" {2,}(.+)": self.factor,
            r"The (out-of-fold baseline|baseline) agrees with its label\.": self.agrees,
            r"The (out-of-fold baseline|baseline) would call it (\d+) \((.+)\) with a probability of (.+)\.":
                self.calls,
            r"It gives the label '(.+)' a probability of (.+)\.": self.given,
            r"Its predicted label, by the (.+), is (?:its label|(\d+) \((.+)\))\.": self.predicted,
            r"It lies in group (\d+) of its class with (\d+) of (\d+) images\.": self.group,
            r"The predicted label of (\d+)% of them is their label; of (\d+)% in the whole class\.":
                self.purity,
        }  # fmt: skip

    def title(self, path, number, width, height):
        expected = (self.row["path"], self.at, self.row["width_px"], self.row["height_px"])
        return (path, int(number), int(width), int(height)) == expected

    def source(self, label, name, rest):
        rank = re.search(r"rank (\d+)", rest)
        return (int(label), name) == (self.label, self.names[self.label]) and (
            int(rank[1]) if rank else 0
        ) == self.row["rank"]

    def amount(self, against, times, size, place):
        share = abs(self.weight) / self.average
        near = close(times, share) if times else 0.949 < share < 1.051
        return near and bool(against) == (self.weight < 0) and int(size) == self.own.sum() and self.stands(
            "sample_weight", place
        )  # fmt: skip

    def because(self, text):
        below = self.weight < self.average
        for clause in text.split("; "):
            name, sign = CLAUSES[clause]
            value, usual = self.all[name][self.at], self.all[name][self.own].mean(dtype=float)
            if name == "class_weight":
                usual = self.all[name].mean(dtype=float)
            if (sign < 0) != below or not (value < 0 if usual <= 0 and below else sign * (value - usual) > 0):
                return False
        return True

    def factor(self, name, value, place, text):
        if name == "sample_weight" and not close(re.fullmatch(r"These .*; (\S+) is average\.", text)[1],
                                                 self.average):  # fmt: skip
            return False
        return close(value, self.all[name][self.at]) and self.stands(name, place)

    def stands(self, name, place):
        values, value = self.all[name][self.own].astype(float), float(self.all[name][self.at])
        share = [float(re.search(r"(\d+)%", place)[1]) / 100] if "%" in place else [np.mean(values == value)]
        asked = {
            "same": lambda: np.mean(values == value) == 1,
            "lowest": lambda: value == values.min() and abs(np.mean(values == value) - share[0]) < 0.006,
            "highest": lambda: value == values.max() and abs(np.mean(values == value) - share[0]) < 0.006,
            "higher": lambda: abs(np.mean(values < value) - share[0]) < 0.006,
            "lower": lambda: abs(np.mean(values > value) - share[0]) < 0.006,
        }
        return asked[re.match(r"\w+", place)[0]]()

    def agrees(self, baseline):
        return baseline == self.baseline and self.said["topk_ids"][0] == self.label

    def calls(self, baseline, number, name, probability):
        return (
            baseline == self.baseline
            and (int(number), name) == (self.said["topk_ids"][0], self.names[int(number)])
            and int(number) != self.label
            and close_percent(probability, self.said["topk_probs"][0])
        )

    def given(self, name, probability):
        return name == self.names[self.label] and close_percent(probability, self.said["given_prob"])

    def predicted(self, author, number, name):
        found = self.label if number is None else int(number)
        words = {
            schema.BASELINE: self.baseline,
            schema.BALANCED_BASELINE: f"{self.baseline} balanced by class size",
            schema.SECOND_ROUND: "weighted heads of the second round",
        }
        return (
            found == self.all["predicted_label"][self.at]
            and author == words[self.author]
            and (name is None or name == self.names[found])
        )

    def group(self, cluster, mates, size):
        mine = self.own & (self.all["cluster"] == int(cluster))
        return mine[self.at] and (int(mates), int(size)) == (mine.sum(), self.own.sum())

    def purity(self, of_group, of_class):
        right = self.all["predicted_label"] == self.label
        mates = self.own & (self.all["cluster"] == self.all["cluster"][self.at])
        return all(
            abs(int(told) / 100 - right[rows].mean()) < 0.006
            for told, rows in ((of_group, mates), (of_class, self.own))
        )


def close(told, value):
    return abs(float(told) - float(value)) <= max(0.00501 if abs(value) >= 0.095 else 0, 0.06 * abs(value))


def close_percent(told, value):
    if told == "less than 0.1%":
        return value < 0.001
    return abs(float(told.removesuffix("%")) / 100 - float(value)) < 0.00051


def check_every_sentence(root, at):
    """Names of the patterns that were met; fails on a line that no pattern knows or that says otherwise."""
    files, met = Files(root, at), []
    text = why.explain(root, str(at)).split("\n\n  The same file occurs")[0]
    text = re.sub(r"(?s)  Because .*?(?=\n\n)", lambda m: " ".join(m[0].split()), text)  # wrapped
    for line in filter(str.strip, text.splitlines()):
        found = [(p, check, m) for p, check in files.lines.items() if (m := re.fullmatch(p, line.strip()))]
        assert len(found) == 1, line
        pattern, check, match = found[0]
        assert check(*match.groups()), line
        met.append(pattern)
    return met


def make_random_workdir(root, author, out_of_fold, literal):
    """40 images of two classes with random columns: most sentences are wrong if they read another one."""
    rng, n = np.random.default_rng(3), 40
    make_workdir(root, weights=False)
    labels = np.repeat([0, 1], [25, 15])
    columns = {
        "instance_id": np.arange(n), "split": ["train"] * n, "label": labels, "source": ["google"] * n,
        "rank": np.arange(n) % 7, "query": [""] * n, "title": ["", "A title"] * (n // 2),
        "description": [""] * n, "tags": [""] * n, "path": [f"{i}.jpg" for i in range(n)],
        "content_hash": [""] * n, "width_px": np.arange(n) + 9, "height_px": [480] * n,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    weight = rng.normal(0.05, 0.06, n) if literal else rng.choice([0.0, 0.3, 1.0, 2.0], n)
    weights = {name: rng.lognormal(0, 1, n).astype(np.float32) for name, dtype in
               schema.WEIGHT_COLUMNS.items() if dtype == "float32"}  # fmt: skip
    weights |= {
        "instance_id": np.arange(n), "label": labels, "path": columns["path"],
        "class_weight": np.float32([0.52, 0.6])[labels], "rank_prior": np.ones(n, np.float32),
        "cluster": rng.integers(-1, 3, n), "predicted_label": rng.integers(0, 2, n),
        "sample_weight": weight.astype(np.float32),
    }  # fmt: skip
    weights["confidence"] = (rng.normal(0.1, 0.5, n) - labels).astype(np.float32)
    store.write_table(root / "train" / "weights.parquet", weights, schema.WEIGHT_COLUMNS)
    given = rng.random(n).astype(np.float32)
    given[::9] = 1e-4
    write_opinions(root, rng.integers(0, 2, n), rng.random(n), given, author, out_of_fold)
    return root, n


@pytest.mark.parametrize(
    ("author", "out_of_fold", "literal"),
    [
        (schema.BASELINE, 0.5, True),
        (schema.BASELINE, None, True),
        (schema.BALANCED_BASELINE, 0.5, False),
        (schema.SECOND_ROUND, 0.5, False),
    ],
)
def test_every_sentence_says_what_the_files_say(tmp_path, author, out_of_fold, literal):
    root, n = make_random_workdir(tmp_path, author, out_of_fold, literal)
    met = {pattern for at in range(n) for pattern in check_every_sentence(root, at)}
    never = set() if not literal else {p for p in Files(root, 0).lines if "did not count" in p}
    assert met == set(Files(root, 0).lines) - never


def test_sentences_about_a_real_run_say_what_the_files_say(finished_run):
    root = finished_run[0]
    weights = store.read_table(root / "train" / "weights.parquet")
    weight, predicted = (store.column(weights, name) for name in ("sample_weight", "predicted_label"))
    apart = np.flatnonzero(predicted != np.load(root / "extract" / "topk_ids.npy")[:, 0])
    assert len(apart), "the second round has its own prediction"
    for at in {int(weight.argmin()), int(weight.argmax()), *map(int, apart[:4]), *range(0, len(weight), 40)}:
        check_every_sentence(root, at)


def test_needs_no_tensorflow():
    code = "import sys, urnet_tf.explain.why, urnet_tf.explain; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
