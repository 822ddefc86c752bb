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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from unipool_dist.base.printable import printable
from unipool_dist.base.programs import Process, converse_with
from unipool_dist.data.sources import reader
from unipool_dist.errors import DataError

_PROGRAM = str(Path(reader.__file__).absolute())
_LONGEST_END_S = 10.0


class RowsError(Exception):
    """The other process could not read the rows; the message says why, and names the file."""


class MissingTextError(Exception):
    """A row has no text under the given field name."""

    def __init__(self, row: int, fields: Sequence[str]) -> None:
        super().__init__(row, fields)
        self.row, self.fields = row, fields


class RowReader:
    """A process that reads rows, started at the first :meth:`texts`."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._owner = 0  # the process that started it

    def texts(self, loader: str, batches: Sequence[dict[str, Any]], text_field: str) -> Iterator[str]:
        """Yield the texts under ``text_field`` in the rows that ``load_dataset`` gives for each of ``batches``.

        Raises:
            RowsError: a batch cannot be read, or ended the process.
            MissingTextError: a row has no such text.
        """
        process = self._started()
        assert process.stdin is not None
        request = {"loader": loader, "batches": list(batches), "text_field": text_field}
        whole = False
        file = loader
        try:
            with suppress(BrokenPipeError):  # seen below, with its cause
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            while True:
                kind, content = self._frame(process, file)
                if kind == b"T":
                    yield content.decode("utf-8", "surrogatepass")
                    continue
                if kind == b"F":
                    file = content.decode("utf-8", "surrogateescape")
                    continue
                whole = True
                if kind == b"M":
                    self._frame(process, file)  # the end
                    row, *fields = json.loads(content)
                    raise MissingTextError(row, fields)
                if kind == b"E":
                    raise RowsError(content.decode("utf-8", "replace"))
                return
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

    def _frame(self, process: Process, file: str) -> tuple[bytes, bytes]:
        assert process.stdout is not None
        head = process.stdout.read(reader.FRAME.size)
        if len(head) == reader.FRAME.size:
            kind, length = reader.FRAME.unpack(head)
            content = process.stdout.read(length)
            if len(content) == length:
                return kind, content
        status = process.wait(_LONGEST_END_S)
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise RowsError(f"{printable(file)} ended the process that read it ({how}): it is damaged or nested too deeply")


_reader = RowReader()


def read_texts(location: str, loader: str, batches: Sequence[dict[str, Any]], text_field: str) -> Iterator[str]:
    """Yield the texts of a source in the order of its files and rows.

    Args:
        location: as the user gave it, for errors.
        batches: arguments of ``datasets.load_dataset``, one for each file that an error is to name.

    Raises:
        DataError: it cannot be read, or a row lacks ``text_field``.
    """
    try:
        yield from _reader.texts(loader, batches, text_field)
    except MissingTextError as error:
        raise DataError(
            f"--source {location}: row {error.row} has no text under text_field={text_field!r}, only "
            f"{printable(', '.join(error.fields))}: name the field with --text-field"
        ) from None
    except RowsError as error:
        raise DataError(f"--source {location} cannot be read: {printable(error)}") from None
