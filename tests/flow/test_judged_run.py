"""A run, judgements, and a run again: labels and splits are what people said."""

import json

import numpy as np
import pytest
from PIL import Image

import urnet_tf
from urnet_tf import store
from urnet_tf.crawl import corrections
from urnet_tf.flow import plan
from urnet_tf.store import Workdir

CLASSES, PER_CLASS = ("cat", "dog", "fox"), 30


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Colored squares; of each class 6 images are of the next one and 4 of none; features tell which."""
    root = tmp_path_factory.mktemp("crawl")
    generator = np.random.default_rng(0)
    paths, truth = [], {}
    for label, name in enumerate(CLASSES):
        (root / "images" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            path = f"{name}/{number}.png"
            shown = (label + 1) % 3 if number < 6 else 3 if number < 10 else label
            pixels = generator.integers(0, 60, (16, 16, 3), np.uint8)
            pixels[..., min(shown, 2)] += 120 if shown < 3 else 0
            Image.fromarray(pixels).save(root / "images" / path)
            paths.append(path)
            truth[path] = CLASSES[shown] if shown < 3 else ""
    shown = np.array([CLASSES.index(truth[path]) if truth[path] else 3 for path in paths])
    features = 2.0 * np.eye(4, 12)[shown] + 0.7 * generator.normal(size=(len(paths), 12))
    np.save(root / "features.npy", features.astype(np.float32))
    (root / "features.txt").write_text("\n".join(paths) + "\n")
    return root, truth


def settings(root):
    return [f"ingest.path={root / 'images'}", f"model.features={root / 'features.npy'}",
            "baseline.folds=2", "ingest.val_fraction=0.2"]  # fmt: skip


def judge(workdir, truth, chosen, queue):
    rows = []
    for row in store.read_table(workdir / "pack/instances.parquet").to_pylist():
        if row["path"] in chosen and row["split"] == "train":
            given, seen = CLASSES[row["label"]], truth[row["path"]]
            verdict = "right" if seen == given else "wrong_class" if seen else "none_of_these"
            rows.append(
                {"content_hash": row["content_hash"], "path": row["path"], "old_label": given,
                 "verdict": verdict, "new_label": seen if verdict == "wrong_class" else "", "queue": queue}
            )  # fmt: skip
    return corrections.append(workdir / "corrections.parquet", rows, CLASSES)


def test_judgements_are_obeyed_by_the_next_run(crawl, tmp_path):
    root, truth = crawl
    workdir = tmp_path / "run"
    config = urnet_tf.load_config(None, settings(root))
    before = urnet_tf.run(config, workdir)
    assert "judgements" not in before["ingest"] and "judged_images" not in before["pack"]
    doubtful = {f"{name}/{n}.png" for name in CLASSES for n in (0, 1, 6, 7, 12)}
    sampled = {f"{name}/{n}.png" for name in CLASSES for n in (2, 8, 15, 16, 17)}
    chance = judge(workdir, truth, {f"{name}/18.png" for name in CLASSES}, "valuable_random")
    judged = chance + judge(workdir, truth, doubtful, "doubtful") + judge(workdir, truth, sampled, "random")
    steps = {step.stage.name: step for step in plan.make_plan(config, Workdir(workdir))}
    assert steps["ingest"].reason == "the judgements changed: 0 new images, 90 as before"

    after = urnet_tf.run(config, workdir)
    counts = after["ingest"]["judgements"]
    assert counts["judgements"] == judged == sum(counts[k] for k in ("replaced", "removed", "confirmed"))
    rows = store.read_table(workdir / "pack/instances.parquet").to_pylist()
    said = {row["path"]: row for row in rows if row["judged"]}
    for path, row in said.items():
        assert row["label"] == (CLASSES.index(truth[path]) if truth[path] else -1)
    weights = store.read_table(workdir / "train/weights.parquet").to_pylist()
    assert [row["path"] for row in weights] == [row["path"] for row in rows if row["split"] == "train"]
    top = {label: max(w["sample_weight"] for w in weights if w["label"] == label) for label in range(3)}
    trusted = [row for row in weights if row["path"] in said]
    assert trusted and all(
        row["right_prob"] == 1 and row["sample_weight"] == pytest.approx(top[row["label"]]) for row in trusted
    )
    assert not {row["path"] for row in weights} & sampled, "the test list is not trained on"
    judged_of = after["reweight"]["judged"]
    assert judged_of["random_sample"]["images"] == counts["random"]
    # What was chosen for being doubtful tells nothing of others.
    assert judged_of["calibration"]["images"] == counts["random"] + chance > counts["random"]
    measured = json.loads((workdir / "evaluate/metrics.json").read_text())
    assert measured["split"] == "val" and measured["labels"] == "drawn"
    held = [row for row in rows if row["split"] == "judged" and row["label"] >= 0]
    assert measured["judged"]["models"]["urnet"]["n"] == len(held) > 0
    assert measured["judged"]["labels"] == "judged"

    # Thinking again gives back what was there; a look without a verdict changes nothing.
    log = workdir / "corrections.parquet"
    corrections.append(log, [{"content_hash": "0" * 32, "verdict": "unsure"}])
    assert {step.action for step in plan.make_plan(config, Workdir(workdir))} == {plan.SKIP}
    undone = [row | {"verdict": "undone", "new_label": "", "when": ""}
              for row in corrections.read([log]).to_pylist() if row["queue"] == "random"]  # fmt: skip
    corrections.append(log, undone)
    steps = {step.stage.name: step for step in plan.make_plan(config, Workdir(workdir))}
    assert steps["ingest"].action == plan.RUN
    ignoring = urnet_tf.load_config(None, [*settings(root), "ingest.corrections=none"])
    key = plan.stage_keys(ignoring, Workdir(workdir))["ingest"]
    assert key == plan.stage_keys(config)["ingest"]


def test_the_fingerprint_is_of_what_holds(tmp_path):
    from urnet_tf.stages.judgements import corrections_files, fingerprint_judgements

    config = urnet_tf.load_config(None, ["ingest.path=/crawl"])
    assert fingerprint_judgements(config, tmp_path) == {}
    row = {"content_hash": "aa", "old_label": "cat", "verdict": "right", "who": "ann"}
    log = tmp_path / "corrections.parquet"
    corrections.append(log, [row])
    first = fingerprint_judgements(config, tmp_path)
    assert list(first) == ["the judgements"]
    corrections.append(log, [row | {"content_hash": "bb", "verdict": "unsure"}])
    corrections.append(log, [row | {"queue": "another"}])  # the same said again
    assert fingerprint_judgements(config, tmp_path) == first
    corrections.append(log, [row | {"verdict": "none_of_these"}])
    assert fingerprint_judgements(config, tmp_path) != first
    corrections.append(log, [row])
    assert fingerprint_judgements(config, tmp_path) == first
    moved = tmp_path / "elsewhere.csv"
    corrections.write_csv(moved, corrections.read([log]))
    elsewhere = urnet_tf.load_config(None, [f"ingest.corrections={moved}"])
    assert fingerprint_judgements(elsewhere, tmp_path / "other") == first
    both = urnet_tf.load_config(None, [f"ingest.corrections=[auto, {moved}]"])
    assert corrections_files(both, tmp_path) == [log, moved]
    assert fingerprint_judgements(both, tmp_path) == first
    off = urnet_tf.load_config(None, ["ingest.corrections=none"])
    assert fingerprint_judgements(off, tmp_path) == {}
    corrections.append(log, [row | {"verdict": "undone"}])
    assert fingerprint_judgements(config, tmp_path) == {}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("[none, a.csv]", "Expected ingest.corrections=none alone"), ("/none/such.parquet", "there is none")],
)
def test_files_that_cannot_be_obeyed(tmp_path, wanted, words):
    from urnet_tf.stages.judgements import fingerprint_judgements

    config = urnet_tf.load_config(None, [f"ingest.corrections={wanted}"])
    with pytest.raises(urnet_tf.UsageError, match=words):
        fingerprint_judgements(config, tmp_path)
