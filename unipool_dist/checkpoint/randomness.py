"""The state of Python's and numpy's global random generators; torch's is a tensor of the checkpoint.

Nothing in training draws from them yet: initial weights and the order of the data have generators of their own.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from unipool_dist.checkpoint.manifest import STATE_FILE
from unipool_dist.checkpoint.progress import RandomState
from unipool_dist.errors import CheckpointError


def seed_generators(seed: int) -> None:
    """Seed all global generators, so that their state does not depend on what was drawn while the run was built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> RandomState:
    """Return the state of Python's and numpy's global generators."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    python = random.getstate()
    return RandomState(
        python=[python[0], list(python[1]), python[2]],
        numpy=[name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
    )


def restore_random_state(state: RandomState) -> None:
    """Set Python's and numpy's global generators.

    Raises:
        CheckpointError: this is not a state of theirs.
    """
    try:
        kind, values, gauss = state.python
        random.setstate((kind, tuple(values), gauss))
        name, keys, *rest = state.numpy
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise CheckpointError(
            f"the checkpoint's {STATE_FILE} has no state of random generators ({error}): resume from another step"
        ) from None
