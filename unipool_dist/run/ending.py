"""The end of one process of several on an error: at once, after one line that says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from unipool_dist.base.console import say
from unipool_dist.base.printable import bounded
from unipool_dist.base.system_errors import explained
from unipool_dist.comm.environment import Environment
from unipool_dist.config import Config
from unipool_dist.errors import CommunicationError, UnipoolError


@contextmanager
def ending_clearly(environment: Environment, config: Config) -> Iterator[None]:
    """Run the body, this process's part; end the process with status 1 on an error of the user or the system.

    There is no clean-up: waiting for a process group that has lost a member can take for ever, and the launcher ends
    the others.
    """
    try:
        yield
    except UnipoolError as error:
        _stop(environment, f"{error}")
    except torch.OutOfMemoryError as error:
        _stop(environment, _gpu_memory_error(error))
    except (dist.DistError, RuntimeError, MemoryError, ImportError, ConnectionError, TimeoutError) as error:
        limit = None if isinstance(error, OSError) else explained(error)
        if limit is not None:
            _stop(environment, limit)
        if not _is_communication_failure(error):
            raise
        _stop(environment, f"{_communication_error(config, environment, error)}")
    except OSError as error:
        sentence = explained(error)
        if sentence is None:
            raise
        _stop(environment, sentence)


def _gpu_memory_error(error: torch.OutOfMemoryError) -> str:
    return (
        f"{str(error).strip().splitlines()[0]} Make the model, train.micro_batch_size or model.sequence_length "
        f"smaller, set parallel.recompute=true, or use more ranks (`unipool-dist model` counts)"
    )


def _is_communication_failure(error: Exception) -> bool:
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "peer", "tcpstore")
    return isinstance(error, dist.DistError | ConnectionError | TimeoutError) or any(sign in text for sign in signs)


def _communication_error(config: Config, environment: Environment, error: Exception) -> CommunicationError:
    first_line = str(error).strip().splitlines()[0]
    return CommunicationError(
        f"lost the other processes in a collective ({type(error).__name__}: {first_line}). Another rank has died, or "
        f"has been stuck for parallel.timeout_s={config.parallel.timeout_s:g} s: the first error in the log, on "
        f"whichever rank, is the cause. Start the run again once it is dealt with"
    )


def _stop(environment: Environment, message: str) -> None:
    say(bounded(f"error (rank {environment.rank}): {message}"), err=True)
    os._exit(1)
