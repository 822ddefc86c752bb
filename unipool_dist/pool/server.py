"""The server side of an exchange: runs this rank's experts on rows that came from the whole pool group.

Knows stages and their work only as keys; communicates with nobody.

Shapes: R rows, S sources (ranks of the pool group), e experts of this rank, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unipool_dist.kernels.protocol import Saved
from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.rows import Counts, expert_major_order, rows_of_sources, source_major_order
from unipool_dist.schedule.work import Work, Works


@dataclass(frozen=True)
class _Entry:
    """What backward needs of the rows that one stage sent for one layer of its work; sorted by (expert, source)."""

    counts_Se: Counts  # sources of that stage only
    saved: Saved


class PoolServer:
    """Runs experts for all sources of an exchange together and remembers, per stage, what backward needs.

    The ranks of one stage do the same work at the same time in both lanes, so what is kept is kept under the key
    (stage, work, layer slot) and dropped when that stage does the work backward; stages that ran forward in one tick
    may run backward in different ones. After a step nothing is kept.

    ``block_size`` sources in a row belong to one stage.
    """

    def __init__(self, bank: ExpertBank, block_size: int, max_pending_rows: int) -> None:
        self._bank = bank
        self._block_size = block_size
        self._max_pending_rows = max_pending_rows
        self._entries: dict[tuple[int, Work, int], _Entry] = {}

    @property
    def num_entries(self) -> int:
        """Entries that wait for their backward."""
        return len(self._entries)

    def forward(self, rows_RD: Tensor, counts_Se: Counts, works: Works, slot: int, keep: bool) -> Tensor:
        """Return the outputs [R, D] of rows in (source, expert) order, in the same order.

        Args:
            works: what every stage runs forward now.
            keep: remember what backward needs.
        """
        one_source = len(counts_Se) == 1
        if not one_source:
            rows_RD = rows_RD.index_select(0, expert_major_order(counts_Se, rows_RD.device))
        out_RD, saved = self._bank.run(rows_RD, counts_Se.sum(axis=0))
        if keep:
            self._keep(saved, counts_Se, works, slot)
        return out_RD if one_source else out_RD.index_select(0, source_major_order(counts_Se, rows_RD.device))

    def returning_counts(self, works: Works, slot: int) -> Counts:
        """Count the rows [S, e] of every source whose gradients come now, from what was kept, not from the wire."""
        blocks = []
        for stage, work in enumerate(works):
            entry = None if work is None else self._entries.get((stage, work, slot))
            empty = np.zeros((self._block_size, self._bank.gate_up.shape[0]), dtype=np.int64)
            blocks.append(empty if entry is None else entry.counts_Se)
        return np.concatenate(blocks)

    def backward(self, grad_RD: Tensor, works: Works, slot: int) -> Tensor:
        """Return the input gradients [R, D] for output gradients in (source, expert) order, in the same order.

        Drops what was kept.
        """
        counts_Se = self.returning_counts(works, slot)
        saved = self._take(counts_Se, works, slot)
        if saved is None:
            return grad_RD
        one_source = len(counts_Se) == 1
        if not one_source:
            grad_RD = grad_RD.index_select(0, expert_major_order(counts_Se, grad_RD.device))
        grad_in_RD = self._bank.run_backward(saved, counts_Se.sum(axis=0), grad_RD)
        if self._bank.pending_rows >= self._max_pending_rows:
            self._bank.flush_weight_gradients()
        return grad_in_RD if one_source else grad_in_RD.index_select(0, source_major_order(counts_Se, grad_RD.device))

    def end_backward_lane(self) -> None:
        """Add the weight gradients that still wait."""
        self._bank.flush_weight_gradients()

    def _keep(self, saved: Saved, counts_Se: Counts, works: Works, slot: int) -> None:
        for stage, work in enumerate(works):
            sources = slice(stage * self._block_size, (stage + 1) * self._block_size)
            if work is None or not counts_Se[sources].any():
                continue
            mine = saved
            if counts_Se[sources].sum() != counts_Se.sum():
                rows = rows_of_sources(counts_Se, sources.start, sources.stop, saved[0].device)
                mine = tuple(tensor.index_select(0, rows) for tensor in saved)
            key = (stage, work, slot)
            assert key not in self._entries
            self._entries[key] = _Entry(counts_Se[sources], mine)

    def _take(self, counts_Se: Counts, works: Works, slot: int) -> Saved | None:
        """Join what was saved of all stages that run backward now, in (expert, source) order; ``None``: nothing."""
        taken: list[tuple[int, _Entry]] = []
        for stage, work in enumerate(works):
            entry = None if work is None else self._entries.pop((stage, work, slot), None)
            if entry is not None:
                taken.append((stage, entry))
        if len(taken) <= 1:
            return taken[0][1].saved if taken else None
        total = int(counts_Se.sum())
        joined = tuple(tensor.new_empty(total, *tensor.shape[1:]) for tensor in taken[0][1].saved)
        for stage, entry in taken:
            first = stage * self._block_size
            rows = rows_of_sources(counts_Se, first, first + self._block_size, joined[0].device)
            for tensor, part in zip(joined, entry.saved, strict=True):
                tensor.index_copy_(0, rows, part)
        return joined
