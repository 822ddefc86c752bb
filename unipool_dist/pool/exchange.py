"""The exchange: one MoE layer's rows to the ranks that own their experts, and the results back.

Every exchange is made by all ranks of the pool group, in the same order, with rows or without. A client posts how many
rows it has, sends them, and takes their results; the ticket of the exchange keeps what its backward needs, so several
may be in flight. A stage's backward pass makes the backward exchanges in the reverse order of its layers; where a rank
has no layer to run, it serves.

Shapes: R rows, S sources (ranks of the pool group), E experts of the pool group, e experts of a rank, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.profiler import record_function

from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.rows import Counts
from unipool_dist.pool.server import PoolServer
from unipool_dist.pool.transport import Transport
from unipool_dist.pool.turn import Turn
from unipool_dist.schedule.work import Works, served_slots


@dataclass
class ExchangeTraffic:
    """The traffic of this rank to other ranks, and the rows it computed, since the last reset."""

    bytes_sent: int = 0
    rows_computed: list[int] = field(default_factory=list)  # by this rank's experts, one number per forward exchange


class PoolExchange:
    """Client and server of one rank.

    Args:
        transport: moves rows between the ranks of the pool group; they are the sources, stage by stage,
            ``block_size`` of each stage.
        bank: this rank's experts, in the order in which the placement numbers them.
        slots: exchanges in every lane: the MoE layers of the stage that has most.
        max_pending_rows: rows that may wait for their weight gradients; bounds that memory.
    """

    def __init__(
        self, transport: Transport, bank: ExpertBank, *, block_size: int, slots: int, max_pending_rows: int
    ) -> None:
        self._transport, self._bank, self._slots = transport, bank, slots
        self._server = PoolServer(bank, block_size, max_pending_rows)
        self.traffic = ExchangeTraffic()

    @property
    def num_entries(self) -> int:
        """Number of entries that the server keeps for backward; 0 between steps."""
        return self._server.num_entries

    def reset_traffic(self) -> None:
        """Count :attr:`traffic` from zero."""
        self.traffic = ExchangeTraffic()

    def post(self, counts_E: Tensor, slot: int, turn: Turn) -> Ticket:
        """Begin exchange ``slot`` by telling every owner how many rows come.

        Args:
            counts_E: int64 rows by placement position, on this rank's device.

        Collectives: one all-to-all of counts over the pool group.
        """
        size = self._transport.size
        outgoing_Se = counts_E.view(size, -1)
        incoming_Se = self._transport.swap_counts(outgoing_Se)
        self.traffic.bytes_sent += outgoing_Se.nbytes * (size - 1) // size
        # The device is waited for here: the split sizes of the next all-to-all must be known on the host.
        outgoing, incoming = torch.stack([outgoing_Se, incoming_Se]).cpu().numpy()
        return Ticket(self, slot, turn, outgoing.sum(axis=1).tolist(), incoming)

    def serve_forward(self, turn: Turn, own: int) -> None:
        """Take part in the forward exchanges after this stage's ``own`` layers, without rows.

        Collectives: those of a ticket, for each.
        """
        for slot in served_slots("forward", own, self._slots):
            ticket = self.post(self._no_counts(), slot, turn)
            ticket.send(self._no_rows())
            ticket.results()

    def serve_backward(self, works: Works, own: int) -> None:
        """Take part in the backward exchanges before this stage's ``own`` layers, without rows.

        Args:
            works: by stage of the pool group, what it runs backward in this tick.

        Collectives: for each, an all-to-all of output gradients and one of input gradients over the pool group.
        """
        for slot in served_slots("backward", own, self._slots):
            self.run_backward(self._no_rows(), [0] * self._transport.size, works, slot)

    def end_backward_lane(self) -> None:
        """Add the weight gradients that wait."""
        self._server.end_backward_lane()

    def run_forward(self, arrived_RD: Tensor, incoming_Se: Counts, turn: Turn, slot: int) -> Tensor:
        """Return the outputs [R, D] of this rank's experts for rows that arrived."""
        self.traffic.rows_computed.append(len(arrived_RD))
        with record_function("experts"):
            return self._server.forward(arrived_RD, incoming_Se, turn.works, slot, keep=turn.training)

    def run_backward(self, grad_RD: Tensor, sent: list[int], works: Works, slot: int) -> Tensor:
        """Return the input gradients [R, D] of rows that were sent, for the gradients of their results.

        Collectives: over the pool group an all-to-all of output gradients and one of input gradients.
        """
        received = self._server.returning_counts(works, slot).sum(axis=1).tolist()
        arrived_RD = self.swap(grad_RD, sent, received)
        with record_function("experts"):
            grads_RD = self._server.backward(arrived_RD, works, slot)
        return self.swap(grads_RD, received, sent)

    def swap(self, rows_RD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Move rows as :meth:`Transport.swap_rows` does, and count the traffic."""
        others = sum(sent) - sent[self._transport.rank]
        self.traffic.bytes_sent += others * rows_RD.shape[1] * rows_RD.element_size()
        with record_function("exchange"):
            return self._transport.swap_rows(rows_RD, sent, received)

    def _no_counts(self) -> Tensor:
        num_local = self._bank.gate_up.shape[0]
        return torch.zeros(self._transport.size * num_local, dtype=torch.int64, device=self._bank.gate_up.device)

    def _no_rows(self) -> Tensor:
        return self._bank.gate_up.new_empty(0, self._bank.gate_up.shape[2])


class Ticket:
    """One exchange of this rank: posted; then sent; then its results are taken. All ranks do each in the same order."""

    def __init__(self, exchange: PoolExchange, slot: int, turn: Turn, sent: list[int], incoming_Se: Counts) -> None:
        self._exchange, self._slot, self._turn = exchange, slot, turn
        self._sent, self._incoming_SE = sent, incoming_Se
        self._received: list[int] = incoming_Se.sum(axis=1).tolist()
        self._rows_RD: Tensor | None = None
        self._arrived_RD: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows that this rank sends, R."""
        return sum(self._sent)

    def send(self, rows_RD: Tensor) -> None:
        """Send this rank's rows, sorted by placement position.

        Collectives: an all-to-all of rows over the pool group.
        """
        assert self._rows_RD is None
        self._rows_RD = rows_RD
        self._arrived_RD = self._exchange.swap(rows_RD.detach(), self._sent, self._received)

    def results(self) -> Tensor:
        """Run this rank's experts on what arrived; return the outputs [R, D] for the rows that were sent.

        Differentiable with respect to these rows.

        Collectives: over the pool group an all-to-all of results; in the backward pass an all-to-all of output
        gradients and one of input gradients.
        """
        rows_RD, self._rows_RD = self._rows_RD, None
        assert rows_RD is not None
        results_RD: Tensor = _Results.apply(rows_RD, self)
        return results_RD

    def _forward(self) -> Tensor:
        arrived_RD, self._arrived_RD = self._arrived_RD, None
        assert arrived_RD is not None
        outputs_RD = self._exchange.run_forward(arrived_RD, self._incoming_SE, self._turn, self._slot)
        return self._exchange.swap(outputs_RD, self._received, self._sent)

    def _backward(self, grad_RD: Tensor) -> Tensor:
        assert self._turn.backward_works is not None
        return self._exchange.run_backward(grad_RD.contiguous(), self._sent, self._turn.backward_works, self._slot)


class _Results(torch.autograd.Function):
    """A ticket's results as one differentiable operation."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows_RD: Tensor, ticket: Ticket) -> Tensor:
        ctx.ticket = ticket  # type: ignore[attr-defined]
        return ticket._forward()

    @staticmethod
    def backward(ctx: FunctionCtx, grad_RD: Tensor) -> tuple[Tensor, None]:
        ticket: Ticket = ctx.ticket  # type: ignore[attr-defined]
        return ticket._backward(grad_RD), None
