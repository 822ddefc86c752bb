"""What can lie where a regular file belongs: nothing, a folder, a pipe, a socket, a device, a link to any of them."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.place import Place


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def replace(draw: random.Random, path: Path, place: Place, *, links_out: bool = True, hole: bool = True) -> str:
    """Put something odd at ``path``; returns what.

    Args:
        links_out: also links that lead out of the folder; not where a user may have put one and it is to be followed.
        hole: also a file of 64 GiB without content; not where files of any size are to be read.
    """
    inside = path.with_name(path.name + ".moved")
    kinds: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a socket": lambda: _socket(path),
        "a link to /dev/zero": lambda: path.symlink_to("/dev/zero"),
        "a link to /dev/stdin": lambda: path.symlink_to("/dev/stdin"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "a link inside": lambda: path.symlink_to(inside.name),
        "an empty file": lambda: path.write_bytes(b""),
        "a closed file": lambda: path.touch(mode=0),
    }
    if links_out:
        kinds["a link to a file outside"] = lambda: path.symlink_to(place.outside / "thesis.tex")
        kinds["a link to a folder outside"] = lambda: path.symlink_to(place.outside / "run")
    if hole:
        kinds["a large hole"] = lambda: _hole(path)
    kind = draw.choice(list(kinds))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif kind == "a link inside" and path.exists():
        path.rename(inside)
    else:
        path.unlink(missing_ok=True)
    kinds[kind]()
    return kind
