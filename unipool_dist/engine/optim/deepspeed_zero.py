"""DeepSpeed's ZeRO stage 0 or 1 over one group of replicas, driven by our own step.

The optimizer class is used without DeepSpeed's engine: the engine reduces gradients from hooks inside backward, in an
order that depends on what each rank happens to run, and mixes dense and expert parameters in one message. Here one
instance has parameters of one type and one group, and reduces, then steps, when it is called.

Needs of DeepSpeed what it does not promise to keep, so ``pyproject.toml`` pins the version to :data:`VERSION`:

* ``deepspeed.comm.comm.cdb``: the process group that its collectives use; ``deepspeed.ops.__compatible_ops__``: what
  it may compile; ``pynvml`` of its CUDA accelerator;
* of the optimizer: ``_grad_acc_hooks``, ``use_grad_accum_attribute``, ``setup_buckets``, ``averaged_gradients``,
  ``bit16_groups``, ``single_partition_of_fp32_groups``, ``parallel_partitioned_bit16_groups``,
  ``real_dp_process_group``; a parameter's ``grad_accum`` and ``_hp_mapping``, which says which run of its elements is
  in this rank's flat partition, and where.

No other module of the package imports DeepSpeed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unipool_dist.comm.megatron_import import without_trackers
from unipool_dist.config.plan import Plan
from unipool_dist.engine.gradients import all_reduce_in_buckets
from unipool_dist.engine.optim.rules import alike, state_kinds, torch_optimizer
from unipool_dist.engine.optim.sharded import RateOf, ShardedOptimizer, StateShard, TrainedParameter
from unipool_dist.model.inventory import MASTER
from unipool_dist.pool.main_grad import main_grad

VERSION = "0.19.8"

_GATHERED_AT_ONCE = 1 << 20
"""Elements of each rank's partition."""


class DeepSpeedZero(ShardedOptimizer):
    """AdamW or SGD with fp32 masters and states, with ZeRO stage 1 each on one rank of the group, with stage 0 on all.

    Stage 0 is stage 1 in a group of this rank alone, after the gradients were summed over the group.
    """

    def __init__(self, trained: Sequence[TrainedParameter], replicas: dist.ProcessGroup, plan: Plan) -> None:
        zero = plan.zero
        self._names = {item.parameter: item.name for item in trained}
        self._replicated_over = replicas if zero.stage == 0 else None
        self._bucket_numel = zero.reduce_bucket_size
        groups = alike(trained)
        self._lr_scales = [members[0].lr_scale for members in groups]
        # With replicated states one rank speaks for the group.
        speaks = zero.stage == 1 or replicas.rank() == 0
        self._counted = [speaks and members[0].is_counted for members in groups]
        zero_class, no_timer = import_deepspeed()
        _use_process_group()
        self._zero = zero_class(
            torch_optimizer(groups, plan.optimizer),
            self._names,
            timers=no_timer(),
            optimizer_params={},
            contiguous_gradients=True,
            # DeepSpeed allocates the whole bucket at every step, however small the parameters are.
            reduce_bucket_size=min(zero.reduce_bucket_size, sum(parameter.numel() for parameter in self._names)),
            dp_process_group=replicas if zero.stage == 1 else _group_of_one(),
            reduce_scatter=zero.reduce_scatter,
            gradient_accumulation_dtype=torch.float32,
            communication_data_type=torch.float32,
            gradient_average=False,  # the loss is divided by the tokens of the whole step
            partition_grads=False,
            check_grad_overflow=False,
            compute_grad_norm=False,  # there is one norm over all optimizers
        )
        for hook in self._zero._grad_acc_hooks:
            hook.remove()  # gradients are handed over once per step

    def reduce_gradients(self) -> None:
        """Sum ``main_grad`` over the group and keep this rank's partition.

        Collectives: all-reduces over the group, bucket by bucket in the order of the parameters.
        """
        if self._replicated_over is not None:
            gradients = [main_grad(parameter) for parameter in self._names]
            all_reduce_in_buckets(gradients, self._replicated_over, self._bucket_numel)
        # Detached: DeepSpeed lets the tensor that it is given share the bucket's memory, and fills the bucket again.
        for parameter in self._names:
            if self._zero.use_grad_accum_attribute:
                parameter.grad_accum = main_grad(parameter).detach()  # type: ignore[attr-defined]
            else:
                parameter.grad = main_grad(parameter).detach()
        self._zero.setup_buckets()
        self._zero.set_gradient_accumulation_boundary(True)
        self._zero.reduce_gradients()

    def squared_norm(self) -> Tensor:
        """Return the sum of squares (fp64 scalar) of the gradients in this rank's partition that it counts."""
        total = torch.zeros((), dtype=torch.float64, device=next(iter(self._names)).device)
        for index, counted in enumerate(self._counted):
            if counted:
                for gradient in self._zero.averaged_gradients[index]:
                    total += torch.linalg.vector_norm(gradient).double() ** 2
        return total

    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients in this rank's partition by ``factor``."""
        for gradients in self._zero.averaged_gradients.values():
            torch._foreach_mul_(list(gradients), factor)

    def step(self, rate_of: RateOf) -> None:
        """Update this rank's partition and give it to the group. Collectives: all-gathers over the group."""
        for group, lr_scale in zip(self._zero.optimizer.param_groups, self._lr_scales, strict=True):
            group["lr"] = rate_of(lr_scale)
        self._zero.step()
        for parameter in self._names:
            parameter.grad = parameter.grad_accum = None  # type: ignore[attr-defined]

    def state_shards(self) -> list[StateShard]:
        """Return views of this rank's partition; states that the first step would make are made now, as zeros."""
        inner, shards = self._zero.optimizer, []
        for parameters, master in zip(self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups, strict=True):
            state = inner.state[master]
            for kind in state_kinds(inner):
                if state.get(kind) is None:
                    state[kind] = torch.zeros_like(master)
            if isinstance(inner, torch.optim.AdamW):
                state.setdefault("step", torch.zeros((), dtype=torch.float32))
            flats = {MASTER: master.detach()} | {kind: state[kind] for kind in state_kinds(inner)}
            for parameter in parameters:
                mapping = parameter._hp_mapping
                if mapping is not None and mapping.lp_fragment_address.numel > 0:
                    run, start = mapping.lp_fragment_address, mapping.hp_fragment_address.start
                    shards.append(StateShard(self._names[parameter], parameter, run.start, run.numel, flats, start))
        return shards

    def finish_loading(self, steps: int) -> None:
        """Set Adam's count of steps, and the parameters from their masters.

        Collectives: all-gathers over the group.
        """
        zero = self._zero
        for master in zero.single_partition_of_fp32_groups:
            if "step" in zero.optimizer.state[master]:
                zero.optimizer.state[master]["step"].fill_(float(steps))
        members = (
            zero.parallel_partitioned_bit16_groups,
            zero.single_partition_of_fp32_groups,
            zero.real_dp_process_group,
        )
        for partitions, master, group in zip(*members, strict=True):
            mine = partitions[dist.get_rank(group)]
            mine.copy_(master.detach())
            if len(partitions) > 1:
                _gather(partitions, mine, group)

    def close(self) -> None:
        """Let DeepSpeed remove its hooks on the parameters, which would keep it and its groups alive for ever.

        Collectives: none, but the groups must still be there.
        """
        self._zero.destroy()


def import_deepspeed() -> tuple[Any, Any]:
    """Import DeepSpeed; return its ZeRO class, and the timer class that measures nothing.

    What it reads from the process is set while it reads it, and no longer: importing this module changes nothing.
    """
    on_cpu = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}  # otherwise it warns that it has to guess
    with _environment(on_cpu), without_trackers():
        from deepspeed.accelerator import get_accelerator
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
        from deepspeed.utils import logger
        from deepspeed.utils.timer import NoopTimer

        logger.setLevel(logging.ERROR)
        forget_pynvml(get_accelerator())
    return DeepSpeedZeroOptimizer, NoopTimer


def _use_process_group() -> None:
    """Let DeepSpeed communicate by the process group that exists."""
    import deepspeed

    compatible = deepspeed.ops.__compatible_ops__
    before = compatible.get("deepspeed_shm_comm")
    # Otherwise a shared-memory extension is compiled, for over a minute.
    compatible["deepspeed_shm_comm"] = False
    deepspeed.comm.comm.cdb = None  # may be an earlier process group's
    with _environment({"LOCAL_RANK": "0"}):
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    compatible["deepspeed_shm_comm"] = before


def forget_pynvml(accelerator: object) -> None:
    """Let DeepSpeed ask torch for the free memory of a GPU.

    It would ask pynvml by the number of the GPU, which it takes from CUDA_VISIBLE_DEVICES, and fails if that has
    names of GPUs (``GPU-1b2c...``) as SLURM may set them.
    """
    names = vars(sys.modules[type(accelerator).__module__])
    if "pynvml" in names:
        names["pynvml"] = None


@contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for the time of the block; take away what the block adds, too."""
    before = set(os.environ)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def _group_of_one() -> dist.ProcessGroup:
    """Make a group of this rank alone; no other rank waits for it."""
    return dist.new_group([dist.get_rank()], use_local_synchronization=True)


def _gather(partitions: list[Tensor], mine: Tensor, group: dist.ProcessGroup) -> None:
    """Gather in chunks: gloo copies what it gathers, and memory that is new each time costs more than the copy."""
    for first in range(0, mine.numel(), _GATHERED_AT_ONCE):
        chunks = [partition[first : first + _GATHERED_AT_ONCE] for partition in partitions]
        dist.all_gather(chunks, mine[first : first + _GATHERED_AT_ONCE], group)
