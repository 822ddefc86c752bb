"""Ranks and the nodes they are on, and how to name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property


class Roster:
    """The nodes of all ranks; a node is known by its host name.

    Args:
        node_of: the node of every rank.
    """

    def __init__(self, node_of: Sequence[str]) -> None:
        self.node_of = tuple(node_of)

    @property
    def world_size(self) -> int:
        return len(self.node_of)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes in the order of their first ranks."""
        return tuple(dict.fromkeys(self.node_of))

    def ranks_of(self, node: str) -> list[int]:
        return [rank for rank, name in enumerate(self.node_of) if name == node]

    @cached_property
    def leaders(self) -> tuple[int, ...]:
        """The first rank of every node, in the order of :attr:`nodes`."""
        return tuple(self.node_of.index(node) for node in self.nodes)

    def name(self, ranks: Iterable[int]) -> str:
        """Name ``ranks``: ``node-a (ranks 0-3), rank 5 (node-b)``; nodes all of whose ranks are meant come by name."""
        chosen, parts = sorted(set(ranks)), []
        for node in self.nodes:
            here = [rank for rank in chosen if self.node_of[rank] == node]
            if not here:
                continue
            whole = here == self.ranks_of(node) and len(self.nodes) > 1
            parts.append(f"{node} ({ranks_text(here)})" if whole else f"{ranks_text(here)} ({node})")
        return ", ".join(parts)


def ranks_text(ranks: Iterable[int]) -> str:
    """Return ``rank 3`` or ``ranks 0-3, 6``."""
    chosen = sorted(set(ranks))
    runs: list[list[int]] = []
    for rank in chosen:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank {text}" if len(chosen) == 1 else f"ranks {text}"
