"""A second optimizer behind the contract: ZeRO stage 1 written out in torch, AdamW, one flat partition per group.

As a user's own would be, it is named in ``optimizer.name``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.config.plan import Plan
from unipool_dist.engine.optim.sharded import RateOf, ShardedOptimizer, StateShard, TrainedParameter
from unipool_dist.model.inventory import MASTER
from unipool_dist.pool.main_grad import main_grad

NAME = f"{__name__}:PlainZero1"
KINDS = ("exp_avg", "exp_avg_sq")


class PlainZero1(ShardedOptimizer):
    """AdamW; each rank of the group updates one of equal parts of the flattened parameters."""

    def __init__(self, trained: Sequence[TrainedParameter], replicas: dist.ProcessGroup, plan: Plan) -> None:
        settings = plan.optimizer
        kinds = dict.fromkeys((item.is_counted, item.has_weight_decay, item.lr_scale) for item in trained)
        self._flats = [
            _Flat(
                [item for item in trained if (item.is_counted, item.has_weight_decay, item.lr_scale) == kind], replicas
            )
            for kind in kinds
        ]
        decay = [settings.weight_decay if flat.members[0].has_weight_decay else 0.0 for flat in self._flats]
        self._adamw = torch.optim.AdamW(
            [{"params": [flat.master], "weight_decay": wd} for flat, wd in zip(self._flats, decay, strict=True)],
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )

    def reduce_gradients(self) -> None:
        for flat in self._flats:
            flat.reduce_gradients()

    def squared_norm(self) -> Tensor:
        counted = [flat.gradient for flat in self._flats if flat.members[0].is_counted]
        return sum((gradient.double().square().sum() for gradient in counted), torch.zeros((), dtype=torch.float64))

    def scale_gradients(self, factor: float) -> None:
        for flat in self._flats:
            flat.gradient.mul_(factor)

    def step(self, rate_of: RateOf) -> None:
        for group, flat in zip(self._adamw.param_groups, self._flats, strict=True):
            group["lr"] = rate_of(flat.members[0].lr_scale)
            flat.master.grad = flat.gradient
        self._adamw.step()
        for flat in self._flats:
            flat.set_parameters()

    def state_shards(self) -> list[StateShard]:
        shards = []
        for flat in self._flats:
            state = self._adamw.state[flat.master]
            for kind in KINDS:
                state.setdefault(kind, torch.zeros_like(flat.master))
            state.setdefault("step", torch.zeros(()))
            flats = {MASTER: flat.master.detach()} | {kind: state[kind] for kind in KINDS}
            shards += flat.shards(flats)
        return shards

    def finish_loading(self, steps: int) -> None:
        for flat in self._flats:
            if self._adamw.state[flat.master]:
                self._adamw.state[flat.master]["step"].fill_(float(steps))
            flat.set_parameters()

    def close(self) -> None:
        self._flats.clear()


class _Flat:
    """Parameters one after the other, padded so that each rank's part is of the same size; this rank's master."""

    def __init__(self, members: list[TrainedParameter], replicas: dist.ProcessGroup) -> None:
        self.members, self._group = members, replicas
        numel = sum(item.parameter.numel() for item in members)
        self._size = -(-numel // replicas.size())
        self._first = self._size * replicas.rank()
        self.master = torch.nn.Parameter(self._mine(self._joined([item.parameter.detach() for item in members])))
        self.gradient = torch.zeros_like(self.master)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        flat = torch.zeros(self._size * self._group.size())
        torch.cat([tensor.float().flatten() for tensor in tensors], out=flat[: sum(t.numel() for t in tensors)])
        return flat

    def _mine(self, flat: Tensor) -> Tensor:
        return flat[self._first : self._first + self._size].clone()

    def reduce_gradients(self) -> None:
        flat = self._joined([main_grad(item.parameter) for item in self.members])
        dist.all_reduce(flat, group=self._group)
        self.gradient = self._mine(flat)

    def set_parameters(self) -> None:
        flat = torch.empty(self._size * self._group.size())
        dist.all_gather_into_tensor(flat, self.master.detach(), group=self._group)
        with torch.no_grad():
            for item, start in self._starts():
                item.parameter.copy_(flat[start : start + item.parameter.numel()].view_as(item.parameter))

    def shards(self, flats: dict[str, Tensor]) -> list[StateShard]:
        """The parts of parameters that are in this rank's part."""
        found = []
        for item, start in self._starts():
            first = max(start, self._first)
            last = min(start + item.parameter.numel(), self._first + self._size)
            if first < last:
                place = first - self._first
                found.append(StateShard(item.name, item.parameter, first - start, last - first, flats, place))
        return found

    def _starts(self) -> list[tuple[TrainedParameter, int]]:
        starts, start = [], 0
        for item in self.members:
            starts.append((item, start))
            start += item.parameter.numel()
        return starts
