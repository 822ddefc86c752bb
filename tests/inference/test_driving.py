"""Rank 0 decides what all do; an error of it reaches everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.training import tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.errors import DataError, UnipoolError
from unipool_dist.inference.driving import driven_by_rank_0

Call = Callable[[int], int]


ERRORS = {"user's": DataError, "library's": KeyError}


def _drive(environment: Environment, fail: str | None) -> Any:
    done: list[int] = []
    with process_groups(tiny_config(world_size=environment.world_size), environment) as groups:

        def work(argument: int) -> int:
            """Communicates, so it hangs unless all take part."""
            if fail == "work's":
                raise DataError("no such expert")
            done.append(argument)
            total = torch.tensor(argument * (groups.rank + 1))
            dist.all_reduce(total, group=groups.world)
            return int(total)

        def drive(call: Call) -> list[int]:
            answers = [call(5), call(7)]
            if fail in ERRORS:
                raise ERRORS[fail]("that file is damaged")
            return answers

        try:
            return driven_by_rank_0(groups.storage, work, drive), done
        except (UnipoolError, KeyError) as error:
            return f"{type(error).__name__}: {error}", done


def test_every_rank_works_whenever_rank_0_calls(workers: Workers) -> None:
    assert workers.run(_drive, 3, None) == [([30, 42], [5, 7]), (None, [5, 7]), (None, [5, 7])]
    assert workers.run(_drive, 1, None) == [([5, 7], [5, 7])]


@pytest.mark.parametrize(
    ("fail", "said"), [("user's", "DataError: that file is damaged"), ("library's", "KeyError: 'that file is damaged'")]
)
def test_an_error_of_rank_0_ends_the_others_waiting(workers: Workers, fail: str, said: str) -> None:
    """Whatever it is: else they would wait for the group's timeout."""
    first, *others = workers.run(_drive, 3, fail)
    assert first == (said, [5, 7])
    assert others == [(f"RemoteError: rank 0 stopped: {said}", [5, 7])] * 2


def test_an_error_in_the_work_of_all_is_everybodys_own(workers: Workers) -> None:
    """Not announced: nobody would listen."""
    assert workers.run(_drive, 3, "work's") == [("DataError: no such expert", [])] * 3
