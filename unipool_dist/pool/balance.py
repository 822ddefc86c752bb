"""The auxiliary loss that balances the use of experts, and the assignment counts it is built on.

Shapes: L layers, M experts of a pool.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config.sections import BalanceSection
from unipool_dist.layout.pool_map import PoolMap


def balance_loss(share_M: Tensor, mean_score_M: Tensor, alpha: float) -> Tensor:
    """``alpha * M * sum_i f_i P_i``: the Switch loss (arXiv 2101.03961) over one layer or, averaged over layers, over
    a pool.

    ``share_M`` is the share of assignments that went to each expert (no gradient), ``mean_score_M`` the mean score it
    got.
    """
    return alpha * len(share_M) * (share_M * mean_score_M).sum()


def scores_for_loss(scores_TM: Tensor, kind: str) -> Tensor:
    """Scores as they enter the loss: ``raw``, or ``normalized`` so that each token's sum to 1 (0 where all are 0)."""
    if kind == "raw":
        return scores_TM
    return scores_TM / scores_TM.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(scores_TM.dtype).tiny)


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
        self.settings = settings
        self._pools = pools
        self._world, self._tp = world, tp
        self._step_LM = torch.zeros(pools.num_layers, pools.num_experts, dtype=torch.int64, device=device)
        self._latest_LM = torch.zeros_like(self._step_LM)
        self._share_GM = torch.zeros(pools.num_pools, pools.num_experts, device=device)

    def record(self, layer: int, counts_M: Tensor) -> None:
        """Add the assignments [M] that this rank's tokens of one micro-batch made in ``layer``."""
        self._step_LM[layer] += counts_M
        self._latest_LM[layer] = counts_M

    def layer_loss(self, layer: int, mean_score_M: Tensor, counts_M: Tensor) -> Tensor:
        """Contribution of ``layer`` and of this rank's tokens of one micro-batch.

        ``mean_score_M`` is the sum of scores over this rank's tokens divided by the tokens of all ranks and
        micro-batches of the step, so that contributions are simply added. ``counts_M``: this rank's assignments, as
        given to :meth:`record`.

        Collectives: with ``loss: layer``, one all-reduce over the tensor-parallel group, whose ranks hold the other
        tokens of the micro-batch.
        """
        alpha = self.settings.alpha
        if self.settings.loss == "pool":
            share_M = self._share_GM[self._pools.pool_of(layer)]
            return balance_loss(share_M, mean_score_M, alpha / self._pools.layers_per_pool)
        counts = counts_M.clone()
        dist.all_reduce(counts, group=self._tp)
        return balance_loss(_shares(counts[None])[0], mean_score_M, alpha)

    def end_forward_half(self) -> None:
        """Called by every rank after every forward half-tick of training.

        Collectives: with ``window: microbatch``, one all-reduce over the world.
        """
        if self.settings.loss == "pool" and self.settings.window == "microbatch":
            latest = self._latest_LM.clone()
            dist.all_reduce(latest, group=self._world)
            self._share_GM = self._pool_shares(latest)

    def end_step(self) -> Tensor:
        """Close the step; return its assignments [L, M] over all ranks.

        Collectives: one all-reduce over the world.
        """
        counts = self._step_LM
        dist.all_reduce(counts, group=self._world)
        self._step_LM = torch.zeros_like(counts)
        if self.settings.window == "step":
            self._share_GM = self._pool_shares(counts)
        return counts

    def state_dict(self) -> dict[str, Tensor]:
        """Shares [pools, M], and the latest counts [L, M] of the layers of this rank's stage (0 elsewhere)."""
        return {"share": self._share_GM, "latest": self._latest_LM}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._share_GM = state["share"].to(self._share_GM)
        self._latest_LM = state["latest"].to(self._latest_LM)

    def _pool_shares(self, counts_LM: Tensor) -> Tensor:
        pools = counts_LM.view(-1, self._pools.layers_per_pool, counts_LM.shape[1])
        return _shares(pools.sum(dim=1))


def _shares(counts_GM: Tensor) -> Tensor:
    """Counts as shares of their row, in fp32; a row without assignments stays 0."""
    return (counts_GM / counts_GM.sum(dim=-1, keepdim=True).clamp_min(1)).float()
