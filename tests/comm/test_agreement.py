"""Waiting together for what only rank 0 does, and failing together if that fails."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.support.training import tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.agreement import on_rank_0
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.errors import DataError, UnipoolError

TIMEOUT_S = 3.0


def _wait(environment: Environment, port: int) -> tuple[str | None, str]:
    """What comes of work that takes longer than a collective may wait, and of work that fails."""
    config = tiny_config(f"parallel.timeout_s={TIMEOUT_S}", world_size=environment.world_size)
    with process_groups(config, replace(environment, master_port=port)) as groups:

        def long() -> str:
            time.sleep(2 * TIMEOUT_S)
            return f"done by rank {groups.rank}"

        def wrong() -> None:
            raise DataError("the file is damaged")

        result = on_rank_0("reading", long, groups.storage)
        try:
            on_rank_0("reading", wrong, groups.storage)
        except UnipoolError as error:
            return result, f"{type(error).__name__}: {error}"
    raise AssertionError


def test_the_others_wait_however_long_it_takes_and_learn_of_a_failure(workers: Workers) -> None:
    first, second = workers.run(_wait, 2, free_port())
    assert first == ("done by rank 0", "DataError: the file is damaged")
    assert second == (None, "RemoteError: reading failed on rank 0: DataError: the file is damaged")
