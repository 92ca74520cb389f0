"""The fuzzing loop, the damage that it does to bytes, and how each input may end.

$URNET_FUZZ is the number of inputs of all targets together (400 when it is not set), $URNET_SEED the first
seed. An input is drawn from its seed and its target alone, so one that fails can be made again; it is also
kept on disk, at the path that the failure tells.
"""

import collections
import importlib.util
import os
import pathlib
import shutil
import signal
import time
import traceback
import types

import numpy as np
import pytest

from urnet_tf.errors import RunError, UsageError

INPUTS = 400
LONGEST_MESSAGE = 400  # characters, without the paths of the input
LONGEST_S = 5  # for one input; most take milliseconds, but the machine may be busy
MOST_HANGS = 2  # then a target is given up
SHOWN = 8  # failures that are told in full

# What breaks readers of text: terminators, marks, numbers, nesting, names of places.
TOKENS = (
    b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b";", b'"', b"'", b"\\", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xfe\xff", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xae", b"\x1b[31m",
    b"\x85", b"\xe2\x80\xa8",
    b"-1", b"0", b"1e999", b"nan", b".inf", b"9" * 30, b"9" * 5000, b"0x10", b"1_000", b"\xd9\xa3", b"true",
    b"null", b"~", b"[", b"]", b"{", b"}", b"[" * 3000, b"{a: " * 500, b"&a [*a]", b"*a", b"<<: ",
    b"!!python/none", b"!!binary x", b"---\n", b": ", b"- ", b"#", b"../", b"../../etc/passwd", b"/dev/zero",
    b"/", b"", b" ", b"=1+1", b"%s", b"a" * 70_000,
)  # fmt: skip


def damage(rng: np.random.Generator, data: bytes, others: list[bytes] = ()) -> bytes:  # noqa: C901  (a case a fault)
    """The bytes with one to three faults: of bits, of pieces, of tokens."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        short = min(stop, start + int(rng.integers(1, 40)))
        match rng.integers(10):
            case 0:
                for place in rng.integers(0, max(1, len(data)), rng.integers(1, 9)) if data else ():
                    data[place] ^= 1 << int(rng.integers(8))
            case 1:
                del data[start:]
            case 2:
                del data[start:short]
            case 3:
                data[start:start] = rng.bytes(int(rng.integers(1, 33)))
            case 4:
                data[start:short] = bytes(short - start)
            case 5:
                data[start:start] = data[start:short] * int(rng.integers(1, 20))
            case 6 if len(others):
                other = others[rng.integers(len(others))]
                data[start:short] = other[int(rng.integers(len(other) + 1)) :][:200]
            case 7:
                data[start:short] = b"\xff" * (short - start)
            case _:
                data[start : short if rng.random() < 0.5 else start] = TOKENS[rng.integers(len(TOKENS))]
    return bytes(data)


def damage_place(rng: np.random.Generator, path: pathlib.Path) -> None:
    """Puts something else where a file was: nothing, a directory, a link, no bytes."""
    path.unlink()
    match rng.integers(5):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.write_bytes(b"")
        case 3:
            path.symlink_to("/dev/null")
        case _:
            pass


def problem_of(error: BaseException, directory: pathlib.Path) -> str | None:
    """What is wrong with the way in which an input ended; None for the two errors and one short line."""
    if not isinstance(error, (UsageError, RunError)):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
        return f"{type(error).__name__}: {str(error)[:300]!r} ({type(error).__name__}, {place})"
    message = str(error).replace(str(directory), "")
    # Bytes that are not UTF-8 are fine: they stand as escapes on a terminal.
    odd = not all(letter.isprintable() or "\udc80" <= letter <= "\udcff" for letter in message)
    if odd or not 0 < len(message) <= LONGEST_MESSAGE:
        kind = "unprintable message" if odd else "long message"
        return f"{message[:300]!r} ({kind})"
    return None


def fuzz(
    target: str, share: float, make, feed, keep: pathlib.Path, longest_s: float = LONGEST_S
) -> collections.Counter:
    """Feeds many inputs to one target.

    Args:
      target: the name, which enters the draw.
      share: of all inputs.
      make: (rng, empty directory) → whatever `feed` takes; what it writes there is kept on failure.
      feed: raises UsageError or RunError, or returns the name of an allowed end.
      keep: where failing inputs are kept.

    Returns:
      How often each end came.

    Raises:
      AssertionError: an input ended in another way, or took longer than `longest_s`; tells the first ones.
    """
    count, first = count_inputs(share), int(os.environ.get("URNET_SEED", 0))
    ends, failures, hangs = collections.Counter(), [], 0
    previous = signal.signal(signal.SIGALRM, _too_long)
    try:
        for seed in range(first, first + count):
            directory = keep / f"{target}-{seed}"
            directory.mkdir(parents=True)
            given = make(np.random.default_rng([seed, *target.encode()]), directory)
            start = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, longest_s)
            try:
                end, problem = feed(given), None
            except (Exception, _TooLong) as error:
                end, problem = type(error).__name__, problem_of(error, directory)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if problem is None and time.monotonic() - start > longest_s:
                problem = f"took {time.monotonic() - start:.0f} s"
            ends[end] += 1
            if problem is None:
                shutil.rmtree(directory)
            else:
                failures.append((seed, problem, directory))
                hangs += "_TooLong" in problem
                if hangs >= MOST_HANGS:
                    break
    finally:
        signal.signal(signal.SIGALRM, previous)
    if failures:
        kinds = collections.Counter(problem.rpartition(" (")[2] for _, problem, _ in failures)
        told = "\n".join(f"  seed {seed}: {problem}\n    {kept}" for seed, problem, kept in failures[:SHOWN])
        pytest.fail(f"{target}: {len(failures)} of {count} inputs; {dict(kinds)}\n{told}", pytrace=False)
    return ends


def count_inputs(share: float) -> int:
    """How many of all inputs a target gets."""
    return max(1, round(share * int(os.environ.get("URNET_FUZZ", INPUTS))))


class _TooLong(BaseException):  # no handler of the program may take it for an error of the input
    pass


def _too_long(*_):
    raise _TooLong("took too long")


def load(path: str) -> types.ModuleType:
    """A module of the tests, by its path below `tests/`: they cannot import each other."""
    path = pathlib.Path(__file__).parent.parent / path
    spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fuzzing():
    """The functions above."""
    return types.SimpleNamespace(
        fuzz=fuzz, damage=damage, damage_place=damage_place, load=load, count_inputs=count_inputs
    )
