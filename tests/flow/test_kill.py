"""Kill the whole flow at random moments, start the same command again, and get the same bytes in the end.

A chain is one work directory and one command, killed again and again until all is done. What is hit is
the whole process group, as by a machine that is switched off (SIGKILL), a scheduler (SIGTERM) or Ctrl-C
(SIGINT). Each stage is aimed at in turn, at a random share of the seconds that it takes undisturbed; a
part of the kills fall into the start of the program, before any stage. When more kills are wanted than one
chain takes, another begins. $URNET_KILLS and $URNET_SEED say how many and which.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from urnet_tf import store
from urnet_tf.stages import NAMES

# Whether a program that is asked to stop says so in one sentence and exits as shells expect (128 + signal).
STOPS_ARE_TOLD = True
START = "start"  # where kills hit that come before the first stage
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS_PER_STAGE = 3  # that one chain aims at each stage
STARTING_SHARE = 0.1  # of the kills
LONGEST_STOP_S = 60  # after SIGTERM or SIGINT: one call into TensorFlow may take seconds to come back
SILENT_S = 0.5  # of computing; until then the interpreter is starting, and no handler of ours is there yet
# Often, but a checkpoint a step would cost more than the steps.
CHECKPOINTS = ("--set=baseline.fit.checkpoint_s=0.2", "--set=train.fit.checkpoint_s=0.2")


@dataclasses.dataclass(frozen=True)
class Kill:
    """What to hit, when and with what."""

    aim: str  # a stage, or START
    wait_s: float  # after the stage says that it runs, or of computing after the process was started
    signal: signal.Signals


@dataclasses.dataclass(frozen=True)
class Hit:
    """What became of a kill; `stage` None: the run had ended before."""

    kill: Kill
    stage: str | None
    returncode: int
    stop_s: float  # from the signal to the end of the process
    log: str


def draw_kill(rng: np.random.Generator, aim: str, seconds: dict[str, float]) -> Kill:
    """A kill at a random moment of a stage, or of the start."""
    wait = rng.uniform(0.1, 0.8) if aim == START else rng.uniform(0.0, 1.0) * seconds[aim]
    return Kill(aim, round(float(wait), 3), SIGNALS[rng.integers(len(SIGNALS))])


def announced(log: str) -> list[str]:
    """The stages that a log says to have been started, in order; the last one may still be at work."""
    return re.findall(r"\] (\w+): (?!complete)(?!done)", log)


def hear_interrupts():
    """Undoes what shells do to commands in the background, which Ctrl-C shall not reach."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def used_seconds(pid: int) -> float:
    """What a process has computed, which other work on this machine does not change as it does its age."""
    with contextlib.suppress(OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def run_and_kill(command: dict, kill: Kill, log_path: pathlib.Path) -> Hit:
    """Runs a command until the moment of a kill, and kills its process group."""
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            **command, stdout=log, stderr=log, start_new_session=True, preexec_fn=hear_interrupts
        )
    waits_until = None
    try:
        while process.poll() is None:
            if kill.aim == START and used_seconds(process.pid) >= kill.wait_s:
                break
            if waits_until is None and kill.aim in announced(log_path.read_text("utf-8")):
                waits_until = time.monotonic() + kill.wait_s
            if waits_until is not None and time.monotonic() >= waits_until:
                break
            time.sleep(0.005)
        running, hit_at = process.poll() is None, time.monotonic()
        if running:
            os.killpg(process.pid, kill.signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_STOP_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log_path.read_text("utf-8")
    stop_s = time.monotonic() - hit_at
    # A run that has ended but for its last words may end well.
    stage = None if not running or text.count("\nResults: ") else (announced(text) or [START])[-1]
    return Hit(kill, stage, process.returncode, stop_s, text)


def check_exit(hit: Hit) -> None:
    """Whether a killed process ended as it should; raises AssertionError."""
    told = f"{hit.kill}: exit {hit.returncode}\n{hit.log[-3000:]}"
    by_signal = hit.returncode == -hit.kill.signal
    if hit.kill.signal == signal.SIGKILL:
        assert by_signal, told
        return
    if not STOPS_ARE_TOLD:
        assert hit.returncode in (-hit.kill.signal, 128 + hit.kill.signal, 1), told
        return
    if hit.kill.aim == START and hit.kill.wait_s < SILENT_S and "/urnet_tf/" not in hit.log:
        if by_signal or hit.log.endswith("\nKeyboardInterrupt\n"):  # of the interpreter itself
            return
    assert hit.returncode == 128 + hit.kill.signal, told
    lines = hit.log.splitlines()
    assert [line for line in lines if line.startswith("urnet: ")] == lines[-1:], told
    assert "Traceback" not in hit.log, told


class Chain:
    """One work directory whose run is killed until it is complete, and what was hit."""

    def __init__(self, command, workdir, seconds, rng):
        self.command, self.workdir, self.seconds, self.rng = command, workdir, seconds, rng
        self.hits, self._kept = [], {}

    def kill(self, aim: str) -> None:
        """One kill aimed at a stage, or at START."""
        log = self.workdir.with_name(f"{self.workdir.name}_kill{len(self.hits)}.log")
        kill = draw_kill(self.rng, aim, self.seconds)
        hit = run_and_kill(self.command, kill, log)
        self.hits.append(hit)
        if hit.stage is not None:
            check_exit(hit)
        else:  # too late; a signal that is swallowed is none that came too late
            told = f"{hit.kill}: exit {hit.returncode} after {hit.stop_s} s\n{hit.log[-3000:]}"
            by_signal = -kill.signal if kill.signal == signal.SIGKILL else 128 + kill.signal
            ends = (0, by_signal) if "\nResults: " in hit.log else (0,)
            assert hit.returncode in ends and hit.stop_s < 2.0, told
        for unit in self.workdir.glob("*.partial/units_*/*.json"):
            self._kept.setdefault(unit, stamp(unit))

    def is_complete(self, stage: str) -> bool:
        return (self.workdir / stage / store.MARKER).exists()

    def kill_all_stages(self, most: int) -> None:
        """Aims at the start and then at every stage in turn, up to so many kills."""
        aims = [name for name in NAMES for _ in range(KILLS_PER_STAGE)]
        self.kill(START)
        while len(self.hits) < most:
            if self.rng.random() < STARTING_SHARE:
                self.kill(START)
                continue
            # An earlier one was too late for its aim, so the stage is complete and cannot be hit any more.
            while aims and self.is_complete(aims[0]):
                aims.pop(0)
            if not aims:
                return
            self.kill(aims.pop(0))

    def finish(self) -> str:
        """Runs undisturbed to the end; returns what it said."""
        done = subprocess.run(**self.command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        for unit, written in self._kept.items():
            path = self.workdir / unit.parent.parent.stem / unit.parent.name / unit.name
            assert stamp(path) in (written, None), f"{path} was done twice"  # some are removed at the end
        return done.stderr


def stamp(path):
    """Changes whenever a file is written anew; None where there is none."""
    try:
        return path.stat().st_mtime_ns, path.stat().st_ino
    except FileNotFoundError:
        return None


def summary(hits) -> str:
    """Kills by stage and by signal, and the longest wait for an end, as one line."""
    found = collections.Counter(hit.stage or "ended before" for hit in hits)
    stages = ", ".join(f"{name} {found[name]}" for name in (START, *NAMES, "ended before") if found[name])
    signals = collections.Counter(hit.kill.signal.name for hit in hits if hit.stage)
    slowest = max((hit.stop_s for hit in hits if hit.stage), default=0.0)
    return (
        f"{sum(signals.values())} kills hit: {stages}; {dict(sorted(signals.items()))}; "
        f"the slowest ended after {slowest:.1f} s"
    )


# ------------------------------------------------------------------------------ what has to be equal

# Two undisturbed runs differ in this and in nothing else. Each is cut out; the rest of the file counts.
VOLATILE_FACTS = (
    "seconds", "peak_memory_bytes", "planned",  # of the run
    "created",  # when an export was made
    "latency_ms",  # measured for each file of an export
    "files", "digest",  # times and hashes of the files of a stage, which are compared themselves
)  # fmt: skip
# Of the stages that hold dates: the length of saved_model.pb, see below, a hash over their files, and that
# hash again where the report says which export it was made from.
DATED_STAGES, DATED_FACTS = ("export/", "report/"), ("bytes", "results", "export")
VOLATILE_TEXT = (
    (r"export/[^/]+/\d+/README\.md", rb"Exported \S+ with|[0-9.]+ ms \|"),  # the same two, in the model card
    (r"report/index\.html", rb"[0-9.]+ ms<"),
    # The names of a SavedModel's functions end with a number that counts all functions of the process, so
    # that an export differs from one by a process that also trained. Its fingerprint hashes its program
    # without these numbers, its signatures, objects and weights: these hashes must be equal in its stead.
    (r"export/[^/]+/\d+/saved_model\.pb", rb"(?s).+"),
    # The first field hashes the very bytes of saved_model.pb; the last one (tag, length, digits) is a UUID.
    (r"export/[^/]+/\d+/fingerprint\.pb", rb"^\x08[\x80-\xff]*[\x00-\x7f]|:[\x01-\x28][0-9]+$"),
)
VOLATILE_JSON = r"\w+/done\.json|export/[^/]+/\d+/(export|assets/model)\.json"


def contents(workdir: pathlib.Path) -> dict[str, bytes]:
    """Relative path → bytes of all files that must be equal, without what is volatile.

    TensorBoard's events are left out: each start writes a file that is named after time and process.
    """
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir)
        # A key names the results that its stage was made from, dated exports among them.
        if not path.is_dir() and "tensorboard" not in name.parts and path.name != "key.txt":
            found[name.as_posix()] = without_volatile(name.as_posix(), path.read_bytes())
    return found


def without_volatile(name: str, data: bytes) -> bytes:
    """The bytes of a file without what may differ between two runs."""
    for pattern, volatile in VOLATILE_TEXT:
        if re.fullmatch(pattern, name):
            data = re.sub(volatile, b"", data)
    if re.fullmatch(VOLATILE_JSON, name):
        left_out = VOLATILE_FACTS + (DATED_FACTS if name.startswith(DATED_STAGES) else ())

        def steady(metadata):
            return {key: value for key, value in metadata.items() if key not in left_out}

        data = json.dumps(json.loads(data, object_hook=steady)).encode()
    return data


def assert_equal(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Tells the names of the files that differ, not their bytes."""
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_what_is_volatile_is_cut_out_and_nothing_else():
    cases = (  # name, one run, the same in another, something else
        ("ingest/done.json", b'{"seconds": 1, "metadata": {"n": 3}}', b'{"seconds": 2, "metadata": {"n": 3}}',
         b'{"seconds": 1, "metadata": {"n": 4}}'),
        ("export/urnet/1/README.md", b"Exported 2020 with x | 1.2 ms |", b"Exported 2021 with x | 33 ms |",
         b"Exported 2020 with y | 1.2 ms |"),
        ("export/urnet/1/fingerprint.pb", b"\x08\x87\x07\x10\x01:\x05" b"12345",
         b"\x08\x07\x10\x01:\x04" b"7777", b"\x08\x07\x10\x02:\x05" b"12345"),
        ("pack/images-00000.arrayrecord", b"1.0 ms |", b"1.0 ms |", b"2.0 ms |"),
    )  # fmt: skip
    for name, one, same, other in cases:
        first, second, third = (without_volatile(name, data) for data in (one, same, other))
        assert first == second != third, name


# ----------------------------------------------------------------------------------------- the tests


def test_a_run_killed_six_times_ends_with_the_same_bytes(
    drawn_crawl, finished_run, urnet_command, small_run, tmp_path, record_property
):
    # How often checkpoints are written does not change results; the slow test looks at whole exports. Here
    # the real network also becomes a file for phones.
    workdir = tmp_path / "killed"
    command = urnet_command(
        "run", "--data", drawn_crawl, "--workdir", workdir, *small_run, *CHECKPOINTS,
        "--set=export.formats=[tflite_float32]",
    )  # fmt: skip
    undisturbed = store.Workdir(finished_run[0])
    seconds = {name: undisturbed.marker(name)["seconds"] for name in NAMES}
    chain = Chain(command, workdir, seconds, np.random.default_rng(int(os.environ.get("URNET_SEED", 0))))
    for aim in (START, START, "ingest", "ingest", "baseline", "report"):  # the cheapest to come to
        later = NAMES[NAMES.index(aim) :] if aim in NAMES else [START]
        chain.kill(next(stage for stage in later if not chain.is_complete(stage)))
    record_property("summary", summary(chain.hits))
    assert sum(hit.stage is not None for hit in chain.hits) >= 5, summary(chain.hits)
    chain.finish()
    assert (workdir / "export" / "urnet" / "1" / "urnet_float32.tflite").stat().st_size > 1_000_000
    # Other settings: other keys, exports and what the report says of them.
    left_out = ("config.yaml", "export/", "report/")
    comparable = [
        {
            name: data
            for name, data in contents(tree).items()
            if not name.startswith(left_out) and not name.endswith((store.MARKER, "/key.txt"))
        }
        for tree in (workdir, finished_run[0])
    ]
    assert_equal(*comparable)


@pytest.fixture(scope="module")
def small_crawl(tmp_path_factory):
    from urnet_tf.drawn.crawl import draw_crawl

    path = tmp_path_factory.mktemp("small") / "crawl"
    draw_crawl(path, images=150, num_classes=4, image_size_px=48, val_per_class=3, test_per_class=3)
    return path


@pytest.mark.slow
def test_kills_in_every_stage_lose_nothing(small_crawl, urnet_command, small_run, tmp_path, record_property):
    kills, seed = int(os.environ.get("URNET_KILLS", 60)), int(os.environ.get("URNET_SEED", 0))
    settings = (
        *small_run, *CHECKPOINTS, "--set=pack.images_per_shard=30", "--set=baseline.fit.epochs=5",
        "--set=train.fit.epochs=5", "--set=export.check_images=8", "--set=report.classes=2",
        "--set=export.formats=[saved_model,tflite_float32]",
    )  # fmt: skip

    def command(workdir):
        return urnet_command("run", "--data", small_crawl, "--workdir", workdir, *settings)

    undisturbed = tmp_path / "undisturbed"
    done = subprocess.run(**command(undisturbed), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = contents(undisturbed)
    seconds = {name: store.Workdir(undisturbed).marker(name)["seconds"] for name in NAMES}

    rng, hits, chains = np.random.default_rng(seed), [], 0
    while (left := kills - sum(hit.stage is not None for hit in hits)) > 0:
        chains += 1
        workdir = tmp_path / f"killed{chains}"
        chain = Chain(command(workdir), workdir, seconds, rng)
        try:
            chain.kill_all_stages(left)
            chain.finish()
            assert_equal(contents(workdir), expected)
        except AssertionError as error:
            drawn = "\n".join(f"  {hit.kill} hit {hit.stage}" for hit in chain.hits)
            raise AssertionError(f"chain {chains} of seed {seed}, {workdir}:\n{drawn}\n{error}") from error
        hits += chain.hits
        print(f"chain {chains}: {summary(chain.hits)}", flush=True)
    record_property("summary", f"{summary(hits)}; {chains} chains, seed {seed}")
    if kills >= 6 * len(NAMES):
        assert {hit.stage for hit in hits} >= {START, *NAMES}, summary(hits)
        assert any("continues at step" in hit.log for hit in hits), "no fit went on from a checkpoint"
