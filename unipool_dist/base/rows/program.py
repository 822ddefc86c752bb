"""The program that reads files in a process of its own.

Requests are lines of JSON on standard input, see :class:`Request`; the answer to each are frames on standard output:
one for every row, and at last ``END`` or ``ERROR``. It is started by the path of this file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __name__ == "__main__":  # at the end of the path, so that nothing of the checkout hides another module
    sys.path.append(str(Path(__file__).absolute().parents[3]))

from unipool_dist.base.rows.frames import END, ERROR, FAULT, TEXT, Fault, Rows, send
from unipool_dist.base.rows.hub_rows import hub_rows
from unipool_dist.base.rows.json_rows import json_rows
from unipool_dist.base.rows.table_rows import arrow_rows, parquet_rows
from unipool_dist.base.rows.text_rows import text_rows

Kind = Literal["jsonl", "json", "text", "parquet", "arrow", "hub"]
MAX_MEMORY_BYTES = 8 << 30
"""Of the process: a few times what the largest text takes."""
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Request:
    """What to read: a file, decompressed by ``codec``, or ``config`` and ``split`` of a dataset of the Hub."""

    kind: Kind
    path: str
    text_field: str
    codec: Literal["gzip", "zstd"] | None = None
    config: str | None = None
    split: str = "train"

    def rows(self) -> Rows:
        """Yield the rows."""
        path = Path(self.path)
        if self.kind == "hub":
            return hub_rows(self.path, self.config, self.split, self.text_field)
        if self.kind == "text":
            return text_rows(path, self.codec)
        if self.kind == "parquet":
            return parquet_rows(path, self.codec, self.text_field)
        if self.kind == "arrow":
            return arrow_rows(path, self.codec, self.text_field)
        return json_rows(path, self.codec, self.text_field, lines=self.kind == "jsonl")


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is an answer, and no fault to look into
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or hard > MAX_MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, hard))
    # What a library prints must not come between the frames.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", _BUFFER)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        try:
            for number, row in Request(**json.loads(line)).rows():
                if isinstance(row, Fault):
                    send(answers, FAULT, row.encode(), number)
                else:
                    send(answers, TEXT, row, number)
            send(answers, END)
        except BrokenPipeError:
            return
        except Exception as error:  # Arrow and the Hub's library raise errors of every kind
            send(answers, ERROR, _said(error).encode("utf-8", "replace"))
        answers.flush()


def _said(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {MAX_MEMORY_BYTES >> 30} GiB of memory: it is damaged, or made to fill it"
    ours = type(error) is ValueError or type(error).__module__.startswith("unipool_dist.")
    return str(error) if ours else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
