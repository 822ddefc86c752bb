"""Consecutive samples dealt to domains in proportion to their weights, by arithmetic on the sample's number alone.

Domains are the leaves of a binary tree. Of the first ``m`` samples of a node, its left child has ``m * share`` rounded
to the nearest whole number, and the right child the others; so any prefix is counted in one walk from the root, without
a table, in whole numbers.

How far a domain's count is from its share of the samples: a child is off by half a sample, plus its share of what its
parent is off. With two domains that is at most 1/2, with three at most 1. With more it stays below 2, because a node of
several domains has at most two thirds of its parent, which is thus off by less than 3/2; ``Blend.bound`` is the figure
of a blend, mostly below 1.3. Nothing is proved to be below 1 but sequential rules, such as Tijdeman's (*The chairman
assignment problem*, 1980), which would have to count from the first sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass
class _Node:
    """One domain, or several that are divided between two children; weights are whole numbers."""

    names: list[str]
    weight: int
    children: tuple[_Node, ...] = ()
    """Two, or none."""

    def left(self, count: int) -> int:
        """Return how many of the node's first ``count`` samples are the left child's: rounded, halves upwards."""
        share = self.children[0].weight
        return (2 * count * share + self.weight) // (2 * self.weight)


class Blend:
    """The samples of the domains named by ``weights``, which are positive; their order does not matter."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        exact = {name: Fraction(weight) for name, weight in weights.items()}
        assert exact and min(exact.values()) > 0
        scale = math.lcm(*(weight.denominator for weight in exact.values()))
        self.names = tuple(weights)
        self._root = _tree({name: int(weight * scale) for name, weight in exact.items()})

    def place(self, sample: int) -> tuple[str, int]:
        """Return the domain of ``sample``, and how many samples before it are of that domain."""
        node, before = self._root, sample
        while node.children:
            left = node.left(before)
            if node.left(before + 1) > left:
                node, before = node.children[0], left
            else:
                node, before = node.children[1], before - left
        return node.names[0], before

    def counts(self, num_samples: int) -> dict[str, int]:
        """Return how many of the first ``num_samples`` samples each domain has."""
        counted = {}
        waiting = [(self._root, num_samples)]
        while waiting:
            node, count = waiting.pop()
            if not node.children:
                counted[node.names[0]] = count
            else:
                left = node.left(count)
                waiting += [(node.children[0], left), (node.children[1], count - left)]
        return counted

    @property
    def bound(self) -> float:
        """The most samples by which a domain's count in any prefix differs from its share of the prefix."""
        return max(self._bounds())

    def _bounds(self) -> Iterator[float]:
        waiting = [(self._root, 0.0)]
        while waiting:
            node, bound = waiting.pop()
            if not node.children:
                yield bound
            else:
                waiting += [(child, 0.5 + child.weight / node.weight * bound) for child in node.children]


def _tree(weights: Mapping[str, int]) -> _Node:
    """Return a tree over the domains: each node's are dealt, the heaviest first, to the side that is lighter so far."""
    names = sorted(weights, key=lambda name: (-weights[name], name))
    root = _Node(names, sum(weights.values()))
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if len(node.names) > 1:
            sides = (_Node([], 0), _Node([], 0))
            for name in node.names:
                lighter = sides[0] if sides[0].weight <= sides[1].weight else sides[1]
                lighter.names.append(name)
                lighter.weight += weights[name]
            node.children = sides
            waiting += sides
    return root
