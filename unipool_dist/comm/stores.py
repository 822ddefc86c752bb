"""The store that the processes of a run share: a file on one machine, a server where there are several."""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from unipool_dist.base.console import say
from unipool_dist.comm.environment import Environment
from unipool_dist.errors import CommunicationError

_TRY_EVERY_S = 0.2
_SAY_AFTER_S, _SAY_SOON_S = 10.0, 1.0


class Wait:
    """A wait for the other processes of the run, at most ``timeout`` long, reported on stderr if long."""

    def __init__(self, environment: Environment, timeout: timedelta) -> None:
        self._environment, self._timeout_s = environment, timeout.total_seconds()
        self._began, self._said = time.monotonic(), False
        self._say_after_s = _say_after_s(environment)

    @property
    def left(self) -> timedelta:
        """What remains, above 0: torch takes 0 for no limit."""
        return timedelta(seconds=max(0.1, self._began + self._timeout_s - time.monotonic()))

    def goes_on(self, pause_s: float = _TRY_EVERY_S) -> bool:
        """Pause, and return whether there is time left."""
        past_s = time.monotonic() - self._began
        if past_s >= self._timeout_s:
            return False
        if past_s >= self._say_after_s and not self._said:
            self._said = True
            env = self._environment
            say(
                f"rank {env.rank} waits for the others, at most {self._timeout_s:g} s: {env.counted_by}="
                f"{env.world_size} says that there are {env.world_size} processes",
                err=True,
            )
        time.sleep(min(pause_s, self._timeout_s - past_s))
        return True


def _say_after_s(environment: Environment) -> float:
    if environment.store is not None or environment.launcher_serves:
        return math.inf  # the launcher has started the others, and sees what becomes of them
    # SLURM's variables are there in every shell of a job; the others are not there by chance.
    return _SAY_SOON_S if environment.counted_by.startswith("SLURM") else _SAY_AFTER_S


def open_store(environment: Environment, address: str, wait: Wait) -> dist.Store:
    """Open the store of the run. Waits only for the process that serves it.

    On one machine it is a file, if the launcher made one: no other user can reach it, and nothing listens. Else a
    server at ``address``, which listens on all addresses of its machine, unless MASTER_ADDR itself is loopback.

    Raises:
        CommunicationError: nobody serves it in time.
        DistError: it cannot be opened; the port is taken.
    """
    if environment.store is not None:
        return dist.FileStore(str(environment.store), -1)
    serves = environment.rank == 0 and not environment.launcher_serves
    if not serves:
        _wait_for_server(environment, address, wait)
    # Of several tenants: a process may reopen its store. As if there were one process: who waits for whom is decided
    # elsewhere, and torch would wait three times as long as the timeout.
    return dist.TCPStore(
        address,
        environment.master_port,
        1,
        serves,
        wait.left,
        multi_tenant=True,
        master_listen_fd=_bound_to_loopback(environment, address) if serves else None,
    )


def _bound_to_loopback(environment: Environment, address: str) -> int | None:
    """Return a socket for the store to listen at, if all processes were given a loopback address.

    A name may mean loopback on this machine alone. ``None`` also if the port is taken, by a store of this process or
    by another program: torch knows which.
    """
    if environment.master_addr != "localhost" and not _is_loopback(environment.master_addr):
        return None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, environment.master_port))
        except OSError:
            return None
        return listener.detach()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _wait_for_server(environment: Environment, address: str, wait: Wait) -> None:
    """Wait until something listens there; torch's own wait takes three times its timeout."""
    port = environment.master_port
    while True:
        try:
            socket.create_connection((address, port), timeout=wait.left.total_seconds()).close()
            return
        except OSError as error:
            if not wait.goes_on():
                raise CommunicationError(f"nobody serves the store there: {error}") from None
