"""Which layers share a pool, and which experts are in it: the one place of this arithmetic. No torch.

``L`` layers in runs of ``G`` share ``L / G`` pools of ``M`` experts each. Experts have global ids everywhere, on disk
too: expert ``e`` of pool ``g`` is ``g * M + e``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolMap:
    """The map of layers to pools to experts. The caller has checked that ``G`` divides ``L``."""

    num_layers: int  # L
    layers_per_pool: int  # G
    num_experts: int  # M

    def __post_init__(self) -> None:
        assert self.num_layers % self.layers_per_pool == 0

    @property
    def num_pools(self) -> int:
        """Pools of the whole model."""
        return self.num_layers // self.layers_per_pool

    @property
    def total_experts(self) -> int:
        """Experts of the whole model, in all of its pools."""
        return self.num_pools * self.num_experts

    def pool_of(self, layer: int) -> int:
        """Return the pool that serves ``layer``."""
        return layer // self.layers_per_pool

    def layers_of(self, pool: int) -> range:
        """Return the layers that ``pool`` serves."""
        return range(pool * self.layers_per_pool, (pool + 1) * self.layers_per_pool)

    def experts_of(self, pool: int) -> range:
        """Return the global ids of the experts in ``pool``."""
        return range(pool * self.num_experts, (pool + 1) * self.num_experts)
