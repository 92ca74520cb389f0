"""Messages name arguments in backticks, and the configuration's keys where a stage says so."""

import pytest

from urnet_tf.config import Config, from_dict
from urnet_tf.errors import RunError, UsageError, settings_named
from urnet_tf.stages.settings import fingerprint_weights, keys_of

KEYS = {"learning_rate": "train.fit.learning_rate", "clip_norm": "train.fit.clip_norm"}


@pytest.mark.parametrize("kind", [UsageError, RunError])
def test_arguments_become_keys_and_other_words_stay(kind):
    message = "Try a lower `learning_rate` (a learning_rate of 3), `clip_norm=1` or `urnet run`; not `ema`."
    with pytest.raises(kind) as caught, settings_named(KEYS):
        raise kind(message)
    assert str(caught.value) == (
        "Try a lower train.fit.learning_rate (a learning_rate of 3), train.fit.clip_norm=1 or `urnet run`; "
        "not `ema`."
    )


def test_the_first_name_stays():
    with pytest.raises(UsageError) as caught, settings_named({"train.fit.clip_norm": "x", "clip_norm": "y"}):
        with settings_named(KEYS):
            raise UsageError("Set `clip_norm`.")
    assert str(caught.value) == "Set train.fit.clip_norm."


def test_other_errors_and_no_error_pass():
    with settings_named(KEYS):
        pass
    with pytest.raises(KeyError, match="clip_norm"), settings_named(KEYS):
        raise KeyError("`clip_norm`")


def test_keys_are_those_of_a_section():
    assert keys_of(Config(), "train.fit")["clip_norm"] == "train.fit.clip_norm"


def test_advice_about_a_network_can_be_copied():
    config = from_dict({"model": {"backbone": "resnext", "weights": "imagenet"}})
    with pytest.raises(UsageError) as caught:
        fingerprint_weights(config)
    assert "set model.weights to a torchvision" in str(caught.value)
    assert "with --set model.resnext_width_per_group=8, say" in str(caught.value)
