"""The experts that tokens are sent to, in all layers, gathered from the ranks that have them.

Shapes: L layers, l of this stage, s sequence, b batch, T tokens, K choices, M experts of a pool, E of all pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.data import Batch
from unipool_dist.engine.callback import Callback
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.observe.usage import Counts
from unipool_dist.pool.dispatch import choose
from unipool_dist.probe.sharing import Path, count_choices, path_of


@dataclass(frozen=True)
class Seen:
    """Choices of experts, summed over tokens that are predicted; the same on every rank."""

    counts_LE: Counts
    path: Path


class Recorder(Callback):
    """The choices of this rank's routers for some sequences, kept until :meth:`collect`."""

    def __init__(self, run: OpenedRun) -> None:
        self._run = run
        self._biases = run.model.router_biases()
        self._numbers: list[list[int]] = []  # of the sequences of each micro-batch
        self._chosen: dict[int, list[Tensor]] = {layer: [] for layer in run.model.layer_range}  # [s / tp, b, K] each

    def sequences(self, domain: str, numbers: list[int]) -> None:
        """Take note of the sequences that are routed next."""
        self._numbers.append(numbers)

    def on_scores(self, layer: int, scores_TM: Tensor) -> None:
        pool, pools = self._run.plan.pool, self._run.plan.pools
        expert_TK, score_TK = choose(scores_TM, pool.top_k, self._biases.get(layer))
        expert_TK = torch.where(score_TK > 0, expert_TK + pools.experts_of(pools.pool_of(layer)).start, -1)
        rows = len(self._numbers[-1])
        self._chosen[layer].append(expert_TK.view(-1, rows, pool.top_k).to(torch.int32))

    def collect(self, part: Batch) -> Seen:
        """Return the choices for the sequences of ``part``, and forget them.

        Collectives: one all-gather over the pipeline group, then one all-reduce over the world.
        """
        groups, model = self._run.groups, self._run.plan.model
        expert_LTK = self._gather()
        experts = self._run.plan.pools.total_experts
        sums = torch.zeros(model.num_layers, experts + 2, dtype=torch.int64)
        if groups.pp_index == 0:
            expert_LTK = expert_LTK[:, self._predicted(part)]
            path = path_of(expert_LTK, experts)
            columns = [count_choices(expert_LTK, experts), path.chosen_L[:, None], path.new_L[:, None]]
            sums = torch.from_numpy(np.concatenate(columns, axis=1))
        sums = sums.to(groups.device)
        dist.all_reduce(sums, group=groups.world)
        self._numbers = []
        counts = sums.cpu().numpy()
        return Seen(counts[:, :-2], Path(counts[:, -2], counts[:, -1]))

    def _gather(self) -> Counts:
        """Return the choices [L, T, K] of this rank's tokens, in the order micro-batch, position, row."""
        groups, model = self._run.groups, self._run.plan.model
        mine = torch.stack([torch.cat([each.flatten(0, 1) for each in kept]) for kept in self._chosen.values()])
        for kept in self._chosen.values():
            kept.clear()
        stages = groups.grid.layers_of_stage(model.num_layers)
        padded = mine.new_full((max(map(len, stages)), *mine.shape[1:]), -1)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in stages]
        dist.all_gather(parts, padded, group=groups.pp)
        return torch.cat([part[: len(stage)] for part, stage in zip(parts, stages, strict=True)]).cpu().numpy()

    def _predicted(self, part: Batch) -> np.ndarray:
        """Return bool [T]: whether the token after each of this rank's tokens is predicted."""
        groups, (total, length) = self._run.groups, part.loss_mask.shape
        size = length // groups.grid.tp
        positions = slice(groups.tp_index * size, (groups.tp_index + 1) * size)
        counts = [
            (part.loss_mask[[min(n, total - 1) for n in numbers], positions] > 0).numpy()
            & (np.array(numbers) < total)[:, None]
            for numbers in self._numbers
        ]  # [b, s / tp] each
        return np.concatenate([count.T.flatten() for count in counts])
