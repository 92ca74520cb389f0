"""Evidence from images and texts in the stage reweight: planted in a work directory by hand, and a run."""

import csv
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image
from urnet_fixtures.towers import SIDE, needs_hub, save_clip, save_siglip

import urnet_tf
from urnet_tf import schema, store
from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.flow import plan, runner
from urnet_tf.reweighting.factors import FACTORS
from urnet_tf.stages import image_text, reweight
from urnet_tf.stages.effects import effective_settings, ignored_settings, text_tower_of
from urnet_tf.stages.stage import Estimate, PlanContext, StageContext

NAMES, EACH = ["lion", "school bus", "pizza"], 80


def configured(*settings):
    return load_config(None, ["reweight.rounds=1", *settings])


def auroc(score, right):
    order = np.argsort(np.argsort(score)) + 1
    count = right.sum()
    return (order[right].sum() - count * (count + 1) / 2) / (count * (~right).sum())


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder, scale=6.0)
    return f"keras_hub:{folder}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, preset, mark_complete):
    """Three classes, 30 % wrong labels; features near the words of what images show, models that guess."""
    from urnet_tf.models.text_tower import open_text_tower
    from urnet_tf.text.prompts import class_prompt_vectors

    root = tmp_path_factory.mktemp("run")
    for stage in ("pack", "features", "baseline", "extract"):
        (root / stage).mkdir()
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], EACH)
    rows = len(labels)
    truth = np.where(generator.random(rows) < 0.3, (labels + 1) % 3, labels)
    classes = [
        {"label": i, "id": f"n{i}", "name": n, "words": [n], "queries": []} for i, n in enumerate(NAMES)
    ]
    encode = open_text_tower(preset).encode
    vectors = class_prompt_vectors(classes, encode)
    toward = vectors - vectors.mean(axis=0)
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    titles = [f"one {NAMES[t]}" if i % 4 else "" for i, t in enumerate(truth)]
    images = 5 * (
        toward[truth] + 0.2 * encode([t or "?" for t in titles]) + 0.3 * generator.normal(size=(rows, 8))
    )
    probs = np.exp(0.8 * np.eye(3)[truth] + generator.normal(size=(rows, 3)))
    probs /= probs.sum(axis=1, keepdims=True)
    order = np.argsort(-probs, axis=1)
    columns = {name: [""] * rows for name in schema.INSTANCE_COLUMNS} | {
        "instance_id": np.arange(rows), "label": labels, "rank": np.ones(rows, int), "title": titles,
        "split": ["train"] * rows, "width_px": [64] * rows, "height_px": [64] * rows,
    }  # fmt: skip
    store.write_table(root / "pack/instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(root / "pack/classes.json", classes)
    store.write_array(root / "baseline/fold.npy", (np.arange(rows) % 4).astype(np.int8))
    store.write_array(root / "features/features.npy", images.astype(np.float16))
    for start in ("", "balanced_"):
        store.write_array(root / f"extract/{start}topk_ids.npy", order.astype(np.int32))
        kept = np.take_along_axis(probs, order, 1).astype(np.float32)
        store.write_array(root / f"extract/{start}topk_probs.npy", kept)
        given = probs[np.arange(rows), labels].astype(np.float32)
        store.write_array(root / f"extract/{start}given_prob.npy", given)
    np.save(root / "truth.npy", truth)
    return mark_complete(root, extract={"features": "features/features.npy"})


def run(workdir, key, *settings):
    out = workdir.open_partial("reweight", key)
    metadata = reweight.run(StageContext(configured(*settings), workdir, out))
    json.dumps(metadata)
    table = store.read_table(out / "weights.parquet")
    return metadata, {name: store.column(table, name) for name in table.column_names}, out


@needs_hub
def test_planted_labels_are_found_by_the_texts(workdir, preset, caplog):
    caplog.set_level("INFO", logger="absl")
    metadata, columns, out = run(workdir, "on", f"model.backbone={preset}")
    truth = np.load(workdir.root / "truth.npy")
    right = truth == columns["label"]
    column = np.load(out / "zero_shot.npy")
    assert column.shape == right.shape and auroc(column, right) > 0.95
    told = metadata["zero_shot"]
    assert told["agreement"] == pytest.approx(right.mean(), abs=0.06) and told["moved_by_zero_shot"] > 0.9
    assert told["pages_with_text"] == 0.75 and told["logit_scale"] == pytest.approx(np.exp(6), rel=1e-5)
    assert "Texts of the classes moved P(right) of " in caplog.text
    assert f"alone agree with {100 * told['agreement']:.1f} % of the labels as given" in caplog.text

    metadata, off, out = run(workdir, "off", f"model.backbone={preset}", "reweight.zero_shot.enabled=false")
    assert "zero_shot" not in metadata and not (out / "zero_shot.npy").exists()
    assert (off["zero_shot"] == 1).all() and (off["page_fit"] == 1).all()
    assert auroc(columns["right_prob"], right) > max(0.95, auroc(off["right_prob"], right) + 0.02)
    product = np.prod(
        [columns[n] for n in ("label_posterior", "zero_shot", "rank_prior", "page_text", "page_fit")], 0
    )
    np.testing.assert_allclose(product, columns["right_prob"], rtol=1e-4)
    assert columns["sample_weight"][right].mean() > 1.5 * columns["sample_weight"][~right].mean()

    metadata, no_pages, _ = run(
        workdir, "no pages", f"model.backbone={preset}", "reweight.page_fit.enabled=false"
    )
    assert (no_pages["page_fit"] == 1).all() and "pages_with_text" not in metadata["zero_shot"]
    np.testing.assert_array_equal(no_pages["zero_shot"], columns["zero_shot"])


@needs_hub
def test_the_column_is_that_of_the_network_itself(workdir, preset):
    """Beside keras-hub's own text tower, one prompt at a time."""
    import keras_hub

    from urnet_tf.text.prompts import TEMPLATES

    _, columns, out = run(workdir, "itself", f"model.backbone={preset}")
    folder = preset.removeprefix("keras_hub:")
    network = keras_hub.models.CLIPBackbone.from_preset(folder)
    prepare = keras_hub.models.CLIPPreprocessor.from_preset(folder)
    means = []
    for name in NAMES:
        prompts = [template.format(name) for template in TEMPLATES]
        images = np.zeros((len(prompts), SIDE, SIDE, 3), np.float32)
        ids = prepare({"images": images, "prompts": prompts})["token_ids"]
        vectors = np.asarray(network.get_text_embeddings(ids))
        mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    features = np.load(workdir.root / "features/features.npy").astype(np.float64)
    cosines = features / np.linalg.norm(features, axis=1, keepdims=True) @ np.array(means).T
    scale = float(np.exp(network.clip_head.logit_scale))
    logits = scale * (cosines - cosines.max(axis=1, keepdims=True))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = probs[np.arange(len(probs)), columns["label"]]
    np.testing.assert_allclose(np.load(out / "zero_shot.npy"), expected, atol=2e-3)


@needs_hub
def test_networks_without_a_text_tower_change_nothing(workdir):
    metadata, columns, _ = run(workdir, "none")
    assert (columns["zero_shot"] == 1).all() and "zero_shot" not in metadata


@needs_hub
def test_a_killed_pass_over_pages_goes_on(workdir, preset, monkeypatch):
    monkeypatch.setattr("urnet_tf.text.pages._PAGES_A_PART", 100)
    _, expected, _ = run(workdir, "whole", f"model.backbone={preset}")
    complete, done = store.UnitLog.complete, []

    def dies(log, unit, metadata=None):
        complete(log, unit, metadata)
        if log.directory.name == "units_page_fits":
            done.append(unit)
            if len(done) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(store.UnitLog, "complete", dies)
    with pytest.raises(KeyboardInterrupt):
        run(workdir, "killed", f"model.backbone={preset}")
    _, found, _ = run(workdir, "killed", f"model.backbone={preset}")
    assert done == [0, 1, 2]
    np.testing.assert_array_equal(found["page_fit"], expected["page_fit"])


# ----------------------------------------------------------------------------------- settings and plans


def test_stages_depend_on_texts_only_where_they_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"class_name": "CLIPBackbone", "config": {}}))
    (tmp_path / "tokenizer.json").touch()
    clip = f"keras_hub:{tmp_path}"
    keys = ("reweight.zero_shot.enabled", "reweight.zero_shot.checkpoint", "reweight.page_fit.enabled")
    for settings in ((), ("preset=sound",), ("model.backbone=resnext",), ("model.features=own.npy",)):
        assert not {*effective_settings(configured(*settings, "ingest.path=."))} & {*keys}
    found = effective_settings(configured(f"model.backbone={clip}", "ingest.path=."))
    assert {*found} & {*keys} == {keys[0], keys[2]}
    config = configured(f"reweight.zero_shot.checkpoint={clip}", "ingest.path=.")
    assert {*effective_settings(config)} >= {*keys} and text_tower_of(config) == clip
    off = configured(f"model.backbone={clip}", "reweight.zero_shot.enabled=false", "ingest.path=.")
    assert {*effective_settings(off)} & {*keys} == {keys[0]}
    ignored = ignored_settings(configured("reweight.zero_shot.enabled=false"))
    assert ignored == {
        keys[0]: "a preset of CLIP or SigLIP in model.backbone or reweight.zero_shot.checkpoint"
    }


def test_which_features_lie_beside_the_texts():
    clip = "model.backbone=keras_hub:clip_vit_base_patch32"
    shared = {
        (clip,): True, (clip, "model.mode=finetune"): True, (clip, "model.feature_layer=x"): False,
        (clip, "model.mode=finetune", "baseline.networks=full"): False,
        (clip, "reweight.zero_shot.checkpoint=keras_hub:clip_vit_base_patch32"): True,
        (clip, "reweight.zero_shot.checkpoint=keras_hub:siglip_base_patch16_224"): False,
    }  # fmt: skip
    for settings, expected in shared.items():
        assert image_text.shares_features(configured(*settings)) == expected, settings


@needs_hub
def test_a_backbone_without_a_tokenizer_is_one_of_images_alone(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    save_siglip(tmp_path, with_tokenizer=False)
    config = configured(f"model.backbone=keras_hub:{tmp_path}")
    assert reweight.inputs(config) == {}
    assert image_text.compare_with_texts(types.SimpleNamespace(config=config), np.zeros(3, int)) == ({}, {})
    assert f"{tmp_path.name} has no tokenizer; tokenizer.save_to_preset puts one there" in caplog.text


@needs_hub
def test_what_is_wrong_is_said_before_the_work(tmp_path, preset):
    with pytest.raises(
        UsageError, match=r"^Expected keras_hub:PRESET, of CLIP or SigLIP, for reweight\.zero_shot"
    ):
        configured("reweight.zero_shot.checkpoint=/data/clip")
    save_siglip(tmp_path, with_tokenizer=False)
    config = configured(f"reweight.zero_shot.checkpoint=keras_hub:{tmp_path}")
    with pytest.raises(
        UsageError, match=r"Expected a tokenizer .* \(reweight\.zero_shot\.checkpoint\), which has none"
    ):
        reweight.inputs(config)
    with pytest.raises(
        UsageError, match=r"preset of CLIP or SigLIP as reweight\.zero_shot\.checkpoint; received"
    ):
        reweight.inputs(configured("reweight.zero_shot.checkpoint=keras_hub:resnet_50"))
    found = reweight.inputs(configured(f"model.backbone={preset}"))
    assert list(found) == ["the files of the text tower"]


@needs_hub
def test_classes_without_words_are_said_with_the_setting(workdir, preset, tmp_path, mark_complete):
    for stage in ("pack", "features", "baseline", "extract"):
        shutil.copytree(workdir.root / stage, tmp_path / stage)
    classes = [{"label": i, "id": f"{i}", "name": f"{i:04}", "words": [], "queries": []} for i in range(3)]
    store.write_json(tmp_path / "pack/classes.json", classes)
    other = mark_complete(tmp_path, extract={"features": "features/features.npy"})
    with pytest.raises(
        UsageError, match=r"called '0000'\. Give .* it: reweight\.zero_shot\.enabled=false\.$"
    ):
        run(other, "words", f"model.backbone={preset}")


def test_without_keras_hub_the_plan_says_so(monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "keras_hub" else find_spec(n, *a)
    )
    config = configured("reweight.zero_shot.checkpoint=keras_hub:clip_vit_base_patch32")
    with pytest.raises(UsageError, match=r"clip_vit_base_patch32 needs .*pip install 'urnet_tf\[hub\]'"):
        reweight.inputs(config)


@needs_hub
def test_plans_count_texts_and_the_pass_over_the_images(preset):
    rows = PlanContext(images=1100, train_images=1000, num_classes=10, cores=2, gpus=0)
    before = Estimate(1000, 20.0, 500, 10**9)
    assert image_text.add_texts(before, configured(), rows) == before
    base = "model.backbone=keras_hub:clip_vit_base_patch32"
    with_pages = image_text.add_texts(before, configured(base), rows)
    without = image_text.add_texts(before, configured(base, "reweight.page_fit.enabled=false"), rows)
    # 2,000 texts of about 2.9 billion multiply-adds, and 140 prompts.
    assert with_pages.seconds - 20 == pytest.approx((without.seconds - 20) * 2140 / 140, rel=0.02)
    assert 60 < with_pages.seconds < 600 and with_pages.disk_bytes == 4500
    own = image_text.add_texts(before, configured(f"reweight.zero_shot.checkpoint={preset}"), rows)
    assert own.note == "" == with_pages.note
    unknown = image_text.add_texts(
        before, configured("reweight.zero_shot.checkpoint=keras_hub:siglip_base_patch16_224"), rows
    )
    assert unknown.note.endswith("of the image tower of siglip_base_patch16_224, which is not known")
    assert own.disk_bytes == 500 + 4 * 1000 + 2 * 8 * 1000 and own.seconds > 20 and own.rows == 1000


# ------------------------------------------------------------------------------------------------ a run

TO_WEIGHTS = ("ingest", "pack", "features", "baseline", "extract", "reweight")


def run_stages(config, root, *names):
    """Metadata of the stages, which run where they are not complete."""
    workdir = store.Workdir(root)
    runner.run(config, workdir, [s for s in plan.make_plan(config, workdir) if s.stage.name in names])
    return {name: workdir.marker(name)["metadata"] for name in names}


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Flat pictures in the color of their class, a few in another; a list with titles."""
    root = tmp_path_factory.mktemp("crawl")
    generator = np.random.default_rng(0)
    with open(root / "list.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "title"))
        for number in range(90):
            label = number % 3
            pixels = generator.integers(0, 90, (24, 24, 3))
            pixels[..., label if number % 7 else (label + 1) % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
            rows.writerow((f"{number}.png", NAMES[label], f"photo {number % 5}" if number % 3 else ""))
    return root / "list.csv"


def settings_of(crawl, *others):
    return load_config(None, [
        f"ingest.path={crawl}", f"model.image_size_px={SIDE}", "model.crop_fraction=1.0", "baseline.folds=2",
        "export.formats=[keras]", "export.none_of_these=null", "baseline.head=discriminant",
        "train.head=discriminant", *others,
    ])  # fmt: skip


@needs_hub
@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_a_run_with_the_network_as_backbone_and_beside_it(crawl, tmp_path, save, monkeypatch):
    save(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # another preset, by its name
    backbone = f"model.backbone=keras_hub:{tmp_path / 'one'}"
    done = run_stages(settings_of(crawl, backbone), tmp_path / "run", *TO_WEIGHTS)
    told = done["reweight"]["zero_shot"]
    assert told["network"] == "one" and 0.6 < told["pages_with_text"] < 0.72
    column = np.load(tmp_path / "run/reweight/zero_shot.npy")
    features = np.load(tmp_path / "run/features/features.npy")

    beside = settings_of(crawl, backbone, f"reweight.zero_shot.checkpoint=keras_hub:{tmp_path / 'two'}")
    first = next(
        step for step in plan.make_plan(beside, store.Workdir(tmp_path / "run")) if step.action == "run"
    )
    assert first.stage.name == "reweight"
    from urnet_tf.evaluation import inference

    monkeypatch.setattr(inference, "_UNIT_ROWS", 64)
    complete, units = store.UnitLog.complete, []

    def dies(log, unit, metadata=None):
        complete(log, unit, metadata)
        if log.directory.name == "units_zero_shot_images":
            units.append(unit)
            if unit == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(store.UnitLog, "complete", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stages(beside, tmp_path / "run", *TO_WEIGHTS)
    done = run_stages(beside, tmp_path / "run", *TO_WEIGHTS)
    assert done["reweight"]["zero_shot"]["network"] == "two" and units == [0, 1]
    vectors = np.load(tmp_path / "run/reweight/zero_shot_images.npy")
    np.testing.assert_allclose(vectors, features[: len(vectors)], atol=2e-2)
    np.testing.assert_allclose(np.load(tmp_path / "run/reweight/zero_shot.npy"), column, atol=5e-3)


@needs_hub
@pytest.mark.slow
def test_a_run_to_its_end_tells_of_the_texts(crawl, tmp_path, preset):
    done = urnet_tf.run(settings_of(crawl, f"model.backbone={preset}"), tmp_path)
    assert done["reweight"]["zero_shot"]["network"] == preset.rsplit("/", 1)[-1]
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    for factor in FACTORS:
        if factor.name in ("zero_shot", "page_fit"):
            assert factor.name in page
    (card,) = (tmp_path / "export").rglob("README.md")
    assert "zero_shot" in card.read_text(encoding="utf-8")


@needs_hub
def test_old_weights_without_the_columns_are_read(crawl, tmp_path, preset):
    """What an earlier version wrote stays complete, and the stages behind it read it."""
    config = settings_of(crawl, f"model.backbone={preset}", "reweight.zero_shot.enabled=false")
    run_stages(config, tmp_path, *TO_WEIGHTS)
    workdir = store.Workdir(tmp_path)
    path = tmp_path / "reweight/weights.parquet"
    table = store.read_table(path).drop_columns(["zero_shot", "page_fit"])
    kinds = {name: kind for name, kind in schema.WEIGHT_COLUMNS.items() if name in table.column_names}
    store.write_table(
        path, {name: table.column(name) for name in kinds}, kinds, {"format": schema.WEIGHTS_FORMAT}
    )
    marker = {k: v for k, v in workdir.marker("reweight").items() if k not in ("files", "results")}
    workdir.write_marker(tmp_path / "reweight", marker)
    run_stages(config, tmp_path, "report")  # of what is there: no column is missed
    run_stages(config, tmp_path, "train", "report")
    weights = store.read_table(tmp_path / "train/weights.parquet")
    assert (store.column(weights, "zero_shot") == 1).all()
