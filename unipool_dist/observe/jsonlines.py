"""A file of one JSON object per line that survives a crash and can be cut back to an earlier step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unipool_dist.base.reading import parse_json, read_lines
from unipool_dist.base.writing import replace_text
from unipool_dist.errors import NonFiniteError, UnipoolError
from unipool_dist.observe.files import naming
from unipool_dist.observe.lasting_file import LastingFile


class JsonLinesWriter:
    """A writer of objects that have a ``step``; each is in the file, as a whole line, when :meth:`write` returns.

    If there is no room for it, it is written later (:class:`~unipool_dist.observe.lasting_file.LastingFile`).

    With ``resume_from_step=None`` an existing file is replaced. Otherwise its lines up to and including that step are
    kept. The rest, which the resumed run will write again, is dropped, and so is a line truncated by a crash.

    Raises:
        UnipoolError: the file cannot be written to begin with.
    """

    def __init__(self, path: Path, *, resume_from_step: int | None = None) -> None:
        self.path = path
        kept: list[dict[str, Any]] = []
        if resume_from_step is not None and path.exists():
            kept = [record for record in read_json_lines(path) if record["step"] <= resume_from_step]
        with naming(path):
            replace_text(path, "".join(json.dumps(record) + "\n" for record in kept))
            self._file = LastingFile(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append ``record``.

        Raises:
            NonFiniteError: a number in it is NaN or infinite, at any depth; nothing is written.
        """
        assert "step" in record, "a record without a step cannot be dropped on resume"
        plain = {key: _plain(value, f"step {record['step']}: {key}") for key, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False).encode("utf-8") + b"\n")

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of ``path`` in order; an incomplete last line, left by a crash, is ignored.

    Raises:
        OSError: it is missing or cannot be read.
        UnipoolError: a line other than the last is not a JSON object with a ``step``, or this is not a text file.
    """
    records = []
    try:
        for number, line in enumerate(read_lines(path), start=1):
            record = _parsed(line)
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise UnipoolError(
                    f"{path}, line {number}, is not a JSON object with a step; remove that line to continue"
                )
            records.append(record)
    except ValueError as error:
        raise UnipoolError(f"{path} cannot be read: {error}; restore it from a copy, or remove it") from None
    return records


def _parsed(line: str) -> Any:
    """Parse the line; ``None`` if it is not JSON, or has a depth or numbers that this program does not write."""
    try:
        return parse_json(line)
    except ValueError:
        return None


def _plain(value: Any, name: str) -> Any:
    """Return ``value`` with numpy arrays and scalars as plain Python; refuse numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(f"{name}={value} cannot be recorded; the step that made it must not be taken")
    return value
