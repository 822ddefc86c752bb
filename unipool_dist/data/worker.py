"""The program of a worker process, ``python -m unipool_dist.data.worker PARENT``; see :mod:`unipool_dist.data.workers`.

It carries out one task after the other until standard input ends. Tasks come from the process that started it, and from
nobody else, through a pipe. Answers are pairs: ``count`` and bytes done, any number of them; then ``done`` and the
result, ``error`` and an exception, or ``unknown`` if the task cannot be read, as it names code that only the other
process has.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, Literal

from unipool_dist.base.parents import end_with
from unipool_dist.errors import UnipoolError

Kind = Literal["count", "done", "error", "unknown"]
_TELL_EVERY_S = 0.2


def main(parent: int) -> None:
    """Carry out tasks; end with the process ``parent``."""
    if not end_with(parent):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends its workers
    requests = Connection(os.dup(sys.stdin.fileno()), writable=False)
    answers = Connection(os.dup(sys.stdout.fileno()), readable=False)
    # What a library prints must not come between the answers, nor what it reads between the requests.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    while True:
        try:
            task = requests.recv()
        except EOFError:
            return
        except Exception:  # a module that is not there, or fails to be imported, has errors of every kind
            answers.send(("unknown", None))
            continue
        answers.send(_answer(task, answers))


def _answer(task: Any, answers: Connection) -> tuple[Kind, object]:
    told, waiting = time.monotonic(), 0

    def count(done: int) -> None:
        nonlocal told, waiting
        waiting += done
        if time.monotonic() - told > _TELL_EVERY_S:
            answers.send(("count", waiting))
            told, waiting = time.monotonic(), 0

    try:
        result = task.run(count)
    except (UnipoolError, OSError) as error:
        return "error", error
    except Exception as error:  # whatever a task raises is raised by the process that gave it
        return "error", RuntimeError(f"{error!r} in a worker process:\n{traceback.format_exc()}")
    finally:
        answers.send(("count", waiting))
    return "done", result


if __name__ == "__main__":
    main(int(sys.argv[1]))
