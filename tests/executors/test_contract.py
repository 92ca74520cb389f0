"""The contract of offline work, for the executors of this machine."""

import functools
import multiprocessing
import os
import pathlib
import time

import pytest
from urnet_fixtures import units

from urnet_tf import store
from urnet_tf.config import load_config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.executors import InProcess, Job, Processes, open_executor, worker
from urnet_tf.stages.stage import executor_of

COUNT = 12
DAMAGE = store.DamagedResult(pathlib.Path("run"), "pack", "x is missing")


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.txt"))}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return dict(InProcess().run(units.squares(folder), range(COUNT))), files_of(folder)


def test_one_process_takes_units_in_order_and_only_when_it_needs_them(tmp_path):
    taken = []

    def some():
        for unit in range(5):
            taken.append(unit)
            yield unit

    running = InProcess(3).run(Job(lambda cores: lambda unit: (unit, cores), "counts"), some())
    assert next(running) == (0, (0, 3)) and taken == [0]
    assert [unit for unit, _ in running] == [1, 2, 3, 4]


def test_processes_do_all_units_and_write_the_same_bytes(tmp_path, expected):
    facts = dict(Processes(2).run(units.squares(tmp_path), range(COUNT)))
    assert sorted(facts) == list(range(COUNT)) and files_of(tmp_path) == expected[1]
    for unit, found in facts.items():
        assert {**found, "opened": 0, "cores": 0} == {**expected[0][unit], "opened": 0, "cores": 0}
        store.check_part(tmp_path / f"part-{unit:06d}.txt", found)
    assert 1 <= len({found["opened"] for found in facts.values()}) <= 2, "each process opens the work once"
    assert not [found for found in facts.values() if found["opened"][0] == os.getpid()]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_unit_that_is_done_twice_gives_the_same_bytes(tmp_path, expected):
    for _ in range(2):
        list(InProcess().run(units.squares(tmp_path), [7, 3, 7]))
    assert files_of(tmp_path) == {name: expected[1][name] for name in ("part-000003.txt", "part-000007.txt")}


@pytest.mark.parametrize("executor", [InProcess(), Processes(1)], ids=["in process", "processes"])
@pytest.mark.parametrize("error", [units.REFUSED, DAMAGE, KeyError(3)], ids=type)
def test_an_error_of_the_work_arrives(executor, error):
    job = Job(functools.partial(units.refuse, error), "fails")
    with pytest.raises(type(error)) as caught:
        list(executor.run(job, range(4)))
    assert str(caught.value) == str(error)
    assert vars(caught.value).keys() == vars(error).keys()


def test_a_process_that_is_killed_is_one_clear_error(tmp_path):
    job = Job(functools.partial(units.die, tmp_path, 9), "packs images")
    with pytest.raises(RunError, match="^A process that packs images was killed.* fewer `workers`"):
        list(Processes(1).run(job, range(4)))


def test_giving_up_leaves_no_process_at_work():
    running = Processes(1).run(Job(functools.partial(units.wait, 0.05), "waits"), range(1000))
    next(running)
    running.close()
    end = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_the_setting_names_the_executor():
    def opened(*settings):
        return executor_of(load_config(None, [*settings, "runtime.workers=3"]))

    assert isinstance(opened(), InProcess) and isinstance(opened("runtime.executor=processes"), Processes)
    assert not opened().elsewhere and opened("runtime.executor=processes").elsewhere
    assert isinstance(open_executor("local", workers=1, address="auto"), InProcess)
    with pytest.raises(UsageError, match=r"runtime\.executor"):
        load_config(None, ["runtime.executor=slurm"])


# ------------------------------------------------------------------------------ what nodes must have


def test_a_ticket_is_good_where_the_storage_and_the_versions_are_the_same(tmp_path):
    ticket = worker.write_ticket("job", units.squares(tmp_path))
    ticket.check(0)
    assert {"urnet_tf", "python", "numpy", "tensorflow"} <= ticket.versions.keys()


def test_a_node_without_the_storage_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_node", lambda: "node-7")
    ticket = worker.write_ticket("job", units.squares(tmp_path))
    with pytest.raises(UsageError, match=f"^Expected {tmp_path} on storage that all nodes share.*node-7"):
        ticket._replace(name="another job").check(0)
    gone = ticket._replace(shared=(*ticket.shared, "/no/such/crawl"))
    with pytest.raises(UsageError, match="^Expected /no/such/crawl on storage"):
        gone.check(0)


def test_a_node_with_another_version_is_named(tmp_path):
    ticket = worker.write_ticket("job", units.squares(tmp_path))
    other = ticket._replace(versions={**ticket.versions, "numpy": "1.0"})
    with pytest.raises(UsageError, match=r"^Expected numpy 1\.0 on each node.*has 2\."):
        other.check(0)
