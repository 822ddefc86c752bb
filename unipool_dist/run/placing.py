"""Experts that move during a run to where they are used, as ``pool.placement`` wants them.

Assignments are counted on every rank; a tenth of the steps before a move, rank 0 begins to plan it from those counted
since the last one, in a thread of its own; after the step of the move it hands the result to all ranks, and the experts
move. The placement in force is kept in ``placement.json`` of the run directory with the counts it was planned from. At
the first step after a resume the experts go where they were, or, on another layout, where those counts want them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.base.console import say
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import Stop
from unipool_dist.checkpoint.migrate import migrate
from unipool_dist.comm.agreement import failing_together
from unipool_dist.engine.callback import Callback, RunInfo
from unipool_dist.engine.optim.pooled import PooledOptimizer
from unipool_dist.engine.step import StepResult
from unipool_dist.placement.traffic import Ints, contiguous_owners
from unipool_dist.pool.placement import LearnedPolicy, placement_of
from unipool_dist.pool.pool_traffic import PoolLayout
from unipool_dist.run.placement_file import KeptPlacement, layout_of, read_kept, write_kept

_FIRST_STEP = 50
_LEAD = 10
"""A move is planned this part of the steps since the last one ahead."""
Owners = dict[int, Ints]
"""By pool, the rank of a pool group that owns each expert, int64 [M]."""


@dataclass(frozen=True)
class _Plan:
    counts_LM: Ints
    owners: Owners


def steps_of_moves(wanted: Sequence[int], last: int) -> list[int]:
    """Return the steps up to ``last`` after which experts move, ascending; if none is wanted 50, 100, 200, 400, ..."""
    if wanted:
        return sorted({step for step in wanted if 0 < step <= last})
    return list(takewhile(lambda step: step <= last, (_FIRST_STEP * 2**i for i in range(64))))


class Placing(Callback):
    """Plans and moves; on every rank.

    Collectives: before the first step one all-gather over the world; if the run is resumed, and before the step after
    each move, an agreement and a broadcast over the world, then those of
    :func:`~unipool_dist.checkpoint.migrate.migrate` if experts move.

    Args:
        local_rank: this process's number on its node; ranks of a node are numbered one after another.
    """

    def __init__(self, policy: LearnedPolicy, optimizer: PooledOptimizer, local_rank: int) -> None:
        self._policy, self._optimizer, self._local_rank = policy, optimizer, local_rank
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="placement")
        self._pending: Future[_Plan] | None = None
        self._layout: PoolLayout | None = None

    def run_begins(self, run: RunInfo) -> None:
        plan, groups = run.plan, run.groups
        self._run, self._grid = run, groups.grid
        self._path = RunDirectory(run.run_dir).placement
        self._moves = steps_of_moves(plan.pool.placement_steps, plan.train.steps)
        self._counts = torch.zeros(
            plan.model.num_layers, plan.pool.num_experts, dtype=torch.int64, device=groups.device
        )
        even = contiguous_owners(plan.pool.num_experts, groups.grid.pool_parallel_size)
        self._owners: Owners = dict.fromkeys(range(plan.pools.num_pools), even)

    def step_begins(self, step: int) -> None:
        if self._layout is None:
            self._layout = self._find_layout()
            if self._run.resumed_from:
                self._move(step - 1, self._kept_plan)
        elif step - 1 in self._moves:
            self._move(step - 1, self._pending_plan)

    def step_done(self, step: int, result: StepResult) -> None:
        self._counts += result.assignments
        if step == self._planned_at(step):
            counts, self._counts = self._counts, torch.zeros_like(self._counts)
            if self._run.groups.rank == 0:
                self._pending = self._planner.submit(self._plan, counts.cpu().numpy(), self._owners)

    def extend_record(self, record: dict[str, float | int], assignments: Tensor) -> None:
        if self._layout is not None:
            shares = self._layout.shares_leaving(assignments.numpy(), self._owners)
            record.update({f"rows_leaving_{unit}": share for unit, share in shares.items()})

    def run_ends(self, step: int, stop: Stop | None) -> None:
        self._planner.shutdown(wait=False, cancel_futures=True)

    def run_fails(self, error: BaseException) -> None:
        self._planner.shutdown(wait=False, cancel_futures=True)

    def _planned_at(self, step: int) -> int | None:
        """Return the step after which the next move is planned, seen from ``step``; ``None``: there is none."""
        following = bisect_left(self._moves, step)
        if following == len(self._moves):
            return None
        move, before = self._moves[following], self._moves[following - 1] if following else 0
        return max(move - max((move - before) // _LEAD, 1), 1)

    def _find_layout(self) -> PoolLayout:
        groups = self._run.groups
        first_of_node = torch.tensor([groups.rank - self._local_rank], device=groups.device)
        found = [torch.empty_like(first_of_node) for _ in range(groups.world.size())]
        dist.all_gather(found, first_of_node, group=groups.world)
        nodes = tuple(torch.cat(found).tolist())
        return PoolLayout(self._grid, self._run.plan.pools, nodes, self._run.plan.model.ffn_hidden_size)

    def _plan(self, counts_LM: Ints, owners: Owners) -> _Plan:
        """Return the best owners for ``counts_LM``, pool by pool. On rank 0, perhaps in another thread."""
        assert self._layout is not None
        better = dict(owners)
        for pool, owner_M in owners.items():
            improved = self._policy.improve(self._layout.traffic(pool, counts_LM), owner_M)
            if improved is not None:
                better[pool] = improved
        return _Plan(counts_LM, better)

    def _pending_plan(self) -> _Plan | None:
        pending, self._pending = self._pending, None
        return pending.result() if pending is not None else None

    def _kept_plan(self) -> _Plan | None:
        """Return what the run had before it was resumed, better if there are counts to make it so."""
        kept = read_kept(self._path, self._grid, self._run.plan.pools)
        if kept is None:
            return None
        return self._plan(np.array(kept.counts, dtype=np.int64), kept.owners_on(self._grid) or self._owners)

    def _move(self, step: int, plan: Callable[[], _Plan | None]) -> None:
        """Let all ranks have the owners that ``plan`` gives on rank 0, and keep them."""
        groups, started = self._run.groups, time.perf_counter()
        planned = None
        with failing_together("planning where experts go"):
            if groups.rank == 0:
                planned = plan()
        owners_PM = np.stack([(planned.owners if planned else self._owners)[pool] for pool in sorted(self._owners)])
        shared = torch.from_numpy(owners_PM).to(groups.device)
        dist.broadcast(shared, src=0, group=groups.world)
        before, self._owners = self._owners, dict(enumerate(shared.cpu().numpy()))
        moved = sum(int((self._owners[pool] != owner_M).sum()) for pool, owner_M in before.items())
        if moved:
            mine = {pool: self._owners[pool] for pool in groups.pools}
            experts = self._run.plan.pool.num_experts
            placement = placement_of(mine, experts, self._grid.pool_parallel_size)
            migrate(placement, self._run.model, self._optimizer, groups)
        if planned is not None:
            self._tell(step, planned, before, moved, time.perf_counter() - started)

    def _tell(self, step: int, planned: _Plan, before: Owners, moved: int, seconds: float) -> None:
        """Keep the placement, and say what has changed. On rank 0."""
        assert self._layout is not None
        counts, owners = planned.counts_LM, [self._owners[pool].tolist() for pool in sorted(self._owners)]
        write_kept(self._path, KeptPlacement(step, layout_of(self._grid), owners, counts.tolist()))
        was, is_ = (self._layout.shares_leaving(counts, each)["stage"] for each in (before, self._owners))
        say(
            f"placement after step {step}: {moved} of {sum(map(len, owners))} experts moved in {seconds:.1f} s; "
            f"rows that leave their stage {was:.0%} -> {is_:.0%}"
        )
