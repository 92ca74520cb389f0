"""The ablation script: its rows are valid settings, its table adds up. Running it takes minutes."""

import importlib.util
import pathlib

import pytest

from urnet_tf.config import Config, load_config

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_a_valid_configuration_and_changes_something(ablation):
    for name, overrides in ablation.ROWS.items():
        config = load_config(None, overrides or [])
        assert (config == Config()) == (name in ("baseline", "sound", "ladder_" + "+".join(ablation._STEPS)))


def test_the_ladder_switches_one_step_on_at_a_time(ablation):
    first = load_config(None, ablation.ROWS["ladder_class"]).reweight
    assert first.class_weight.enabled and not first.cluster_weight.enabled and not first.soft_label.enabled
    second = load_config(None, ablation.ROWS["ladder_class+cluster"]).reweight
    assert second.cluster_weight.enabled and not second.confidence.enabled


def test_the_table_by_hand(ablation):
    def row(top1, **more):
        return {"split": "test", "steps": 7, "balanced_top1": top1, "balanced_top5": 0.9, "ece": 0.0, **more}

    table = ablation._format(
        {
            "baseline": [row(0.5), row(0.6)],
            "sound": [row(0.6, effective_share=0.4), row(0.72, effective_share=0.6)],
        }
    )
    # 60 and 72: mean 66, sample deviation 8.49; differences 10 and 12: mean 11, deviation 1.41.
    assert "| sound | 66.00 ± 8.49 | 90.00 ± 0.00 | +11.00 ± 1.41 | +0.00 ± 0.00 | 0.50 |" in table
    assert "2 seeds, 7 steps" in table
