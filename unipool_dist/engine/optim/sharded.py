"""What training needs of an optimizer that shards its states over replicas: this much of ZeRO and no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from unipool_dist.base.registry import Registry
from unipool_dist.config.plan import Plan

RateOf = Callable[[float], float]
"""Learning rate of this step, by a parameter's ``lr_scale``."""


@dataclass(frozen=True)
class TrainedParameter:
    """A parameter of this rank and how it is updated."""

    name: str
    parameter: nn.Parameter
    """Its gradient is in ``main_grad``, fp32."""
    is_split: bool
    """Over tensor parallelism: then each tensor-parallel rank has other elements of it."""
    is_counted: bool
    """Whether this rank and its replicas count it in the gradient norm; of tensor-parallel ranks with equal parameters
    only one does."""
    has_weight_decay: bool
    lr_scale: float
    """Its learning rate over ``optimizer.lr``, at every step."""


@dataclass(frozen=True)
class StateShard:
    """Elements ``start`` to ``start + numel`` of the flattened ``parameter``: its master and states are on this rank.

    ``flats`` are this rank's whole partitions by kind (``MASTER``, ``exp_avg``, ...), fp32 and 1-D; the shard's
    elements begin at ``flat_start`` in each. Writing into them changes the optimizer.
    """

    name: str
    parameter: nn.Parameter
    start: int
    numel: int
    flats: dict[str, Tensor]
    flat_start: int


class ShardedOptimizer(ABC):
    """Optimizer of parameters of one type that the ranks of one group replicate.

    It keeps an fp32 master of every parameter and its states, once over the group or on every rank of it, and sets the
    parameters from the masters. A step is ``reduce_gradients``, ``squared_norm``, ``scale_gradients`` if the global
    norm is too large, ``step``. Every rank of the group calls the same methods in the same order; only those with a
    line ``Collectives`` may communicate, over the group alone.

    Args:
        trained: the parameters, in the same order on every rank of the group.
        replicas: the group.
        plan: of the run; ``plan.optimizer`` and ``plan.zero`` are the settings.
    """

    @abstractmethod
    def __init__(self, trained: Sequence[TrainedParameter], replicas: dist.ProcessGroup, plan: Plan) -> None: ...

    @abstractmethod
    def reduce_gradients(self) -> None:
        """Sum ``main_grad`` over the group; keep what this rank updates. Nothing is divided.

        Collectives: reductions over the group.
        """

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Return the sum of squares (fp64 scalar) of reduced gradients.

        Summed over all ranks it holds every parameter with ``is_counted`` once.
        """

    @abstractmethod
    def scale_gradients(self, factor: float) -> None:
        """Multiply the reduced gradients by ``factor``."""

    @abstractmethod
    def step(self, rate_of: RateOf) -> None:
        """Update masters from the reduced gradients, and parameters from masters.

        Collectives: all-gathers over the group.
        """

    @abstractmethod
    def state_shards(self) -> list[StateShard]:
        """Return views of this rank's masters and states; equal calls give the same memory.

        States that the first step would make are made now. Over the group the shards cover every parameter; where
        several ranks have the same elements, they have them in equal shards.
        """

    @abstractmethod
    def finish_loading(self, steps: int) -> None:
        """Set the parameters, and a count of ``steps`` if one is kept, after masters and states were written into.

        Collectives: all-gathers over the group.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop references to parameters; call before destroying groups in a process that keeps running."""


OPTIMIZERS: Registry[type[ShardedOptimizer]] = Registry(
    "optimizer.name",
    dict.fromkeys(("adamw", "sgd"), "unipool_dist.engine.optim.deepspeed_zero:DeepSpeedZero"),
    base=ShardedOptimizer,
)
