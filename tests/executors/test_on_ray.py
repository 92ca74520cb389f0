"""The executor ray: what it says where there is no cluster, and a cluster of several nodes that loses some.

The nodes are processes of this machine (`ray.cluster_utils.Cluster`), each with a core. One is killed as by
a machine that is switched off, in the middle of each stage that uses the cluster.
"""

import functools
import importlib.util
import os
import pathlib
import socket
import sys

import pytest
from urnet_fixtures import units

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.executors import InProcess, Job, open_executor

TESTS = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = (
    "pack.short_side_px=64", "pack.images_per_shard=50", "model.image_size_px=64", "model.weights=null",
    "baseline.folds=2", "report.classes=4", "reweight.cluster_weight.enabled=true",
)  # fmt: skip
# What merges units of these loops, and after how many units a node dies.
DEATHS = {"units_files": 3, "units_pack": 4, "units_features": 4, "units_cluster": 3}


def need_ray():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'urnet_tf[ray]'")


def open_ray(address="auto"):
    return open_executor("ray", workers=1, address=address)


# ----------------------------------------------------------------------------------- without a cluster


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"^The executor ray needs .* pip install 'urnet_tf\[ray\]', or"):
        open_ray()


def test_an_address_that_is_none_is_refused():
    need_ray()
    for address in ("ray://10.0.0.1", "nowhere", "10.0.0.1:port", ":6379"):
        with pytest.raises(UsageError, match="^Expected `address` to be HOST:PORT of a Ray cluster, or auto"):
            open_ray(address)


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    need_ray()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"^Expected a Ray cluster at {address}; none answers .*refused"):
            open_ray(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match=f"^Expected a Ray cluster at {address}"):
            open_ray()


def test_a_run_asks_for_the_cluster_before_it_begins(tmp_path, urnet_here):
    need_ray()
    (tmp_path / "crawl" / "lion").mkdir(parents=True)
    (tmp_path / "crawl" / "lion" / "1.jpg").touch()
    flags = "--data", tmp_path / "crawl", "--workdir", tmp_path / "run", "--executor", "ray"
    done = urnet_here("run", *flags, "--address", "127.0.0.1:1")
    assert done.returncode == 2 and done.stderr.startswith("urnet: Expected a Ray cluster at 127.0.0.1:1")
    assert not (tmp_path / "run").exists()
    done = urnet_here("run", *flags, "--address", "nowhere")
    assert "Expected runtime.address to be HOST:PORT" in done.stderr
    done = urnet_here("run", *flags[:-2], "--address", "127.0.0.1:1", "--dry_run")
    assert done.returncode == 0 and "runtime.executor=ray" in done.stderr, "an address that has no effect"


# --------------------------------------------------------------------------------------- with a cluster


class Nodes:
    """A cluster whose head does no units; a node that dies is replaced."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.workers = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.deaths = []

    def kill_one(self, why):
        self.deaths.append(why)
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)
        self.workers.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def nodes():
    need_ray()
    import ray

    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)  # of the nodes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Nodes()
        yield found
        ray.shutdown()
        found.cluster.shutdown()


@pytest.fixture
def on_nodes(nodes):
    return open_ray(nodes.cluster.address)


@pytest.mark.slow
def test_nodes_write_the_bytes_of_one_process_although_one_dies(nodes, on_nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths may be relative
    alone, together = pathlib.Path("alone"), pathlib.Path("together")
    alone.mkdir()
    together.mkdir()
    expected = dict(InProcess().run(units.squares(alone), range(60)))
    found = {}
    for unit, facts in on_nodes.run(units.squares(together), range(60)):
        found[unit] = facts
        if len(found) == 20:
            nodes.kill_one("squares")
    assert sorted(found) == list(range(60)) and len({facts["opened"] for facts in found.values()}) >= 2
    for unit, facts in expected.items():
        assert found[unit]["hash"] == facts["hash"], unit
    assert {p.name: p.read_bytes() for p in alone.glob("*.txt")} == {
        p.name: p.read_bytes() for p in together.glob("*.txt")
    }


@pytest.mark.slow
def test_a_unit_whose_process_dies_is_done_again(on_nodes, tmp_path):
    job = Job(functools.partial(units.die, tmp_path, 2), "packs images")
    assert sorted(unit for unit, _ in on_nodes.run(job, range(6))) == list(range(6))
    assert len(list(tmp_path.glob("*.mark"))) == 2


@pytest.mark.slow
def test_a_process_with_a_gpu_opens_the_work_once(nodes, on_nodes, tmp_path):
    node = nodes.cluster.add_node(num_cpus=1, num_gpus=1)  # which Ray believes
    try:
        job = units.squares(tmp_path)._replace(gpus=1)
        found = [facts for _, facts in open_ray(nodes.cluster.address).run(job, range(6))]
        assert len({facts["opened"] for facts in found}) == 1
    finally:
        nodes.cluster.remove_node(node)


@pytest.mark.slow
def test_a_run_without_nodes_says_that_it_waits(nodes, on_nodes, tmp_path, monkeypatch):
    from urnet_tf.executors import on_ray

    monkeypatch.setattr(on_ray, "_SILENT_S", 0.5)
    job = units.squares(tmp_path)._replace(gpus=1)
    running = on_nodes.run(job, range(2))
    added = []

    def comes(*arguments):
        if not added:
            added.append(nodes.cluster.add_node(num_cpus=1, num_gpus=1))

    monkeypatch.setattr(on_ray.logging, "warning", comes)
    assert sorted(unit for unit, _ in running) == [0, 1] and added
    nodes.cluster.remove_node(added[0])


@pytest.mark.slow
def test_a_unit_that_fails_for_good_is_one_sentence(on_nodes, tmp_path):
    job = Job(functools.partial(units.die, tmp_path, 99), "packs images")
    with pytest.raises(RunError, match="^A node or process that packs images died 6 times at the same unit"):
        list(on_nodes.run(job, range(6)))
    failing = functools.partial(units.fail_first, tmp_path / "no", OSError(5, "Input/output error"), 99)
    (tmp_path / "no").mkdir()
    with pytest.raises(RunError, match=r"^A node that packs images failed 6 times .*Input/output error\. "):
        list(on_nodes.run(Job(failing, "packs images"), range(1)))
    for name, times in (("twice", 2),):
        (tmp_path / name).mkdir()
        failing = functools.partial(
            units.fail_first, tmp_path / name, OSError(5, "Input/output error"), times
        )
        assert list(on_nodes.run(Job(failing, "packs images"), range(1))) == [(0, 0)]
    with pytest.raises(UsageError, match=r"^Expected another unit\.$"):
        list(on_nodes.run(Job(functools.partial(units.refuse, units.REFUSED), "packs images"), range(4)))


@pytest.mark.slow
def test_a_node_that_lacks_the_storage_is_told(on_nodes, tmp_path, monkeypatch):
    from urnet_tf.executors import worker

    monkeypatch.setattr(worker, "_SHOWN_AFTER_S", 0.1)  # here, not on the nodes
    elsewhere = units.squares(tmp_path)._replace(shared=(tmp_path, "/no/such/share"))
    with pytest.raises(UsageError, match="^Expected /no/such/share on storage that all nodes share"):
        list(on_nodes.run(elsewhere, range(2)))


def hashes_of(root):
    workdir = store.Workdir(root)
    from urnet_tf.commands.noise import stages_of_noise

    markers = {stage: workdir.marker(stage) for stage in stages_of_noise()}
    return {
        stage: (marker["key"], {name: entry["hash"] for name, entry in marker["files"].items()})
        for stage, marker in markers.items()
        if stage != "report"  # which tells times
    }


@pytest.fixture
def run_noise(drawn_crawl, tmp_path, monkeypatch):
    """Runs all stages but training on a crawl; small units, so that there are many."""
    from urnet_tf.commands.noise import stages_of_noise
    from urnet_tf.evaluation import inference
    from urnet_tf.flow import plan, runner
    from urnet_tf.stages import crawl_files

    monkeypatch.setattr(crawl_files, "FILES_PER_UNIT", 64)
    monkeypatch.setattr(inference, "_UNIT_ROWS", 64)

    def run(name, *settings):
        config = load_config(None, [*SETTINGS, *settings, f"ingest.path={drawn_crawl}"])
        workdir = store.Workdir(tmp_path / name)
        runner.run(config, workdir, plan.make_plan(config, workdir, only=stages_of_noise()))
        return workdir.root

    return run


@pytest.fixture
def alone(run_noise):
    return hashes_of(run_noise("alone"))


@pytest.mark.slow
def test_a_run_that_loses_a_node_in_each_stage_gives_the_same_bytes(nodes, run_noise, alone, monkeypatch):
    complete, done = store.UnitLog.complete, {}

    def completes(log, unit, metadata=None):
        complete(log, unit, metadata)
        name = next((name for name in DEATHS if log.directory.name.startswith(name)), None)
        done[name] = done.get(name, 0) + 1
        if done[name] == DEATHS.get(name):
            assert log.pending(), "it dies in the middle"
            nodes.kill_one(name)

    nodes.deaths.clear()
    monkeypatch.setattr(store.UnitLog, "complete", completes)
    root = run_noise("together", "runtime.executor=ray", f"runtime.address={nodes.cluster.address}")
    assert nodes.deaths == list(DEATHS)
    assert hashes_of(root) == alone
    assert not list(root.rglob("units_*")), "what was for the nodes is gone"


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_run_that_was_killed_goes_on_with_any_executor(request, run_noise, alone, monkeypatch, executor):
    settings = [f"runtime.executor={executor}", "runtime.workers=2"]
    if executor == "ray":
        settings.append(f"runtime.address={request.getfixturevalue('nodes').cluster.address}")
    complete, done = store.UnitLog.complete, []

    def dies(log, unit, metadata=None):
        if log.directory.name.startswith("units_features"):
            done.append(unit)
            if len(done) == 4:
                raise KeyboardInterrupt
        complete(log, unit, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(store.UnitLog, "complete", dies)
        with pytest.raises(KeyboardInterrupt):
            run_noise("killed", *settings)
    log = next((run_noise("killed", "runtime.workers=1") / "features").glob("units_*"), None)
    assert (
        log is None and hashes_of(store.Workdir(request.getfixturevalue("tmp_path") / "killed").root) == alone
    )
