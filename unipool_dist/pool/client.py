"""What a layer asks of the pool: experts chosen, rows exchanged, results combined, assignments counted.

Shapes: T tokens of this rank, M experts of the layer's pool, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipool_dist.config.sections import PoolSection
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.pool.balance import Balance
from unipool_dist.pool.dispatch import combine, dispatch, route
from unipool_dist.pool.exchange import PoolExchange
from unipool_dist.pool.placement import Placement


class PoolClient:
    """The pool as the layers of one stage see it.

    ``training`` and ``tokens_per_step`` are set by whoever runs the schedule: only in training are assignments
    counted and the auxiliary loss computed.
    """

    def __init__(
        self,
        settings: PoolSection,
        pools: PoolMap,
        placement: Placement,
        exchange: PoolExchange,
        balance: Balance,
        device: torch.device,
    ) -> None:
        self.exchange, self.balance = exchange, balance
        self.training = True
        self.tokens_per_step = 0  # tokens of all ranks and micro-batches; normalises the auxiliary loss
        self._settings, self._pools = settings, pools
        self._num_positions = len(placement.order)
        self._position = torch.from_numpy(placement.position).to(device)

    def run(
        self,
        layer: int,
        slot: int,
        tokens_TD: Tensor,
        scores_TM: Tensor,
        score_sum_M: Tensor,
        bias_M: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs [T, D] of the pool for one layer's tokens, and the layer's share of the auxiliary loss in training.

        ``bias_M`` is added to the scores when experts are chosen.

        Collectives: the exchange; then those of :meth:`Balance.layer_loss`.
        """
        experts = self._pools.experts_of(self._pools.pool_of(layer))
        position_M = self._position[experts.start : experts.stop]
        routing = route(scores_TM, self._settings.top_k, position_M, self._num_positions, bias_M)
        plan = self.exchange.plan(routing.counts_E, slot)
        rows_RD = dispatch(tokens_TD, routing, plan.num_rows)
        out_TD = combine(self.exchange.request(rows_RD, plan), scores_TM, routing)
        if not self.training:
            return out_TD, None
        self.balance.record(layer, routing.counts_M)
        if self._settings.balance.loss == "none":
            return out_TD, None
        return out_TD, self.balance.layer_loss(layer, score_sum_M / self.tokens_per_step, routing.counts_M)
