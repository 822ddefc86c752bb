"""Pickles that do something when they are loaded: run a command, look around, fill the memory, never end."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import struct
from collections.abc import Callable
from typing import Any

import torch

from tests.fuzz.place import Place


class Reduced:
    """Unpickled, it is what ``function(*arguments)`` returns."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def attack(draw: random.Random, place: Place) -> Any:
    """An object whose pickle makes the canary."""
    code = f"__import__('os').system({place.payload!r})"
    return draw.choice(
        (
            Reduced(os.system, place.payload),
            Reduced(os.mkdir, str(place.canary)),
            Reduced(builtins.eval, code),
            Reduced(builtins.exec, code),
            Reduced(open, str(place.canary), "w"),
            Reduced(getattr, Reduced(__import__, "os"), "system"),
            Reduced(torch.load, str(place.outside / "thesis.tex")),
        )
    )


def named(module: str, name: str) -> bytes:
    """A pickle that is a global of any name, also one that no pickler would write."""
    strings = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + strings + b"\x93."


NAMES = (
    *(("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("builtins", "__import__"), ("nt", "system")),
    *(("torch", "load"), ("torch", "Size.__new__"), ("torch.serialization", "load"), ("torch.hub", "load")),
    *(("torch.distributed.checkpoint.metadata", "os"), ("torch.distributed.checkpoint.metadata", "Metadata.__class__")),
    *(
        ("torch.distributed.checkpoint.filesystem", "pickle.loads"),
        ("collections", "OrderedDict"),
        ("", ""),
        ("torch", ""),
    ),
)


def stream(draw: random.Random, place: Place) -> bytes:
    """A pickle that is hostile as a stream of opcodes."""
    forms: tuple[Callable[[], bytes], ...] = (
        lambda: pickle.dumps(attack(draw, place), protocol=draw.choice((0, 2, 4))),
        lambda: f"cos\nsystem\n(S{place.payload!r}\ntR.".encode(),
        lambda: f"(S{place.payload!r}\nios\nsystem\n.".encode(),
        lambda: named(*draw.choice(NAMES)),
        lambda: b"Nr" + struct.pack("<I", draw.choice((2**20, 2**28, 2**31 - 1, 2**32 - 1))) + b".",  # memo
        lambda: b"\x80\x04\x8d" + struct.pack("<Q", draw.choice((2**31, 2**40, 2**63))) + b"x.",  # text
        lambda: b"\x80\x04\x8e" + struct.pack("<Q", draw.choice((2**31, 2**40, 2**63))) + b"x.",  # bytes
        lambda: b"\x80\x05\x96" + struct.pack("<Q", draw.choice((2**30, 2**34, 2**62))) + b"x.",  # bytearray
        lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",  # frame
        lambda: b"\x8b" + struct.pack("<I", 2**31 - 1) + b"\xff.",  # integer
        lambda: b"(" * draw.randint(100, 100_000) + b".",
        lambda: b"]" * draw.randint(100, 100_000) + b"a" * 50 + b".",
        lambda: b"](lp0\n" + b"h\x00a" * 1000 + b".",
        lambda: b"\x80\x04" + b"N\x94" * draw.randint(1000, 200_000) + b".",
        lambda: b"N" * draw.randint(1000, 200_000) + b".",
        lambda: b"\x80" + bytes([draw.randrange(256)]) + b"N.",
        lambda: b"P1\n.",  # a persistent object
        lambda: draw.randbytes(draw.randint(0, 300)),
    )
    return draw.choice(forms)()


def saved(value: Any) -> bytes:
    """What ``torch.save`` makes of it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
