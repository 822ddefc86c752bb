"""A folder of index files, possibly where others can write: verified by hashes, loaded without unpickling.

The numbers decide which text a run trains on, so a folder is reused only if it belongs to this user (or root), if
nobody else may write to it, and if it holds exactly the files that ``index.json`` names, with their hashes. Whoever
opens it reads only arrays of integers: the worst that an unchecked change could do is a wrong number.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unipool_dist.base.belongings import free_name
from unipool_dist.base.names import regular_inside
from unipool_dist.base.reading import UnsafeFileError, open_regular, read_json
from unipool_dist.data.corpus_manifest import record_file
from unipool_dist.errors import DataError

RECORD = "index.json"
_TYPES = ("<i4", "<u4", "<i8")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def seal(folder: Path, key: str) -> None:
    """Record the files of ``folder`` with their hashes under ``key``, and deny others writing to it."""
    files = {path.name: record_file(path).model_dump() for path in sorted(folder.iterdir())}
    (folder / RECORD).write_text(json.dumps({"key": key, "files": files}, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)


def fault(folder: Path, key: str) -> str | None:
    """Return why the index in ``folder`` cannot be used, or ``None``; reads every byte of it."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return "is not a folder"
        for path in (folder, *folder.iterdir()):
            status = path.lstat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS_WRITE:
                return "may be written by other users"
        record: Any = read_json(regular_inside(folder, RECORD))
        if record["key"] != key or {path.name for path in folder.iterdir()} != {RECORD, *record["files"]}:
            return "is the index of something else"
        for name, stated in record["files"].items():
            path = regular_inside(folder, name)
            # The size first: the file may be too large to be read.
            if path.stat().st_size != stated["num_bytes"] or record_file(path).model_dump() != stated:
                return f"has another {name} than was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__}: {error})"
    return None


def load_array(path: Path, ndim: int) -> npt.NDArray[np.integer[Any]]:
    """Map the integers in a ``.npy`` file of ``ndim`` dimensions into memory, read-only.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is anything else, such as a pickle, or does not have the size that it states.
    """
    with open_regular(regular_inside(path.parent, path.name)) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read_header(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
        if dtype.str not in _TYPES or fortran or len(shape) != ndim or min(shape) < 1:
            raise UnsafeFileError(f"{path.name} holds {dtype} of shape {shape} instead of the numbers of an index")
        start = file.tell()
        if os.fstat(file.fileno()).st_size - start != int(np.prod(shape, dtype=object)) * dtype.itemsize:
            raise UnsafeFileError(f"{path.name} does not have the size that it states")
        return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape)


def make_room(folder: Path) -> bool:
    """Return whether an index can be put at ``folder``; a faulty one of this user's is renamed to ``*.refused``."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder):
            if folder.lstat().st_uid != os.geteuid():
                return False
            folder.rename(free_name(folder.with_name(folder.name + ".refused")))  # of the last time nothing is deleted
        return os.access(folder.parent, os.W_OK | os.X_OK)
    except OSError:  # a read-only file system, a file in the way, or no permission
        return False


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only this user may use; return it.

    Raises:
        DataError: something else is there, such as a link or a folder of another user.
    """
    remedy = "remove it, or set TMPDIR to another place"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path} is not a usable folder ({error}): {remedy}") from None
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise DataError(f"{path} belongs to another user: {remedy}")
        os.fchmod(descriptor, 0o700)  # earlier releases left it open for reading
    finally:
        os.close(descriptor)
    return path
