"""The exchange: one MoE layer's rows to the ranks that own their experts, and the results back.

Every exchange is made by all ranks of the pool group at once, with rows or without; :meth:`PoolExchange.begin_half`
says, from the schedule, who runs what in this half-tick. The client side is an autograd function, so a stage's
backward pass makes the backward exchanges in the reverse order of its layers; a rank without a micro-batch calls
:meth:`PoolExchange.serve` instead.

Shapes: R rows, S sources (ranks of the pool group), E experts, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.server import Microbatches, PoolServer


@dataclass
class ExchangeTraffic:
    """What this rank sent to other ranks, and what it computed, since the last reset."""

    bytes_sent: int = 0
    rows_computed: list[int] = field(default_factory=list)  # by this rank's experts, one number per forward exchange


@dataclass(frozen=True)
class ExchangePlan:
    """Who sends how many rows in one exchange, known on the host."""

    slot: int
    sent: list[int]  # rows from here to every pool rank
    incoming_SE: np.ndarray  # rows from every pool rank for every expert of this rank

    @property
    def num_rows(self) -> int:
        """Rows that this rank sends, R."""
        return sum(self.sent)


class PoolExchange:
    """Client and server of one rank.

    Args:
        group: the pool group; its ranks are the sources, stage by stage, ``block_size`` of each stage.
        bank: this rank's experts, in the order in which the placement numbers them.
        slots: exchanges in every half-tick: the MoE layers of the stage that has most.
        max_pending_rows: rows that may wait for their weight gradients; bounds that memory.
    """

    def __init__(
        self, group: dist.ProcessGroup, bank: ExpertBank, *, block_size: int, slots: int, max_pending_rows: int
    ) -> None:
        self._group = group
        self._size = group.size()
        self._rank = group.rank()
        self._bank = bank
        self._server = PoolServer(bank, block_size, max_pending_rows)
        self._slots = slots
        self._microbatches: Microbatches = ()
        self._keep = False
        self.traffic = ExchangeTraffic()

    @property
    def num_entries(self) -> int:
        """What the server keeps for backward; 0 between steps."""
        return self._server.num_entries

    def reset_traffic(self) -> None:
        """Start counting :attr:`traffic` anew."""
        self.traffic = ExchangeTraffic()

    def begin_half(self, microbatches: Microbatches, *, keep: bool) -> None:
        """Say which micro-batch each stage of the pool group runs now; ``keep`` if backward will follow."""
        self._microbatches, self._keep = microbatches, keep

    def plan(self, counts_E: Tensor, slot: int) -> ExchangePlan:
        """Tell every owner how many rows come, ``counts_E`` int64 by placement position on this rank's device.

        Collectives: one all-to-all of counts over the pool group.
        """
        outgoing_SE = counts_E.view(self._size, -1)
        incoming_SE = outgoing_SE
        if self._size > 1:
            incoming_SE = torch.empty_like(outgoing_SE)
            dist.all_to_all_single(incoming_SE, outgoing_SE, group=self._group)
            self.traffic.bytes_sent += outgoing_SE.nbytes * (self._size - 1) // self._size
        # The one device-host synchronisation of an exchange: the split sizes of the next all-to-all must be known here.
        outgoing, incoming = torch.stack([outgoing_SE, incoming_SE]).cpu().numpy()
        return ExchangePlan(slot, outgoing.sum(axis=1).tolist(), incoming)

    def request(self, rows_RD: Tensor, plan: ExchangePlan) -> Tensor:
        """Outputs [R, D] of the experts for this rank's rows, which are sorted by placement position.

        Collectives: over the pool group an all-to-all of rows and one of results; in the backward pass an all-to-all
        of output gradients and one of input gradients.
        """
        return _Request.apply(rows_RD, self, plan)

    def serve_forward(self, slot: int) -> None:
        """Take part in exchange ``slot`` of a forward half without rows. Collectives: :meth:`plan`, then
        :meth:`request`."""
        num_local, _, hidden_size = self._bank.gate_up.shape
        nobody = torch.zeros(self._size * num_local, dtype=torch.int64, device=self._bank.gate_up.device)
        self._forward(self._bank.gate_up.new_empty(0, hidden_size), self.plan(nobody, slot))

    def serve_backward(self, slot: int) -> None:
        """Take part in exchange ``slot`` of a backward half without rows. Collectives: as the backward of
        :meth:`request`."""
        grad = self._bank.gate_up.new_empty(0, self._bank.gate_up.shape[2])
        self._backward(grad, [0] * self._size, slot)

    def serve_rest_forward(self, done: int) -> None:
        """Take part in the exchanges that other stages make after this stage's ``done`` layers (0 if it ran
        nothing)."""
        for slot in range(done, self._slots):
            self.serve_forward(slot)

    def serve_rest_backward(self, own: int) -> None:
        """Take part in the backward exchanges that come before this stage's ``own`` layers: the same slots, last
        first."""
        for slot in reversed(range(own, self._slots)):
            self.serve_backward(slot)

    def end_backward_half(self) -> None:
        self._server.end_backward_half()

    def _forward(self, rows_RD: Tensor, plan: ExchangePlan) -> Tensor:
        received = plan.incoming_SE.sum(axis=1).tolist()
        served_RD = self._swap(rows_RD, plan.sent, received)
        self.traffic.rows_computed.append(len(served_RD))
        results_RD = self._server.forward(served_RD, plan.incoming_SE, self._microbatches, plan.slot, self._keep)
        return self._swap(results_RD, received, plan.sent)

    def _backward(self, grad_RD: Tensor, sent: list[int], slot: int) -> Tensor:
        received = self._server.returning_counts(self._microbatches, slot).sum(axis=1).tolist()
        served_RD = self._swap(grad_RD, sent, received)
        grad_in_RD = self._server.backward(served_RD, self._microbatches, slot)
        return self._swap(grad_in_RD, received, sent)

    def _swap(self, rows_RD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send ``sent[s]`` rows to every pool rank s, in order; return what they sent here."""
        if self._size == 1:
            return rows_RD
        out_RD = rows_RD.new_empty(sum(received), rows_RD.shape[1])
        dist.all_to_all_single(out_RD, rows_RD.contiguous(), received, sent, group=self._group)
        others = sum(sent) - sent[self._rank]
        self.traffic.bytes_sent += others * rows_RD.shape[1] * rows_RD.element_size()
        return out_RD


class _Request(torch.autograd.Function):
    """The client side: forward and backward of one exchange as one differentiable operation."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows_RD: Tensor, exchange: PoolExchange, plan: ExchangePlan) -> Tensor:
        ctx.exchange, ctx.plan = exchange, plan  # type: ignore[attr-defined]
        return exchange._forward(rows_RD, plan)

    @staticmethod
    def backward(ctx: FunctionCtx, grad_RD: Tensor) -> tuple[Tensor, None, None]:
        plan: ExchangePlan = ctx.plan  # type: ignore[attr-defined]
        exchange: PoolExchange = ctx.exchange  # type: ignore[attr-defined]
        return exchange._backward(grad_RD.contiguous(), plan.sent, plan.slot), None, None
