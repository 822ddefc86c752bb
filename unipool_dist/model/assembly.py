"""Putting one rank's part of the model together: its stage, its experts, and the exchange between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.comm.megatron import layer_config
from unipool_dist.config.plan import Plan
from unipool_dist.kernels import kernel_for
from unipool_dist.model.block import StagePlace
from unipool_dist.model.families import family_of
from unipool_dist.model.initialization import describe, initialize_dense, initialize_experts
from unipool_dist.model.inventory import Inventory
from unipool_dist.model.stage import Stage
from unipool_dist.model.tied import TiedWeights
from unipool_dist.pool.balance import Balance
from unipool_dist.pool.client import PoolClient
from unipool_dist.pool.exchange import PoolExchange
from unipool_dist.pool.experts import ExpertBank
from unipool_dist.pool.placement import Placement, PoolGroup, placed
from unipool_dist.pool.transport import GroupTransport

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_PENDING_ROWS_PER_EXPERT = {"cpu": 256, "cuda": 2048}
"""Weight gradients wait for about so many rows per expert: enough for an efficient product, and a bound on their
memory. A GPU's bring more than 256 in every exchange, so that with as few nothing would wait."""


@dataclass(frozen=True)
class PooledModel:
    """One rank's part of a UniPool model.

    Its parameters carry their descriptions (:func:`unipool_dist.model.inventory.spec_of`).
    """

    inventory: Inventory
    """Of the whole model."""
    stage: Stage
    layer_range: range
    bank: ExpertBank
    pool_group: PoolGroup
    pool_rank: int
    client: PoolClient
    exchange: PoolExchange
    balance: Balance
    dtype: torch.dtype
    tied: TiedWeights

    @property
    def placement(self) -> Placement:
        """Who owns which expert, now."""
        return self.client.placement

    @property
    def expert_ids(self) -> tuple[int, ...]:
        """Global ids of the experts in ``bank``, by slot."""
        return self.placement.experts_of(self.pool_rank)

    def named_dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the stage's parameters, except copies of another stage's: this rank does not save or update them."""
        copies = {id(parameter) for parameter in self.tied.copies}
        return ((name, parameter) for name, parameter in self.stage.named_parameters() if id(parameter) not in copies)

    def named_untrained(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers of this rank that belong to the model: the biases of its routers, if there are any."""
        return ((name, buffer) for name, buffer in self.stage.named_buffers() if self.inventory.find(name))

    def router_biases(self) -> dict[int, Tensor]:
        """Return by layer the bias [M] of its router, a buffer; empty without ``pool.balance.bias_rate``."""
        blocks: Any = self.stage.layers
        biases = {layer: blocks[str(layer)].router.bias for layer in self.layer_range}
        return {layer: bias for layer, bias in biases.items() if bias is not None}

    def place(self, placement: Placement) -> None:
        """Let ``placement`` say who owns which expert; moving the experts is the caller's."""
        self.client.place(placement)

    def named_expert_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.bank.named_parameters()


def build_model(
    plan: Plan, groups: ParallelGroups, *, draw: bool = True, drawing: Callable[[], None] = lambda: None
) -> PooledModel:
    """Build this rank's part.

    Args:
        draw: whether weights get their initial values; if not, they are undefined until a checkpoint is loaded.
        drawing: called before the values of each tensor are drawn, which of a large model takes minutes.
    """
    plan = plan.with_longest_sequences()
    family = family_of(plan)
    tensors = family.inventory(plan)
    dtype = DTYPES[plan.train.dtype]
    stages = groups.grid.layers_of_stage(plan.model.num_layers)
    layer_range = stages[groups.pp_index]
    grid = groups.grid
    pool_group = PoolGroup(groups.pools, plan.pool.num_experts, grid.pool_parallel_size, grid.stages_per_group)
    placement = placed(plan.pool.placement, pool_group)
    expert_ids = placement.experts_of(groups.pool_rank)
    kernel = kernel_for(groups.device)
    bank = ExpertBank(len(expert_ids), plan.model.hidden_size, plan.model.ffn_hidden_size, dtype, kernel)
    bank.to(groups.device)
    exchange = PoolExchange(
        GroupTransport(groups.pool),
        bank,
        block_size=groups.grid.block_size,
        slots=max(map(len, stages)),
        max_pending_rows=_PENDING_ROWS_PER_EXPERT[groups.device.type] * len(expert_ids),
    )
    balance = Balance(
        plan.pool.balance,
        plan.pools,
        device=groups.device,
        world=groups.world,
        tp=groups.tp,
    )
    client = PoolClient(plan.pool, plan.pools, placement, exchange, balance, groups.device)
    stage = family.build_stage(StagePlace(plan, groups, layer_range, layer_config(plan, dtype), client)).to(
        groups.device
    )
    dense = tensors.of_stage(layer_range, is_first=groups.is_first_stage, is_last=groups.is_last_stage)
    describe(stage, dense)
    describe(bank, tensors.expert)
    if draw:
        initialize_dense(stage.parameters(), plan.train.seed, groups.tp_index, groups.grid.tp, drawing)
        initialize_experts(bank.parameters(), expert_ids, plan.train.seed, drawing)
    tied = TiedWeights(list(stage.parameters()), {spec.name for spec in tensors.tied}, groups)
    return PooledModel(
        inventory=tensors,
        stage=stage,
        layer_range=layer_range,
        bank=bank,
        pool_group=pool_group,
        pool_rank=groups.pool_rank,
        client=client,
        exchange=exchange,
        balance=balance,
        dtype=dtype,
        tied=tied,
    )
