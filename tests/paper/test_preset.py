"""`preset: paper` and paper.yaml are what Sections 4 and 5 say; other presets are as they were measured."""

import pathlib

import pytest

from urnet_tf.config import count_members, file, has_second_round, load_config, select
from urnet_tf.stages.effects import resolve

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "configs"
PAPERS = ("paper", "paper_small", "paper_webvision", "paper_mini_webvision")

# setting → (what the paper says, what sound and best have)
LITERAL = {
    "ingest.max_rank_per": ("class", "query"),
    "baseline.folds": (1, 4),
    "reweight.formulas": ("literal", "repaired"),
    "reweight.class_weight.alpha": (0.5, 1.0),
    "reweight.cluster_weight.kind": ("size", "purity"),
    "reweight.cluster_weight.clusters": (5, 5),
    "reweight.cluster_weight.neighbors": (4, 4),
    "reweight.cluster_weight.confusion": ("row", "both"),
    "reweight.cluster_weight.normalize": (False, True),
    "reweight.cluster_weight.pca_dim": (None, 32),
    "reweight.confidence.network": ("two_sided", "linear"),
    "reweight.confidence.normalize": (False, True),
    "reweight.confidence.loss": ("pairwise", "contrastive"),
    "reweight.confidence.negatives": ("once", "each_step"),
    "reweight.confidence.top_rank": (30, 30),
    "reweight.confidence.source": ("google", "google"),
    "reweight.soft_label.beta": (0.8, 0.8),
    "reweight.combine.unit_mean": (False, False),
    "baseline.networks": ("full", "frozen"),
    "train.init": ("baseline_with_classifier", "fitted"),
    "train.bag.size": (3, 3),
    "train.bag.loss_weight": (1.0, 1.0),
    "train.bag.target": ("label", "mean"),
    "train.bag.weighted": (False, True),
    "evaluate.crops": ("10", "1"),
    "evaluate.scales": ((1.0, 1.15, 1.3), (1.0,)),
}
# In the paper and in sound, and otherwise in best.
STEPS = {
    "reweight.rounds": 1, "reweight.label_posterior.enabled": False,
    "reweight.page_text.enabled": False, "reweight.rank_prior.enabled": False,
    "reweight.other_score.enabled": False, "reweight.zero_shot.enabled": False,
    "reweight.page_fit.enabled": False,
    "reweight.soft_label.kind": "predicted", "reweight.soft_label.enabled": True,
    "reweight.class_weight.enabled": True, "reweight.cluster_weight.enabled": True,
    "reweight.confidence.enabled": True, "train.head": "trained",
    "train.fit.mixup": None, "train.fit.loss.logit_adjustment": 0.0, "train.fit.loss.kind": "cross_entropy",
    "train.fit.label_smoothing": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("key", LITERAL)
def test_the_preset_is_literal_and_the_others_as_measured(key, mode):
    paper, others = LITERAL[key]
    assert resolve(load_config(None, ["preset=paper", f"model.mode={mode}"]), key) == paper
    for preset in ("sound", "best"):
        if (preset, mode, key) == ("best", "finetune", "train.bag.loss_weight"):
            others = 0.0
        assert resolve(load_config(None, [f"preset={preset}", f"model.mode={mode}"]), key) == others


@pytest.mark.parametrize("preset", ["paper", "sound"])
@pytest.mark.parametrize("key", STEPS)
def test_steps_that_are_not_in_the_paper_are_off(preset, key):
    config = load_config(None, [f"preset={preset}"])
    assert resolve(config, key) == STEPS[key]
    assert not has_second_round(config)


@pytest.mark.parametrize("name", PAPERS)
def test_the_configurations_hold_the_whole_paper(name):
    assert file.packaged()[name] == CONFIGS / f"{name}.yaml"
    config = load_config(name)
    assert config.preset == "paper" and config.model.mode == "finetune"
    for key, (paper, _) in LITERAL.items():
        assert resolve(config, key) == paper, key
    for key, value in STEPS.items():
        assert resolve(config, key) == value, key
    google_alone = name == "paper_mini_webvision"
    assert config.ingest.max_rank == ({} if google_alone else {"flickr": 15})
    small = name == "paper_small"
    assert count_members(config) == (3 if small else 29) and config.evaluate.ensemble == "urnets"
    assert select(config, "model.resnext_depth") == (26 if small else 101)


def test_literal_formulas_alone_have_the_papers_constants():
    config = load_config(None, ["preset=sound", "reweight.formulas=literal"])
    assert resolve(config, "reweight.class_weight.alpha") == 0.5
    assert resolve(config, "reweight.cluster_weight.kind") == "size"
    assert resolve(config, "reweight.confidence.loss") == "pairwise"
