"""Code of the user's own that a configuration names as ``module:Name``.

The module is a file of the folder from which the user starts a command, or else an installed module. A SLURM job uses
the copy that was frozen at submission. A name that the user has not given, but that was read from a run directory, a
checkpoint or an exported model, is not imported: see :func:`trust`.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from unipool_dist.base.printable import printable
from unipool_dist.errors import ConfigError

CODE_FOLDER_VARIABLE = "UNIPOOL_DIST_USER_CODE"
"""Environment variable with the folder in which the user's modules are; unset: the current directory."""
PATTERN = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
_NAME = re.compile(PATTERN, re.ASCII)
_trusted: set[str] = set()  # imports are global to a process, and so is the consent to them


def is_user_code(name: str) -> bool:
    """Tell whether ``name`` has the form ``module:Name``."""
    return _NAME.fullmatch(name) is not None


def trust(names: Iterable[str]) -> None:
    """Allow this process to import the modules of ``names``.

    Call it with names that the user has given: in the configuration of a command, in a call of the API, or with
    ``--trust``. Never with names found in a file that somebody else may have written.
    """
    _trusted.update(name for name in names if is_user_code(name))


def code_folder() -> Path:
    """Return the folder in which the user's modules are looked for."""
    return Path(os.environ.get(CODE_FOLDER_VARIABLE) or Path.cwd())


def load_user_code(field: str, name: str) -> object:
    """Import the module of ``name`` and return the attribute.

    An exception that the module itself raises is not caught: its traceback is what its author needs.

    Raises:
        ConfigError: ``name`` is not trusted, there is no such module, or it has no such attribute.
    """
    if name not in _trusted:
        raise ConfigError(
            f"{field}={printable(name)} names code, and comes from a file that somebody else may have written; read "
            f"that code, then allow it with --trust {name}"
        )
    module_name, _, attribute = name.partition(":")
    module = _module(field, name, module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        where = getattr(module, "__file__", None) or module_name
        raise ConfigError(f"{field}={name}: {where} has no {attribute}") from None


def user_files(names: Iterable[str]) -> dict[Path, Path]:
    """Return the files that the modules of ``names`` need from the user's folder, by their place in it.

    These are the modules and, found by reading their ``import`` statements, what they import from the folder. Nothing
    is imported. Modules that are not in the folder are taken to be installed.
    """
    folder, found = code_folder(), {}
    waiting = [name.partition(":")[0] for name in names if is_user_code(name)]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for file in _files_of(folder, module):
            place = file.relative_to(folder)
            if place not in found:
                found[place] = file
                waiting.extend(_imported(file))
    return found


def _module(field: str, name: str, module_name: str) -> ModuleType:
    file = _file_of(code_folder(), module_name)
    loaded = sys.modules.get(module_name)
    if file is None:
        if loaded is None and not _is_installed(module_name):
            raise ConfigError(
                f"{field}={name}: there is no {module_name.replace('.', '/')}.py in {code_folder()}, nor an installed "
                f"module {module_name}; start the command in the folder of the file"
            )
        return loaded or import_module(module_name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) != str(file):
            raise ConfigError(f"{field}={name}: {module_name} is also the name of another module; rename {file}")
        return loaded
    spec = spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _importable(code_folder()):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules in ``folder`` be imported, after all installed ones, so that none of those is shadowed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _is_installed(module_name: str) -> bool:
    try:
        return find_spec(module_name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def _file_of(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split("."))
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _files_of(folder: Path, module: str) -> list[Path]:
    """Return the file of ``module`` in ``folder``, or all files of the package that it is in."""
    package = folder / module.partition(".")[0]
    if (package / "__init__.py").is_file():
        return sorted(package.rglob("*.py"))
    file = _file_of(folder, module)
    return [] if file is None else [file]


def _imported(file: Path) -> Iterator[str]:
    """Yield the modules that ``file`` imports by absolute names, and attributes that may be modules.

    Relative imports stay within a package, which is copied whole.
    """
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
