"""The server side of an exchange: runs this rank's experts on rows that came from the whole pool group.

Knows stages and micro-batches only as keys; communicates with nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.rows import Counts, expert_major_order, rows_of_sources, source_major_order

Microbatches = tuple[int | None, ...]
"""For every stage of the pool group, the micro-batch it runs in this half-tick."""


@dataclass(frozen=True)
class _Entry:
    """What backward needs of the rows that one stage sent for one micro-batch and layer; sorted by (expert, source)."""

    counts_SE: Counts  # sources of that stage only
    rows_RD: Tensor
    gate_up_RF: Tensor


class PoolServer:
    """Runs experts for all sources of a half-tick together and remembers, per stage, what backward needs.

    The ranks of one stage run the same micro-batch at the same time in both directions, so what is kept is kept under
    the key (stage, micro-batch, layer slot) and dropped when that stage runs the micro-batch backward; stages of one
    forward half may do so in different backward halves. After a step nothing is kept.

    ``block_size`` sources in a row belong to one stage.
    """

    def __init__(self, bank: ExpertBank, block_size: int, max_pending_rows: int) -> None:
        self._bank = bank
        self._block_size = block_size
        self._max_pending_rows = max_pending_rows
        self._entries: dict[tuple[int, int, int], _Entry] = {}

    @property
    def num_entries(self) -> int:
        """Entries that wait for their backward half."""
        return len(self._entries)

    def forward(self, rows_RD: Tensor, counts_SE: Counts, microbatches: Microbatches, slot: int, keep: bool) -> Tensor:
        """Outputs [R, D] of rows that lie in (source, expert) order, in the same order.

        ``keep``: remember what backward needs.
        """
        one_source = len(counts_SE) == 1
        if not one_source:
            rows_RD = rows_RD.index_select(0, expert_major_order(counts_SE, rows_RD.device))
        out_RD, gate_up_RF = self._bank.run(rows_RD, counts_SE.sum(axis=0))
        if keep:
            self._keep(rows_RD, gate_up_RF, counts_SE, microbatches, slot)
        return out_RD if one_source else out_RD.index_select(0, source_major_order(counts_SE, rows_RD.device))

    def returning_counts(self, microbatches: Microbatches, slot: int) -> Counts:
        """Rows [S, E] that come back from every source in this backward half: known from what was kept, not from the
        wire."""
        blocks = []
        for stage, microbatch in enumerate(microbatches):
            entry = None if microbatch is None else self._entries.get((stage, microbatch, slot))
            empty = np.zeros((self._block_size, self._bank.gate_up.shape[0]), dtype=np.int64)
            blocks.append(empty if entry is None else entry.counts_SE)
        return np.concatenate(blocks)

    def backward(self, grad_RD: Tensor, microbatches: Microbatches, slot: int) -> Tensor:
        """Input gradients [R, D] for output gradients in (source, expert) order, in the same order; drops what was
        kept."""
        counts_SE = self.returning_counts(microbatches, slot)
        rows_RD, gate_up_RF = self._take(counts_SE, microbatches, slot, grad_RD)
        one_source = len(counts_SE) == 1
        if not one_source:
            grad_RD = grad_RD.index_select(0, expert_major_order(counts_SE, grad_RD.device))
        grad_in_RD = self._bank.run_backward(rows_RD, gate_up_RF, counts_SE.sum(axis=0), grad_RD)
        if self._bank.pending_rows >= self._max_pending_rows:
            self._bank.flush_weight_gradients()
        return grad_in_RD if one_source else grad_in_RD.index_select(0, source_major_order(counts_SE, grad_RD.device))

    def end_backward_half(self) -> None:
        """Add the weight gradients that still wait."""
        self._bank.flush_weight_gradients()

    def _keep(
        self, rows_RD: Tensor, gate_up_RF: Tensor, counts_SE: Counts, microbatches: Microbatches, slot: int
    ) -> None:
        for stage, microbatch in enumerate(microbatches):
            sources = slice(stage * self._block_size, (stage + 1) * self._block_size)
            if microbatch is None or not counts_SE[sources].any():
                continue
            rows, gate_up = rows_RD, gate_up_RF
            if len(rows) != counts_SE[sources].sum():
                mine = rows_of_sources(counts_SE, sources.start, sources.stop, rows_RD.device)
                rows, gate_up = rows_RD.index_select(0, mine), gate_up_RF.index_select(0, mine)
            key = (stage, microbatch, slot)
            assert key not in self._entries
            self._entries[key] = _Entry(counts_SE[sources], rows, gate_up)

    def _take(self, counts_SE: Counts, microbatches: Microbatches, slot: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and gate-up of all stages that run backward now, joined in (expert, source) order."""
        taken: list[tuple[int, _Entry]] = []
        for stage, microbatch in enumerate(microbatches):
            entry = None if microbatch is None else self._entries.pop((stage, microbatch, slot), None)
            if entry is not None:
                taken.append((stage, entry))
        if len(taken) == 1:
            return taken[0][1].rows_RD, taken[0][1].gate_up_RF
        total = int(counts_SE.sum())
        rows_RD = like.new_empty(total, like.shape[1])
        gate_up_RF = like.new_empty(total, self._bank.gate_up.shape[1])
        for stage, entry in taken:
            first = stage * self._block_size
            places = rows_of_sources(counts_SE, first, first + self._block_size, like.device)
            rows_RD.index_copy_(0, places, entry.rows_RD)
            gate_up_RF.index_copy_(0, places, entry.gate_up_RF)
        return rows_RD, gate_up_RF
