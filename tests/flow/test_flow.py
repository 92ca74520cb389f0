"""The whole flow as a person meets it: one run on a drawn crawl with planted noise and hostile files."""

# Long because most of its tests share one run of the whole flow, and what was planted in its crawl.

import csv
import dataclasses
import html
import html.parser
import pathlib
import re
import shutil
import time
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image

from urnet_tf import config as config_lib, schema, store
from urnet_tf.crawl.table import printable
from urnet_tf.drawn.hostile_files import USABLE, write_hostile_files
from urnet_tf.flow import plan, runner
from urnet_tf.reweighting.factors import FACTORS
from urnet_tf.stages import NAMES, STAGES, effects as config_effects

WRONG = ("confused", "out_of_vocabulary", "random")
HEAVY = ("tensorflow", "keras", "sklearn", "ai_edge_litert")


def what_was_done(stderr):
    """Stage → "skipped", "runs" or "resumes", from the log."""
    found = re.findall(r"\[\d+/\d+\] (\w+): (?:complete, )?(skipped|runs|resumes)", stderr)
    assert [name for name, _ in found] == list(NAMES)
    return dict(found)


def heavy_imports(stderr):
    """What `-X importtime` says of heavy libraries."""
    assert "import time:" in stderr
    names = {
        line.rsplit("|", 1)[1].strip() for line in stderr.splitlines() if line.startswith("import time:")
    }
    return {name for name in names if name.split(".")[0] in HEAVY}


def read(workdir, *parts, columns=None):
    return store.read_table(workdir.joinpath(*parts), columns).to_pylist()


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of the finished run, to run again."""
    return pathlib.Path(shutil.copytree(finished_run[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def truth(drawn_crawl):
    with open(drawn_crawl.with_name("crawl_truth.csv"), encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row["kind"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """What has to become of the hostile files, by name."""
    return {f.name: f for f in write_hostile_files(tmp_path_factory.mktemp("hostile"))}


# ------------------------------------------------------------------------------- the first run


def test_all_stages_are_complete_and_leave_no_litter(finished_run):
    workdir, done = finished_run
    assert set(what_was_done(done.stderr).values()) == {"runs"}
    for name in NAMES:
        assert store.Workdir(workdir).marker(name)["metadata"], name
    names = sorted(path.name for path in workdir.iterdir())
    assert names == sorted([*NAMES, "config.yaml", ".lock"])
    assert not [
        p for p in workdir.rglob("*") if p.name.startswith(("tmp", "checkpoint")) or p.suffix == ".tmp"
    ]


def test_the_last_line_says_where_the_results_are(finished_run):
    workdir, done = finished_run
    baseline, urnet_line, change, counted, last = done.stdout.strip().splitlines()[-5:]
    assert baseline.startswith("baseline") and urnet_line.startswith("urnet") and "class alike" in urnet_line
    assert " points (" in change and " 48 val images" in counted
    assert last.startswith("Results: ")
    places = [pathlib.Path(place) for place in last.removeprefix("Results: ").split("  ")]
    page, version = places
    assert page == workdir / "report" / "index.html" and page.stat().st_size > 10_000
    assert version == workdir / "export" / "urnet" / "1" and (version / "saved_model.pb").is_file()


def test_every_hostile_file_is_an_image_or_a_row_with_a_reason(finished_run, hostile):
    workdir, _ = finished_run
    used = {row["path"].rsplit("/", 1)[-1]: row for row in read(workdir, "pack", "instances.parquet")}
    left_out = {row["path"].rsplit("/", 1)[-1]: row for row in read(workdir, "pack", "quarantine.parquet")}
    assert len(hostile) == 12
    for name, fate in hostile.items():
        shown = printable(name)
        if fate.expectation == USABLE:
            assert shown in used and shown not in left_out, fate
            continue
        assert shown not in used, fate
        row = left_out[shown]
        assert row["status"] == fate.expectation, fate
        assert len(row["reason"].split()) >= 3 and "\n" not in row["reason"], row
        assert not re.search(r"Traceback|Error\b|\{\{|\[Op", row["reason"]), row


def test_every_listed_file_is_accounted_for(finished_run, truth):
    workdir, _ = finished_run
    found = [row["path"] for row in read(workdir, "pack", "instances.parquet", columns=["path"])]
    found += [row["path"] for row in read(workdir, "pack", "quarantine.parquet", columns=["path"])]
    assert sorted(found) == sorted(map(printable, truth))


def test_duplicates_are_listed_and_copies_of_test_images_are_not_trained_on(finished_run):
    workdir, _ = finished_run
    groups = {}
    for row in read(workdir, "ingest", "duplicates.parquet"):
        groups.setdefault((row["kind"], row["content_hash"]), []).append(row)
    kinds = {kind for kind, _ in groups}
    assert {"several_labels", "train_and_evaluation"} <= kinds
    trained = {row["path"] for row in read(workdir, "train", "weights.parquet", columns=["path"])}
    reasons = {row["path"]: row for row in read(workdir, "pack", "quarantine.parquet")}
    for (kind, _), rows in groups.items():
        if kind == "several_labels":
            assert len({row["label"] for row in rows}) > 1
        if kind == "train_and_evaluation":
            originals = [row["path"] for row in rows if row["split"] != schema.TRAIN]
            for copied in (row["path"] for row in rows if row["split"] == schema.TRAIN):
                assert copied not in trained
                assert reasons[copied]["status"] == "duplicate_of_evaluation"
                assert any(path in reasons[copied]["reason"] for path in originals)


def test_weights_have_a_row_for_each_training_image_and_mean_one(finished_run):
    workdir, _ = finished_run
    table = store.read_table(workdir / "train" / "weights.parquet")
    splits = [row["split"] for row in read(workdir, "pack", "instances.parquet", columns=["split"])]
    assert table.column_names == list(schema.WEIGHT_COLUMNS)
    assert len(table) == splits.count(schema.TRAIN) > 300
    np.testing.assert_array_equal(store.column(table, "instance_id"), np.arange(len(table)))
    assert store.column(table, "sample_weight").astype(float).mean() == pytest.approx(1, abs=1e-5)
    for name, dtype in schema.WEIGHT_COLUMNS.items():
        if dtype == "float32":
            values = store.column(table, name)
            assert np.isfinite(values).all() and (values >= 0).all(), name
            # `best` has no use for these.
            off = ("class_weight", "cluster_weight", "confidence", "self_confidence", "other_score",
                   "zero_shot", "page_fit")  # fmt: skip
            assert (np.ptp(values) > 0) == (name not in off), f"{name} is the same for all"


def test_planted_noise_counts_less(finished_run, truth):
    workdir, _ = finished_run
    rows = read(workdir, "train", "weights.parquet")
    label = np.array([row["label"] for row in rows])
    weight = np.array([row["sample_weight"] for row in rows])
    kind = np.array([truth[row["path"]] for row in rows])
    relative = weight / (np.bincount(label, weight) / np.bincount(label))[label]
    clean, wrong = relative[kind == "clean"], relative[np.isin(kind, WRONG)]
    assert len(clean) > 150 and len(wrong) > 80
    assert wrong.mean() < 0.8 * clean.mean()
    # Share of pairs where the clean one weighs more (AUROC); 0.5 is chance.
    auroc = (clean[:, None] > wrong).mean() + 0.5 * (clean[:, None] == wrong).mean()
    assert auroc > 0.6


def test_both_models_are_far_better_than_chance(finished_run):
    figures = store.read_json(finished_run[0] / "evaluate" / "metrics.json")["models"]
    assert {"baseline", "urnet", "folds"} <= figures.keys()
    assert min(figures[name]["balanced_top1"] for name in ("baseline", "urnet")) > 3 / 12


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.handlers = [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("href", "src")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def test_the_report_escapes_what_the_crawl_says(finished_run):
    workdir, _ = finished_run
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    rows = read(workdir, "pack", "instances.parquet", columns=["title", "description", "query"])
    texts = {text for row in rows for text in row.values() if re.search("[<>]", text)}
    assert texts, "the drawn crawl holds titles with tags"
    assert not [text for text in texts if text in page]
    assert any(html.escape(text).replace("&quot;", "&#34;") in page for text in texts)
    tags = _Tags()
    tags.feed(page)
    assert not tags.handlers
    own = "#", "data:image/", "http://127.0.0.1:8502/#/"  # the last is `urnet review`, where it runs
    assert not [link for link in tags.links if link and not link.startswith(own)]


# ----------------------------------------------------------------------------------- run again


def test_a_second_run_does_nothing_and_needs_no_tensorflow(finished_run, drawn_crawl, urnet, small_run):
    workdir, first = finished_run
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    start = time.monotonic()
    flags = ("-X", "importtime")
    done = urnet("run", "--data", drawn_crawl, "--workdir", workdir, *small_run, python_flags=flags)
    assert done.returncode == 0 and done.stdout == first.stdout
    assert time.monotonic() - start < 15  # about one second where nothing else runs
    assert set(what_was_done(done.stderr).values()) == {"skipped"}
    assert not heavy_imports(done.stderr)
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    assert {p.name for p in after if before.get(p) != after[p]} <= {"config.yaml", ".lock"}


@pytest.mark.slow  # 40 s; what runs again is tested without running in test_runner.py
def test_other_weights_run_again_from_reweight_on(copy, drawn_crawl, urnet, small_run):
    settings = [*small_run, "--set=reweight.confidence.enabled=false", "--set=export.formats=[saved_model]"]
    done = urnet("run", "--data", drawn_crawl, "--workdir", copy, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    ran = {name for name, action in what_was_done(done.stderr).items() if action == "runs"}
    assert ran == {"reweight", "train", "evaluate", "export", "report"}
    rows = read(copy, "train", "weights.parquet", columns=["confidence"])
    assert {row["confidence"] for row in rows} == {1.0}
    assert (copy / "export" / "urnet" / "2" / "saved_model.pb").is_file(), "a newer model, a higher version"


def test_from_evaluate_runs_what_needs_it(copy, finished_run, drawn_crawl, urnet_here, small_run):
    done = urnet_here("run", "--data", drawn_crawl, "--workdir", copy, "--from", "evaluate", *small_run)
    assert done.returncode == 0, done.stderr[-3000:]
    actions = what_was_done(done.stderr)
    assert {name for name, action in actions.items() if action == "runs"} == {"evaluate", "report"}
    again, first = (root / "evaluate" / "metrics.json" for root in (copy, finished_run[0]))
    assert again.read_bytes() == first.read_bytes()


def test_a_dry_run_tells_rows_time_disk_and_memory_and_writes_nothing(drawn_crawl, urnet, tmp_path):
    workdir = tmp_path / "planned"
    flags = ("-X", "importtime")
    trained = ("--set", "baseline.head=trained", "--set", "train.head=trained")
    done = urnet(
        "run", "--data", drawn_crawl, "--workdir", workdir, "--dry_run", *trained, python_flags=flags
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == [] and not heavy_imports(done.stderr)
    title, network, header, *lines, total = done.stdout.strip().splitlines()
    stages, training = lines[: len(NAMES)], lines[len(NAMES) :]
    assert "efficientnet_lite0" in network and re.search(r"parameters.* multiply-adds \(.* FLOP\)", network)
    assert [line.split()[0] for line in training[:4]] == ["Memory", "stage", "baseline", "train"]
    assert str(workdir) in title and header.split()[:6] == [
        "stage",
        "action",
        "rows",
        "time",
        "disk",
        "memory",
    ]
    assert [line.split()[:2] for line in stages] == [[name, "run"] for name in NAMES]
    for line in stages:
        assert re.search(r" \d+ +[\d.]+ (s|min|h) ", line), line
    assert re.fullmatch(r"Together about [\d.]+ \w+, [\d.]+ \wB of disk, [\d.]+ \wB of memory\.", total)


# --------------------------------------------------------------------------------- other presets


def tiny_backbone(name, image_size_px, weights=None, *, seed=0, synchronized=False, **_):
    """In place of the real networks."""
    import keras

    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    initializer = keras.initializers.HeNormal(seed=seed)
    x = keras.layers.Rescaling(1 / 128, -1.0, name="rescale")(image)
    x = keras.layers.Conv2D(8, 8, strides=4, kernel_initializer=initializer, name="conv")(x)
    x = keras.layers.BatchNormalization(synchronized=synchronized, name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.ReLU(name="relu")(x))
    x = keras.layers.Dense(32, kernel_initializer=initializer, dtype="float32", name="features")(x)
    return keras.Model(image, x, name="tiny")


@pytest.fixture
def packed(finished_run, tmp_path):
    """A work directory with the images of the finished run, and nothing made from them."""
    for stage in ("ingest", "pack"):
        shutil.copytree(finished_run[0] / stage, tmp_path / "packed" / stage)
    return tmp_path / "packed"


@pytest.fixture
def run_here(small_run, drawn_crawl):
    """Runs the flow in this process: (workdir, *settings) → stage → action."""

    def run(root, *settings):
        small = [flag.removeprefix("--set=") for flag in small_run if ".head=" not in flag]
        settings = [*small, "export.formats=[keras]", "train.fit.epochs=2", *settings]
        config = config_lib.load_config(None, [*settings, f"ingest.path={drawn_crawl}"])
        workdir = store.Workdir(root)
        steps = plan.make_plan(config, workdir)
        runner.run(config, workdir, steps)
        assert all(workdir.marker(name)["metadata"] for name in NAMES)
        assert {step.action for step in plan.make_plan(config, workdir)} == {plan.SKIP}
        return {step.stage.name: step.action for step in steps}

    return run


@pytest.mark.parametrize("preset", ["best", "sound", "paper"])
def test_every_preset_comes_to_its_end(packed, run_here, monkeypatch, preset):
    """With the heads that it has by default; those of the finished run are trained."""
    monkeypatch.setattr("urnet_tf.models.backbone.build_backbone", tiny_backbone)
    done = run_here(packed, f"preset={preset}")
    assert [name for name, action in done.items() if action == plan.SKIP] == ["ingest", "pack"]
    assert (packed / "train" / "urnet.keras").exists() == (preset != "best")
    weight = np.array([row["sample_weight"] for row in read(packed, "train", "weights.parquet")])
    if preset == "paper":
        assert (weight < 0).any() and weight.mean() < 0.5
    else:
        assert (weight > 0).all() and weight.mean() == pytest.approx(1, abs=1e-5)


TINY = ("model.image_size_px=32", "pack.short_side_px=32", "baseline.fit.epochs=1",
            "reweight.refit.epochs=1", "train.fit.epochs=1", "reweight.confidence.epochs=2",
            "export.check_images=4", "ingest.first_classes=3")  # fmt: skip


def recording(config, stage, reads, prefix=""):
    """A copy of a configuration that notes what is read of it: `reads` gets (stage(), dotted key)."""
    kind = type(config)
    names = {field.name for field in dataclasses.fields(kind)}

    def read(self, name):
        value = object.__getattribute__(self, name)
        if name in names and not dataclasses.is_dataclass(value):
            reads.add((stage(), f"{prefix}{name}"))
        return value

    copy = object.__new__(type(kind.__name__, (kind,), {"__getattribute__": read}))
    for name in names:
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            value = recording(value, stage, reads, f"{prefix}{name}.")
        object.__setattr__(copy, name, value)
    return copy


@pytest.fixture(scope="module")
def recorded_runs(drawn_crawl, small_run, tmp_path_factory):
    """Runs of all stages with tiny networks in this process: mode → (work directory, configuration, reads).

    Reads are of running stages alone, and not those that only print all settings.
    """
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urnet_tf.models.backbone.build_backbone", tiny_backbone)
        # Its operations are tested in test_augment.py; their graph takes seconds to build.
        patch.setattr("urnet_tf.images.augment._randaugment", lambda *_: lambda image, seed: image)
        for mode in ("frozen", "finetune"):
            small = [flag.removeprefix("--set=") for flag in small_run]
            settings = [*small, *TINY, f"model.mode={mode}", "model.weights=null", *EVERYTHING_ON[mode]]
            config = config_lib.load_config(None, [*settings, f"ingest.path={drawn_crawl}"])
            now, reads = [""], set()
            watched = recording(config, lambda now=now: now[0], reads)
            plain = config_lib.to_dict(config)
            patch.setattr(config_lib, "to_dict", lambda section, plain=plain: plain)

            def watch(stage, config=config, watched=watched, now=now):
                def run(context):
                    now[0] = stage.name
                    return stage.run(dataclasses.replace(context, config=watched))

                return dataclasses.replace(stage, run=run)

            patch.setattr(plan, "STAGES", tuple(watch(stage) for stage in STAGES))
            workdir = store.Workdir(tmp_path_factory.mktemp("recorded") / mode)
            runner.run(config, workdir, plan.make_plan(config, workdir))
            done[mode] = workdir, config, reads
    return done


EVERYTHING_ON = {
    "frozen": ("reweight.class_weight.enabled=true", "baseline.fit.optimizer=sgd", "evaluate.crops=5",
               "evaluate.bag_branch=true", "export.formats=[keras]"),
    "finetune": ("baseline.networks=full", "export.formats=[keras]", "train.init=baseline",
                 "reweight.rounds=2", "augment.policy=randaugment"),
}  # fmt: skip


def test_whole_networks_are_trained_to_the_last_stage(recorded_runs):
    workdir, config, _ = recorded_runs["finetune"]
    assert all(workdir.marker(name)["metadata"] for name in NAMES)
    assert {step.action for step in plan.make_plan(config, workdir)} == {plan.SKIP}
    figures = store.read_json(workdir.path("evaluate") / "metrics.json")["models"]
    assert {"baseline", "urnet", "folds"} <= figures.keys() and figures["urnet"]["n"] == 12


def other_value(config, key):
    """Another value that the setting may have."""
    *sections, name = key.split(".")
    section = config_lib.select(config, ".".join(sections)) if sections else config
    (field,) = (f for f in dataclasses.fields(section) if f.name == name)
    value, choices = config_effects.resolve(config, key), field.metadata.get("choices")
    if choices:
        return next(choice for choice in choices if choice not in (None, value))
    if key == "model.weights":
        return "imagenet"
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        low, high = field.metadata["minimum"], field.metadata["maximum"]
        if value + 1 <= high:
            return value + 1
        return value - 1 if value - 1 >= low else (low + value) / 2 if value > low else (value + high) / 2
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return value[:-1] if len(value) > 1 else (*value, 0.9)
    if isinstance(value, Mapping):
        return {"google": 7}
    others = {"int": 7, "float": 0.5, "bool": True, "tuple": ("google",), "str": "x"}
    return next(other for kind, other in others.items() if kind in str(field.type))


def with_value(config, key, value):
    name, _, rest = key.partition(".")
    changed = with_value(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: changed})


def all_settings(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from all_settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_a_setting_changes_the_keys_of_the_stages_that_read_it_and_of_no_others(
    recorded_runs, monkeypatch, mode
):
    """Declared dependencies are neither too few, which would keep stale results, nor too many."""
    _, config, reads = recorded_runs[mode]
    # Files from outside would have to exist under another name, too.
    blind = {s.name: dataclasses.replace(s, inputs=lambda config: {}) for s in STAGES}
    blind = [blind[s.name] if s.name in ("ingest", "reweight") else s for s in STAGES]
    monkeypatch.setattr(plan, "STAGES", tuple(blind))
    monkeypatch.setattr(config_effects, "_kind", lambda config: config.ingest.kind)
    before = plan.stage_keys(config)
    effective = config_effects.effective_settings(config)
    wrong = {}
    for key in all_settings(config):
        # Files in place of the backbone and beside the evidence: test_own_features.py, test_other_scores.py,
        # test_image_text.py.
        if key in ("model.features", "reweight.other_score.path", "reweight.zero_shot.checkpoint"):
            continue
        changed = plan.stage_keys(with_value(config, key, other_value(config, key)))
        found = {name for name in NAMES if changed[name] != before[name]}
        wanted = {stage for stage, read in reads if read == key} if key in effective else set()
        wanted -= {stage.name for stage in STAGES if key in stage.reads_ahead}  # see test_growing.py
        for stage in STAGES:  # what follows a stage that changes, changes
            if wanted & {*stage.needs, *stage.uses}:
                wanted.add(stage.name)
        if found != wanted:
            wrong[key] = {"stale": sorted(wanted - found), "in vain": sorted(found - wanted)}
    assert not wrong, "\n".join(f"{key}: {fault}" for key, fault in wrong.items())


@pytest.mark.slow  # 80 s
def test_a_resnext_is_trained_to_the_last_stage(run_here, tmp_path):
    network = (
        "model.backbone=resnext", "model.weights=null", "model.resnext_depth=26",
        "model.resnext_small_stem=true", "preset=paper",
    )  # fmt: skip
    assert set(run_here(tmp_path / "w", "model.mode=finetune", *TINY, *network).values()) == {plan.RUN}


# ----------------------------------------------------------------------------------------- why


def test_why_explains_a_usable_image(finished_run, urnet):
    workdir, _ = finished_run
    row = read(workdir, "train", "weights.parquet")[100]
    done = urnet("why", row["path"], "--workdir", workdir, python_flags=("-X", "importtime"))
    assert done.returncode == 0 and not heavy_imports(done.stderr)
    assert row["path"] in done.stdout and "In training it" in done.stdout
    for factor in FACTORS:
        if factor.name in ("label_posterior", "page_text", "rank_prior"):
            told = rf"{re.escape(factor.question)} +{row[factor.name]:.3f}"
            assert re.search(told, done.stdout), factor.name


def test_why_explains_quarantined_files(finished_run, urnet_here, hostile):
    workdir, _ = finished_run
    for name in ("hostile_truncated.jpg", "hostile_bomb.jpg"):
        done = urnet_here("why", name, "--workdir", workdir)
        assert done.returncode == 0 and "Traceback" not in done.stderr
        assert (
            f"Not used: {hostile[name].expectation}, {schema.STATUS[hostile[name].expectation]}"
            in done.stdout
        )


def test_why_names_what_is_near_an_unknown_name(finished_run, urnet_here):
    done = urnet_here("why", "hostile_emty.jpg", "--workdir", finished_run[0])
    assert_refused(done, "hostile_emty.jpg", "hostile_empty.jpg")


# ------------------------------------------------------------------------------- bad arguments


def assert_refused(done, *words):
    """One clear sentence on stderr, exit status 2."""
    own = [line for line in done.stderr.splitlines() if line.startswith("urnet: ")]
    assert done.returncode == 2 and len(own) == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    for word in words:
        assert str(word) in own[0], own[0]


def paint(path, count=3):
    """Different small pictures in a new folder."""
    path.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((32, 32), 60 + i).convert("RGB").save(path / f"{i}.jpg")


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        paint(tmp_path / "crawl" / name, 8)
    return tmp_path / "crawl"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("reweight.confidence.flor=1", "reweight.confidence.floor"),
        ("train.fit.epochs=many", "Expected a number for train.fit.epochs; received 'many'"),
        ("baseline.folds=2.5", "Expected a whole number for baseline.folds"),
        ("reweight.formulas=perfect", "Expected one of repaired, literal"),
        ("model.dropout=1.5", "between 0.0 and 0.99"),
    ],
)
def test_bad_settings_are_refused(folder, urnet_here, tmp_path, setting, words):
    done = urnet_here("run", "--data", folder, "--workdir", tmp_path / "w", "--set", setting)
    assert_refused(done, words)
    assert not (tmp_path / "w").exists()


def test_a_missing_folder_is_refused(urnet_here, tmp_path):
    done = urnet_here("run", "--data", tmp_path / "no such crawl", "--workdir", tmp_path / "w")
    assert_refused(done, tmp_path / "no such crawl", "no such file or folder")


def test_a_class_with_one_image_is_left_out_and_a_crawl_of_such_classes_refused(folder, urnet_here, tmp_path):
    paint(folder / "emu", 1)
    done = urnet_here("ingest", "--data", folder, "--workdir", tmp_path / "w")
    assert done.returncode == 0 and "left out (ingest.min_class_images): 'emu' (1)" in done.stderr
    strict = "--set=ingest.min_class_images=9"
    done = urnet_here("ingest", "--data", folder, "--workdir", tmp_path / "v", strict)
    assert_refused(done, "emu", "at least 9 usable training images", "one image")


@pytest.mark.parametrize("kind", ["no class folders", "empty class folders", "no pictures", "header only"])
def test_no_images_at_all_is_refused(urnet_here, tmp_path, kind):
    crawl = tmp_path / "crawl"
    crawl.mkdir()
    if kind in ("empty class folders", "no pictures"):
        (crawl / "cat").mkdir()
        (crawl / "dog").mkdir()
    if kind == "no pictures":
        (crawl / "cat" / "a.jpg").write_text("not a picture")
        (crawl / "dog" / "b.jpg").write_text("not a picture")
    if kind == "header only":
        crawl = crawl / "list.csv"
        crawl.write_text("path,label\n")
    done = urnet_here("run", "--data", crawl, "--workdir", tmp_path / "w")
    assert_refused(done, "Expected")


@pytest.mark.parametrize("label", ["2", "-2", "emu"])  # -1 says that there is none
def test_a_label_outside_of_the_list_is_refused(urnet_here, tmp_path, label):
    paint(tmp_path / "pictures", 4)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    rows = ["path,label", "pictures/0.jpg,0", "pictures/1.jpg,1", f"pictures/2.jpg,{label}"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    done = urnet_here("run", "--data", tmp_path / "list.csv", "--workdir", tmp_path / "w")
    assert_refused(done, repr(label), "line 4 of list.csv", "2 classes")


@pytest.mark.parametrize("name", ["missing.pth", "garbage.pth", "garbage.weights.h5", "folder.pth"])
def test_an_unreadable_checkpoint_is_refused_before_any_work(folder, urnet_here, tmp_path, name):
    path = tmp_path / name
    if name.startswith("garbage"):
        path.write_bytes(b"garbage " * 1000)
    if name.startswith("folder"):
        path.mkdir()
    done = urnet_here("run", "--data", folder, "--workdir", tmp_path / "w", f"--set=model.weights={path}")
    assert_refused(done, path)
    assert not (tmp_path / "w").exists()


def test_missing_imagenet_weights_are_told_before_any_work(folder, urnet, tmp_path):
    done = urnet(
        "run", "--data", folder, "--workdir", tmp_path / "w", "--set", "model.backbone=resnext",
        python_flags=("-X", "importtime"),
    )  # fmt: skip
    assert_refused(done, "model.weights")
    assert not heavy_imports(done.stderr) and not (tmp_path / "w").exists()


def test_a_file_in_place_of_the_work_directory_is_refused(folder, urnet_here, tmp_path):
    (tmp_path / "w").write_text("here I am")
    done = urnet_here("run", "--data", folder, "--workdir", tmp_path / "w")
    assert_refused(done, "Cannot write to the work directory", tmp_path / "w")
    assert (tmp_path / "w").read_text() == "here I am"
