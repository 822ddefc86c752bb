"""How the training thread lets others know that it makes progress."""

from __future__ import annotations

from typing import Protocol


class Beat(Protocol):
    """Called by the training thread again and again, at least with every micro-batch; costs nothing to speak of."""

    def __call__(self, doing: str, *, step: int | None = None, slow: bool = False) -> None:
        """From now on it is ``doing`` this.

        Args:
            step: which step begins now.
            slow: this may take much longer than a micro-batch.
        """


def unheard(doing: str, *, step: int | None = None, slow: bool = False) -> None:
    """A :class:`Beat` to which nobody listens."""
