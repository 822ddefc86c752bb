"""Bytes that the exchange sends, against the least that any exchange must send.

For a token in one layer, the least is one row to each *other* rank that owns one of its chosen experts and one row
back, in the forward pass and again in the backward pass; a row is ``hidden_size`` numbers of the run's type. Several
chosen experts on one rank could share a row. Everything that ranks of the pool group send for it is counted, counts
of rows included.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.workload import Workload, rank_of
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.pool import client
from unipool_dist.pool.dispatch import Routing

TRANSFERS = 4
"""To the owner and back, forward and backward."""


@dataclass(frozen=True)
class Case:
    """A layout and a number of chosen experts."""

    pp: int
    dp: int
    top_k: int

    @property
    def world_size(self) -> int:
        return self.pp * self.dp


@dataclass(frozen=True)
class TrafficResult:
    """Sums over all ranks and one step."""

    case: Case
    tokens: int
    num_layers: int
    bytes_sent: int
    least_bytes: int

    @property
    def bytes_per_token_and_layer(self) -> float:
        return self.bytes_sent / self.tokens / self.num_layers

    @property
    def ratio(self) -> float:
        return self.bytes_sent / self.least_bytes


def measure_traffic(workload: Workload, cases: list[Case]) -> list[TrafficResult]:
    """Run one step of every case in processes of this machine; the pool lies over all of them."""
    results = []
    for size in sorted({case.world_size for case in cases}):
        of_size = [case for case in cases if case.world_size == size]
        ports = free_ports(len(of_size))
        with ProcessPoolExecutor(size, mp_context=get_context("spawn")) as processes:
            # One call for each process: none returns before all have met.
            calls = [processes.submit(_run_rank, rank, size, ports, workload, of_size) for rank in range(size)]
            results.extend(calls[0].result())
            for call in calls:
                call.result()
    return results


def _run_rank(rank: int, size: int, ports: list[int], workload: Workload, cases: list[Case]) -> list[TrafficResult]:
    torch.set_num_threads(1)
    return [
        _run_case(Environment(rank, size, rank, "127.0.0.1", port), workload, case)
        for port, case in zip(ports, cases, strict=True)
    ]


def _run_case(environment: Environment, workload: Workload, case: Case) -> TrafficResult:
    batch = workload.micro_batch_size
    config = workload.config(
        case.world_size,
        f"parallel.pp={case.pp}",
        f"parallel.dp={case.dp}",
        f"pool.parallel_size={case.world_size}",
        f"pool.top_k={case.top_k}",
        f"train.global_batch_size={3 * batch * case.dp}",
        "parallel.timeout_s=120",
    )
    with rank_of(config, environment) as rank, _rows_needed() as needed:
        rank.model.exchange.reset_traffic()
        rank.run(_batches(workload, rank.num_microbatches, seed=rank.groups.dp_index))
        others = sum(_to_others(routing, experts, rank.groups.pool_rank, environment) for routing, experts in needed)
        row_bytes = workload.hidden_size * torch.finfo(rank.model.dtype).bits // 8
        sums = torch.tensor([rank.model.exchange.traffic.bytes_sent, others * TRANSFERS * row_bytes])
        dist.all_reduce(sums)
    tokens = config.train.global_batch_size * workload.sequence_length
    return TrafficResult(case, tokens, workload.num_layers, int(sums[0]), int(sums[1]))


def _batches(workload: Workload, count: int, *, seed: int) -> list[StageBatch]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, workload.micro_batch_size, workload.sequence_length + 1)
    text = torch.randint(0, workload.vocab_size, shape, generator=generator)
    mask = torch.ones(workload.micro_batch_size, workload.sequence_length)
    return [StageBatch(one[:, :-1].contiguous(), one[:, 1:].contiguous(), mask) for one in text]


@contextmanager
def _rows_needed() -> Iterator[list[tuple[Routing, Tensor]]]:
    """Every routing decision of this rank while the context lasts, with the placement position of each expert."""
    seen: list[tuple[Routing, Tensor]] = []
    route = client.route

    def recorded(
        scores_TM: Tensor, top_k: int, position_M: Tensor, num_positions: int, bias_M: Tensor | None = None
    ) -> Routing:
        routing = route(scores_TM, top_k, position_M, num_positions, bias_M)
        seen.append((routing, position_M))
        return routing

    client.route = recorded
    try:
        yield seen
    finally:
        client.route = route


def _to_others(routing: Routing, position_M: Tensor, pool_rank: int, environment: Environment) -> int:
    """Distinct ranks other than ``pool_rank`` that own chosen experts of a token, summed over tokens."""
    experts_per_rank = len(position_M) // environment.world_size  # one pool, so positions are all of its experts
    owner_TK = position_M[routing.expert_TK] // experts_per_rank
    needed = torch.zeros(len(owner_TK), environment.world_size, dtype=torch.bool)
    for k in range(owner_TK.shape[1]):
        needed[torch.arange(len(owner_TK)), owner_TK[:, k]] |= routing.chosen_TK[:, k]
    needed[:, pool_rank] = False
    return int(needed.sum())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that the system does not give to connections, which would be there first."""
    ports: set[int] = set()
    while len(ports) < count:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            ports.add(one.getsockname()[1])
    return sorted(ports)
