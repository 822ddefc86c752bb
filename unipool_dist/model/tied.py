"""Weights that the first and the last pipeline stage share, such as an embedding that is the output layer too.

The first stage owns them: it alone keeps their optimizer states, saves them, and counts them in the gradient norm. The
last stage computes with a copy, whose gradient goes to the owner and which follows each of the owner's updates. So both
are equal bit for bit, whatever data parallelism does with the order of sums.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.model.inventory import spec_of
from unipool_dist.pool.main_grad import main_grad


class TiedWeights:
    """The tied weights of one rank's stage; none on middle stages, and none if one stage is first and last.

    Args:
        parameters: those of the stage.
        names: of the tensors that the model ties.
    """

    def __init__(self, parameters: list[nn.Parameter], names: set[str], groups: ParallelGroups) -> None:
        self._group = groups.ends
        self._is_owner = groups.is_first_stage
        self._parameters = [p for p in parameters if groups.ends is not None and spec_of(p).name in names]

    @property
    def copies(self) -> list[nn.Parameter]:
        """The parameters of this rank that another rank owns."""
        return [] if self._is_owner else self._parameters

    def sum_gradients(self) -> None:
        """Add the gradients of the copies to the owner's. Collectives: one reduction over ``ends`` for each tensor."""
        for parameter in self._parameters:
            dist.reduce(main_grad(parameter), group=self._group, group_dst=0)

    @torch.no_grad()
    def share(self) -> None:
        """Give the owner's values to the copies. Collectives: one broadcast over ``ends`` for each tensor."""
        for parameter in self._parameters:
            dist.broadcast(parameter.detach(), group=self._group, group_src=0)
