"""``placement.json``: who owns which expert, and the counts that this was planned from.

A run computes the same without it: experts are where they began, until the next move.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unipool_dist.base.printable import printable
from unipool_dist.base.reading import read_json, record_of
from unipool_dist.base.writing import replace_text
from unipool_dist.errors import ConfigError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.placement.traffic import Ints

_MAX_BYTES = 1 << 28  # 128 layers of 100,000 experts


@dataclass(frozen=True)
class KeptPlacement:
    """The content of the file."""

    step: int
    """The step after which the experts were there."""
    layout: dict[str, int]
    """Of :func:`layout_of`; on another one, ``owners`` mean nothing."""
    owners: list[list[int]]
    """[P][M] rank of a pool group that owns each expert of each pool."""
    counts: list[list[int]]
    """[L][M] assignments that a placement was planned from."""

    def owners_on(self, grid: RankGrid) -> dict[int, Ints] | None:
        """Return the owners by pool, or ``None`` if they are those of another layout."""
        if self.layout != layout_of(grid):
            return None
        return {pool: np.array(owner_M, dtype=np.int64) for pool, owner_M in enumerate(self.owners)}


def layout_of(grid: RankGrid) -> dict[str, int]:
    """Return what decides which ranks form a pool group."""
    return {
        "pp": grid.pp,
        "dp": grid.dp,
        "tp": grid.tp,
        "pool_parallel_size": grid.pool_parallel_size,
        "stages_per_group": grid.stages_per_group,
    }


def write_kept(path: Path, kept: KeptPlacement) -> None:
    """Write the file, whole or not at all."""
    replace_text(path, json.dumps(asdict(kept), separators=(",", ":")) + "\n")


def read_kept(path: Path, grid: RankGrid, pools: PoolMap) -> KeptPlacement | None:
    """Read the file; ``None`` if there is none.

    Raises:
        ConfigError: it is damaged, or of another model.
    """
    if not path.exists():
        return None
    try:
        kept = record_of(KeptPlacement, read_json(path, max_bytes=_MAX_BYTES))
        counts, owners = np.array(kept.counts), np.array(kept.owners)
    except ValueError as error:
        raise ConfigError(f"{printable(path)} cannot be read ({error}); delete it, and experts begin anew") from error
    if (
        counts.shape != (pools.num_layers, pools.num_experts)
        or owners.shape != (pools.num_pools, pools.num_experts)
        or not all(_is_even(owner_M, kept.layout.get("pool_parallel_size", 0)) for owner_M in owners)
    ):
        raise ConfigError(f"{printable(path)} is not of this run's model; delete it, and experts begin anew")
    return kept


def _is_even(owner_M: Ints, ranks: int) -> bool:
    """Return whether each of so many ranks owns as many experts as any other."""
    return sorted(owner_M.tolist()) == sorted(np.arange(len(owner_M)) % ranks) if ranks > 0 else False
