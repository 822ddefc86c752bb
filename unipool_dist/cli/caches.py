"""Where libraries keep their caches, if the home directory cannot be written: on some clusters it is on no node."""

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
    """In the body ``datasets``, if imported only then, has a cache that it can write: a temporary folder if need be.

    Programs that are started in the body have it, too. An ``HF_HOME`` that is set stays.

    Raises:
        UnipoolError: nor is there a temporary folder.
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
    """Whether ``folder`` is a folder that takes files, or can be made."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=True)
    return False
