"""Several URNets in stage `train`: what tells them apart, what is distilled from them, kills, and costs."""

import dataclasses
import itertools
import shutil

import keras
import numpy as np
import pytest
from urnet_fixtures.squares import CLASSES, TRAIN, run_stage as run, small_settings as settings

from urnet_tf import config as config_lib, store
from urnet_tf.stages import distillation, features, train
from urnet_tf.stages.members import member_config
from urnet_tf.stages.stage import PlanContext

MEMBERS = {"members": 2, "member_bag_sizes": [2], "distill": True, "bag": {"size": 3}}


def member_settings():
    tree = config_lib.to_dict(settings("frozen", 1, **MEMBERS))
    tree["train"]["fit"]["loss"]["logit_adjustment"] = 1.0
    return config_lib.from_dict(tree)


@pytest.mark.slow
def test_members_are_urnets_of_their_own_and_are_distilled_into_one(tiny, workdir, monkeypatch):
    config = member_settings()
    run(features, config, workdir)
    alone = dataclasses.replace(config, train=dataclasses.replace(config.train, members=1))
    before = run(train, alone, workdir)
    out = workdir / "train"
    one = {path.name: path.read_bytes() for path in written(workdir)}
    one_saliency = np.array(store.read_array(out / "saliency.npy"))
    assert sorted(one) == [
        "attention.npy", "history.json", "instance.keras", "saliency.npy", "urnet.keras", "weights.parquet",
    ]  # fmt: skip
    told = run(train, config, workdir)
    whole = {path.relative_to(workdir): path.read_bytes() for path in written(workdir)}
    _check_members(out, told, one_saliency)
    _check_distilled(out, workdir / "features" / "features.npy")
    assert not store.Workdir(workdir).find_damage("train", full=True)
    # The first member is the URNet without others.
    for name in ("urnet.keras", "instance.keras", "history.json", "attention.npy"):
        assert (out / name).read_bytes() == one[name]
    assert {key: told[key] for key in ("steps", "loss")} == {key: before[key] for key in ("steps", "loss")}
    _check_kills(config, workdir, monkeypatch, whole)


def _check_members(out, told, one_saliency):
    assert [member["bag_size"] for member in told["members"]] == [3, 2]
    assert len({member["seed"] for member in told["members"]}) == 2
    kernels = [keras.saving.load_model(path).get_weights()[0] for path in out.rglob("instance.keras")]
    assert len(kernels) == 3  # with the distilled one
    for one, other in itertools.combinations(kernels, 2):
        assert np.abs(one - other).max() > 1e-3
    each = [one_saliency, np.load(out / "member1" / "saliency.npy")]
    np.testing.assert_allclose(np.load(out / "saliency.npy"), np.mean(each, axis=0), rtol=1e-6)
    left = {path.name for path in (out / "member1").iterdir()}
    assert left == {"urnet.keras", "instance.keras", "history.json", "saliency.npy"}


def _check_distilled(out, features):
    columns = np.asarray(store.read_array(features), np.float32)[:TRAIN]
    student, *members = [
        keras.ops.softmax(keras.saving.load_model(out / place / "instance.keras")(columns)).numpy()
        for place in ("distilled", "", "member1")
    ]
    mean = np.mean(members, axis=0)
    ids, soft = (np.load(out / "distilled" / f"target_{name}.npy") for name in ("ids", "probs"))
    assert ids.shape == (TRAIN, CLASSES)
    np.testing.assert_allclose(soft, np.take_along_axis(mean, ids, axis=1), atol=1e-5)
    assert np.abs(student - mean).mean() < 0.05 and (student.argmax(1) == mean.argmax(1)).mean() > 0.9
    assert {path.name for path in (out / "distilled").iterdir()} == {
        "urnet.keras", "instance.keras", "history.json", "target_ids.npy", "target_probs.npy",
    }  # fmt: skip


def _check_kills(config, workdir, monkeypatch, whole):
    """A kill loses the member in hand at most, and in the end all bytes are the same."""
    from urnet_tf.training import saving

    written_models, kills, saved = [], iter([1, 3]), saving.save_model
    at = [next(kills)]

    def killed(model, path):
        if path.name == "urnet.keras":
            written_models.append(path.parent.name)
            if len(written_models) == at[0] + 1:
                at[0] = next(kills, None) or 99
                raise KeyboardInterrupt
        saved(model, path)

    shutil.rmtree(workdir / "train")
    monkeypatch.setattr(saving, "save_model", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(train, config, workdir)
    run(train, config, workdir)
    assert written_models == ["train.partial", "member1", "member1", "distilled", "distilled"]
    assert {path.relative_to(workdir): path.read_bytes() for path in written(workdir)} == whole


def written(workdir):
    """Files of stage train that two runs have in common."""
    skipped = (store.MARKER, "key.txt")
    files = [path for path in (workdir / "train").rglob("*") if path.is_file() and path.name not in skipped]
    return [path for path in files if "tensorboard" not in path.parts]


def test_bag_sizes_are_taken_in_turn_after_the_first_member():
    config = settings("frozen", 1, members=5, member_bag_sizes=[2, 4], bag={"size": 3})
    members = [member_config(config, number) for number in range(5)]
    assert [member.train.bag.size for member in members] == [3, 2, 4, 2, 4]
    assert members[0] == config and len({member.seed for member in members}) == 5
    same = member_config(settings("frozen", 1, members=5, bag={"size": 3}), 4)
    assert same.train.bag.size == 3 and same.seed == members[4].seed


def test_what_is_for_wrong_labels_is_not_applied_to_the_ensembles_probabilities():
    """Logit adjustment is in them already; a bag's target must be their mean, not its label."""
    tree = config_lib.to_dict(settings("frozen", 1, members=2, distill=True, bag={"target": "label"}))
    tree["train"]["fit"] |= {"label_smoothing": 0.1, "loss": {"kind": "gce", "logit_adjustment": 1.0}}
    config = config_lib.from_dict(tree)
    student = distillation._student_config(config)
    assert student.train.fit.loss == config_lib.LossConfig() and student.train.fit.label_smoothing == 0
    assert student.train.bag.target == "mean" and student.seed != config.seed
    assert student.train.fit.epochs == config.train.fit.epochs


def test_the_plan_counts_every_member(workdir):
    plan = PlanContext(1000, 800, 10, cores=2)
    for mode in ("frozen", "finetune"):
        one = train.estimate(settings(mode, 4), plan)
        many = train.estimate(settings(mode, 4, members=29), plan)
        taught = train.estimate(settings(mode, 4, members=29, distill=True), plan)
        assert (
            many.seconds - 10 == pytest.approx(29 * (one.seconds - 10))
            and many.memory_bytes == one.memory_bytes
        )
        assert many.disk_bytes == 29 * one.disk_bytes and many.note.startswith("29 members; ")
        assert taught.seconds > many.seconds and taught.disk_bytes > many.disk_bytes
    fitted = [train.estimate(settings("frozen", 4, head="logistic", members=n), plan) for n in (1, 29)]
    assert fitted[0] == fitted[1], "a fitted head is the same for every seed"
