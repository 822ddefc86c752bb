"""What the pool has to know of a forward lane. Passed down with the tokens, and kept until their backward."""

from __future__ import annotations

from dataclasses import dataclass

from unipool_dist.schedule.work import Works


@dataclass(frozen=True)
class Turn:
    """A forward lane of one tick, as a rank of one stage sees it."""

    works: Works
    """By stage of the pool group: what it runs now. Under this the owners of experts keep its rows."""
    training: bool
    """Whether backward follows, so that rows are kept, assignments counted and the auxiliary loss computed."""
    backward_works: Works | None = None
    """By stage of the pool group: what it runs in the tick in which this stage runs its own work backward. ``None``
    where this stage runs nothing, or nothing backward."""
    tokens_per_step: int = 0
    """Of all ranks and micro-batches, in training; normalises the auxiliary loss."""
