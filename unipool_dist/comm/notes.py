"""Messages between the processes of a run through a store, authenticated with the key of the run.

A store does not authenticate anybody: whoever reaches it can read and write. A message may decide that the run ends, or
which process is inspected, so it counts only with a code made with the key of the run.
"""

from __future__ import annotations

import hmac
import os
import time
from datetime import timedelta

import torch.distributed as dist

from unipool_dist.base.credentials import KEY

_LOOK_EVERY_S = 0.05


class Notes:
    """Texts under names in ``store``, each with a code; a text without the right code counts as missing.

    Without a key (processes started by hand on several nodes, without ``UNIPOOL_DIST_KEY``) texts have no code.
    Numbers (:meth:`count`) never have one: they may decide only how long somebody waits.

    Args:
        scope: subject of the notes; a note of one scope is not visible in another.
    """

    def __init__(self, store: dist.Store, scope: str) -> None:
        self._store, self._scope = store, scope
        self._key = os.environ.get(KEY, "").encode()

    def put(self, name: str, text: str) -> None:
        """Leave a note."""
        self._store.set(self._at(name), self._signed(name, text))

    def get(self, name: str) -> str | None:
        """Return the note, or ``None`` if no process of the run has left it."""
        at = self._at(name)
        return self._text(name, self._store.get(at).decode(errors="replace")) if self._store.check([at]) else None

    def wait(self, name: str, timeout_s: float) -> str:
        """Wait for the note and return it.

        Raises:
            RuntimeError: it has not come in time, or the store is lost; a ``DistError``, if the store is a server.
        """
        until = time.monotonic() + timeout_s
        self._store.wait([self._at(name)], timedelta(seconds=timeout_s))
        while (text := self.get(name)) is None:  # somebody else's, and the run's own is still to come
            if time.monotonic() > until:
                raise RuntimeError(f"no note {name} of this run within {timeout_s:g} s")
            time.sleep(_LOOK_EVERY_S)
        return text

    def all_there(self, names: list[str]) -> bool:
        """Return whether there is a text under each of ``names``, whoever wrote it."""
        return self._store.check([self._at(name) for name in names])

    def claim(self, name: str, text: str) -> str:
        """Leave a note unless there is one already; return the one that is there then."""
        there = self._store.compare_set(self._at(name), "", self._signed(name, text)).decode(errors="replace")
        found = self._text(name, there)
        if found is None:  # somebody else's is there
            self.put(name, text)
            found = self.get(name)
        return text if found is None else found

    def count(self, name: str, add: int = 0) -> int:
        """Add to a number that begins at 0; return the sum."""
        return self._store.add(self._at(name), add)

    def _at(self, name: str) -> str:
        return f"{self._scope}/{name}"

    def _signed(self, name: str, text: str) -> str:
        return f"{self._code(name, text)} {text}" if self._key else text

    def _text(self, name: str, signed: str) -> str | None:
        if not self._key:
            return signed
        code, _, text = signed.partition(" ")
        return text if hmac.compare_digest(code.encode(), self._code(name, text).encode()) else None

    def _code(self, name: str, text: str) -> str:
        # The name is part of it: or a note could be put where another belongs.
        return hmac.new(self._key, f"{self._at(name)}\0{text}".encode(), "sha256").hexdigest()
