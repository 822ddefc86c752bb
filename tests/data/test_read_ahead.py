"""Reading ahead changes nothing but the time at which something is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from unipool_dist.data.batches import Batch
from unipool_dist.data.device_copy import DeviceCopies
from unipool_dist.data.read_ahead import ReadAhead, Request
from unipool_dist.errors import DataError

STEPS, BATCH, MICROBATCHES = 5, 8, 3
REQUESTS = [(step * BATCH, microbatch) for step in range(STEPS) for microbatch in range(MICROBATCHES)]


def following(consumed: int, microbatch: int) -> Request | None:
    at = REQUESTS.index((consumed, microbatch)) + 1
    return REQUESTS[at] if at < len(REQUESTS) else None


class Reader:
    """What is read, when it is allowed to be."""

    def __init__(self, allowed: int = 10**6) -> None:
        self.seen: list[Request] = []
        self.threads: set[threading.Thread] = set()
        self.bad: Request | None = None
        self._allowed = threading.Semaphore(allowed)
        self._read = threading.Semaphore(0)

    def __call__(self, consumed: int, microbatch: int) -> Request:
        assert self._allowed.acquire(timeout=60)
        self.threads.add(threading.current_thread())
        self.seen.append((consumed, microbatch))
        self._read.release()
        if (consumed, microbatch) == self.bad:
            raise DataError(f"sample {consumed} cannot be read")
        return consumed, microbatch

    def allow(self, count: int) -> None:
        self._allowed.release(count)

    def wait(self, count: int) -> None:
        """Until so many more have been read."""
        for _ in range(count):
            assert self._read.acquire(timeout=60)


@contextmanager
def reading(reader: Reader, depth: int = MICROBATCHES) -> Iterator[ReadAhead[Request]]:
    ahead = ReadAhead(reader, following, depth)
    try:
        yield ahead
    finally:
        reader.allow(100)
        ahead.close()
    assert not any(thread.is_alive() for thread in reader.threads)


@pytest.mark.parametrize("depth", [1, 2, MICROBATCHES, 100])
def test_everything_comes_once_and_in_order(depth: int) -> None:
    reader = Reader()
    with reading(reader, depth) as ahead:
        assert [ahead(*request) for request in REQUESTS] == REQUESTS
    assert reader.seen == REQUESTS, "nothing is read twice, and nothing after the last"
    assert threading.main_thread() not in reader.threads


def test_a_step_is_read_while_the_one_before_computes_and_no_more() -> None:
    reader = Reader()
    with reading(reader) as ahead:
        for request in REQUESTS[:MICROBATCHES]:
            ahead(*request)
        reader.wait(2 * MICROBATCHES)  # nobody asks meanwhile: this is the time in which the step computes
        assert reader.seen == REQUESTS[: 2 * MICROBATCHES]
        assert not reader._read.acquire(timeout=0.05)


def test_an_error_comes_with_its_batch_and_not_before() -> None:
    reader = Reader()
    reader.bad = REQUESTS[4]
    with reading(reader) as ahead:
        assert [ahead(*request) for request in REQUESTS[:4]] == REQUESTS[:4]
        with pytest.raises(DataError, match="sample 8 cannot be read"):
            ahead(*REQUESTS[4])


def test_one_that_closes_leaves_the_rest_unread() -> None:
    reader = Reader(allowed=1)
    with reading(reader) as ahead:
        ahead(*REQUESTS[0])
        closing = threading.Thread(target=ahead.close)
        closing.start()  # waits for what is being read
        reader.allow(1)
        closing.join(timeout=60)
        assert not closing.is_alive()
    assert len(reader.seen) <= 2
    with pytest.raises(RuntimeError):
        ahead(*REQUESTS[1])


def test_a_run_may_begin_anywhere_and_jump() -> None:
    reader = Reader()
    with reading(reader) as ahead:
        for request in (REQUESTS[7], REQUESTS[8], REQUESTS[2], REQUESTS[2], REQUESTS[3], REQUESTS[14]):
            assert ahead(*request) == request


def batch() -> Batch:
    tokens = torch.arange(12).view(3, 4)
    return Batch(tokens, tokens + 1, torch.ones(3, 4))


def test_on_a_cpu_nothing_is_copied() -> None:
    sent = batch()
    assert DeviceCopies(torch.device("cpu")).send(sent).wait().tokens is sent.tokens


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_with_what_has_arrived() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    copies = DeviceCopies(device)
    big = Batch(*(torch.full((64, 1 << 16), fill) for fill in (1, 2, 3.0)))
    for _ in range(20):
        arriving = copies.send(big)
        arrived = arriving.wait()
        assert arrived.tokens.device == device
        total = arrived.tokens.sum() + arrived.labels.sum()
        del arriving, arrived  # their memory is not reused before the sum is made
        copies.send(batch())
        assert int(total) == 3 << 22
