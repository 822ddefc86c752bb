"""Root without the privilege of ignoring owners and modes of files; for anybody else nothing changes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522
_IGNORE_MODES = 1 << 1 | 1 << 2 | 1 << 3  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
_Header = ctypes.c_uint32 * 2
_Sets = ctypes.c_uint32 * 6  # effective, permitted, inheritable; of 32 capabilities, then of the others


@contextmanager
def modes_count() -> Iterator[None]:
    """Files and folders are as closed to this thread as their modes say, and to programs that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = _Sets()
    _call(libc.capget, before)
    now = _Sets(*before)
    now[0] &= ~_IGNORE_MODES
    _call(libc.capset, now)
    try:
        yield
    finally:
        _call(libc.capset, before)


def _call(function: ctypes._NamedFuncPointer, sets: ctypes.Array[ctypes.c_uint32]) -> None:
    if function(_Header(_VERSION_3, 0), sets):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
