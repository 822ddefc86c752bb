"""Starting the processes of a run on this machine, and ending them all when one fails."""

from __future__ import annotations

import os
import signal
import sys

import click
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch_local(arguments: list[str], num_processes: int) -> None:
    """Run ``python -m unipool_dist ARGUMENTS`` in ``num_processes`` processes, through torchrun's agent.

    When one process fails the agent ends the others. Exits with status 1 then, after a line that says which rank
    failed first and how.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the machine's cores
    config = LaunchConfig(
        run_id="unipool-dist",
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "unipool_dist", *arguments)
    except ChildFailedError as error:
        rank, failure = _cause(error)
        click.echo(
            f"error: rank {rank} (process {failure.pid}) {_how(failure.exitcode)}; all processes were ended", err=True
        )
        sys.exit(1)


def _cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """A rank that a signal killed, if there is one: the others fail soon after, having lost it; else the first to
    fail."""
    killed = [
        (rank, failure)
        for rank, failure in error.failures.items()
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM  # which the agent sends to the others
    ]
    if killed:
        return killed[0]
    rank, failure = error.get_first_failure()
    return rank, failure


def _how(exit_code: int) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with status {exit_code}; its error is above"
