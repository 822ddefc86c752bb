"""A board of notes between ranks in a store, used from its own thread so that waiting for an answer can time out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from unipool_dist.comm.notes import Notes

Answer = TypeVar("Answer")


class BoardLostError(Exception):
    """The store did not answer in time, or its server is gone."""


class Board:
    """Notes in a store. No call takes longer than ``patience_s``, though the store's own may never return.

    torch's TCPStore waits for its server without a limit if that process is stopped. After a call that failed every
    further one fails at once. The calls of one board belong to one thread.

    Args:
        open_notes: called in the board's thread, before its first use; opens a separate connection, as the process's
            other ones may be blocked.
    """

    def __init__(self, open_notes: Callable[[], Notes], patience_s: float) -> None:
        self.lost: str | None = None
        """Why further calls are pointless."""
        self._open_notes, self._patience_s = open_notes, patience_s
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._notes: Notes | None = None
        threading.Thread(target=self._serve, name="watchdog-board", daemon=True).start()

    def put(self, key: str, value: str) -> None:
        """Leave a note.

        Raises, as all methods: BoardLostError.
        """
        self._ask(lambda notes: notes.put(key, value))

    def get(self, key: str) -> str | None:
        """Return the note, or ``None`` if no process of the run has left it."""
        return self._ask(lambda notes: notes.get(key))

    def claim(self, key: str, value: str) -> str:
        """Leave a note unless there is one already; return the one that is there then."""
        return self._ask(lambda notes: notes.claim(key, value))

    def count(self, key: str, add: int = 0) -> int:
        """Add to a number that begins at 0; return the sum."""
        return self._ask(lambda notes: notes.count(key, add))

    def _ask(self, call: Callable[[Notes], Answer]) -> Answer:
        if self.lost is not None:
            raise BoardLostError(self.lost)
        answers: queue.SimpleQueue[tuple[Answer | None, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                if self._notes is None:
                    self._notes = self._open_notes()
                answers.put((call(self._notes), None))
            except Exception as error:  # handed to the thread that asked
                answers.put((None, error))

        self._calls.put(run)
        try:
            answer, error = answers.get(timeout=self._patience_s)
        except queue.Empty:
            self.lost = f"the store of the processes did not answer within {self._patience_s:g} s"
            raise BoardLostError(self.lost) from None
        if error is not None:
            self.lost = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            raise BoardLostError(self.lost) from error
        return answer  # type: ignore[return-value]

    def close(self) -> None:
        """Let the thread end once its present call has returned."""
        self.lost = "closed"
        self._calls.put(_end)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not _end:
            call()
            del call  # or the last answer would live as long as the board


def _end() -> None:
    """Mark the end of the thread; never called."""
