"""Load only the weights of a checkpoint, into a model without an optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unipool_dist.checkpoint.resume import Found, load_pieces
from unipool_dist.checkpoint.state import dense_pieces, expert_pieces, untrained_pieces
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.engine.optim.sharded import StateShard
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import MASTER


@torch.no_grad()
def load_weights(found: Found, model: PooledModel, groups: ParallelGroups) -> None:
    """Set this rank's parameters from the fp32 masters in a checkpoint, whatever layout wrote it, and routers' biases.

    Optimizer states are not read. A parameter that is not fp32 takes 4 more bytes per element meanwhile.

    Collectives: over ``groups.storage``, those of :func:`unipool_dist.checkpoint.resume.load_pieces`; those of
    :meth:`unipool_dist.model.tied.TiedWeights.share`; over ``storage`` an all_gather_object.

    Raises:
        DamagedError: on every rank: a file is damaged; the model is of no use then.
        CheckpointError: on every rank: the checkpoint lacks a tensor, has another shape of it, or holds what is none.
    """
    dense = [_whole(name, parameter) for name, parameter in model.named_dense_parameters()]
    experts = [_whole(name, parameter) for name, parameter in model.named_expert_parameters()]
    held = [item for shard in dense for item in dense_pieces(shard, groups)]
    held += [item for shard in experts for item in expert_pieces(shard, model.expert_ids)]
    load_pieces(found, held + untrained_pieces(model), groups.storage)
    for shard in (*dense, *experts):
        shard.parameter.view(-1).copy_(shard.flats[MASTER])
    model.tied.share()
    found.verification.confirm()


def _whole(name: str, parameter: nn.Parameter) -> StateShard:
    """Return all of a parameter as one shard, whose master is the parameter's own memory if that is fp32."""
    flat: Tensor = parameter.detach().view(-1)
    return StateShard(name, parameter, 0, parameter.numel(), {MASTER: flat.float()}, 0)
