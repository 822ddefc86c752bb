"""The exchange on four ranks of two stages, played by threads: results, gradients, and tickets in flight together."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tests.support.loopback import LoopbackTransport, run_ranks
from unipool_dist.kernels.cpu import CpuKernel
from unipool_dist.pool.exchange import PoolExchange
from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.main_grad import main_grad
from unipool_dist.pool.turn import Turn
from unipool_dist.schedule.work import Work, Works

RANKS, BLOCK, LOCAL, HIDDEN, FFN = 4, 2, 3, 8, 12
EXPERTS = RANKS * LOCAL


def whole_bank() -> ExpertBank:
    """All experts of the pool."""
    random = torch.Generator().manual_seed(0)  # of its own: threads share the global one
    bank = ExpertBank(EXPERTS, HIDDEN, FFN, torch.float32, CpuKernel())
    for parameter in bank.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    bank.zero_grad_buffers()
    return bank


def exchange_of(transport: LoopbackTransport, slots: int = 1) -> tuple[ExpertBank, PoolExchange]:
    bank = ExpertBank(LOCAL, HIDDEN, FFN, torch.float32, CpuKernel())
    mine = slice(transport.rank * LOCAL, (transport.rank + 1) * LOCAL)
    for parameter, whole in zip(bank.parameters(), whole_bank().parameters(), strict=True):
        parameter.data.copy_(whole.data[mine])
    bank.zero_grad_buffers()
    return bank, PoolExchange(transport, bank, block_size=BLOCK, slots=slots, max_pending_rows=20)


def request(rank: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Counts by expert, rows sorted by expert, and gradients of their results; different for each rank and number."""
    random = torch.Generator().manual_seed(100 * number + rank)
    counts = torch.randint(0, 4, (EXPERTS,), generator=random)
    rows, grad = torch.randn(2, int(counts.sum()), HIDDEN, generator=random).unbind()
    return counts, rows.requires_grad_(), grad


def expected(rank: int, number: int) -> tuple[Tensor, ...]:
    """Results, and gradients of rows, gate_up and down, computed by all experts in one place."""
    counts, rows, grad = request(rank, number)
    bank = whole_bank()
    gate_up, down = bank.gate_up, bank.down
    parts = []
    for expert, mine in enumerate(rows.split(counts.tolist())):
        gate, up = (mine @ gate_up[expert].t()).chunk(2, dim=-1)
        parts.append((torch.nn.functional.silu(gate) * up) @ down[expert].t())
    out = torch.cat(parts)
    return out.detach(), *torch.autograd.grad(out, (rows, gate_up, down), grad)


def of_stages(*microbatches: int | None) -> Works:
    return tuple(None if i is None else Work(stage, i) for stage, i in enumerate(microbatches))


def test_results_and_gradients_are_those_of_the_experts_in_one_place() -> None:
    """Both stages run forward in one tick, and backward in different ones, while the other stage serves."""

    def rank(transport: LoopbackTransport) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        bank, exchange = exchange_of(transport)
        stage = transport.rank // BLOCK
        counts, rows, grad = request(transport.rank, 0)
        backward_ticks = [of_stages(None, 0), of_stages(0, None)]
        mine = 1 - stage
        turn = Turn(of_stages(0, 0), True, backward_ticks[mine])
        ticket = exchange.post(counts, 0, turn)
        assert ticket.num_rows == len(rows)
        ticket.send(rows)
        results = ticket.results()
        exchange.serve_forward(turn, own=1)
        for number, works in enumerate(backward_ticks):
            exchange.serve_backward(works, own=1 if number == mine else 0)
            if number == mine:
                results.backward(grad)
            exchange.end_backward_lane()
        assert exchange.num_entries == 0
        return results.detach(), rows.grad, main_grad(bank.gate_up), main_grad(bank.down)

    seen = run_ranks(RANKS, rank)
    wanted = [expected(number, 0) for number in range(RANKS)]
    for (results, grad, *_), (wanted_results, wanted_grad, *_) in zip(seen, wanted, strict=True):
        torch.testing.assert_close(results, wanted_results)
        torch.testing.assert_close(grad, wanted_grad)
    torch.testing.assert_close(torch.cat([each[2] for each in seen]), sum(each[2] for each in wanted))
    torch.testing.assert_close(torch.cat([each[3] for each in seen]), sum(each[3] for each in wanted))


def test_tickets_may_be_in_flight_together() -> None:
    """Two exchanges posted before the first is sent give what they give one after the other, bit for bit."""

    def rank(transport: LoopbackTransport, together: bool) -> list[Tensor]:
        bank, exchange = exchange_of(transport, slots=2)
        asked = [request(transport.rank, number) for number in (0, 1)]
        turn = Turn(of_stages(0, 0), True, of_stages(0, 0))
        results: list[Tensor] = []
        if together:
            tickets = [exchange.post(counts, slot, turn) for slot, (counts, _, _) in enumerate(asked)]
            for ticket, (_, rows, _) in zip(tickets, asked, strict=True):
                ticket.send(rows)
            results = [ticket.results() for ticket in tickets]
        else:
            for slot, (counts, rows, _) in enumerate(asked):
                ticket = exchange.post(counts, slot, turn)
                ticket.send(rows)
                results.append(ticket.results())
        for result, (_, _, grad) in reversed(list(zip(results, asked, strict=True))):
            result.backward(grad)
        exchange.end_backward_lane()
        grads = [rows.grad for _, rows, _ in asked if rows.grad is not None]
        return [*results, *grads, *(main_grad(parameter) for parameter in bank.parameters())]

    apart, together = (run_ranks(RANKS, partial(rank, together=how)) for how in (False, True))
    for one, other in zip(apart, together, strict=True):
        assert len(one) == len(other) == 6
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_rank_without_rows_serves_and_traffic_is_counted() -> None:
    def rank(transport: LoopbackTransport) -> tuple[int, int]:
        _, exchange = exchange_of(transport)
        turn = Turn(of_stages(0, None), training=False)
        if transport.rank < BLOCK:
            counts, rows, _ = request(transport.rank, 0)
            ticket = exchange.post(counts, 0, turn)
            ticket.send(rows)
            torch.testing.assert_close(ticket.results(), expected(transport.rank, 0)[0])
        else:
            exchange.serve_forward(turn, own=0)
        assert exchange.num_entries == 0, "nothing is kept without backward"
        return sum(exchange.traffic.rows_computed), exchange.traffic.bytes_sent

    seen = run_ranks(RANKS, rank)
    sent = torch.stack([request(number, 0)[0] for number in range(BLOCK)])
    assert [rows for rows, _ in seen] == sent.view(BLOCK, RANKS, LOCAL).sum(dim=(0, 2)).tolist()
    assert all(count > 0 for _, count in seen)
