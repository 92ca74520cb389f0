import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from urnet_fixtures.cluster import REPOSITORY, run_together

from urnet_tf.errors import UsageError
from urnet_tf.store import machine as store_machine
from urnet_tf.training import fit as training, machines as machine_lib
from urnet_tf.training.machines import Machines


def test_one_machine_agrees_with_itself():
    alone = Machines(tf.distribute.get_strategy())
    assert (alone.count, alone.rank, alone.is_chief) == (1, 0, True)
    assert alone.tell("topic", {"step": 3}) == {"step": 3} and alone.all_alike("settings")
    arrays = {"a": np.arange(3)}
    assert alone.share(arrays) == arrays


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("worker 0 of 2", "Expected TF_CONFIG like"),
        (json.dumps({"cluster": {"worker": ["a:1"]}}), "Expected TF_CONFIG like"),
        (json.dumps([1]), "Expected TF_CONFIG like"),
        (
            json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}),
            r"one of its cluster \(worker 0, worker 1\).*received worker 2",
        ),
        (
            json.dumps({"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}),
            "received ps 0",
        ),
    ],
)
def test_what_names_no_machine_is_refused_at_once(monkeypatch, told, expected):
    monkeypatch.setenv("TF_CONFIG", told)
    with pytest.raises(UsageError, match=expected):
        machine_lib.open_cluster()


def test_without_machines_there_is_no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    with pytest.raises(UsageError, match="Expected TF_CONFIG, or a job of Slurm"):
        training.build_strategy("multi_worker")


def test_slurm_names_the_machines(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    step = {"NUM_TASKS": "3", "NODELIST": "gpu[07-08]", "TASKS_PER_NODE": "2,1"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    monkeypatch.setenv("SLURM_NTASKS", "3")
    monkeypatch.setenv("SLURM_PROCID", "2")
    resolver = machine_lib._resolve_slurm()
    workers = ["gpu07:8888", "gpu07:8889", "gpu08:8888"]
    assert resolver.cluster_spec().as_dict() == {"worker": workers}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)
    assert store_machine.count_machines() == 3


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}, 2),
        ({"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}}, 3),
        ({"cluster": {}}, 1),
        ("nothing", 1),
    ],
)
def test_a_plan_counts_the_machines_that_train(monkeypatch, told, expected):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    assert store_machine.count_machines() == expected


def test_an_error_of_ones_own_stays_what_it_is_on_one_machine():
    with pytest.raises(tf.errors.InternalError), Machines(tf.distribute.get_strategy()).watched():
        raise tf.errors.InternalError(None, None, "own")


PROGRAM = """
    import sys
    import urnet_tf
    import keras, numpy as np, tensorflow as tf
    from absl import logging
    from urnet_tf.errors import RunError
    from urnet_tf.feed.batches import FeatureBatches
    from urnet_tf.feed.sampling import BagSampler
    from urnet_tf.models.urnet import build_image_urnet
    from urnet_tf.training import fit as training
    from urnet_tf.training.machines import Machines

    kind, out, directory, steps = sys.argv[1:]
    logging.set_verbosity(logging.INFO)
    strategy = training.build_strategy(kind)
    machines = Machines(strategy)
    rng = np.random.default_rng(0)
    count, dim, classes, size = 90, 12, 5, 3
    labels = rng.integers(0, classes, count)
    x = rng.normal(size=(count, dim)).astype("float32")
    x[:, 0] += labels
    targets = np.stack([labels, rng.integers(0, classes, count)], 1), np.full((count, 2), 0.5, np.float32)
    weights = rng.uniform(0.5, 1.5, count).astype("float32")
    bags = BagSampler(np.arange(count), labels, size, 8, 0)
    data = FeatureBatches(x, bags, *targets, weights, bag=True)
    own = labels[:, None], np.ones((count, 1), np.float32)
    held = FeatureBatches(x[::-1].copy(), bags, *own, weights, bag=True)

    def train(data, normalized, directory=None, **options):
        with strategy.scope():
            features = keras.Input((dim,))
            initializer = keras.initializers.HeNormal(seed=1)
            body = keras.layers.Dense(8, use_bias=False, kernel_initializer=initializer)(features)
            if normalized:
                body = keras.layers.BatchNormalization(synchronized=True)(body)
            model = build_image_urnet(keras.Model(features, body, name="body"), classes, size, dropout=0.0)
        options = training.FitOptions(
            optimizer="sgd", learning_rate=0.1, clip_norm=1.0, **options
        )
        best = {} if directory is None else {
            "validation_data": held.one_pass(), "keep_best_of": 10**4  # a tiny standard error
        }
        history = training.fit_model(
            model, data, options, total_steps=int(steps), checkpoint_dir=directory, description="bags", **best
        )
        return [v.numpy() for v in model.variables], [list(row.values()) for row in history]

    class Rows:  # of somebody else, who knows nothing of parts
        steps_per_epoch = data.steps_per_epoch

        def dataset(self, start, stop):
            return data.dataset(start, stop)

    try:
        if machines.count > 1:
            assert machines.count == 2 and machines.is_chief == (machines.rank == 0)
            assert machines.tell("a", {"from": machines.rank}) == {"from": 0}
            assert machines.all_alike("x") and not machines.all_alike(str(machines.rank))
            shared = machines.share({"n": np.full(2, machines.rank + 7, np.uint8)})
            assert shared["n"].dtype == np.uint8 and (shared["n"] == 7).all()
            try:
                machines.tell("topics", machines.rank) if machines.is_chief else machines.tell("other ", 0)
                assert machines.is_chief
            except RunError as error:
                assert "'other ' and the first one at 'topics'" in str(error)
        results = [] if directory else [
            *train(data, normalized=False, accumulate_steps=2, ema=0.9, mixup=0.4),
            *train(Rows(), normalized=True, ema=0.9),
        ]
        results += train(data, normalized=True, directory=directory or None, mixup=0.4, checkpoint_s=0)
    except RunError as error:
        sys.exit(str(error))
    arrays = [value for result in results for value in result]
    np.savez(out, **{str(i): np.asarray(value) for i, value in enumerate(arrays)})
"""


def check_equal(tmp_path, names):
    alone, *others = (np.load(tmp_path / f"{name}.npz") for name in names)
    assert len(alone.files) > 10
    for other in others:
        for name in alone.files:
            np.testing.assert_allclose(other[name], alone[name], rtol=1e-4, atol=2e-6, err_msg=name)


def commands(tmp_path, kinds, directory="", steps=24):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    return [
        [sys.executable, str(program), kind, str(tmp_path / f"{name}.npz"), str(directory), str(steps)]
        for name, kind in kinds.items()
    ]


@pytest.mark.slow
def test_two_machines_train_as_one(tmp_path):
    (alone,) = commands(tmp_path, {"alone": "none"})
    subprocess.run(alone, check=True, cwd=REPOSITORY)
    kinds = {"chief": "multi_worker", "worker": "multi_worker"}
    ended = run_together(tmp_path, commands(tmp_path, kinds))
    assert ended.statuses == [0, 0], ended.logs
    check_equal(tmp_path, ["alone", *kinds])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_machine_ends_all_and_the_same_command_goes_on(tmp_path, victim):
    kinds, states = {"chief": "multi_worker", "worker": "multi_worker"}, tmp_path / "states"
    together = commands(tmp_path, kinds, states, steps=40)
    ended = run_together(tmp_path, together, kill=(victim, states / "checkpoint.npz"))
    left = 1 - victim
    assert ended.statuses[victim] == -9 and ended.statuses[left] not in (0, -9), ended
    if not victim:  # or the others may have been ended by TensorFlow itself, which watches the first
        return
    assert f"Machine {left + 1} of 2 lost another one" in ended.logs[left]
    step = json.loads(str(np.load(states / "checkpoint.npz")["state"]))["step"]
    assert 0 < step < 40
    again = run_together(tmp_path, together)
    assert again.statuses == [0, 0] and "continues at step" in again.logs[0], again.logs
    (alone,) = commands(tmp_path, {"alone": "none"}, tmp_path / "states of one", steps=40)
    subprocess.run(alone, check=True, cwd=REPOSITORY)
    check_equal(tmp_path, ["alone", *kinds])
