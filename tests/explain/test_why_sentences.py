"""Every sentence of `urnet why` against the files that it is about."""

import re

import numpy as np
import pytest
from urnet_fixtures.runs import make_workdir, write_opinions

from urnet_tf import schema, store
from urnet_tf.explain import why
from urnet_tf.explain.why_text import format_image
from urnet_tf.reweighting.factors import FACTORS

CLAUSES = {clause: (factor.name, sign) for factor in FACTORS
           for clause, sign in ((factor.low, -1), (factor.high, 1))}  # fmt: skip
QUESTIONS = {factor.question: factor.name for factor in FACTORS}


class Files:
    """What the files say of one training image, and for each pattern of a line whether it says the same."""

    def __init__(self, root, at):
        self.root, self.at = root, at
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
            r"It (counted .+?|did not count)(?:, since (.+?))?(?:, although (.+))?\.": self.sentence,
            r"In training it counted( against its label,)?(?: (\S+) times)? as much as an average image "
            r"\(in its class of (\d+): (.+)\); its label is right with a probability of (.+)\.": self.amount,
            r"In training it did not count \(in its class of \d+: .+\); its label .+\.": (
                lambda: self.weight == 0
            ),
            r"asked of it +value  in its class": lambda: True,
            r"(.+\?) +(<?-?[\d.]+)  (same for all|(?:low|high)est(?:, as \d+% are)?|"
            r"(?:low|high)er than \d+%)": self.factor,
            r"Equal for all images here: (.+)\.": self.equal,
            r"The (out-of-fold baseline|baseline) agrees with its label\.": self.agrees,
            r"The (out-of-fold baseline|baseline) would call it (\d+) \((.+)\) with a probability of (.+)\.":
                self.calls,
            r"It gives the label '(.+)' a probability of (.+)\.": self.given,
            r"Its predicted label, by the (.+), is (?:its label|(\d+) \((.+)\))\.": self.predicted,
            r"It lies in group (\d+) of its class with (\d+) of (\d+) images\.": self.group,
            r"The predicted label of (\d+)% of them is their label; of (\d+)% in the whole class\.":
                self.purity,
            r"To judge it: urnet review --workdir (.+) --at image/(.+)": self.review,
        }  # fmt: skip

    def review(self, root, place):
        return (root, place) == (str(self.root), self.row["content_hash"] or str(self.at))

    def title(self, path, number, width, height):
        expected = (self.row["path"], self.at, self.row["width_px"], self.row["height_px"])
        return (path, int(number), int(width), int(height)) == expected

    def source(self, label, name, rest):
        rank = re.search(r"rank (\d+)", rest)
        return (int(label), name) == (self.label, self.names[self.label]) and (
            int(rank[1]) if rank else 0
        ) == self.row["rank"]

    def amount(self, against, times, size, place, right):
        share = abs(self.weight) / self.average
        near = close(times, share) if times else 0.949 < share < 1.051
        sure = close_percent(right, self.all["right_prob"][self.at])
        return near and sure and bool(against) == (self.weight < 0) and int(size) == self.own.sum() and (
            self.stands("sample_weight", place)
        )  # fmt: skip

    def sentence(self, amount, since, although):
        share = self.weight / self.average
        limits = {
            "counted against its label": (-np.inf, 0), "did not count": (0, 0),
            "counted next to nothing": (0, 0.15), "counted little": (0.15, 0.6),
            "counted less than an average image": (0.6, 0.95),
            "counted as much as an average image": (0.95, 1.05),
            "counted more than an average image": (1.05, 2), "counted much": (2, np.inf),
        }  # fmt: skip
        low, high = limits[amount]
        return (
            low <= share <= high
            and self.clauses(since, down=share < 0.95)
            and self.clauses(although, down=share >= 0.95)
        )

    def clauses(self, text, down):
        """Whether each clause of a list says what pulls the weight down, or up, and is true."""
        for clause in re.split(r", (?!which|call)| and ", text or ""):
            if clause and not (self.model_clause(clause, down) or self.page_clause(clause, down)
                               or self.factor_clause(clause, down)):  # fmt: skip
                return False
        return True

    def model_clause(self, clause, down):
        of_fold = self.baseline == "out-of-fold baseline"
        start = "models that never saw it" if of_fold else "the models, which were trained on it,"
        predicted = int(self.all["predicted_label"][self.at])
        agrees = predicted == self.label
        expected = f"{start} call it {self.names[predicted]!r}{' as well' if agrees else ''}"
        return clause == expected and agrees != down

    def page_clause(self, clause, down):
        value = float(self.all["page_text"][self.at])
        told = {
            f"its page speaks against {self.names[self.label]!r}": value < 1 and down,
            f"its page speaks for {self.names[self.label]!r}": value > 1 and not down,
            "its page says nothing": 0.86 < value < 1.16 and down,
        }
        return told.get(clause, False)

    def factor_clause(self, clause, down):
        name, sign = CLAUSES[clause]
        value, usual = self.all[name][self.at], self.all[name][self.own].mean(dtype=float)
        if name == "class_weight":
            usual = self.all[name].mean(dtype=float)
        return (sign < 0) == down and (value < 0 if usual <= 0 and down else sign * (value - usual) > 0)

    def factor(self, question, value, place):
        name = QUESTIONS[question]
        told = 0.0005 if value.startswith("<") else float(value)
        return abs(told - self.all[name][self.at]) <= 0.000501 and self.stands(name, place)

    def equal(self, names):
        asked = self.all["class_weight"]
        told = {name.replace(" ", "_") for name in names.split(", ")}
        columns = {name: name.removesuffix("_weight") for name in QUESTIONS.values() if name != "saliency"}
        expected = {
            short for name, short in columns.items()
            if np.ptp(asked if name == "class_weight" else self.all[name][self.own]) <= 1e-6
        }  # fmt: skip
        return told == expected

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
    text = format_image(why.describe_image(root, str(at)))
    text = text.split("\n\n  The same file occurs")[0].split("\n\n  Look-alikes")[0]
    head, _, rest = text.partition("\n\n")
    title, _, told = head.partition("\n")
    sentences = re.sub(r"\.\n? *(?=In training)", ".\n", re.sub(r"\n(?!  In training)", "", told))
    text = "\n".join([title, *(" ".join(line.split()) for line in sentences.split("\n")), rest])
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
        "content_hash": [""] * n, "picture": [""] * n, "width_px": np.arange(n) + 9, "height_px": [480] * n,
        "judged": [""] * n,
    }  # fmt: skip
    store.write_table(root / "pack" / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    weight = rng.normal(0.05, 0.06, n) if literal else rng.choice([0.0, 0.3, 1.0, 2.0], n)
    weights = {name: rng.lognormal(0, 1, n).astype(np.float32) for name, dtype in
               schema.WEIGHT_COLUMNS.items() if dtype == "float32"}  # fmt: skip
    weights |= {name: [""] * n for name in schema.WEIGHT_TEXTS}
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
    never = set() if not literal else {p for p in Files(root, 0).lines if p.startswith("In training it did")}
    assert met == set(Files(root, 0).lines) - never


def test_sentences_about_a_real_run_say_what_the_files_say(finished_run):
    root = finished_run[0]
    weights = store.read_table(root / "train" / "weights.parquet")
    weight, predicted = (store.column(weights, name) for name in ("sample_weight", "predicted_label"))
    apart = np.flatnonzero(predicted != np.load(root / "extract" / "topk_ids.npy")[:, 0])
    assert len(apart), "the second round has its own prediction"
    for at in {int(weight.argmin()), int(weight.argmax()), *map(int, apart[:4]), *range(0, len(weight), 40)}:
        check_every_sentence(root, at)
