"""Ranks and the nodes they are on, and how to name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from unipool_dist.base.units import named_ranges


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
            named = named_ranges("rank", here)
            parts.append(f"{node} ({named})" if whole else f"{named} ({node})")
        return ", ".join(parts)
