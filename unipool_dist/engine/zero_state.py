"""The fp32 masters and optimizer states that ZeRO has left one rank, parameter by parameter.

Leans on internals of the pinned DeepSpeed version: ``_hp_mapping`` of a parameter says which run of its elements is in
this rank's flat partition, and where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unipool_dist.model.inventory import MASTER

if TYPE_CHECKING:  # whoever imports DeepSpeed first has to prepare that, see engine/zero.py
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

_GATHERED_AT_ONCE = 1 << 20
"""Elements of each rank's partition."""


@dataclass(frozen=True)
class StateShard:
    """Elements ``start`` to ``start + numel`` of the flattened ``parameter``: its master and states are on this rank.

    ``flats`` are this rank's whole partitions by kind (``master``, ``exp_avg``, ...), fp32 and 1-D; the shard's
    elements begin at ``flat_start`` in each.
    """

    name: str
    parameter: nn.Parameter
    start: int
    numel: int
    flats: dict[str, Tensor]
    flat_start: int


def state_kinds(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Names of the tensors that the optimizer keeps for each parameter, beside the master."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()


def state_shards(
    zero: DeepSpeedZeroOptimizer, named_parameters: list[tuple[str, nn.Parameter]]
) -> Iterator[StateShard]:
    """All of this rank's shards. States that the optimizer would make at its first step are made now, as zeros."""
    names = {parameter: name for name, parameter in named_parameters}
    for parameters, master in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        state = zero.optimizer.state[master]
        for kind in state_kinds(zero.optimizer):
            if state.get(kind) is None:
                state[kind] = torch.zeros_like(master)
        if isinstance(zero.optimizer, torch.optim.AdamW):
            state.setdefault("step", torch.zeros((), dtype=torch.float32))
        flats = {MASTER: master.detach()} | {kind: state[kind] for kind in state_kinds(zero.optimizer)}
        for parameter in parameters:
            mapping = parameter._hp_mapping
            if mapping is not None and mapping.lp_fragment_address.numel > 0:
                address = mapping.lp_fragment_address
                yield StateShard(
                    names[parameter], parameter, address.start, address.numel, flats, mapping.hp_fragment_address.start
                )


def finish_loading(zero: DeepSpeedZeroOptimizer, steps: int) -> None:
    """After masters and states were written into: set Adam's count of steps, and the parameters from their masters.

    Collectives: all-gathers over the data-parallel group.
    """
    for master in zero.single_partition_of_fp32_groups:
        if "step" in zero.optimizer.state[master]:
            zero.optimizer.state[master]["step"].fill_(float(steps))
    members = zip(
        zero.parallel_partitioned_bit16_groups,
        zero.single_partition_of_fp32_groups,
        zero.real_dp_process_group,
        strict=True,
    )
    for partitions, master, group in members:
        mine = partitions[dist.get_rank(group)]
        mine.copy_(master.detach())
        if len(partitions) > 1:
            _gather(partitions, mine, group)


def _gather(partitions: list[Tensor], mine: Tensor, group: dist.ProcessGroup) -> None:
    """All-gather in chunks: gloo copies what it gathers, and memory that is new each time costs more than the copy."""
    for first in range(0, mine.numel(), _GATHERED_AT_ONCE):
        chunks = [partition[first : first + _GATHERED_AT_ONCE] for partition in partitions]
        dist.all_gather(chunks, mine[first : first + _GATHERED_AT_ONCE], group)
