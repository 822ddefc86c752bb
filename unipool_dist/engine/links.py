"""Tensors between pipeline stages, as the edges of a tick say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.schedule.work import Edge, Lane, Work

Tensors = dict[tuple[Lane, Work], Tensor]
"""Outputs (forward) and input gradients (backward), by the work that made them or by the one that needs them."""


class StageLinks:
    """Moves tensors along edges, for one rank and those of the same data and tensor index on other stages.

    Args:
        pp: the pipeline group; its ranks are the stages in order.
        dtype: of what travels.
    """

    def __init__(self, pp: dist.ProcessGroup, dtype: torch.dtype, device: torch.device) -> None:
        self._pp, self._stage = pp, pp.rank()
        self._dtype, self._device = dtype, device

    def concern(self, edges: Sequence[Edge]) -> bool:
        """Tell whether any of ``edges`` begins or ends on this stage."""
        return any(self._stage in (edge.source, edge.target) for edge in edges)

    def move(self, edges: Sequence[Edge], made: Tensors, arrived: Tensors, shape: tuple[int, ...]) -> None:
        """Send what this stage has ``made`` and put into ``arrived`` what it gets, each tensor of ``shape``.

        What was sent leaves ``made``; what came is in ``arrived`` under the work that needs it, without a gradient.

        Collectives: over the pipeline group one send and receive per edge between two stages. All of a call start
        together, so stages that send to each other at once do not wait for each other.
        """
        operations = []
        for edge in edges:
            needed_by = (edge.lane, edge.taken_by)
            if edge.source == edge.target == self._stage:
                arrived[needed_by] = made.pop((edge.lane, edge.work))
            elif edge.source == self._stage:
                tensor = made.pop((edge.lane, edge.work)).contiguous()
                operations.append(dist.P2POp(dist.isend, tensor, group=self._pp, group_peer=edge.target))
            elif edge.target == self._stage:
                arrived[needed_by] = torch.empty(shape, dtype=self._dtype, device=self._device)
                operations.append(dist.P2POp(dist.irecv, arrived[needed_by], group=self._pp, group_peer=edge.source))
        for request in dist.batch_isend_irecv(operations) if operations else ():
            request.wait()
