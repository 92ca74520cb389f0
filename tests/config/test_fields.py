"""The configuration tree: files, overrides, and one clear sentence for each mistake."""

import subprocess
import sys

import pytest

from urnet_tf.config import (
    Config,
    from_dict,
    has_second_round,
    judges_features,
    load_config,
    select,
    starts_from,
    to_dict,
)
from urnet_tf.errors import UsageError


def test_defaults_survive_the_round_trip_through_plain_values():
    assert from_dict(to_dict(Config())) == Config()


def test_overrides_are_read_as_yaml():
    config = load_config(
        None,
        [
            "train.fit.learning_rate=1e-3",
            "ingest.max_rank={flickr: 15}",
            "evaluate.scales=[1, 1.25]",
            "seed=7",
        ],
    )
    assert config.train.fit.learning_rate == 0.001
    assert config.ingest.max_rank == {"flickr": 15}
    assert config.evaluate.scales == (1.0, 1.25)
    assert config.seed == 7
    assert select(config, "train.fit.learning_rate") == 0.001


def test_a_file_overrides_its_base_key_by_key(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {image_size_px: 96, dropout: 0.2}\nseed: 1\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nmodel: {dropout: 0.1}\n")
    config = load_config(str(tmp_path / "mine.yaml"), ["seed=2"])
    assert (config.model.image_size_px, config.model.dropout, config.seed) == (96, 0.1, 2)


def test_a_mapping_that_is_a_value_replaces_that_of_the_base(tmp_path):
    (tmp_path / "base.yaml").write_text("ingest: {max_rank: {flickr: 15}, sources: [flickr]}\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\ningest: {max_rank: {}}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.ingest.max_rank == {} and config.ingest.sources == ("flickr",)
    assert load_config(None, ["ingest.max_rank={google: 3}"]).ingest.max_rank == {"google": 3}
    assert load_config("mini_webvision").ingest.max_rank == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.fit.learnin_rate=3", "did you mean train.fit.learning_rate"),
        ("reweight.soft_label.bta=1", "did you mean reweight.soft_label.beta"),
        ("model.crop_fraction=2", "between 0.1 and 1.0 or padded for model.crop_fraction; received 2"),
        ("model.crop_fraction=pad", "Expected a number or padded for model.crop_fraction; received 'pad'"),
        ("seed=-1", "Expected a number between 0 and 2,147,483,647 for seed; received -1"),
        ("seed=true", "Expected a whole number for seed; received True"),
        ("reweight.soft_label.beta=1.5", "a number between 0.0 and 1.0 for reweight.soft_label.beta"),
        ("train.fit.epochs=many", "Expected a number for train.fit.epochs; received 'many'"),
        ("model.mode=linear", "one of frozen, finetune for model.mode; received 'linear'"),
        ("reweight.class_weight.enabled=1", "Expected true or false"),
        ("ingest.max_rank=15", "Expected a mapping for ingest.max_rank"),
        ("evaluate.scales=1.0", "Expected a list for evaluate.scales"),
        ("train=3", "Expected a section at 'train'"),
        ("seed.x=3", "Expected a whole number for seed"),
        ("seed", "Expected --set section.key=value"),
        ("seed=[1", "is not valid YAML"),
        ("reweight.combine.largest=1", "smallest < 1 < reweight.combine.largest; received 0.05 and 1.0"),
        ("export.formats=[]", "Expected 1 to 9 entries for export.formats; received 0"),
        ("export.formats=[tflite]", "for export.formats[0]; received 'tflite'"),
        ("train.fit.epochs=.nan", "between 0.0 and 100,000 for train.fit.epochs; received nan"),
    ],
)
def test_mistakes_are_one_clear_sentence(override, message):
    with pytest.raises(UsageError, match=None) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "Expected a mapping"), ("a: [1\n", "is not valid YAML"), ("base: base.yaml\n", "one level")],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "base.yaml").write_text("base: other.yaml\n")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(str(tmp_path / "x.yaml"))


def test_missing_file():
    with pytest.raises(UsageError, match="Cannot read the configuration nowhere.yaml"):
        load_config("nowhere.yaml")


def test_importing_the_configuration_does_not_import_tensorflow():
    code = "import sys, urnet_tf.config, urnet_tf.store, urnet_tf.schema; print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_preset_is_the_default_of_what_is_not_set():
    best, sound, paper = (load_config(None, [f"preset={name}"]) for name in ("best", "sound", "paper"))
    assert best == Config()
    assert best.train.fit.loss.logit_adjustment == 1.0 and not best.reweight.class_weight.enabled
    assert sound.train.fit.loss.logit_adjustment == 0.0 and sound.reweight.class_weight.enabled
    assert (paper.reweight.formulas, sound.reweight.formulas) == ("literal", "repaired")
    own = load_config(None, ["preset=sound", "train.fit.mixup=0.2", "reweight.rounds=2"])
    assert own.train.fit.mixup == 0.2 and own.reweight.rounds == 2
    assert own.train.fit.loss == sound.train.fit.loss
    assert from_dict(to_dict(own)) == own


def test_setting_one_value_of_a_section_keeps_the_defaults_of_the_others():
    changed = load_config(None, ["train.fit.epochs=5", "train.fit.loss.gce_q=0.4"]).train.fit
    assert changed.mixup == Config().train.fit.mixup is not None
    assert changed.loss.logit_adjustment == Config().train.fit.loss.logit_adjustment == 1.0


def test_best_trains_whole_networks_plainly():
    frozen = load_config()
    whole = load_config(None, ["model.mode=finetune", "baseline.networks=full"])
    assert whole.reweight.class_weight.enabled and whole.train.fit.mixup is None
    assert whole.train.fit.loss.logit_adjustment == 0.0 and whole.reweight.page_text.enabled
    assert has_second_round(frozen) and not has_second_round(whole)
    full_twice = ["model.mode=finetune", "baseline.networks=full", "reweight.rounds=2"]
    assert has_second_round(load_config(None, full_twice))
    assert not has_second_round(load_config(None, ["baseline.folds=1"]))
    assert load_config(None, ["model.mode=finetune", "train.fit.mixup=0.2"]).train.fit.mixup == 0.2


def test_who_judges_the_labels_of_whole_networks():
    def load(*overrides):
        return load_config(None, ["model.mode=finetune", *overrides])

    assert judges_features(load_config()) and judges_features(load())
    assert not judges_features(load("model.weights=null")), "random features tell nothing"
    assert judges_features(load("model.weights=null", "baseline.networks=frozen"))
    assert not judges_features(load("preset=paper"))
    assert has_second_round(load()) and not load().reweight.class_weight.enabled
    assert (
        load().train.bag.loss_weight == 0.0 and load("train.bag.loss_weight=1").train.bag.loss_weight == 1.0
    )
    assert [starts_from(load(*o)) for o in ((), ("model.weights=null",), ("train.init=pretrained",))] == [
        "fitted", "pretrained", "pretrained",
    ]  # fmt: skip
    for override, message in (
        ("train.init=baseline", "Expected baseline.networks=full with train.init=baseline; received frozen"),
        ("train.unfreeze=half", "all, last_stage or blocks:n"),
        ("train.unfreeze=blocks:0", "all, last_stage or blocks:n"),
    ):
        with pytest.raises(UsageError, match=message):
            load(override)
    with pytest.raises(UsageError, match="Expected baseline.networks=frozen with train.init=fitted"):
        load("train.init=fitted", "baseline.networks=full")


def test_an_unknown_preset_is_named():
    with pytest.raises(UsageError, match="preset.*'bst'"):
        load_config(None, ["preset=bst"])
