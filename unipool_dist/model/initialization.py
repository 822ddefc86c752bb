"""Initial weights that depend on the seed and on a weight's name, never on the layout.

Every weight is drawn whole, on the CPU, from a generator of its own, and a rank keeps its slice; experts are drawn
one by one under their global ids.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from unipool_dist.config.plan import Plan


def draw_normal(name: str, shape: tuple[int, ...], std: float, seed: int) -> Tensor:
    """``N(0, std^2)`` in fp32 for the weight called ``name``."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
    return torch.randn(shape, generator=generator) * std


def output_std(plan: Plan) -> float:
    """Standard deviation of projections into the residual stream, of which there are two per layer."""
    return plan.model.init_std / math.sqrt(2 * plan.model.num_layers)


def shard(full: Tensor, dim: int | None, tp_index: int, tp_size: int) -> Tensor:
    """This rank's slice of a weight split along ``dim`` over tensor parallelism; all of it if ``dim`` is ``None``."""
    return full if dim is None else full.chunk(tp_size, dim)[tp_index]


@torch.no_grad()
def initialize_stage(stage: nn.Module, plan: Plan, tp_index: int) -> None:
    """Fill every parameter of ``stage``, whose names are those of the whole model.

    A parameter that is split over tensor parallelism carries the attribute ``tp_dim``.
    """
    for name, parameter in stage.named_parameters():
        dim = getattr(parameter, "tp_dim", None)
        shape = list(parameter.shape)
        if dim is not None:
            shape[dim] *= plan.parallel.tp
        if name.endswith(("norm.weight", "router.scale")):
            parameter.fill_(1.0)
            continue
        std = plan.model.init_std
        if name.endswith("router.weight"):
            std = plan.pool.router_init_std
        elif name.endswith("attention.output.weight"):
            std = output_std(plan)
        full = draw_normal(name, tuple(shape), std, plan.train.seed)
        parameter.copy_(shard(full, dim, tp_index, plan.parallel.tp))


@torch.no_grad()
def initialize_experts(gate_up: Tensor, down: Tensor, expert_ids: tuple[int, ...], plan: Plan) -> None:
    """Fill the weights of the experts with these global ids, in the order of their slots."""
    for slot, expert in enumerate(expert_ids):
        shape_in, shape_out = tuple(gate_up[slot].shape), tuple(down[slot].shape)
        gate_up[slot] = draw_normal(f"experts.{expert}.gate_up", shape_in, plan.model.init_std, plan.train.seed)
        down[slot] = draw_normal(f"experts.{expert}.down", shape_out, output_std(plan), plan.train.seed)
