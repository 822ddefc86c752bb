"""The project's own folders, ``configs/ ds_configs/ launchers/ slurm/``: of a checkout, or carried by a wheel."""

from __future__ import annotations

from pathlib import Path

import unipool_dist

PACKAGE = Path(unipool_dist.__file__).resolve().parent
_CARRIED = PACKAGE / "project"
"""Made by setup.py when a wheel is built."""
FOLDERS = ("configs", "ds_configs", "launchers", "slurm")


def checkout() -> Path | None:
    """Return the top of the checkout that this package is run from, or ``None`` if it is installed from a wheel."""
    return None if _CARRIED.is_dir() else PACKAGE.parent


def project_path(path: str | Path) -> Path:
    """Return a path below the project's folders, such as ``launchers``, on this machine."""
    return (checkout() or _CARRIED) / path


def user_path(path: str | Path) -> Path:
    """Return ``path`` as the user means it.

    A relative path that is not in the current directory, but begins with one of the project's folders and is there, is
    the project's: ``configs/small.yaml`` works outside a checkout too.
    """
    path = Path(path)
    if not path.is_absolute() and path.parts[:1] and path.parts[0] in FOLDERS and not path.exists():
        own = project_path(path)
        if ".." not in path.parts and own.is_file():
            return own
    return path
