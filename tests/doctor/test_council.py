"""Talking through the store, which goes on when groups do not."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from unipool_dist.doctor.council import Council, SilentRanksError


def test_rank_0_hears_all_and_all_hear_rank_0() -> None:
    store = dist.HashStore()
    councils = [Council(store, rank, 3) for rank in range(3)]
    for rank in (1, 2):
        assert councils[rank].gather(f"from {rank}", 1) == []
    assert councils[0].gather("from 0", 1) == ["from 0", "from 1", "from 2"]
    assert [council.announce("go" if council is councils[0] else "", 1) for council in councils] == ["go"] * 3


def test_the_silent_are_named_on_either_side() -> None:
    store = dist.HashStore()
    councils = [Council(store, rank, 4) for rank in range(4)]
    councils[2].gather("here", 1)
    with pytest.raises(SilentRanksError) as caught:
        councils[0].gather("here too", 0.1)
    assert caught.value.ranks == [1, 3]
    assert councils[0].answers() == {0: "here too", 2: "here"}
    with pytest.raises(SilentRanksError) as caught:
        councils[2].announce("", 0.1)
    assert caught.value.ranks == [0]
