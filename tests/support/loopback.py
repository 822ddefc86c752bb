"""All ranks of a pool group as threads of one process: the exchange without process groups."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_PATIENCE_S = 60


class LoopbackTransport:
    """A :class:`unipool_dist.pool.transport.Transport` between threads."""

    def __init__(self, rank: int, mailboxes: list[list[Tensor]], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(mailboxes)
        self._mailboxes, self._barrier = mailboxes, barrier

    def swap_counts(self, outgoing_Se: Tensor) -> Tensor:
        """Hand row s to rank s."""
        return torch.stack(self._swap(list(outgoing_Se.unbind())))

    def swap_rows(self, rows_RD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Hand ``sent[s]`` rows to rank s."""
        parts = self._swap(list(rows_RD.split(sent)))
        assert [len(part) for part in parts] == received
        return torch.cat(parts)

    def _swap(self, parts: list[Tensor]) -> list[Tensor]:
        self._mailboxes[self.rank] = parts
        self._barrier.wait()
        taken = [theirs[self.rank].clone() for theirs in self._mailboxes]
        self._barrier.wait()
        return taken


def run_ranks(size: int, function: Callable[[LoopbackTransport], T]) -> list[T]:
    """Run ``function`` on ``size`` ranks at once; return their results by rank. If one fails, all do."""
    barrier = threading.Barrier(size, timeout=_PATIENCE_S)
    mailboxes: list[list[Tensor]] = [[] for _ in range(size)]

    def run(rank: int) -> T:
        try:
            return function(LoopbackTransport(rank, mailboxes, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
