"""What the reading process says: frames of a kind, the number of a row, and content."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

Reason = Literal["no text", "not a text", "undecodable"]
"""Why a row has no usable text: it is missing or null; it is of another type; it is not UTF-8, or the row not JSON."""

FRAME = struct.Struct("<cQQ")
"""Kind, number of the row, bytes of content that follow."""
TEXT, FAULT, ERROR, END = b"T", b"F", b"E", b"."


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row. ``detail`` continues a sentence that begins with the row's place."""

    reason: Reason
    detail: str

    def encode(self) -> bytes:
        """Return it as the content of a frame."""
        return json.dumps([self.reason, self.detail]).encode()

    @classmethod
    def decode(cls, content: bytes) -> Fault:
        """Return the fault that ``content`` says."""
        return cls(*json.loads(content))


Rows = Iterator[tuple[int, bytes | Fault]]
"""Numbers of rows, or of lines, from 1, and the text of each as UTF-8, in which lone surrogates may occur."""


def send(stream: BinaryIO, kind: bytes, content: bytes = b"", number: int = 0) -> None:
    """Write a frame."""
    stream.write(FRAME.pack(kind, number, len(content)))
    stream.write(content)


def receive(stream: BinaryIO) -> tuple[bytes, int, bytes] | None:
    """Read a frame: kind, number and content; ``None`` if the stream ends before its end."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    kind, number, length = FRAME.unpack(head)
    content = stream.read(length)
    return (kind, number, content) if len(content) == length else None


def text_or_fault(value: object, field: str, kind: str) -> bytes | Fault:
    """Return the text that a row has under ``field``; ``kind`` is what to call another value."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if value is None:
        return Fault("no text", f"has null under text_field={field!r}")
    return Fault("not a text", f"has {kind} under text_field={field!r}, and a text is never converted")


def without_field(field: str, names: Iterator[str]) -> Fault:
    """Return the fault of a row with other fields only."""
    others = sorted(name[:60] for name in names)
    more = f" and {len(others) - 20} more" if len(others) > 20 else ""
    known = f"only {', '.join(others[:20])}{more}" if others else "nor any other"
    return Fault("no text", f"has no text under text_field={field!r}, {known}: name the field with --text-field")
