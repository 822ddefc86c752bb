"""Orders of rows that are grouped in blocks, computed from the counts of rows in each block.

The server receives rows source after source, each source's sorted by expert: blocks (source, expert). To run an
expert once, its rows must be adjacent: blocks (expert, source). Both orders and their inverses follow from the
counts alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unipool_dist.kernels.host_arrays import to_device

Counts = np.ndarray
"""int64 [S, e]: rows that each source has for each expert of this rank."""


def expert_major_order(counts_Se: Counts, device: torch.device) -> Tensor:
    """Return the index [R] that takes rows in (source, expert) order to (expert, source) order: ``rows[order]``."""
    return to_device(_transpose_blocks(counts_Se), device)


def source_major_order(counts_Se: Counts, device: torch.device) -> Tensor:
    """Return the index [R] that takes rows in (expert, source) order back to (source, expert) order."""
    return to_device(_transpose_blocks(counts_Se.T), device)


def rows_of_sources(counts_Se: Counts, first: int, last: int, device: torch.device) -> Tensor:
    """Return where, in (expert, source) order, the rows from sources ``first .. last - 1`` are; in that order."""
    lengths = counts_Se.T  # [e, S]
    starts = _block_starts(lengths)
    return to_device(_ranges(starts[:, first:last].ravel(), lengths[:, first:last].ravel()), device)


def _transpose_blocks(counts_AB: Counts) -> np.ndarray:
    starts = _block_starts(counts_AB)
    return _ranges(starts.T.ravel(), counts_AB.T.ravel())


def _block_starts(counts_AB: Counts) -> np.ndarray:
    """Return the first row of every block, for blocks laid out row-major."""
    flat = counts_AB.ravel()
    return (np.cumsum(flat) - flat).reshape(counts_AB.shape)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate ``arange(start, start + length)``."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
