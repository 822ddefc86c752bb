"""All ranks stop after the same step for the same reason, though only some of them have one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.workers import Workers, free_port
from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.comm.environment import Environment
from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.handover import Handover
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.resilience.stop import StopRequest

Answers = list[Stop | None]


def _polls(environment: Environment, port: int, sent: Mapping[int, signal.Signals], late: tuple[int, ...]) -> Answers:
    """The answers of three polls; before the second the ranks in ``sent`` get a signal, and those in ``late`` pass
    their time limit."""
    rank, now = environment.rank, 0.0
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=environment.world_size)
    try:
        assert dist.group.WORLD is not None
        with StopSignals(rank) as signals:
            stop = StopRequest(
                signals, Deadline(3600.0, lambda: now, started=0.0), dist.group.WORLD, torch.device("cpu")
            )
            answers = [stop.poll()]
            if rank in sent:
                os.kill(os.getpid(), sent[rank])
                until = time.monotonic() + 10
                while signals.received is None and time.monotonic() < until:
                    time.sleep(0.01)
            if rank in late:
                now = 3600.0
            return [*answers, stop.poll(), stop.poll()]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("sent", "late", "reason"),
    [
        ({2: signal.SIGTERM}, (), Stop(StopReason.TERMINATED, "SIGTERM on a rank")),
        ({0: signal.SIGUSR1}, (), Stop(StopReason.WARNED, "SIGUSR1 on a rank")),
        ({1: signal.SIGUSR1, 3: signal.SIGINT}, (0,), Stop(StopReason.BY_HAND, "SIGINT on a rank")),
        ({}, (3,), Stop(StopReason.TIME_LIMIT, "the time limit run.time_limit_s=3600 is near")),
        ({}, (), None),
    ],
)
def test_the_reason_of_one_rank_is_the_reason_of_all(
    workers: Workers, sent: dict[int, signal.Signals], late: tuple[int, ...], reason: Stop | None
) -> None:
    ranks = workers.run(_polls, 4, free_port(), sent, late)
    assert ranks == [[None, reason, reason]] * 4


def _poll_as_job(environment: Environment, port: int, run_dir: Path) -> Stop | None:
    rank = environment.rank
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=environment.world_size)
    try:
        assert dist.group.WORLD is not None
        handover = None if rank else Handover(run_dir, "17", 0)
        with StopSignals(rank) as signals:
            return StopRequest(signals, Deadline(None), dist.group.WORLD, torch.device("cpu"), handover).poll()
    finally:
        dist.destroy_process_group()


def test_all_ranks_hand_the_run_over_to_a_later_start_of_their_job(workers: Workers, tmp_path: Path) -> None:
    assert workers.run(_poll_as_job, 4, free_port(), tmp_path) == [None] * 4
    Handover(tmp_path, "17", 1).ask()
    reason = "SLURM has restarted this job elsewhere, and that start waits for the run"
    assert workers.run(_poll_as_job, 4, free_port(), tmp_path) == [Stop(StopReason.HANDED_OVER, reason)] * 4
