"""Assignment counts, and the auxiliary loss of a layer that is built on them.

Shapes: L layers, P pools, M experts of a pool.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config.sections import BalanceSection
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.pool.losses import make_loss


class Balance:
    """Assignment counts of the current window, the shares of the last one, and the loss of one layer.

    ``window: step``: shares come from all assignments of the step before, over all layers of the pool, all
    micro-batches and all ranks, so the loss does not depend on the layout. ``window: microbatch``: from the most
    recent micro-batch of every layer of the pool and all its data ranks; with one pipeline stage that is the
    micro-batch before, as in the paper. With more stages a layer's most recent micro-batch is not the same one on
    every stage.

    Until the first window is complete all shares are 0, and so is the pool loss. :meth:`record` and the ``end_*``
    methods are only called in training and never in a recomputation.
    """

    def __init__(
        self,
        settings: BalanceSection,
        pools: PoolMap,
        *,
        device: torch.device,
        world: dist.ProcessGroup,
        tp: dist.ProcessGroup,
    ) -> None:
        self._window, self._pools = settings.window, pools
        self._loss = make_loss(settings, pools.layers_per_pool)
        self._world, self._tp = world, tp
        self._step_LM = torch.zeros(pools.num_layers, pools.num_experts, dtype=torch.int64, device=device)
        self._latest_LM = torch.zeros_like(self._step_LM)
        self._share_PM = torch.zeros(pools.num_pools, pools.num_experts, device=device)

    def record(self, layer: int, counts_M: Tensor) -> None:
        """Add the assignments [M] that this rank's tokens of one micro-batch made in ``layer``."""
        self._step_LM[layer] += counts_M
        self._latest_LM[layer] = counts_M

    def layer_loss(self, layer: int, mean_score_M: Tensor, counts_M: Tensor) -> Tensor | None:
        """Return what ``layer`` and this rank's tokens of one micro-batch contribute; ``None`` without a loss.

        ``mean_score_M`` is the sum of scores over this rank's tokens divided by the tokens of all ranks and
        micro-batches of the step, so that contributions are simply added. ``counts_M``: this rank's assignments, as
        given to :meth:`record`.

        Collectives: with a loss of a layer's own shares, one all-reduce over the tensor-parallel group, whose ranks
        hold the other tokens of the micro-batch.
        """
        if self._loss is None:
            return None
        if self._loss.shares == "pool":
            return self._loss(self._share_PM[self._pools.pool_of(layer)], mean_score_M)
        counts = counts_M.clone()
        dist.all_reduce(counts, group=self._tp)
        return self._loss(_shares(counts[None])[0], mean_score_M)

    def end_forward_lane(self) -> None:
        """Close a forward lane of training; called by every rank.

        Collectives: with ``window: microbatch``, one all-reduce over the world.
        """
        if self._loss is not None and self._loss.shares == "pool" and self._window == "microbatch":
            latest = self._latest_LM.clone()
            dist.all_reduce(latest, group=self._world)
            self._share_PM = self._pool_shares(latest)

    def end_step(self) -> Tensor:
        """Close the step; return its assignments [L, M] over all ranks.

        Collectives: one all-reduce over the world.
        """
        counts = self._step_LM
        dist.all_reduce(counts, group=self._world)
        self._step_LM = torch.zeros_like(counts)
        if self._window == "step":
            self._share_PM = self._pool_shares(counts)
        return counts

    def state_dict(self) -> dict[str, Tensor]:
        """Return the shares [P, M], and the latest counts [L, M] of the layers of this rank's stage (0 elsewhere)."""
        return {"share": self._share_PM, "latest": self._latest_LM}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._share_PM = state["share"].to(self._share_PM)
        self._latest_LM = state["latest"].to(self._latest_LM)

    def _pool_shares(self, counts_LM: Tensor) -> Tensor:
        pools = counts_LM.view(-1, self._pools.layers_per_pool, counts_LM.shape[1])
        return _shares(pools.sum(dim=1))


def _shares(counts_PM: Tensor) -> Tensor:
    """Turn counts into shares of their row, in fp32; a row without assignments stays 0."""
    return (counts_PM / counts_PM.sum(dim=-1, keepdim=True).clamp_min(1)).float()
