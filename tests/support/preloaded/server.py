"""The process that has imported everything, and is forked into the programs that tests start.

Every program keeps a fork of itself from before it began (its *helper*), with a single thread and nothing open; from
that its own programs are forked. They become its children since it adopts what its helper leaves behind, for as long
as that takes (:func:`tests.support.preloaded.spawning.adopting`).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from pathlib import Path

from tests.support.preloaded.becoming import become, run, show
from tests.support.preloaded.request import Request, receive_request
from tests.support.preloaded.spawning import Client, substitute

_PR_SET_PDEATHSIG = 1
ROOT = str(Path(__file__).parents[3])
_ALL_SIGNALS = signal.valid_signals()


def main(descriptor: int, parent: int) -> None:
    """Import, then fork on request until the other end of the socket is closed. Returns in programs when they end."""
    path = [entry for entry in sys.path if entry != ROOT]  # where callers have put it, to import this
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if path[0] == entry:
            del path[0]
    before = dict(os.environ)
    _import_all()
    added = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()
    connection = socket.socket(fileno=descriptor)
    try:
        show(sys.orig_argv, os.environ)
    except OSError:  # this kernel cannot
        connection.sendall(b"never")
        return
    connection.sendall(b"ready")
    request, descriptors = _serve(connection, parent)
    while True:  # twice in each program: as the helper's parent, and in the helper once for each of its programs
        become(request, descriptors, added, path)
        ours, theirs = socket.socketpair()
        program = os.getpid()
        if os.fork() != 0:
            break
        ours.close()
        request, descriptors = _serve(theirs, program)
    theirs.close()
    substitute(Client(ours))
    run(request)


def _import_all() -> None:
    from unipool_dist.cli import COMMANDS
    from unipool_dist.engine.optim.deepspeed_zero import import_deepspeed

    modules = [module for module, _ in COMMANDS.values()]
    for name in ("unipool_dist.run.worker", "unipool_dist.run.launch", *modules, "matplotlib.pyplot"):
        importlib.import_module(name)
    import_deepspeed()
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise RuntimeError(f"importing has started threads, which a fork would lose: {len(threads)}")


def _serve(connection: socket.socket, parent: int) -> tuple[Request, list[int]]:
    """Fork for each request; returns in the fork. Ends this process when ``parent`` is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    show([sys.executable, "preloaded", str(parent)], {})
    nowhere = os.open(os.devnull, os.O_RDWR)
    for target in range(3):
        os.dup2(nowhere, target)
    os.close(nowhere)
    os.chdir("/")
    while os.getppid() == parent and (asked := receive_request(connection)) is not None:
        request, descriptors = asked
        here, there = socket.socketpair()
        middle = os.fork()
        if middle == 0:
            here.close()
            if os.fork() != 0:
                os._exit(0)
            if request.new_session:  # before anybody knows its process id, as `subprocess` does it
                os.setsid()
            there.sendall(b"%16d" % os.getpid())
            there.recv(1)  # nothing, once whoever asked has adopted this process
            for end in (there, connection):
                end.detach()  # `become` closes them, and nothing is to do that again
            return request, descriptors
        there.close()
        pid = here.recv(16, socket.MSG_WAITALL)
        os.waitpid(middle, 0)
        connection.sendall(pid)
        here.close()
        for descriptor in descriptors:
            os.close(descriptor)
    os._exit(0)
