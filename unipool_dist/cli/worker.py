"""One process of a run: trains its part, or says clearly why it stops."""

from __future__ import annotations

import os
import sys

import torch.distributed as dist

from unipool_dist.cli.session import Start, train_session
from unipool_dist.config import Config
from unipool_dist.errors import CommunicationError, UnipoolError
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.topology.environment import Environment, read_environment


def run_worker(config: Config, start: Start, signals: StopSignals) -> None:
    """Run this process's part of training. Exits with status 75 if the run was stopped and its state is saved.

    A failing process ends at once, without the usual clean-up: waiting for a process group that has lost a member can
    take for ever, and the launcher ends the others.
    """
    environment = read_environment()
    signals.rank = environment.rank
    try:
        status = train_session(config, environment, start, signals)
    except UnipoolError as error:
        _stop(environment, f"{error}")
    except (dist.DistError, RuntimeError) as error:
        if not _is_communication_failure(error):
            raise
        _stop(environment, f"{_communication_error(config, environment, error)}")
    else:
        if status:
            sys.exit(status)


def _is_communication_failure(error: Exception) -> bool:
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "peer", "tcpstore")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


def _communication_error(config: Config, environment: Environment, error: Exception) -> CommunicationError:
    first_line = str(error).strip().splitlines()[0]
    return CommunicationError(
        f"lost the other processes in a collective ({type(error).__name__}: {first_line}). Another rank has died, or "
        f"has been stuck for parallel.timeout_s={config.parallel.timeout_s:g} s: the first error in the log, on "
        f"whichever rank, is the cause. Start the run again once it is dealt with"
    )


def _stop(environment: Environment, message: str) -> None:
    sys.stdout.flush()
    print(f"error (rank {environment.rank}): {message}", file=sys.stderr, flush=True)
    os._exit(1)
