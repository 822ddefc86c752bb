"""The program that reads rows of files for :mod:`unipool_dist.data.sources.apart`, in a process of its own.

Parsers of JSON and Parquet are large and not made for malicious files: some crash. It imports nothing of this package,
to start quickly. Requests are lines of JSON on standard input; answers are frames on standard output: a letter, the
length as 8 bytes, and the content. ``F``: the name of the file that is read from now on; ``T``: a text; ``M``: the row
of this number has no text, and the names of its fields, as JSON; ``E``: an error, which ends the answer; ``.``: its
end.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

FRAME = struct.Struct("<cQ")
MAX_DEPTH = 200
_BUFFER = 1 << 20
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is an answer, and no fault to look into
    # What a library prints must not come between the frames.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", _BUFFER)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        try:
            for kind, content in _rows(**json.loads(line)):
                _send(answers, kind, content)
                if kind == b"F":
                    answers.flush()  # before a file that may end this process
            _send(answers, b".", b"")
        except BrokenPipeError:
            return
        except Exception as error:  # datasets raises errors of every kind, from the network, Arrow and itself
            _send(answers, b"E", f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
        answers.flush()


def _rows(loader: str, batches: list[dict[str, Any]], text_field: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of each batch of arguments of ``load_dataset``, as frames."""
    import datasets

    number = 0
    for arguments in batches:
        files = arguments.get("data_files", [])
        yield b"F", (files or [loader])[0].encode("utf-8", "surrogateescape")
        if loader == "json":
            for file in files:
                _check_depth(file)
        for row in datasets.load_dataset(loader, split="train", streaming=True, **arguments):
            text = row.get(text_field)
            if not isinstance(text, str):
                yield b"M", json.dumps([number, *map(str, row)]).encode()
                return
            yield b"T", text.encode("utf-8", "surrogatepass")
            number += 1


def _check_depth(path: str) -> None:
    """Refuse a JSON file nested so deeply that a parser takes minutes or crashes.

    Raises:
        ValueError: it is; what does not begin like JSON is left to the parser's own error.
    """
    import numpy as np

    steps = np.zeros(256, dtype=np.int64)
    steps[[ord("["), ord("{")]], steps[[ord("]"), ord("}")]] = 1, -1
    with open(path, "rb") as file:
        if file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"[", b"{"):
            return
        file.seek(0)
        depth = 0
        while lines := file.readlines(_BUFFER):
            text = b"".join(lines).replace(rb"\\", b"").replace(rb"\"", b"")
            brackets = b"".join(text.split(b'"')[::2]).translate(None, _OTHERS)  # without strings
            depths = depth + np.cumsum(steps[np.frombuffer(brackets, dtype=np.uint8)])
            if depths.size:
                depth = max(int(depths[-1]), 0)
                if depths.max() > MAX_DEPTH:
                    raise ValueError(f"{path} has brackets nested more than {MAX_DEPTH} deep")


def _send(answers: BinaryIO, kind: bytes, content: bytes) -> None:
    answers.write(FRAME.pack(kind, len(content)))
    answers.write(content)


if __name__ == "__main__":
    main()
