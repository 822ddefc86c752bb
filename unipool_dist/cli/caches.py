"""Caches of libraries, where the home directory is not writable: on some clusters it exists on no node."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unipool_dist.errors import UnipoolError

_HF_HOME = "HF_HOME"


@contextmanager
def writable_cache(variables: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Give ``datasets``, if first imported in the body, a writable cache: a temporary folder if need be.

    Programs started in the body get it, too. An ``HF_HOME`` that is set stays.

    Raises:
        UnipoolError: a temporary folder cannot be made either.
    """
    usual = Path(variables.get("XDG_CACHE_HOME") or Path(variables.get("HOME") or Path("~").expanduser(), ".cache"))
    if _HF_HOME in variables or _can_be_written(usual / "huggingface"):
        yield
        return
    try:
        folder = TemporaryDirectory(prefix="unipool-dist-")
    except OSError as error:
        raise UnipoolError(
            f"neither {usual} nor a temporary folder can be written ({error.strerror}): set HF_HOME or TMPDIR to a "
            f"folder that can"
        ) from None
    with folder as path:
        variables[_HF_HOME] = path
        try:
            yield
        finally:
            del variables[_HF_HOME]


def _can_be_written(folder: Path) -> bool:
    """Return whether ``folder`` is a writable folder, or can be made."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=True)
    return False
