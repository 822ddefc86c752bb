"""Messages between the ranks about the examination itself: through the rendezvous store, which needs no groups."""

from __future__ import annotations

import time

import torch.distributed as dist

from unipool_dist.comm.notes import Notes
from unipool_dist.errors import CommunicationError

_ASK_EVERY_S = (0.001, 0.02)


class SilentRanksError(CommunicationError):
    """Some ranks did not answer in time."""

    def __init__(self, ranks: list[int], patience_s: float) -> None:
        super().__init__(f"no answer from ranks {ranks} within {patience_s:g} s")
        self.ranks, self.patience_s = ranks, patience_s


class Council:
    """Rank 0 speaks to all, and all answer to rank 0. Every rank makes the same calls in the same order.

    Nothing here needs a process group, so it works after a collective has failed.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        self._notes, self._rank, self._world_size = Notes(store, "doctor"), rank, world_size
        self._turn = 0

    def announce(self, text: str, patience_s: float) -> str:
        """Return rank 0's ``text`` on every rank.

        Raises:
            SilentRanksError: rank 0 has not spoken within ``patience_s``.
        """
        name = str(self._next())
        if self._rank == 0:
            self._notes.put(name, text)
            return text
        try:
            return self._notes.wait(name, patience_s)
        except RuntimeError:
            raise SilentRanksError([0], patience_s) from None

    def gather(self, text: str, patience_s: float) -> list[str]:
        """Return on rank 0 every rank's ``text`` in the order of ranks; nothing on the others, which do not wait.

        Raises:
            SilentRanksError: on rank 0, if some ranks have not answered within ``patience_s``.
        """
        turn = self._next()
        self._notes.put(f"{turn}/{self._rank}", text)
        if self._rank != 0:
            return []
        names = [f"{turn}/{rank}" for rank in range(self._world_size)]
        until, pause_s = time.monotonic() + patience_s, _ASK_EVERY_S[0]
        while True:
            if self._notes.all_there(names):  # not a wait, which a signal cannot interrupt
                texts = [self._notes.get(name) for name in names]
                answers = [text for text in texts if text is not None]
                if len(answers) == len(names):
                    return answers
            if time.monotonic() > until:
                silent = [rank for rank, name in enumerate(names) if self._notes.get(name) is None]
                if silent:
                    raise SilentRanksError(silent, patience_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _ASK_EVERY_S[1])

    def answers(self) -> dict[int, str]:
        """Return on rank 0, after a failed gather, the answers that came."""
        texts = {rank: self._notes.get(f"{self._turn}/{rank}") for rank in range(self._world_size)}
        return {rank: text for rank, text in texts.items() if text is not None}

    def _next(self) -> int:
        self._turn += 1
        return self._turn
