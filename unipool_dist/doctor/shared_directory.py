"""Check that the run directory is one directory for all ranks, in which they can write and lock."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from unipool_dist.base.belongings import Folder, ForeignError, any_file, discard, remove, remove_if_empty
from unipool_dist.base.units import seconds
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.judgement import by_value
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster

_PREFIX = ".doctor-"
_LEFT = Folder({r"lock|nonce|data-\d+|tmp\w+": any_file}, sign="lock")
_LEFT_BEHIND_S = 3600
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Seen:
    """The observations of one rank in the directory."""

    path: str
    seen_after_s: float | None
    """Time until rank 0's file was visible; ``None``: it was not."""
    write_error: str
    lock: str
    """``held``: seen to be held by rank 0, as it is; ``free``: the lock is not seen here; else the error."""


class RunDirectory(Probe[Seen]):
    """Rank 0 makes a folder with a nonce in the run directory; the others must see it and write into it.

    The folder stays for other probes until :meth:`close`. A run directory that did not exist is made for that time.
    """

    name = "run directory"
    measured = Seen

    def __init__(self, path: Path, roster: Roster) -> None:
        self._path, self._roster = path.absolute(), roster
        self.folder: Path | None = None
        """This rank's way to the folder, if it sees it."""
        self.usable = False
        """On rank 0: whether all ranks can write there."""
        self._made: list[Path] = []
        self._lock: int | None = None
        self._error = ""

    def brief(self) -> str:
        nonce = token_hex(8)
        try:
            self._make()
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._path))
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                nonce += f" {error.strerror}"
            self.folder.chmod(0o777)
            (self.folder / "nonce").write_text(nonce)
        except OSError as error:
            self._error = f"{error.strerror or error}: {error.filename or self._path}"
        return json.dumps({"folder": None if self._error or self.folder is None else self.folder.name, "nonce": nonce})

    def measure(self, brief: str) -> Seen:
        order = json.loads(brief)
        if order["folder"] is None:
            return Seen(str(self._path), None, "", "")
        folder = self._path / order["folder"]
        seen_after_s = _wait_for(folder / "nonce", order["nonce"])
        if seen_after_s is None:
            return Seen(str(self._path), None, "", "")
        self.folder = folder
        error = ""
        try:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(b"doctor")
        except OSError as caught:
            error = str(caught.strerror)
        return Seen(str(self._path), seen_after_s, error, _try_lock(folder / "lock"))

    def judge(self, measured: Sequence[Seen]) -> list[Check]:
        if self._error:
            advice = f"{self._error}; choose another run.dir, or make this one writable"
            return [Check(self.name, "fail", f"{self._path} cannot be written", _EXPECTED, advice)]
        found = [judge_directory(measured, self._roster), judge_locks(measured, self._roster)]
        self.usable = found[0].status == "ok"
        return found

    def close(self) -> None:
        """Remove on rank 0 everything that was made."""
        if self._lock is not None:
            os.close(self._lock)
        if self.folder is not None:
            discard(self.folder)
        self._lock, self.folder = None, None
        for path in self._made:
            remove_if_empty(path)  # else a run has begun in it
        self._made = []

    def _make(self) -> None:
        path = self._path
        while not path.exists():
            self._made.append(path)
            path = path.parent
        self._path.mkdir(parents=True, exist_ok=True)
        for entry in self._path.glob(f"{_PREFIX}*"):  # of examinations that were killed
            with suppress(OSError, ForeignError):
                if not entry.is_symlink() and time.time() - entry.stat().st_mtime > _LEFT_BEHIND_S:
                    remove(entry, _LEFT)


_EXPECTED = "seen and written by all ranks"


def judge_directory(measured: Sequence[Seen], roster: Roster) -> Check:
    """Judge whether all ranks saw rank 0's file and wrote their own. Pure."""
    blind = [rank for rank, one in enumerate(measured) if one.seen_after_s is None]
    unable = [rank for rank, one in enumerate(measured) if one.write_error]
    slowest_s = max((one.seen_after_s for one in measured if one.seen_after_s is not None), default=0.0)
    advice = ""
    if blind:
        paths = ", ".join(sorted({measured[rank].path for rank in blind}))
        advice = (
            f"{roster.name(blind)} did not see within {_PATIENCE_S:g} s what rank 0 wrote; {paths} must be on a file "
            f"system that all nodes share: set run.dir to an absolute path on one"
        )
    elif unable:
        reasons = ", ".join(sorted({measured[rank].write_error for rank in unable}))
        advice = (
            f"{roster.name(unable)} cannot write: {reasons}; make the directory writable, or choose another run.dir"
        )
    return Check(
        "run directory",
        "fail" if advice else "ok",
        f"{measured[0].path}, seen after {seconds(slowest_s)}" if not blind else f"{measured[0].path}",
        _EXPECTED,
        advice,
        slowest_s,
        "s",
        {"seen_after_s": [one.seen_after_s for one in measured]},
    )


def judge_locks(measured: Sequence[Seen], roster: Roster) -> Check:
    """Judge whether every node saw that rank 0 holds the file lock. Pure."""
    kinds = by_value(one.lock for one in measured if one.lock)
    others = {kind for kind in kinds if kind != "held"}
    advice = ""
    if "free" in others:
        free = [rank for rank, one in enumerate(measured) if one.lock == "free"]
        advice = (
            f"rank 0's lock does not reach {roster.name(free)}: two runs in this directory would not notice each "
            f"other; start only one, or mount the file system with locks"
        )
    elif others:
        advice = f"no locks here ({', '.join(sorted(others))}): start only one run in this directory"
    measured_text = "refused while another has it" if not advice else "not kept"
    return Check("file locks", "warn" if advice else "ok", measured_text, "one holder at a time", advice)


def _wait_for(path: Path, content: str) -> float | None:
    started = time.monotonic()
    while True:
        try:
            if path.read_text() == content:
                return time.monotonic() - started
        except OSError:
            pass  # not there yet; the directory's entries may be cached
        if time.monotonic() - started > _PATIENCE_S:
            return None
        time.sleep(0.02)


def _try_lock(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as error:
        return str(error.strerror)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except PermissionError:
        return "held"  # so say file servers that turn flock into another kind of lock
    except OSError as error:
        return str(error.strerror)
    finally:
        os.close(descriptor)
    return "free"
