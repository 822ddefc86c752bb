"""Read rows of files in another process, so that a file which crashes its parser is an error with the file's name.

The process is started when first needed, answers one request after the other, and ends with this one; after a crash, or
if an answer is not read to its end, the next request starts another.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from unipool_dist.base.printable import printable
from unipool_dist.base.programs import Process, converse_with
from unipool_dist.base.rows import program
from unipool_dist.base.rows.frames import END, ERROR, FAULT, Fault, receive
from unipool_dist.base.rows.program import Request
from unipool_dist.errors import DataError

_PROGRAM = str(Path(program.__file__).absolute())
_LONGEST_END_S = 10.0


class RowsError(Exception):
    """The other process could not read the rows; the message says why, and names the file."""


class RowReader:
    """A process that reads rows, started at the first :meth:`rows`."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._owner = 0  # the process that started it

    def rows(self, request: Request) -> Iterator[tuple[int, str | Fault]]:
        """Yield number and text of every row, or what is wrong with it.

        Raises:
            RowsError: it cannot be read to its end, or has ended the process.
        """
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        whole = False
        try:
            with suppress(BrokenPipeError):  # seen below, with its cause
                process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
                process.stdin.flush()
            while (frame := receive(process.stdout)) is not None:  # type: ignore[arg-type]
                kind, number, content = frame
                whole = kind in (END, ERROR)
                if kind == ERROR:
                    raise RowsError(f"{printable(request.path)}: {printable(content.decode('utf-8', 'replace'))}")
                if kind == END:
                    return
                row = Fault.decode(content) if kind == FAULT else content.decode("utf-8", "surrogatepass")
                del frame, content  # a text may be large
                yield number, row
            status = process.wait(_LONGEST_END_S)
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            raise RowsError(
                f"{printable(request.path)} ended the process that read it ({how}): it is damaged, or made to do so"
            )
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        """End the process, if there is one that this process started: after a fork it is the parent's."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            atexit.unregister(self.close)
            process.kill()
            process.wait(_LONGEST_END_S)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()

    def _started(self) -> Process:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._owner = os.getpid()
            # -P: nothing is imported from the folder of the program, nor from the current one.
            self._process = converse_with([sys.executable, "-P", _PROGRAM])
            atexit.register(self.close)
        return self._process


_reader = RowReader()


def read_rows(where: str, request: Request) -> Iterator[tuple[int, str | Fault]]:
    """Yield what :meth:`RowReader.rows` does, in the process that this process keeps for reading.

    Args:
        where: the source as the user gave it, for errors.

    Raises:
        DataError: it cannot be read.
    """
    try:
        yield from _reader.rows(request)
    except RowsError as error:
        raise DataError(f"--source {where} cannot be read: {error}") from None
