"""Requests share batches, get their own rows back, and are bounded in rows, pixels and time."""

import asyncio
import threading
import time

import numpy as np
import pytest

from urnet_tf.serving.batching import Batcher, BatchingLimits, DeadlineExceeded, QueueFull, fill_rows


class Model:
    """Doubles numbers and measures texts; can be held up."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, key, inputs):
        assert self.go.wait(20)
        self.batches.append((key, {name: values.tolist() for name, values in inputs.items()}))
        if key == "broken":
            raise ValueError("broken")
        name, values = next(iter(inputs.items()))
        return {"out": np.array([len(v) for v in values]) if name == "texts" else 2 * values}


def numbers(*values):
    return {"x": np.array(values)}


def run(scenario, model=None, **limits):
    """Runs a coroutine function of a batcher and its model."""
    model = model or Model()

    async def go():
        batcher = Batcher(model, BatchingLimits(**limits))
        async with batcher.working():
            return await asyncio.wait_for(scenario(batcher, model), 20)

    return asyncio.run(go())


async def held_up(batcher, model):
    """A request that is in work, so that what follows waits."""
    model.go.clear()
    first = asyncio.create_task(batcher.submit("k", numbers(0), None, 10))
    await asyncio.sleep(0.01)
    assert batcher.queued_rows == 0
    return first


def test_waiting_requests_share_a_batch_and_get_their_own_rows():
    async def scenario(batcher, model):
        first = await held_up(batcher, model)
        rest = [asyncio.create_task(batcher.submit("k", numbers(i, 10 * i), None, 10)) for i in range(1, 4)]
        await asyncio.sleep(0.01)
        assert batcher.queued_rows == 6
        model.go.set()
        answers = [await task for task in [first, *rest]]
        assert [a["out"].tolist() for a in answers] == [[0], [2, 20], [4, 40], [6, 60]]
        assert [b for _, b in model.batches] == [{"x": [0]}, {"x": [1, 10, 2, 20, 3, 30, 0, 0]}]
        assert batcher.queued_rows == 0

    run(scenario, sizes=(1, 2, 4, 8))


def test_requests_of_another_key_do_not_share():
    async def scenario(batcher, model):
        first = await held_up(batcher, model)
        tasks = [
            asyncio.create_task(batcher.submit(key, numbers(n), None, 10)) for n, key in enumerate("abab", 1)
        ]
        await asyncio.sleep(0.01)
        model.go.set()
        assert [(await t)["out"].tolist() for t in [first, *tasks]] == [[0], [2], [4], [6], [8]]
        assert model.batches[1:] == [("a", {"x": [1, 3]}), ("b", {"x": [2, 4]})]

    run(scenario, sizes=(1, 2, 4))


def test_a_large_request_is_cut():
    async def scenario(batcher, model):
        answer = await batcher.submit("k", numbers(*range(10)), None, 10)
        assert answer["out"].tolist() == [2 * i for i in range(10)]
        assert [len(b["x"]) for _, b in model.batches] == [4, 4, 2]

    run(scenario, sizes=(2, 4))


def test_pixels_bound_a_batch():
    async def scenario(batcher, model):
        answer = await batcher.submit("k", numbers(*range(6)), [60, 50, 10, 100, 5, 300], 10)
        assert answer["out"].tolist() == [0, 2, 4, 6, 8, 10]
        assert [b["x"] for _, b in model.batches] == [[0, 4], [1, 2], [3], [5]]
        first = await held_up(batcher, model)
        tasks = [asyncio.create_task(batcher.submit("k", numbers(i), [40], 10)) for i in range(5)]
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(first, *tasks)
        assert [len(b["x"]) for _, b in model.batches[5:]] == [2, 2, 1]

    run(scenario, sizes=(1, 2, 4, 8), batch_pixels=100)


def test_a_full_queue_refuses_and_recovers():
    async def scenario(batcher, model):
        first = await held_up(batcher, model)
        waiting = asyncio.create_task(batcher.submit("k", numbers(1, 2, 3), None, 10))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull) as caught:
            await batcher.submit("k", numbers(1, 2), None, 10)
        assert 1 <= caught.value.retry_after_s <= 60
        model.go.set()
        await asyncio.gather(first, waiting)
        assert (await batcher.submit("k", numbers(1, 2), None, 10))["out"].tolist() == [2, 4]

    run(scenario, sizes=(4,), queue_rows=4)


def test_late_requests_end_and_are_not_computed():
    async def scenario(batcher, model):
        first = await held_up(batcher, model)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit("k", numbers(7), None, 0.05)
        assert time.monotonic() - start < 5 and batcher.queued_rows == 0
        given_up = asyncio.create_task(batcher.submit("k", numbers(8), None, 10))
        await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert batcher.queued_rows == 0
        model.go.set()
        await first
        assert (await batcher.submit("k", numbers(9), None, 10))["out"].tolist() == [18]
        assert [b["x"] for _, b in model.batches] == [[0], [9]]

    run(scenario, sizes=(1, 2))


def test_an_error_of_the_model_reaches_who_sent_the_rows():
    async def scenario(batcher, model):
        with pytest.raises(ValueError, match="broken"):
            await batcher.submit("broken", numbers(*range(5)), None, 10)
        assert (await batcher.submit("k", numbers(1), None, 10))["out"].tolist() == [2]

    run(scenario, sizes=(1, 2))


def test_texts_are_filled_with_empty_ones():
    async def scenario(batcher, model):
        texts = {"texts": np.array([b"a", b"bcd", b""], object)}
        assert (await batcher.submit("k", texts, [1, 1, 1], 10))["out"].tolist() == [1, 3, 0]
        assert model.batches[0][1]["texts"] == [b"a", b"bcd", b"", b""]

    run(scenario, sizes=(4,))
    assert fill_rows(np.ones((1, 2)), 3).tolist() == [[1, 1], [0, 0], [0, 0]]


def test_several_batches_at_once():
    async def scenario(batcher, model):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.submit("k", numbers(i), None, 10)) for i in range(2)]
        await asyncio.sleep(0.05)
        assert batcher.queued_rows == 0  # both are in work
        model.go.set()
        assert [(await t)["out"].tolist() for t in tasks] == [[0], [2]]

    run(scenario, sizes=(1,), parallel=2)


def test_many_requests_of_any_size_get_their_own_rows():
    async def scenario(batcher, model):
        rng = np.random.default_rng(0)

        async def client(number):
            for _ in range(20):
                values = rng.integers(0, 1000, rng.integers(1, 12)) + 1000 * number
                answer = await batcher.submit(number % 3, {"x": values}, None, 10)
                np.testing.assert_array_equal(answer["out"], 2 * values)

        await asyncio.gather(*(client(number) for number in range(16)))
        assert batcher.queued_rows == 0 and not batcher._parts
        assert {len(b["x"]) for _, b in model.batches} <= {1, 2, 4, 8}

    run(scenario, sizes=(1, 2, 4, 8), parallel=2, queue_rows=1000)
