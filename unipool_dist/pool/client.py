"""The request of a layer to the pool: experts chosen, rows exchanged, results combined, assignments counted.

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
from unipool_dist.pool.turn import Turn


class PoolClient:
    """The pool as the layers of one stage see it."""

    def __init__(
        self,
        settings: PoolSection,
        pools: PoolMap,
        placement: Placement,
        exchange: PoolExchange,
        balance: Balance,
        device: torch.device,
    ) -> None:
        self._exchange, self._balance = exchange, balance
        self._settings, self._pools = settings, pools
        self._device = device
        self.place(placement)

    def place(self, placement: Placement) -> None:
        """Let ``placement`` say who owns which expert from now on."""
        self.placement = placement
        self._num_positions = len(placement.order)
        self._position = torch.from_numpy(placement.position).to(self._device)

    def run(
        self,
        layer: int,
        slot: int,
        turn: Turn,
        tokens_TD: Tensor,
        scores_TM: Tensor,
        score_sum_M: Tensor,
        bias_M: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs [T, D] of the pool for one layer's tokens and, in training, its auxiliary loss.

        ``bias_M`` is added to the scores when experts are chosen.

        Collectives: the exchange; then those of :meth:`Balance.layer_loss`.
        """
        experts = self._pools.experts_of(self._pools.pool_of(layer))
        position_M = self._position[experts.start : experts.stop]
        routing = route(scores_TM, self._settings.top_k, position_M, self._num_positions, bias_M)
        ticket = self._exchange.post(routing.counts_E, slot, turn)
        ticket.send(dispatch(tokens_TD, routing, ticket.num_rows))
        out_TD = combine(ticket.results(), scores_TM, routing, self._settings.normalize_gates)
        if not turn.training:
            return out_TD, None
        self._balance.record(layer, routing.counts_M)
        return out_TD, self._balance.layer_loss(layer, score_sum_M / turn.tokens_per_step, routing.counts_M)
