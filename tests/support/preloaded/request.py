"""What a process asks its server to start, and how that goes over a socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_LENGTH = struct.Struct("<I")
_RESET = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python ignores these itself, whatever it was started with."""


@dataclass(frozen=True)
class Request:
    """A program: what is run, and all that a process has from the one that starts it."""

    parent: int
    command: list[str]
    module: str
    arguments: list[str]
    safe_path: bool
    variables: dict[str, str]
    directory: str
    umask: int
    new_session: bool
    ignored: list[int]
    """Signals."""
    blocked: list[int]


def request_for(
    command: Sequence[str],
    module: str,
    arguments: Sequence[str],
    *,
    safe_path: bool,
    variables: Mapping[str, str],
    directory: str,
    new_session: bool,
) -> Request:
    """A child of this process, started by this thread."""
    umask = os.umask(0o077)
    os.umask(umask)
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    return Request(
        os.getpid(),
        list(command),
        module,
        list(arguments),
        safe_path,
        dict(variables),
        directory,
        umask,
        new_session,
        sorted(int(number) for number in ignored if number not in _RESET),
        sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    )


def send_request(connection: socket.socket, request: Request, descriptors: Sequence[int]) -> None:
    """Send it with the three descriptors that are to be its stdin, stdout and stderr."""
    content = json.dumps(asdict(request)).encode()  # not UTF-8 in a name: a lone surrogate, which JSON can hold
    socket.send_fds(connection, [_LENGTH.pack(len(content))], descriptors)
    connection.sendall(content)


def receive_request(connection: socket.socket) -> tuple[Request, list[int]] | None:
    """The next one and its descriptors; ``None`` when the other side is gone."""
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    if not head:
        return None
    content = bytearray()
    while len(content) < _LENGTH.unpack(head)[0]:
        content += connection.recv(1 << 20)
    return Request(**json.loads(bytes(content))), list(descriptors)
