"""Waiting for the others: as long as it is said, and who waits is told why."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.support.workers import free_port
from unipool_dist.comm import stores
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.rendezvous import meet
from unipool_dist.errors import CommunicationError


def alone(kind: str, folder: Path) -> Environment:
    """Of two processes, one whose peer has died before it came."""
    if kind == "file":
        path = folder / "store"
        path.touch()
        return Environment(1, 2, 1, "127.0.0.1", 0, store=path)
    if kind == "served":
        return Environment(0, 2, 0, "127.0.0.1", free_port())
    return Environment(1, 2, 1, "127.0.0.1", free_port(), launcher_serves=kind == "by the launcher")


@pytest.mark.parametrize("kind", ["file", "served", "by rank 0", "by the launcher"])
def test_nobody_waits_longer_than_the_timeout(tmp_path: Path, kind: str) -> None:
    began = time.monotonic()
    with pytest.raises(CommunicationError, match=r"not all of the 2 processes .* within 1 s"):
        meet(alone(kind, tmp_path), timedelta(seconds=1), {})
    assert 0.9 < time.monotonic() - began < 2


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_a_wait_says_which_variable_makes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.setattr(stores, "_SAY_AFTER_S", 0.3)
    monkeypatch.setattr(stores, "_SAY_SOON_S", 0.1)
    wait = stores.Wait(Environment(0, 4, 0, "node0", 1, counted_by=variable), timedelta(seconds=0.6))
    while wait.goes_on(0.05):
        pass
    line = f"rank 0 waits for the others, at most 0.6 s: {variable}=4 says that there are 4 processes\n"
    assert capsys.readouterr().err == line


def test_what_a_launcher_started_waits_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(stores, "_SAY_AFTER_S", 0.1)
    for environment in (alone("file", tmp_path), alone("by the launcher", tmp_path)):
        wait = stores.Wait(environment, timedelta(seconds=0.3))
        while wait.goes_on(0.05):
            pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_store_at_loopback_is_reached_from_this_machine_alone(name: str) -> None:
    environment = Environment(0, 2, 0, name, free_port())
    store = stores.open_store(environment, "127.0.0.1", stores.Wait(environment, timedelta(seconds=5)))
    again = stores.open_store(environment, "127.0.0.1", stores.Wait(environment, timedelta(seconds=5)))
    store.set("a", "b")
    assert again.get("a") == b"b", "a process may open its own store twice"
    assert isinstance(store, dist.Store)
    port = environment.master_port
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=5)


def test_a_name_that_is_loopback_here_may_be_another_address_elsewhere() -> None:
    environment = Environment(0, 2, 0, "node0", free_port())
    store = stores.open_store(environment, "127.0.0.1", stores.Wait(environment, timedelta(seconds=5)))
    socket.create_connection(("127.0.0.2", environment.master_port), timeout=5).close()
    del store
