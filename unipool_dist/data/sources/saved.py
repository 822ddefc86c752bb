"""Folders that ``Dataset.save_to_disk`` of the library ``datasets`` has written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unipool_dist.base.names import plain_name
from unipool_dist.base.reading import read_json
from unipool_dist.errors import DataError

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
RECORDS = frozenset({_STATE, _INFO, _SPLITS})
CACHE = re.compile(r"(cache|indices)-.*\.arrow|tmp.*")
"""Files that the library leaves in such a folder when the dataset is used."""


def is_saved(folder: Path) -> bool:
    """Tell whether ``folder`` is a saved dataset, or several splits of one."""
    return (folder / _SPLITS).is_file() or ((folder / _STATE).is_file() and (folder / _INFO).is_file())


def saved_entries(folder: Path, where: str) -> list[str]:
    """Return the names of the Arrow files of a saved dataset in their order; of splits that of its only folder.

    Raises:
        DataError: its records are damaged, or it has several splits, and one would have to be chosen.
    """
    try:
        if (folder / _SPLITS).is_file():
            splits = [plain_name(split) for split in _record(folder / _SPLITS, "splits", where)]
            if len(splits) != 1:
                raise DataError(
                    f"--source {where}: {folder} has the splits {', '.join(splits)}: name the folder of one, and "
                    f"perhaps that of another with --validation"
                )
            return splits
        return [plain_name(file["filename"]) for file in _record(folder / _STATE, "_data_files", where)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"--source {where}: the records of {folder} are damaged: {error!r}") from None


def _record(path: Path, key: str, where: str) -> list[Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--source {where}: {path} cannot be read: {error}") from None
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"--source {where}: {path} is damaged: it has no list {key!r}")
    return listed
