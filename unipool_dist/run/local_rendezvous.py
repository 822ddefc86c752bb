"""The rendezvous of processes on one machine: in a file that only their user can open. No port is opened for it.

torch's own rendezvous opens a server on all addresses of the machine, without authentication, and one kind of it
unpickles its content: whoever reaches the port runs commands as the user.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from torch.distributed import HashStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from unipool_dist.base.credentials import KEY, new_key
from unipool_dist.comm.environment import STORE

BACKEND = "unipool-dist"
_LOOPBACK = "127.0.0.1"
_FOLDER, _SERVES = "folder", "serves"


class LocalRendezvous(RendezvousHandler):
    """The rendezvous of one agent and its processes, hidden from all others.

    The agent talks to itself, so its store is in its own memory. Its processes learn from the environment in which file
    they meet and the key of the run, both new after every restart.

    Args:
        folder: for the files; nobody else may enter it.
        run_id: for messages.
        serves: also serve on loopback, at MASTER_ADDR and MASTER_PORT, for other programs than this one.
    """

    def __init__(self, folder: Path, run_id: str, *, serves: bool) -> None:
        self._folder, self._run_id, self._serves = folder, run_id, serves
        self._starts = 0
        self._server: TCPStore | None = None

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return self._serves

    def next_rendezvous(self) -> RendezvousInfo:
        """Return at once: there is nobody to wait for."""
        path = self._folder / f"store-{self._starts}"
        self._starts += 1
        path.touch(mode=0o600)
        os.environ[STORE] = str(path)
        os.environ[KEY] = new_key()
        self._server = _serve_on_loopback() if self._serves else None
        port = self._server.port if self._server is not None else 0
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo(_LOOPBACK, port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Do nothing: nobody else could come."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def settings_of(folder: Path, *, serves: bool) -> dict[str, str]:
    """Return the rendezvous configuration (``rdzv_configs``) of a launcher, and register the backend ``BACKEND``."""
    rendezvous_handler_registry.register(BACKEND, _create)
    return {_FOLDER: str(folder), _SERVES: str(serves)}


def _create(parameters: RendezvousParameters) -> LocalRendezvous:
    folder = parameters.get(_FOLDER)
    assert folder is not None
    return LocalRendezvous(Path(folder), parameters.run_id, serves=bool(parameters.get_as_bool(_SERVES)))


def _serve_on_loopback() -> TCPStore:
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        port = listener.getsockname()[1]
        return TCPStore(_LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
