"""A rank's part of a run's canonical state: pieces of named tensors, and the memory they live in.

Canonical names do not depend on the layout: ``KIND/PARAMETER`` with kind ``master``, ``exp_avg``, ``exp_avg_sq`` (Adam)
or ``momentum_buffer`` (SGD); parameters have the names of the whole model (``layers.3.attention.qkv.weight``), experts
those of their global ids (``experts.17.gate_up``). A parameter in the run's own type is its fp32 master rounded, so it
is not written a second time. A router's bias is not a parameter but written like one, as
``master/layers.3.router.bias``: without it the model would not compute the same. Further entries are
``balance/share``, ``balance/latest`` and ``random/torch``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.checkpoint.moves import Run
from unipool_dist.checkpoint.pieces import Piece, whole
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.engine.optim.pooled import PooledOptimizer
from unipool_dist.engine.optim.sharded import StateShard
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import MASTER, spec_of, split_key, state_key


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's type, as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Held:
    """A piece and where its elements are: ``flat[start : start + piece.numel]``, one-dimensional."""

    piece: Piece
    flat: Tensor
    start: int

    @property
    def values(self) -> Tensor:
        return self.flat.narrow(0, self.start, self.piece.numel)

    def holds(self, part: Piece) -> bool:
        return self.piece.start <= part.start and part.start + part.numel <= self.piece.start + self.piece.numel

    def part(self, part: Piece) -> Held:
        """Return a part of this piece."""
        return Held(part, self.flat, self.start + part.start - self.piece.start)


def optimizer_state(groups: ParallelGroups, model: PooledModel, optimizer: PooledOptimizer) -> list[Held]:
    """Return everything the optimizer keeps on this rank, as views: writing into them changes the optimizer.

    Replicas of dense parameters over tensor parallelism, and of nothing else, appear on several ranks.
    """
    held = [item for shard in optimizer.dense_shards() for item in dense_pieces(shard, groups)]
    return held + [item for shard in optimizer.expert_shards() for item in expert_pieces(shard, model.expert_ids)]


def dense_pieces(shard: StateShard, groups: ParallelGroups) -> Iterator[Held]:
    """Yield the place of a dense parameter's shard in the whole parameter, one piece for each kind of state."""
    local = tuple(shard.parameter.shape)
    spec = spec_of(shard.parameter)
    offset = tuple(size * groups.tp_index if dim == spec.tp_dim else 0 for dim, size in enumerate(local))
    for kind, flat in shard.flats.items():
        piece = Piece(state_key(kind, spec.name), spec.shape, local, offset, shard.start, shard.numel, dtype_name(flat))
        yield Held(piece, flat, shard.flat_start)


def expert_pieces(shard: StateShard, expert_ids: tuple[int, ...]) -> Iterator[Held]:
    """Yield the same for an expert bank's parameter, a stack of experts; on disk each is a separate tensor."""
    for kind, flat in shard.flats.items():
        for piece, place in expert_run(shard).pieces(expert_ids):
            yield Held(replace(piece, key=state_key(kind, piece.key)), flat, shard.flat_start + place)


def expert_run(shard: StateShard) -> Run:
    """Return which elements of an expert bank's parameter a shard is."""
    spec = spec_of(shard.parameter)
    return Run(spec.name, spec.shape, shard.start, shard.numel, dtype_name(shard.flats[MASTER]))


def untrained_pieces(model: PooledModel) -> list[Held]:
    """Return the biases of the routers of this rank's layers, as views; the same on every rank of a stage."""
    return [
        Held(whole(state_key(MASTER, name), tuple(buffer.shape), dtype_name(buffer)), buffer.view(-1), 0)
        for name, buffer in model.named_untrained()
    ]


class SmallState:
    """State that is small and the same for the whole run: balance statistics and torch's random state, from rank 0.

    Nothing in training draws random numbers yet, so one state serves every rank.
    """

    def __init__(self, groups: ParallelGroups, model: PooledModel) -> None:
        self._groups, self._model = groups, model
        balance = model.balance.state_dict()
        self._tensors = {
            "balance/share": torch.zeros_like(balance["share"], device="cpu"),
            "balance/latest": torch.zeros_like(balance["latest"], device="cpu"),
            "random/torch": torch.get_rng_state().clone(),
        }

    def held(self) -> list[Held]:
        """Return the same pieces on every rank."""
        return [
            Held(whole(key, tuple(tensor.shape), dtype_name(tensor)), tensor.view(-1), 0)
            for key, tensor in self._tensors.items()
        ]

    def collect(self) -> None:
        """Bring the tensors up to date. Collectives: one all-reduce over the world."""
        balance = self._model.balance.state_dict()
        latest = balance["latest"].clone()
        dist.all_reduce(latest, group=self._groups.world)
        self._tensors["balance/latest"].copy_(latest)
        self._tensors["balance/share"].copy_(balance["share"])
        self._tensors["random/torch"].copy_(torch.get_rng_state())

    def apply(self) -> None:
        """Give the model what was loaded into the tensors.

        A layer's latest counts go to one rank of its stage, since their sum over ranks is what counts.
        """
        latest = torch.zeros_like(self._tensors["balance/latest"])
        if self._groups.dp_index == 0 and self._groups.tp_index == 0:
            layers = self._model.layer_range
            latest[layers.start : layers.stop] = self._tensors["balance/latest"][layers.start : layers.stop]
        share = self._tensors["balance/share"]
        self._model.balance.load_state_dict({"share": share.clone(), "latest": latest})
        torch.set_rng_state(self._tensors["random/torch"])


class TrainingState:
    """All tensors of a checkpoint that are on one rank."""

    def __init__(self, groups: ParallelGroups, model: PooledModel, optimizer: PooledOptimizer) -> None:
        self.optimizer = optimizer
        self.small = SmallState(groups, model)
        self._groups, self._model = groups, model

    def held(self, *, masters_only: bool = False) -> list[Held]:
        """Return this rank's pieces, as views of the memory that training uses; others once experts have moved."""
        of_model = optimizer_state(self._groups, self._model, self.optimizer) + untrained_pieces(self._model)
        if masters_only:
            return [item for item in of_model if split_key(item.piece.key)[0] == MASTER]
        return of_model + self.small.held()
