"""DeepSpeed's ZeRO stage 0 or 1 over one data-parallel group, driven by our own schedule.

The optimizer class is used without DeepSpeed's engine: the engine reduces gradients from hooks inside backward, in an
order that depends on what each rank happens to run, and mixes dense and expert parameters in one message. Here one
instance holds parameters that share one data-parallel group and one type, and is told once per step to reduce, then
to step.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unipool_dist.config.deepspeed import ZeroSettings
from unipool_dist.config.sections import OptimizerSection
from unipool_dist.engine.gradients import all_reduce_in_buckets
from unipool_dist.engine.zero_state import StateShard, finish_loading, state_shards
from unipool_dist.model.inventory import spec_of
from unipool_dist.pool.main_grad import main_grad
from unipool_dist.topology.megatron_import import without_trackers

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before the import, which otherwise warns that it has to guess
with without_trackers():
    import deepspeed
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
    from deepspeed.utils import logger as deepspeed_logger
    from deepspeed.utils.timer import NoopTimer


def initialize_deepspeed() -> None:
    """Let DeepSpeed use the process group that exists. Call once per process group, on every rank."""
    deepspeed_logger.setLevel(logging.ERROR)
    # Otherwise the first use compiles a shared-memory extension for over a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.comm.comm.cdb = None  # an earlier process group's, in tests
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)


class ZeroOptimizer:
    """ZeRO for parameters of one type over one group: fp32 masters and optimizer states, with stage 1 each on one rank
    only, with stage 0 on all.

    Stage 0 is stage 1 in a group of this rank alone, after the gradients were summed over the group.

    Args:
        named_parameters: the parameters; ``main_grad`` is summed over ``group``.
        group: ranks that hold the same parameters.
        count_replicated: whether this rank counts parameters that are not split over tensor parallelism in the norm;
            true on one tensor-parallel rank, and on all for parameters that are split by other means.
    """

    def __init__(
        self,
        named_parameters: list[tuple[str, nn.Parameter]],
        group: dist.ProcessGroup,
        settings: OptimizerSection,
        zero: ZeroSettings,
        *,
        count_replicated: bool,
    ) -> None:
        self._replicated_over = group if zero.stage == 0 else None
        self._bucket_numel = zero.reduce_bucket_size
        self._named_parameters = named_parameters
        self._parameters = [parameter for _, parameter in named_parameters]
        param_groups, self._counted = [], []
        for kind, members in _by_kind(named_parameters, settings.router_lr_scale).items():
            param_groups.append(
                {
                    "params": members,
                    "wd_mult": float(kind.decays),
                    # Megatron's schedule of this group: from 0 to the one, then to the other.
                    "max_lr": kind.lr_scale * settings.lr,
                    "min_lr": kind.lr_scale * settings.min_lr,
                }
            )
            # With replicated states one rank speaks for the group.
            counted = kind.sharded or count_replicated
            self._counted.append(counted and (zero.stage == 1 or group.rank() == 0))
        numel = sum(parameter.numel() for parameter in self._parameters)
        self._zero = DeepSpeedZeroOptimizer(
            _torch_optimizer(param_groups, settings),
            {parameter: name for name, parameter in named_parameters},
            timers=NoopTimer(),
            optimizer_params={},
            contiguous_gradients=True,
            # DeepSpeed allocates the whole bucket at every step, however small the parameters are.
            reduce_bucket_size=min(zero.reduce_bucket_size, numel),
            dp_process_group=group if zero.stage == 1 else _group_of_one(),
            reduce_scatter=zero.reduce_scatter,
            gradient_accumulation_dtype=torch.float32,
            communication_data_type=torch.float32,
            gradient_average=False,  # the loss is divided by the tokens of the whole step
            partition_grads=False,
            check_grad_overflow=False,
            compute_grad_norm=False,  # one norm over all optimizers, see engine/optimizer.py
        )
        for hook in self._zero._grad_acc_hooks:
            hook.remove()  # gradients are handed over once per step

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._zero.optimizer.param_groups

    def reduce_gradients(self) -> None:
        """Sum ``main_grad`` over the group and keep this rank's partition.

        Collectives: all-reduces over the group, bucket by bucket in the order of the parameters.
        """
        if self._replicated_over is not None:
            gradients = [main_grad(parameter) for parameter in self._parameters]
            all_reduce_in_buckets(gradients, self._replicated_over, self._bucket_numel)
        # Detached: DeepSpeed lets the tensor that it is given share the bucket's memory, and fills the bucket again.
        for parameter in self._parameters:
            if self._zero.use_grad_accum_attribute:
                parameter.grad_accum = main_grad(parameter).detach()  # type: ignore[attr-defined]
            else:
                parameter.grad = main_grad(parameter).detach()
        self._zero.setup_buckets()
        self._zero.set_gradient_accumulation_boundary(True)
        self._zero.reduce_gradients()

    def squared_norm(self) -> Tensor:
        """Sum of squares (fp64 scalar) of the gradients in this rank's partition, of those that this rank counts."""
        total = torch.zeros((), dtype=torch.float64, device=self._parameters[0].device)
        for index, counted in enumerate(self._counted):
            if counted:
                for gradient in self._zero.averaged_gradients[index]:
                    total += torch.linalg.vector_norm(gradient).double() ** 2
        return total

    def scale_gradients(self, factor: float) -> None:
        for gradients in self._zero.averaged_gradients.values():
            torch._foreach_mul_(list(gradients), factor)

    def step(self) -> None:
        """Update this rank's partition and give it to the group. Collectives: all-gathers over the group."""
        self._zero.step()
        for parameter in self._parameters:
            parameter.grad = parameter.grad_accum = None  # type: ignore[attr-defined]

    def state_shards(self) -> list[StateShard]:
        """Masters and optimizer states of this rank's partition, to be read or written into."""
        return list(state_shards(self._zero, self._named_parameters))

    def close(self) -> None:
        """Let go of the parameters: DeepSpeed's hooks on them keep it, and its groups, alive for ever.

        Only for processes that go on to something else. Collectives: none, but the groups must still be there.
        """
        self._zero.destroy()

    def finish_loading(self, steps: int) -> None:
        """Call once states were written into, ``steps`` being the optimizer's steps so far.

        Collectives: all-gathers over the group.
        """
        finish_loading(self._zero, steps)


@dataclass(frozen=True)
class _Kind:
    """What parameters of one param group have in common."""

    sharded: bool
    """Over tensor parallelism."""
    decays: bool
    lr_scale: float


def _by_kind(
    named_parameters: list[tuple[str, nn.Parameter]], router_lr_scale: float
) -> dict[_Kind, list[nn.Parameter]]:
    kinds: dict[_Kind, list[nn.Parameter]] = {}
    for _, parameter in named_parameters:
        spec = spec_of(parameter)
        kind = _Kind(spec.tp_dim is not None, spec.decays, router_lr_scale if spec.lr_group == "router" else 1.0)
        kinds.setdefault(kind, []).append(parameter)
    return kinds


def _group_of_one() -> dist.ProcessGroup:
    """A group of this rank alone; makes no other rank wait."""
    return dist.new_group([dist.get_rank()], use_local_synchronization=True)


def _torch_optimizer(param_groups: list[dict[str, Any]], settings: OptimizerSection) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(
            param_groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(
        param_groups,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
