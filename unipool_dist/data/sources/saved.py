"""Folders that ``Dataset.save_to_disk`` of the library ``datasets`` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unipool_dist.base.names import plain_name
from unipool_dist.base.printable import printable
from unipool_dist.base.reading import read_json
from unipool_dist.errors import DataError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Tell whether ``folder`` is a saved dataset, or several splits of one."""
    return (folder / _SPLITS).is_file() or ((folder / _STATE).is_file() and (folder / "dataset_info.json").is_file())


def saved_files(folder: Path, where: str) -> list[Path]:
    """Return the Arrow files of a saved dataset in their order; of several splits, those of ``train``.

    Raises:
        DataError: its records are damaged, or it has several splits and none is called ``train``.
    """
    if (folder / _SPLITS).is_file():
        splits = _record(folder / _SPLITS, "splits", where)
        if "train" not in splits:
            raise DataError(
                f"--source {where}: {folder} has the splits {printable(', '.join(map(str, splits)))}, and no train: "
                f"name the folder of one of them"
            )
        folder = folder / "train"
    try:
        return [folder / plain_name(file["filename"]) for file in _record(folder / _STATE, "_data_files", where)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"--source {where}: {folder / _STATE} is damaged: {error!r}") from None


def _record(path: Path, key: str, where: str) -> list[Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--source {where}: {path} cannot be read: {error}") from None
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"--source {where}: {path} is damaged: it has no list {key!r}")
    return listed
