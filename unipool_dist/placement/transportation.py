"""The transportation problem: each of many things to one of few places of given room, at the least cost.

Its dual has a price for every place: a thing goes where cost plus price is least, and the prices are right when every
place is exactly full. Any prices prove a lower bound (weak duality), good prices almost solve it, and cycles of
exchanges that lower the cost do the rest: without such a cycle an assignment is optimal (Klein 1967).

Shapes: E things, N places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipool_dist.placement.traffic import Floats, Ints

_PRICE_ROUNDS = 200
_STEP_DECAY = 0.97


@dataclass(frozen=True)
class Assignment:
    """A solution: ``place_E``, its ``cost``, the dual ``price_N``, and the lower ``bound`` that these prove."""

    place_E: Ints
    cost: float
    price_N: Floats
    bound: float


def assign(cost_EN: Floats, room_N: Ints, price_N: Floats | None = None) -> Assignment:
    """Return an optimal assignment, up to rounding; the places have room for exactly all things.

    Args:
        price_N: prices to begin with, as those of a similar problem.
    """
    assert room_N.sum() == len(cost_EN)
    price, bound = _prices(cost_EN, room_N, np.zeros(len(room_N)) if price_N is None else price_N)
    place = _filled((cost_EN + price).argmin(axis=1), cost_EN + price, room_N)
    _cancel_cycles(place, cost_EN)
    return Assignment(place, float(cost_EN[np.arange(len(place)), place].sum()), price, bound)


def _prices(cost_EN: Floats, room_N: Ints, price_N: Floats) -> tuple[Floats, float]:
    """Return the best prices that a subgradient ascent finds, and the bound that they prove."""
    best, bound = price_N, -np.inf
    step = float(np.ptp(cost_EN)) / 4
    for _ in range(_PRICE_ROUNDS):
        priced = cost_EN + price_N
        choice = priced.argmin(axis=1)
        proved = float(priced[np.arange(len(choice)), choice].sum() - price_N @ room_N)
        if proved > bound:
            best, bound = price_N, proved
        excess = np.bincount(choice, minlength=len(room_N)) - room_N
        if not excess.any():
            break
        price_N = price_N + step * excess / np.maximum(room_N, 1)
        step *= _STEP_DECAY
    return best, bound


def _filled(place_E: Ints, priced_EN: Floats, room_N: Ints) -> Ints:
    """Move things out of places that hold too many, those first that lose least by it."""
    place = place_E.copy()
    free = room_N - np.bincount(place, minlength=len(room_N))
    for full in np.flatnonzero(free < 0):
        while free[full] < 0:
            here, open_ = np.flatnonzero(place == full), np.flatnonzero(free > 0)
            loss = priced_EN[np.ix_(here, open_)] - priced_EN[here, full, None]
            target = open_[loss.argmin(axis=1)]
            # As many at a time as certainly fit, in order of what they lose.
            for thing in loss.min(axis=1).argsort(kind="stable")[: -free[full]]:
                if free[target[thing]] == 0:
                    break
                place[here[thing]] = target[thing]
                free[target[thing]] -= 1
                free[full] += 1
    return place


def _cancel_cycles(place: Ints, cost_EN: Floats) -> None:
    """Exchange things around cycles of places for as long as that lowers the cost; changes ``place``."""
    num_places = cost_EN.shape[1]
    tolerance = 1e-11 * max(float(np.abs(cost_EN).max()), 1e-300)
    # Of place a to b: the least that moving one thing of a to b adds to the cost, and which thing that is.
    added, thing = np.full((num_places, num_places), np.inf), np.zeros((num_places, num_places), dtype=np.int64)
    for a in range(num_places):
        _cheapest_moves(a, place, cost_EN, added, thing)
    for _ in range(50 * len(place)):  # each round lowers the cost; rounding must not make it endless
        cycle = _negative_cycle(added, tolerance)
        if cycle is None:
            return
        arcs = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        for moved, to in [(thing[a, b], b) for a, b in arcs]:
            place[moved] = to
        for a in cycle:
            _cheapest_moves(a, place, cost_EN, added, thing)


def _cheapest_moves(a: int, place: Ints, cost_EN: Floats, added: Floats, thing: Ints) -> None:
    here = np.flatnonzero(place == a)
    added[a] = np.inf
    if len(here):
        more = cost_EN[here] - cost_EN[here, a, None]
        first = more.argmin(axis=0)
        added[a], thing[a] = more[first, np.arange(len(added))], here[first]
    added[a, a] = np.inf


def _negative_cycle(weight_NN: Floats, tolerance: float) -> list[int] | None:
    """Return the places of a cycle whose weights sum to less than ``-tolerance``, by Floyd and Warshall."""
    distance: Floats = weight_NN.copy()
    following: NDArray[np.int64] = np.tile(np.arange(len(weight_NN)), (len(weight_NN), 1))
    for via in range(len(weight_NN)):
        through = distance[:, via, None] + distance[None, via]
        shorter = through < distance - tolerance
        if not shorter.any():
            continue
        distance = np.where(shorter, through, distance)
        following = np.where(shorter, following[:, via, None], following)
        below = np.flatnonzero(np.diag(distance) < -tolerance)
        if len(below):
            return _walk(following, int(below[0]))
    return None


def _walk(following: NDArray[np.int64], start: int) -> list[int]:
    """Follow the shortest way from ``start`` back to it; return the first cycle met."""
    seen = [start]
    while True:
        place = int(following[seen[-1], start])
        if place in seen:
            return seen[seen.index(place) :]
        seen.append(place)
