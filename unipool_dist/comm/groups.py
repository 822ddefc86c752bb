"""The process groups of a run, made in the same order on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from unipool_dist.comm.environment import Environment
from unipool_dist.comm.megatron import create_megatron_groups, let_megatron_run_without_cuda, parallel_state
from unipool_dist.comm.rendezvous import join_world
from unipool_dist.config.plan import Outline
from unipool_dist.layout.rank_grid import RankGrid


@dataclass(frozen=True)
class ParallelGroups:
    """The process groups and coordinates of this rank; groups that it is not in are not here."""

    grid: RankGrid
    rank: int
    device: torch.device
    pp_index: int
    dp_index: int
    tp_index: int
    world: dist.ProcessGroup
    tp: dist.ProcessGroup
    dp: dist.ProcessGroup
    pp: dist.ProcessGroup
    pool: dist.ProcessGroup
    pool_rank: int
    expert_data: dist.ProcessGroup
    """The replicas of this rank's experts in other pool groups."""
    storage: dist.ProcessGroup
    """All ranks, on the CPU with gloo: for the background thread that writes checkpoints."""
    ends: dist.ProcessGroup | None
    """The first and the last stage of this rank's pipeline, if it is one of them and not both."""
    pools: tuple[int, ...]
    """The pools whose experts this rank's pool group owns."""

    def by_name(self) -> dict[str, dist.ProcessGroup]:
        """Return the groups under names for messages."""
        return {
            "world": self.world,
            "tp": self.tp,
            "dp": self.dp,
            "pp": self.pp,
            "pool": self.pool,
            "expert_data": self.expert_data,
            "storage": self.storage,
        }

    @property
    def is_first_stage(self) -> bool:
        return self.pp_index == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_index == self.grid.pp - 1


@contextmanager
def process_groups(plan: Outline, environment: Environment) -> Iterator[ParallelGroups]:
    """Join the other processes, make every group, and leave them at the end.

    After an exception nothing is cleaned up: leaving a group that has lost a member can take for ever.

    ``plan`` is resolved for ``environment.world_size``. The timeout of every group is ``parallel.timeout_s``.

    Collectives: creates the world, then Megatron's groups, then the pool groups, then the expert-data groups span by
    span, then the storage group; every rank makes all of them in this order. Then one all-reduce over the pipeline
    group.
    """
    let_megatron_run_without_cuda()
    timeout = timedelta(seconds=plan.parallel.timeout_s)
    join_world(environment, timeout)
    create_megatron_groups(plan)
    yield _make_groups(plan, environment, timeout)
    dist.barrier()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _make_groups(plan: Outline, environment: Environment, timeout: timedelta) -> ParallelGroups:
    grid, rank = plan.grid, environment.rank

    def mine(all_ranks: list[tuple[int, ...]]) -> dist.ProcessGroup | None:
        made = [(ranks, dist.new_group(list(ranks), timeout=timeout)) for ranks in all_ranks]
        return next((group for ranks, group in made if rank in ranks), None)

    pool_group = mine(grid.pool_groups())
    assert pool_group is not None
    spans = grid.pool_spans(plan.pools)
    replicas = [mine(grid.expert_data_groups(span)) for span in sorted(set(spans))]
    expert_data = next(group for group in replicas if group is not None)
    storage = dist.new_group(list(range(grid.world_size)), timeout=timeout, backend="gloo")
    stage_group = grid.stage_group_of(rank)
    world = dist.group.WORLD
    assert world is not None
    pp_index, dp_index, tp_index = grid.coordinates(rank)
    groups = ParallelGroups(
        grid=grid,
        rank=rank,
        device=environment.device,
        pp_index=pp_index,
        dp_index=dp_index,
        tp_index=tp_index,
        world=world,
        tp=parallel_state.get_tensor_model_parallel_group(),
        dp=parallel_state.get_data_parallel_group(),
        pp=parallel_state.get_pipeline_model_parallel_group(),
        pool=pool_group,
        pool_rank=grid.pool_group_of(rank).index(rank),
        expert_data=expert_data,
        storage=storage,
        ends=parallel_state.get_embedding_group() if grid.pp > 1 and pp_index in (0, grid.pp - 1) else None,
        pools=tuple(pool for pool, (first, last) in enumerate(spans) if first <= stage_group <= last),
    )
    # The first use of this group would be a send between two stages only; but NCCL makes a group's communicator at its
    # first use, and all ranks have to take part in that.
    dist.all_reduce(torch.zeros(1, device=environment.device), group=groups.pp)
    assert groups.tp.rank() == tp_index and groups.dp.rank() == dp_index and groups.pp.rank() == pp_index
    return groups
